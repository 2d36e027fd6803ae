"""Figures are pictures of a sane size that show something."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image, pyplot
from numpy.typing import NDArray

from chapterflow.evaluation.figures import confusion_matrix, learning_curve
from chapterflow.training.history import EpochRecord


def read(path: Path) -> NDArray[Any]:
    """Return a PNG as values from 0 to 1, which must show more than one colour."""
    assert path.read_bytes().startswith(b"\x89PNG")
    picture = image.imread(path)
    assert picture.shape[2] in (3, 4)
    assert picture[..., :3].std() > 0.01
    return picture[..., :3]


def history(epochs: int) -> list[EpochRecord]:
    return [
        EpochRecord(
            epoch=number,
            train_loss=2 / number,
            train_accuracy=1 - 1 / (number + 1),
            validation_loss=2.5 / number,
            validation_accuracy=1 - 1 / number,
            learning_rate=1e-3,
            seconds=1.0,
        )
        for number in range(1, epochs + 1)
    ]


@pytest.mark.parametrize("epochs", [1, 2, 11, 12, 40])
def test_learning_curve(tmp_path: Path, epochs: int) -> None:
    learning_curve(history(epochs), "cnn on digits", tmp_path / "curve.png", chosen_epoch=1)
    assert read(tmp_path / "curve.png").shape == (432, 1080, 3)
    assert pyplot.get_fignums() == []


def test_the_chosen_epoch_is_marked(tmp_path: Path) -> None:
    for chosen in (3, 8):
        learning_curve(history(9), "cnn", tmp_path / f"{chosen}.png", chosen_epoch=chosen)
    for panel in (slice(0, 540), slice(540, 1080)):
        places = []
        for chosen in (3, 8):
            picture = read(tmp_path / f"{chosen}.png")[:, panel]
            grey = (np.abs(picture - 0.5) < 0.05).all(axis=2)
            places.append(int(grey.sum(axis=0).argmax()))
        assert places[1] - places[0] > 100


@pytest.mark.parametrize(("classes", "side"), [(2, 540), (10, 792), (20, 1416)])
def test_confusion_matrix(tmp_path: Path, classes: int, side: int) -> None:
    counts = np.eye(classes, dtype=np.int64) * 40 + 1
    names = [f"class {number}" for number in range(classes)]
    confusion_matrix(counts, names, "cnn on digits", tmp_path / "confusion.png")
    assert read(tmp_path / "confusion.png").shape[:2] == (side, side)
    assert pyplot.get_fignums() == []


def test_colour_is_the_share_of_the_true_class(tmp_path: Path) -> None:
    # Class a has 1000 examples, class b ten; both are recognised half of the time.
    counts = np.array([[500, 500], [5, 5]])
    confusion_matrix(counts, ["a", "b"], "", tmp_path / "even.png")
    even = read(tmp_path / "even.png")
    blue = even[..., 2] - even[..., 0] > 0.2
    upper, lower = blue[: len(blue) // 2].mean(), blue[len(blue) // 2 :].mean()
    assert upper > 0.3  # all four cells in one medium blue
    assert lower == pytest.approx(upper, rel=0.25)
    confusion_matrix(np.array([[1000, 0], [10, 0]]), ["a", "b"], "", tmp_path / "column.png")
    column = read(tmp_path / "column.png")
    dark = column[..., 2] - column[..., 0] > 0.2
    left, right = dark[:, : dark.shape[1] // 2].mean(), dark[:, dark.shape[1] // 2 + 40 :].mean()
    assert left > 10 * right


def test_a_class_without_examples(tmp_path: Path) -> None:
    confusion_matrix(np.array([[3, 1], [0, 0]]), ["a", "b"], "", tmp_path / "confusion.png")
    read(tmp_path / "confusion.png")
