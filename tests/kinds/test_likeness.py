"""Inputs unlike those of a training are noticed; test examples are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chapterflow.kinds import curves
from chapterflow.kinds.dataset import Dataset
from chapterflow.kinds.likeness import INVERTED, Likeness, figures
from tests.digits import digits_dataset
from tests.graphs import rings_and_stars


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """All digits: 1,257 to train on, 180 for validation, 360 for the test."""
    split = np.repeat(np.arange(3, dtype=np.uint8), (1257, 180, 360))
    return digits_dataset(np.random.default_rng(5).permutation(split))


@pytest.fixture(scope="module")
def likeness(digits: Dataset) -> Likeness:
    made = Likeness.of(digits)
    assert made is not None
    return made


def test_figures_of_a_worked_example() -> None:
    # A border of 1 around 3, 5 with its neighbours.
    image = np.array([[1, 1, 1, 1], [1, 3, 5, 1], [1, 1, 1, 1]], np.float32)
    actual = {name: values.tolist() for name, values in figures(image[None, :, :, None]).items()}
    assert actual == {
        "smallest value": [1.0],
        "largest value": [5.0],
        "mean": [1.5],
        "border": [1.0],
        # Steps down: 2, 4, 2, 4 in 8; to the right: 2, 2, 4 in 9.
        "sharpness": [pytest.approx((12 / 8 + 8 / 9) / 2 / image.std())],
    }


@pytest.mark.fault(
    "Input unlike the training data", "The answer has a note; black ink on white gets --invert"
)
def test_black_ink_on_white_paper_is_noticed_and_test_digits_are_not(
    digits: Dataset, likeness: Likeness, record_property: Any
) -> None:
    test = digits.inputs(digits.indices("test"))
    wrong = sum(map(bool, likeness.notes(test)))
    notes = likeness.notes(16 - test[:80])
    record_property(
        "saw", f"{sum(map(bool, notes))} of 80 inverted digits, {wrong} of {len(test)} test digits"
    )
    assert (len(test), wrong) == (360, 0)
    assert all(INVERTED in note and "border" in note for note in notes)


@pytest.mark.parametrize(
    ("change", "figure"),
    [
        (lambda x: x / 16, "largest value"),
        (lambda x: 8 + x / 2, "smallest value"),
        (lambda x: x * 0 + 16 * (np.indices((8, 8)).sum(0) % 2)[..., None], "sharpness"),
    ],
    ids=["divided", "grey paper", "grid"],
)
def test_other_differences_are_named_and_inversion_is_not_offered(
    digits: Dataset, likeness: Likeness, change: Any, figure: str
) -> None:
    notes = likeness.notes(change(digits.inputs(digits.indices("test")[:20])))
    assert sum(figure in note for note in notes) >= 19
    assert not any(INVERTED in note for note in notes)


def test_few_examples_have_wide_margins(digits: Dataset) -> None:
    few = np.full(digits.count, 2, np.uint8)
    few[:40] = 0
    small = Likeness.of(replace(digits, arrays=digits.arrays | {"split": few}))
    assert small is not None
    test = digits.inputs(np.arange(40, digits.count))
    assert sum(map(bool, small.notes(test))) <= len(test) * 0.01
    assert all(small.notes(16 - test))


def test_curves_have_bounds_and_graphs_have_none(tmp_path: Path, digits: Dataset) -> None:
    assert Likeness.of(rings_and_stars(tmp_path / "graphs")) is None
    rng = np.random.default_rng(0)
    card = digits.card.model_copy(update={"kind": "curves", "shape": [32, 1], "value_max": 4.0})
    inputs = np.cumsum(rng.normal(size=(60, 32, 1)), axis=1).clip(-4, 4).astype(np.float32)
    data = curves.Data(card, tmp_path, {"inputs": inputs, "split": np.zeros(60, np.uint8)})
    likeness = Likeness.of(data)
    assert likeness is not None
    assert likeness.inverse is None
    assert not any(likeness.notes(inputs))
    assert all("largest value" in note for note in likeness.notes(inputs + 20))


def test_bounds_are_read_back_from_the_description_of_a_model(likeness: Likeness) -> None:
    assert Likeness.read(likeness.model_dump(mode="json")) == likeness
    assert Likeness.read(None) is None
    assert likeness.notes(np.empty((0, 8, 8, 1))) == []
