"""Real digits as a small dataset, and the verdict on it, for the tests of validation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chapterflow.kinds.dataset import CARD, Dataset, open_dataset
from chapterflow.kinds.pixels import ImageExpectations
from chapterflow.validation.validate import validate_dataset
from chapterflow.validation.verdict import Verdict
from tests.digits import digits_card

BOUNDS = ImageExpectations(
    class_divergence=0.05, duplicates=0.01, value_use=0.9, mean_value=[0.02, 0.7]
)


def _changed(dataset: Dataset, change: Callable[[Any], None]) -> Dataset:
    arrays = SimpleNamespace(
        images=np.array(dataset.arrays["images"]),
        labels=np.array(dataset.labels),
        split=np.array(dataset.split),
    )
    change(arrays)
    return replace(dataset, arrays=vars(arrays))


@pytest.fixture
def without_data_docs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pages of Great Expectations, which take longer than the checks.

    For mistakes of which the verdict alone is tested; each kind has tests that build the pages.
    """
    monkeypatch.setattr(
        "chapterflow.validation.validate.write_offline_docs", lambda suite, result, out: out.mkdir()
    )


@pytest.fixture(scope="session")
def bounds() -> ImageExpectations:
    """The tolerances that all tests here use."""
    return BOUNDS


@pytest.fixture
def corrupt(digits: Dataset) -> Callable[[Callable[[Any], None]], Dataset]:
    """Call with a function that changes `images`, `labels` and `split`; the card stays."""
    return lambda change: _changed(digits, change)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """All of scikit-learn's digits, memory-mapped: every tenth is for validation, next for test."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = raw.images.astype(np.uint8)[..., None]
    labels = raw.target.astype(np.int64)
    # Position within the class, so that all splits are stratified.
    turn = np.zeros(len(labels), dtype=int)
    for label in range(10):
        turn[labels == label] = np.arange(np.sum(labels == label))
    split = np.select([turn % 10 == 8, turn % 10 == 9], [1, 2], 0).astype(np.uint8)
    folder = tmp_path_factory.mktemp("data") / "digits"
    folder.mkdir()
    for name, array in (("images", images), ("labels", labels), ("split", split)):
        np.save(folder / f"{name}.npy", array)
    (folder / CARD).write_text(digits_card(split).to_json())
    return open_dataset(folder)


@pytest.fixture(scope="session")
def passed(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Verdict, Path]:
    """The verdict on the clean digits and the folder that it was written to."""
    out = tmp_path_factory.mktemp("results") / "digits"
    return validate_dataset(digits, BOUNDS, out), out


@pytest.fixture(scope="session")
def failed(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Verdict, Path]:
    """The verdict on digits that are wrong in several ways, and its folder."""

    def change(arrays: Any) -> None:
        arrays.images = arrays.images.astype(np.float32) / 16
        arrays.images[3, 0, 0] = np.nan
        arrays.labels[:7] = 12

    out = tmp_path_factory.mktemp("results") / "digits"
    return validate_dataset(_changed(digits, change), BOUNDS, out), out
