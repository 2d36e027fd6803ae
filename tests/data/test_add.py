"""What a user says of data of their own -> the block that params.yaml could hold."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chapterflow.config import load_settings
from chapterflow.data.add import BUILDERS, CANONICAL, Wish, build_block, role_overrides
from chapterflow.errors import ConfigError
from chapterflow.settings.datasets import KINDS

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"


def block(kind: str, path: Path, **said: Any) -> dict[str, Any]:
    return build_block(kind, Wish(path, 5, **said))


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


def test_idx_files_are_told_by_their_names_and_classes_by_the_labels(tmp_path: Path) -> None:
    found = block("idx", idx_files(tmp_path))
    assert found["classes"] == 5
    assert found["upstream"] == [str(tmp_path)]
    assert {part: file["name"] for part, file in found["files"].items()} == {
        "train_images": "train-images-idx3-ubyte",
        "train_labels": "train-labels-idx1-ubyte.gz",
        "test_images": "t10k-images-idx3-ubyte",
        "test_labels": "t10k-labels-idx1-ubyte.gz",
    }
    touch(tmp_path / "train-images-2")
    with pytest.raises(ConfigError, match=r"'train' and 'images' in its name\. Received: train-im"):
        block("idx", tmp_path)


def test_csv_columns_are_those_of_its_header(tmp_path: Path) -> None:
    path = touch(tmp_path / "a.csv", b"\xef\xbb\xbf# comment\n\ndate, hot,cold\n1,2,3\n")
    found = block("csv", path)
    assert found["kind"] == "csv-series"
    assert (found["time"], found["values"]) == ("date", ["hot", "cold"])
    assert (found["upstream"], found["file"]) == ([str(tmp_path)], {"name": "a.csv"})


@pytest.mark.parametrize("content", [b"", b"date\n1\n", b"date,,x\n", b"\xff\xfe\x00"])
def test_a_csv_file_without_a_header_is_told(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"a\.csv must"):
        block("csv", touch(tmp_path / "a.csv", content))


def test_voxels_tu_and_planetoid(tmp_path: Path) -> None:
    assert block("voxels", touch(tmp_path / "organs.npz")) == {
        "kind": "voxels",
        "upstream": [str(tmp_path)],
        "file": {"name": "organs.npz"},
        "title": "organs",
    }
    expected = {
        "kind": "tu",
        "seed": 5,
        "upstream": [str(tmp_path)],
        "name": "MUTAG",
        "validation": 0.1,
        "test": 0.2,
    }
    assert block("tu", touch(tmp_path / "MUTAG.zip")) == expected
    (tmp_path / "MUTAG").mkdir()
    assert block("tu", tmp_path / "MUTAG") == expected
    touch(tmp_path / "p" / "ind.cora.allx")
    assert block("planetoid", tmp_path / "p") == {
        "kind": "planetoid",
        "upstream": [str(tmp_path / "p")],
        "name": "cora",
    }
    touch(tmp_path / "p" / "ind.pubmed.allx")
    with pytest.raises(ConfigError, match=r"of one dataset\. Received: cora, pubmed"):
        block("planetoid", tmp_path / "p")


@pytest.mark.parametrize(
    ("kind", "path", "said", "says"),
    [
        ("image", "", {}, "Did you mean 'images'"),
        ("images", "gone", {}, "must be a file or folder. Received: .*gone"),
        ("images", "a.txt", {}, r"must name a \.zip file"),
        ("csv", "", {}, r"must name a \.csv file"),
        ("voxels", "a.txt", {}, r"must name a \.npz file"),
        ("tu", "a.txt", {}, r"must name a \.zip file"),
        ("idx", "a.txt", {}, "must name a folder with the four IDX files"),
        ("planetoid", "a.txt", {}, "must name a folder"),
        ("planetoid", "", {}, "Received: none"),
        ("idx", "", {"test": 0.2}, "--test is not for idx"),
        ("voxels", "a.txt", {"validation": 0.2}, "--validation is not for voxels"),
        ("planetoid", "", {"test": 0.2}, "--test is not for planetoid"),
    ],
)
def test_what_cannot_be_is_told(
    tmp_path: Path, kind: str, path: str, said: dict[str, float], says: str
) -> None:
    touch(tmp_path / "a.txt")
    with pytest.raises(ConfigError, match=says):
        block(kind, tmp_path / path, **said)


def test_every_kind_of_source_has_a_canonical_form() -> None:
    assert CANONICAL.keys() >= KINDS
    assert len(BUILDERS) == 6


def test_models_learn_another_dataset_of_their_kind_for_a_call() -> None:
    settings = load_settings(PARAMS)
    overrides = role_overrides(settings, ["cnn", "lenet5"], "mnist")
    assert overrides == ["roles.digits.embedded=mnist"]
    assert load_settings(PARAMS, overrides=overrides).dataset_of("cnn") == "mnist"
    with pytest.raises(ConfigError, match=r"'cnn' takes images\. Received: 'catanddog'.* photos"):
        role_overrides(settings, ["cnn"], "catanddog")
    with pytest.raises(ConfigError, match=r"Unknown dataset: 'mnits'\. Did you mean 'mnist'"):
        role_overrides(settings, ["cnn"], "mnits")


def test_a_name_that_yaml_reads_otherwise_stays_a_name(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS.read_text())
    (tmp_path / "datasets.yaml").write_text(
        'datasets:\n  "17": {kind: sklearn-digits, seed: 5, validation: 0.1, test: 0.1}\n'
    )
    path = tmp_path / "params.yaml"
    overrides = role_overrides(load_settings(path), ["cnn"], "17")
    assert load_settings(path, overrides=overrides).dataset_of("cnn") == "17"


def test_the_labels_that_are_read_for_idx_are_real(tmp_path: Path) -> None:
    folder = idx_files(tmp_path)
    labels = np.arange(37, dtype=np.uint8)
    content = bytes((0, 0, 8, 1)) + struct.pack(">I", 37) + labels.tobytes()
    touch(folder / "train-labels-idx1-ubyte.gz", gzip.compress(content))
    assert block("idx", folder)["classes"] == 37
