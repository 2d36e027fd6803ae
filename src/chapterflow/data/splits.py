"""Deterministic, stratified splits: made once, stored with the data."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chapterflow.errors import DataError
from chapterflow.kinds.dataset import SPLITS


def grouped_split(
    labels: NDArray[np.uint8],
    contents: Sequence[str],
    *,
    validation: float,
    test: float,
    seed: int,
) -> NDArray[np.uint8]:
    """Split as `stratified_split` does, but keep equal examples in the same split.

    Args:
        labels: `(n,)` class numbers.
        contents: Hash of each example; copies follow the first of them into its split.

    Raises:
        DataError: If a split gets no example of a class.
    """
    _, first, group = np.unique(np.asarray(contents), return_index=True, return_inverse=True)
    # In the order of the data, so that the draw does not depend on how hashes sort.
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    drawn = stratified_split(labels[first[order]], validation=validation, test=test, seed=seed)
    return drawn[rank[group]]


def stratified_split(
    labels: NDArray[np.uint8], *, validation: float, test: float, seed: int
) -> NDArray[np.uint8]:
    """Assign every example to train, validation or test, with the same shares for each class.

    Args:
        labels: `(n,)` class numbers.
        validation: Share of all examples for early stopping.
        test: Share of all examples held out for evaluation; 0 leaves the test set to the caller.
        seed: Seed of the draw.

    Returns:
        `(n,)` positions in `SPLITS`.

    Raises:
        DataError: If a share is too small for an example of each class, or leaves too few.
    """
    from sklearn.model_selection import train_test_split

    split = np.full(len(labels), SPLITS.index("train"), np.uint8)
    rest = np.arange(len(labels))
    for name, share in (("test", test), ("validation", validation)):
        if share > 0:
            size = round(share * len(labels))
            classes = len(np.unique(labels[rest]))
            if size < classes or len(rest) - size < classes:
                raise DataError(
                    f"Every split needs an example of each of the {classes} classes. "
                    f"Received: {name} = {share:g}, which is {size} of {len(labels)} examples"
                )
            rest, drawn = train_test_split(
                rest, test_size=size, stratify=labels[rest], random_state=seed
            )
            split[drawn] = SPLITS.index(name)
    return split
