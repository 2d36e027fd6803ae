"""What a user says of data of their own -> the block that params.yaml could hold."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from chapterflow.config.settings import DatasetParams
from chapterflow.data.source import UserData, own_sources
from chapterflow.errors import ChapterflowError, DataError
from chapterflow.loop.own_data import build_block
from tests.data.test_graph_sources import old_pickle


def block(kind: str, path: Path, **message: Any) -> dict[str, Any]:
    return build_block(kind, UserData(path, 5, **message))


def touch(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_images_from_a_folder_and_from_an_archive(tmp_path: Path) -> None:
    assert block("images", tmp_path) == {
        "kind": "image-folder",
        "seed": 5,
        "path": str(tmp_path),
        "validation": 0.1,
        "test": 0.2,
    }
    archive = touch(tmp_path / "pets.zip")
    assert block("images", archive, validation=0.3, test=0.4, title="Pets") == {
        "kind": "image-folder",
        "seed": 5,
        "upstream": [str(tmp_path)],
        "file": {"name": "pets.zip"},
        "validation": 0.3,
        "test": 0.4,
        "title": "Pets",
    }


def idx_files(folder: Path) -> Path:
    for part in ("train", "t10k"):
        touch(folder / f"{part}-images-idx3-ubyte", bytes((0, 0, 8, 3)))
        labels = bytes((0, 0, 8, 1)) + struct.pack(">I", 3) + bytes((0, 4, 2))
        touch(folder / f"{part}-labels-idx1-ubyte.gz", gzip.compress(labels))
    return folder


def test_idx_files_are_reported_by_their_names_and_classes_by_the_labels(tmp_path: Path) -> None:
    actual = block("idx", idx_files(tmp_path))
    assert (actual["classes"], actual["labels"]) == (3, [0, 2, 4])
    assert actual["upstream"] == [str(tmp_path)]
    assert {part: file["name"] for part, file in actual["files"].items()} == {
        "train_images": "train-images-idx3-ubyte",
        "train_labels": "train-labels-idx1-ubyte.gz",
        "test_images": "t10k-images-idx3-ubyte",
        "test_labels": "t10k-labels-idx1-ubyte.gz",
    }
    touch(tmp_path / "train-images-2")
    with pytest.raises(
        ChapterflowError, match=r"'train' and 'images' in its name\. Received: train-im"
    ):
        block("idx", tmp_path)


def npz(path: Path, labels: Any, **changes: Any) -> Path:
    arrays = {
        f"{part}_{what}": np.zeros((2, 3, 3, 3), np.uint8) if what == "images" else labels
        for part in ("train", "val", "test")
        for what in ("images", "labels")
    }
    np.savez(
        path, **{name: value for name, value in (arrays | changes).items() if value is not None}
    )
    return path


def test_classes_of_voxels_are_counted_in_the_labels(tmp_path: Path) -> None:
    path = npz(tmp_path / "organs.npz", np.array([[0], [1]]), val_labels=np.array([[3]]))
    assert block("voxels", path) == {
        "kind": "voxels",
        "upstream": [str(tmp_path)],
        "file": {"name": "organs.npz"},
        "classes": ["0", "1", "3"],
        "labels": [0, 1, 3],
        "title": "organs",
    }


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"val_labels": np.arange(257)}, "2 to 256 classes. Received: 257, from 0 to 256"),
        ({f"{part}_labels": np.array([3]) for part in ("train", "val", "test")}, "Received: 1, "),
        ({"val_labels": np.array([0.5])}, r"val_labels must be whole numbers"),
        ({"val_labels": np.array([{}], object)}, r"val_labels must be an array of numbers"),
        ({"test_labels": None}, "test_labels is missing"),
    ],
)
def test_wrong_labels_of_voxels_are_reported(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        block("voxels", npz(tmp_path / "organs.npz", np.array([0, 1]), **changes))


def test_tu_as_an_archive_and_as_a_folder(tmp_path: Path) -> None:
    expected = {
        "kind": "tu",
        "seed": 5,
        "path": str(tmp_path / "MUTAG.zip"),
        "validation": 0.1,
        "test": 0.2,
        "title": "MUTAG",
    }
    assert block("tu", touch(tmp_path / "MUTAG.zip")) == expected
    touch(tmp_path / "MUTAG" / "MUTAG_graph_indicator.txt")
    assert block("tu", tmp_path / "MUTAG") == expected | {"path": str(tmp_path / "MUTAG")}
    assert block("tu", tmp_path / "MUTAG", directed=True)["directed"]


def planetoid(folder: Path, known: int) -> Path:
    for end, rows in (("y", 4), ("ally", known)):
        touch(folder / f"ind.mine.{end}", old_pickle(np.eye(2)[np.arange(rows) % 2]))
    touch(folder / "ind.mine.allx")
    return folder


def test_planetoid_is_named_by_its_files(tmp_path: Path) -> None:
    expected = {"kind": "planetoid", "path": str(tmp_path), "name": "mine", "title": "mine"}
    assert block("planetoid", planetoid(tmp_path, 504)) == expected
    # Too few for the usual 500.
    message: list[str] = []
    actual = block("planetoid", planetoid(tmp_path, 10), say=message.append)
    assert actual == expected | {"validation_nodes": 6}
    assert message
    touch(tmp_path / "ind.pubmed.allx")
    with pytest.raises(ChapterflowError, match=r"of one dataset\. Received: mine, pubmed"):
        block("planetoid", tmp_path)


def test_a_planetoid_folder_that_lacks_a_file_is_reported(tmp_path: Path) -> None:
    (planetoid(tmp_path, 10) / "ind.mine.ally").unlink()
    with pytest.raises(DataError, match=r"ind\.mine\.ally cannot be read: No such file"):
        block("planetoid", tmp_path)


def test_every_block_is_one_that_params_yaml_could_hold(tmp_path: Path) -> None:
    paths = {
        "images": tmp_path,
        "idx": idx_files(tmp_path / "idx"),
        "csv": touch(tmp_path / "a.csv", b"t,x\n" + b"".join(b"%d,1\n" % t for t in range(99))),
        "voxels": npz(tmp_path / "a.npz", np.array([0, 1])),
        "tu": touch(tmp_path / "a.zip"),
        "planetoid": planetoid(tmp_path / "planetoid", 10),
    }
    assert paths.keys() == own_sources().keys()
    for kind, path in paths.items():
        TypeAdapter(DatasetParams).validate_python(block(kind, path))


@pytest.mark.parametrize(
    ("kind", "path", "message", "says"),
    [
        ("image", "", {}, "Did you mean 'images'"),
        ("images", "gone", {}, "PATH must be an existing file or folder. Received: .*gone"),
        ("images", "a.txt", {}, r"must name a \.zip file"),
        ("csv", "", {}, r"must name a \.csv file"),
        ("tu", "", {}, "Received: no NAME_graph_indicator.txt"),
        ("voxels", "a.txt", {}, r"must name a \.npz file"),
        ("tu", "a.txt", {}, r"must name a \.zip file"),
        ("idx", "a.txt", {}, "must name a folder with the four IDX files"),
        ("planetoid", "a.txt", {}, "must name a folder"),
        ("planetoid", "", {}, "Received: none"),
        ("idx", "", {"test": 0.2}, "--test is not for idx"),
        ("voxels", "a.txt", {"validation": 0.2}, "--validation is not for voxels"),
        ("planetoid", "", {"test": 0.2}, "--test is not for planetoid"),
        ("images", "", {"directed": True}, "--directed is for graphs"),
        ("images", "", {"names": "cp949"}, "--names is for zip archives"),
    ],
)
def test_what_cannot_be_is_reported(
    tmp_path: Path, kind: str, path: str, message: dict[str, Any], says: str
) -> None:
    touch(tmp_path / "a.txt")
    with pytest.raises(ChapterflowError, match=says):
        block(kind, tmp_path / path, **message)


def test_the_labels_that_are_read_for_idx_are_real(tmp_path: Path) -> None:
    folder = idx_files(tmp_path)
    labels = np.arange(37, dtype=np.uint8)
    content = bytes((0, 0, 8, 1)) + struct.pack(">I", 37) + labels.tobytes()
    touch(folder / "train-labels-idx1-ubyte.gz", gzip.compress(content))
    assert block("idx", folder)["classes"] == 37
