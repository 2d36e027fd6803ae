"""The handwritten 8x8 digits that ship inside scikit-learn."""

import numpy as np
from numpy.typing import NDArray

from chapterflow.data.card import SPLITS
from chapterflow.data.source import Fetch, SourceData
from chapterflow.data.splits import stratified_split
from chapterflow.errors import DataError
from chapterflow.settings.datasets import SklearnDigits


def read(params: SklearnDigits, fetch: Fetch) -> SourceData:
    """Return the digits of the chosen classes, renumbered from 0; nothing is fetched.

    Raises:
        DataError: If a split would be left without an example of each class.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    chosen = params.classes or list(range(10))
    kept = np.isin(digits.target, chosen)
    labels = np.searchsorted(chosen, digits.target[kept]).astype(np.uint8)
    images = digits.images[kept].astype(np.uint8)[..., np.newaxis]
    split = stratified_split(
        labels, validation=params.validation, test=params.test or 0.0, seed=params.seed
    )
    if params.train_per_class is not None:
        split = _few_labels(labels, split, params.train_per_class, params.seed)
    return SourceData(
        kind="images",
        arrays={"images": images, "labels": labels, "split": split},
        shape=images.shape[1:],
        classes=[str(digit) for digit in chosen],
        value_max=16,
        title="Handwritten digits, 8x8, 17 grey levels"
        + (f": {', '.join(map(str, chosen))}" if params.classes else ""),
        source="scikit-learn load_digits; UCI Optical Recognition of Handwritten Digits, test part "
        "(Alpaydin & Kaynak 1998)",
        licence="CC BY 4.0",
    )


def _few_labels(
    labels: NDArray[np.uint8], split: NDArray[np.uint8], per_class: int, seed: int
) -> NDArray[np.uint8]:
    """Leave so many examples of each class in train; the others of train become the test set."""
    train, test = SPLITS.index("train"), SPLITS.index("test")
    random = np.random.default_rng(seed)
    for label in np.unique(labels):
        members = np.flatnonzero((labels == label) & (split == train))
        if len(members) <= per_class:
            raise DataError(
                "Every class needs train_per_class examples to train on, and more for the test. "
                f"Received: train_per_class = {per_class}, and {len(members)} in a class"
            )
        split[random.permutation(members)[per_class:]] = test
    return split
