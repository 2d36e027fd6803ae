"""Scikit-learn's digits as datasets in memory, and an array that notes what is read of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.kinds import images
from chapterflow.kinds.dataset import SPLITS, Dataset, DatasetCard


class Watched:
    """An array that notes which examples are read."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        self.read: list[NDArray[np.intp]] = []

    def __getitem__(self, chosen: NDArray[np.intp]) -> NDArray[Any]:
        self.read.append(np.array(chosen))
        return self.array[chosen]


def digits_card(split: NDArray[Any]) -> DatasetCard:
    """Return a card for digits with these split codes."""
    return DatasetCard(
        name="digits",
        kind="images",
        title="Handwritten digits",
        source="scikit-learn",
        licence="CC BY 4.0",
        shape=[8, 8, 1],
        classes=[str(number) for number in range(10)],
        value_max=16.0,
        counts={name: int(np.sum(split == code)) for code, name in enumerate(SPLITS)},
        files={},
        test_digest="0" * 64,
        facts={},
        recipe={},
    )


def with_arrays(dataset: Dataset, **arrays: Any) -> Dataset:
    """Return a dataset with some of its arrays replaced."""
    return replace(dataset, arrays={**dataset.arrays, **arrays})


def digits_dataset(split: NDArray[Any]) -> Dataset:
    """Return the first digits, as many as there are split codes (from the start after the last)."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    arrays = {
        "images": np.resize(raw.images, (len(split), 8, 8))[..., np.newaxis].astype(np.uint8),
        "labels": np.resize(raw.target, len(split)).astype(np.uint8),
        "split": split.astype(np.uint8),
    }
    return images.Data(digits_card(split), Path("in memory"), arrays)
