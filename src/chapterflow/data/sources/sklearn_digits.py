"""The handwritten 8x8 digits that ship inside scikit-learn."""

from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from chapterflow.data.source import Fetch, Source, SourceData
from chapterflow.data.splits import stratified_split
from chapterflow.errors import DataError
from chapterflow.kinds.dataset import SPLITS
from chapterflow.types import DatasetBlock, PositiveInt, Seed, SplitShare

Digit = Annotated[int, Field(ge=0, le=9)]


class SklearnDigits(DatasetBlock):
    """The 1,797 handwritten 8x8 digits that ship inside scikit-learn.

    Attributes:
        validation: Share of the examples for early stopping.
        test: Share of the examples held out for evaluation; null with `train_per_class`.
        train_per_class: Examples of each class to train on; all that are then in no split are held
            out for evaluation.
        classes: Digits that are in the dataset, ascending; null for all ten.
        seed: Seed of the splits.
    """

    kind: Literal["sklearn-digits"]
    seed: Seed
    validation: SplitShare
    test: SplitShare | None = None
    train_per_class: PositiveInt | None = None
    classes: Annotated[list[Digit], Field(min_length=2)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.test is None) == (self.train_per_class is None):
            raise ValueError("give one of test and train_per_class")
        if self.classes is not None and self.classes != sorted(set(self.classes)):
            raise ValueError("classes must be digits in ascending order, each once")
        return self


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


SOURCE = Source("sklearn-digits", SklearnDigits, "images", read)
