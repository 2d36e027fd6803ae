"""A user's file becomes what a model reads, or it is told why not."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chapterflow.config.load import load_settings
from chapterflow.environment import Project
from chapterflow.errors import ConfigError, DataError
from chapterflow.kinds.dataset import DatasetCard, read_array
from chapterflow.predict.explain_input import explain_with
from chapterflow.predict.inputs import Input, open_array, parse_input, parse_inputs, read_example


def card(kind: Any, shape: list[int | None], value_max: float = 255.0) -> DatasetCard:
    return DatasetCard(
        name="mine",
        kind=kind,
        title="Mine",
        source="here",
        licence="none",
        shape=shape,
        classes=["a", "b"],
        value_max=value_max,
        counts={},
        files={},
        test_digest="",
        recipe={},
    )


def picture(path: Path, mode: str) -> Path:
    values = np.linspace(0, 255, 40 * 20).reshape(20, 40).astype(np.uint8)
    Image.fromarray(values).convert(mode).save(path)
    return path


def test_a_photo_is_shown_at_the_size_of_the_training(tmp_path: Path) -> None:
    photos = card("photos", [None, None, 3])
    pixels, notes = read_example(picture(tmp_path / "a.png", "RGB"), photos, (32, 48))
    assert pixels.shape == (1, 32, 48, 3)
    assert 200 < pixels.max() <= 255
    assert notes == ["resized from 40x20 to 48x32"]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_grey_models_get_grey_in_their_range(tmp_path: Path, mode: str) -> None:
    digits = card("images", [8, 8, 1], 16.0)
    pixels, notes = read_example(picture(tmp_path / "a.png", mode), digits, (224, 224))
    assert pixels.shape == (1, 8, 8, 1)
    assert 10 < pixels.max() <= 16
    assert ("made grey" in notes) == (mode != "L")


@pytest.mark.parametrize("shape", [(128, 1), (128,), (1, 128, 1)])
def test_a_curve_with_or_without_its_outer_axes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", np.ones(shape))
    values, notes = read_example(tmp_path / "a.npy", card("curves", [128, 1]), (224, 224))
    assert (values.shape, values.dtype, notes) == ((1, 128, 1), np.float32, [])


@pytest.mark.parametrize(
    "values", [np.ones((127, 1)), np.full((128, 1), np.nan), np.full((128, 1), "a")]
)
def test_an_array_that_does_not_fit_is_reported(tmp_path: Path, values: Any) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(DataError, match=r"finite numbers of the shape \(128, 1\)"):
        read_example(tmp_path / "a.npy", card("curves", [128, 1]), (224, 224))


def test_a_picture_is_no_curve(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must be an \.npy array"):
        read_example(picture(tmp_path / "a.png", "L"), card("curves", [128, 1]), (224, 224))


# The second begins as a zip file does, which an .npz archive is.
@pytest.mark.parametrize("content", [b"no numbers", b"PK\x03\x04 and no archive", b""])
def test_a_file_of_another_format_is_no_array(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "b.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"must be an \.npy array.*magic string"):
        read_example(tmp_path / "b.npy", card("curves", [128, 1]), (224, 224))


def test_a_file_goes_before_a_dataset_and_that_before_a_folder(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(project.params)
    (tmp_path / "digits").mkdir()
    (tmp_path / "scans").mkdir()
    assert parse_input(settings, "digits").sort == "dataset"
    assert parse_input(settings, "digits:7") == Input(
        "digits:7", "dataset", Path("digits:7"), "digits", "7"
    )
    assert parse_input(settings, "scans").sort == "folder"
    (tmp_path / "digits").rmdir()
    (tmp_path / "digits").touch()
    assert parse_input(settings, "digits").sort == "file"
    assert len(parse_inputs(settings, ["scans", "digits", "scans"])) == 2
    with pytest.raises(ConfigError, match=r"file or folder, DATASET, DATASET:SPLIT or DATASET:IND"):
        parse_inputs(settings, ["nowhere.png"])


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("digts", "Received: 'digts'. Did you mean 'digits'?"),
        ("nowhere.png", "Received: 'nowhere.png'."),
        ("digits:test", "Received: the split digits:test"),
        (".", "Received: the folder ."),
    ],
)
def test_no_store_is_opened_for_an_input_that_cannot_be_explained(
    project: Project, word: str, says: str
) -> None:
    settings = load_settings(project.params)
    taken = "an existing file, DATASET:INDEX for one example, or DATASET for its probes"
    with pytest.raises(ConfigError) as caught:
        explain_with(project, settings, "cnn", word, project.root / "out")
    assert str(caught.value) == f"INPUT must be {taken}. {says}"
    assert not (project.root / "mlruns").exists()


@pytest.mark.parametrize(
    "header", [b"(1099511627776,)", b"(-8, 8)", b"'" * 7, b"[" * 900, b"9" * 5000, b"\xff\x00"]
)
def test_a_damaged_header_of_an_array_is_one_line(header: bytes, tmp_path: Path) -> None:
    content = io.BytesIO()
    np.save(content, np.zeros((8, 8), np.float32))
    text = content.getvalue().replace(b"(8, 8)", header)
    (tmp_path / "a.npy").write_bytes(text[:8] + struct.pack("<H", len(text) - 10 - 256) + text[10:])
    for reader in (
        lambda: open_array(tmp_path / "a.npy", (8, 8)),
        lambda: read_array(tmp_path, "a"),
    ):
        with pytest.raises(
            DataError, match=r"a\.npy (must be an \.npy array|cannot be read)"
        ) as caught:
            reader()
        assert "\n" not in str(caught.value)


def test_a_picture_of_12_bits_in_16_is_said_to_be_dark(tmp_path: Path) -> None:
    deep = np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(deep).save(tmp_path / "a.png")
    Image.fromarray(deep << 4).save(tmp_path / "b.png")
    reads = card("images", [8, 8, 1])
    values, notes = read_example(tmp_path / "a.png", reads, (8, 8))
    assert (values.max(), [n for n in notes if n.startswith("dark")]) == (
        16,
        ["dark: its 16-bit values use 12 bits only"],
    )
    values, notes = read_example(tmp_path / "b.png", reads, (8, 8))
    assert values.max() == 255
    assert not [note for note in notes if note.startswith("dark")]
