"""Generated bodies, and volumes from `.npz` files."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from chapterflow.data.source import SourceData
from chapterflow.data.sources import solids, voxels
from chapterflow.data.sources.solids import Solids
from chapterflow.data.sources.voxels import Voxels
from chapterflow.errors import DataError

DIGEST = "e8cb9e71c8bd392c9c815d4ccec2ac40d82593c2505b2e93f64dddcebf9cb121"


def generated(**changes: Any) -> SourceData:
    params = {"kind": "solids", "seed": 5, "each": 8, "side": 16, "validation": 0.2, "test": 0.3}
    return solids.read(Solids(**params | changes), lambda file: Path())


def test_the_same_seed_gives_the_bytes_that_it_always_gave() -> None:
    def digest(source: SourceData) -> str:
        parts = [name.encode() + array.tobytes() for name, array in sorted(source.arrays.items())]
        return hashlib.sha256(b"".join(parts)).hexdigest()

    assert digest(generated()) == DIGEST
    assert digest(generated(seed=6)) != DIGEST


def test_bodies_are_balanced_bytes_of_one_shape() -> None:
    source = generated()
    volumes, labels = source.arrays["volumes"], source.arrays["labels"]
    assert (volumes.dtype, volumes.shape) == (np.uint8, (56, 16, 16, 16, 1))
    assert len(source.classes) == 7
    assert np.bincount(labels).tolist() == [8] * 7
    # Each body is there, and is not cut off everywhere: some background on every side.
    bright = (volumes > 110).reshape(len(volumes), -1).mean(axis=1)
    assert (bright > 0.01).all()
    assert (bright < 0.3).all()


def test_rotations_are_rotations_in_whole_numbers() -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        matrix, scale = solids.rotation(rng)
        np.testing.assert_array_equal(matrix @ matrix.T, scale**2 * np.eye(3, dtype=np.int64))
        assert round(np.linalg.det(matrix / scale)) == 1


def points(scale: int) -> tuple[NDArray[np.int64], ...]:
    line = np.arange(-60, 61, dtype=np.int64) * scale
    x, y, z = np.meshgrid(line, line, line, indexing="ij")
    return x, y, z


@pytest.mark.parametrize(
    ("body", "volume"),
    [
        ("ball", 4 / 3 * np.pi * 36**3),
        ("box", 56**3),
        ("cylinder", np.pi * 20**2 * 80),
        ("cone", np.pi / 3 * 32**2 * 68),
        ("torus", 2 * np.pi**2 * 30 * 12**2),
        ("tetrahedron", 8 / 3 * 28**3 * 1),
        ("cross", 20**2 * 80 * 3 - 2 * 20**3),
    ],
)
def test_a_body_has_its_volume_whatever_the_scale_of_the_numbers(body: str, volume: float) -> None:
    inside = solids.BODIES[body]
    actual = inside(*points(1), 40, 1)
    assert actual.sum() == pytest.approx(volume, rel=0.12)
    np.testing.assert_array_equal(inside(*points(36), 40, 36), actual)


def test_the_largest_numbers_fit() -> None:
    # The corner farthest from the centre of the largest volume, at the largest scale.
    far, n = 32 * solids.UNITS // 2 + solids.UNITS, solids.QUATERNION**2
    reach = far * 3 * n
    corner = tuple(np.full(1, reach, np.int64) for _ in range(3))
    for inside in solids.BODIES.values():
        assert not inside(*corner, 13 * 4, n).any()


def arrays(**changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    actual: dict[str, Any] = {}
    for part, count in (("train", 6), ("val", 2), ("test", 4)):
        actual[f"{part}_images"] = rng.integers(0, 256, (count, 4, 5, 6), dtype=np.uint8)
        actual[f"{part}_labels"] = np.arange(count, dtype=np.uint8)[:, np.newaxis] % 2
    return {name: value for name, value in (actual | changes).items() if value is not None}


def read(path: Path) -> SourceData:
    params = Voxels(
        kind="voxels", upstream=[str(path.parent)], file={"name": path.name}, classes=["a", "b"]
    )
    return voxels.read(params, lambda file: path)


def npz(tmp_path: Path, **changes: Any) -> Path:
    np.savez_compressed(tmp_path / "v.npz", **arrays(**changes))
    return tmp_path / "v.npz"


def test_a_file_keeps_its_splits(tmp_path: Path) -> None:
    source = read(npz(tmp_path))
    given = arrays()
    assert source.arrays["split"].tolist() == [0] * 6 + [1] * 2 + [2] * 4
    np.testing.assert_array_equal(source.arrays["volumes"][:6, ..., 0], given["train_images"])
    np.testing.assert_array_equal(source.arrays["labels"][8:], given["test_labels"].ravel())
    assert source.shape == (4, 5, 6, 1)


def test_thin_volumes_have_a_channel(tmp_path: Path) -> None:
    thin = {
        f"{part}_images": np.ones((n, 8, 8, 3, 1), np.uint8)
        for part, n in (("train", 6), ("val", 2), ("test", 4))
    }
    assert read(npz(tmp_path, **thin)).shape == (8, 8, 3, 1)


def test_channels_are_kept(tmp_path: Path) -> None:
    wide = {
        f"{part}_images": np.ones((n, 4, 4, 4, 3), np.uint8)
        for part, n in (("train", 6), ("val", 2), ("test", 4))
    }
    assert read(npz(tmp_path, **wide)).shape == (4, 4, 4, 3)


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("key missing", {"val_labels": None}, r"must hold train_images.*val_labels is missing"),
    ("objects", {"test_labels": np.array([{}] * 4)}, r"test_labels must be an array of numbers"),
    ("shapes", {"val_images": np.ones((2, 4, 5, 7), np.uint8)}, r"one shape.*val \(4, 5, 7, 1\)"),
    ("floats", {"val_images": np.ones((2, 4, 5, 6))}, r"val_images must be uint8.*float64"),
    ("flat", {"val_images": np.ones((2, 4, 5), np.uint8)}, r"val_images must be uint8 of shape"),
    ("colours", {"val_images": np.ones((2, 28, 28, 3), np.uint8)}, r"that of colour pictures"),
    ("none", {"val_images": np.ones((0, 4, 5, 6), np.uint8)}, r"val_images must be uint8"),
    ("count", {"val_labels": np.zeros(3, np.uint8)}, r"val_labels must be 2 whole numbers.*\(3,\)"),
    ("float labels", {"val_labels": np.zeros(2)}, r"val_labels must be 2 whole numbers.*float64"),
    (
        "too large",
        {"val_labels": np.array([0, 2])},
        r"2 classes, 0 to 1. Received: 2 at position 1 \(1 of 2",
    ),
    ("negative", {"val_labels": np.array([-1, 0])}, r"Received: -1 at position 0"),
]


@pytest.mark.parametrize(
    ("changes", "message"), [pytest.param(*case[1:], id=case[0]) for case in BAD]
)
def test_bad_arrays_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(npz(tmp_path, **changes))


class Attack:
    """A pickle that leaves a file behind where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    hostile = np.array([Attack(mark), 1, 1, 1], dtype=object)
    with pytest.raises(DataError, match="test_labels must be an array of numbers"):
        read(npz(tmp_path, test_labels=hostile))
    plain = tmp_path / "plain.npz"
    plain.write_bytes(pickle.dumps(Attack(mark)))
    with pytest.raises(DataError, match=r"plain\.npz must be an intact \.npz file"):
        read(plain)
    assert not mark.exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_a_truncated_file_is_reported(tmp_path: Path, share: float) -> None:
    path = npz(tmp_path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=r"v\.npz must be an intact \.npz file"):
        read(path)


def test_damaged_bytes_are_reported(tmp_path: Path) -> None:
    path = npz(tmp_path)
    content = bytearray(path.read_bytes())
    content[120:160] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"v\.npz"):
        read(path)


def test_a_bomb_is_refused_before_it_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voxels, "MAX_BYTES", 1000)
    with pytest.raises(DataError, match="at most 1,000 bytes"):
        read(npz(tmp_path))
