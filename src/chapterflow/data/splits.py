"""Classes from labels, and splits: deterministic, stratified, made once, stored with the data."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.errors import DataError
from chapterflow.kinds.dataset import SPLITS


def class_numbers(
    labels: NDArray[np.integer], known: Sequence[int], where: str
) -> NDArray[np.uint8]:
    """Return the class number of each label, `(n,)`: its position in `known`.

    Args:
        labels: `(n,)` labels as their file has them.
        known: Label of each class, ascending.
        where: File, for the message.

    Raises:
        DataError: If a label is of no class.
    """
    order = np.asarray(known, np.int64)
    numbers = np.searchsorted(order, labels).clip(0, len(order) - 1)
    wrong = np.flatnonzero(order[numbers] != labels)
    if wrong.size:
        ascending = len(order) == order[-1] - order[0] + 1
        expected = f"{order[0]} to {order[-1]}" if ascending else ", ".join(map(str, order))
        raise DataError(
            f"{where}: labels must be those of the {len(order)} classes, {expected}. Received: "
            f"{labels[wrong[0]]} at position {wrong[0]} ({wrong.size:,} of {len(labels):,} labels "
            "are of no class)"
        )
    return numbers.astype(np.uint8)


def label_key(labels: Sequence[int]) -> dict[str, list[int]]:
    """Return the key `labels` of a block, for labels that do not number the classes from 0."""
    return {} if list(labels) == list(range(len(labels))) else {"labels": list(labels)}


def check_gaps(labels: NDArray[Any], split: NDArray[Any], classes: Sequence[str]) -> None:
    """Refuse a split that has examples, but none of some class.

    Args:
        labels: `(n,)` class numbers.
        split: `(n,)` positions in `SPLITS`.
        classes: Names of the classes.

    Raises:
        DataError: If there is one; it names split and classes.
    """
    gaps = []
    for code, name in enumerate(SPLITS):
        chosen = labels[split == code]
        missing = sorted(set(range(len(classes))) - set(np.unique(chosen).tolist()))
        if len(chosen) and missing:
            names = ", ".join(repr(classes[number]) for number in missing[:10])
            more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
            gaps.append(f"{name} has none of {names}{more}")
    if gaps:
        raise DataError(
            f"Every split needs an example of each of the {len(classes)} classes. Received: "
            f"{'; '.join(gaps)}. Add examples, or leave the class out (for IDX and .npz files, "
            "`data add --force` makes a class of each label that occurs)."
        )


def grouped_split(
    labels: NDArray[np.uint8],
    contents: Sequence[str],
    *,
    validation: float,
    test: float,
    seed: int,
    classes: Sequence[str] = (),
) -> NDArray[np.uint8]:
    """Split as `stratified_split` does, but keep equal examples in the same split.

    Args:
        labels: `(n,)` class numbers.
        contents: Hash of each example; copies follow the first of them into its split.
        classes: Names of the classes, for messages.

    Raises:
        DataError: If a split gets no example of a class.
    """
    _, first, group = np.unique(np.asarray(contents), return_index=True, return_inverse=True)
    # In the order of the data, so that the draw does not depend on how hashes sort.
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    drawn = stratified_split(
        labels[first[order]], validation=validation, test=test, seed=seed, classes=classes
    )
    return drawn[rank[group]]


def stratified_split(
    labels: NDArray[np.integer],
    *,
    validation: float,
    test: float,
    seed: int,
    classes: Sequence[str] = (),
) -> NDArray[np.uint8]:
    """Assign every example to train, validation or test, with the same shares for each class.

    Args:
        labels: `(n,)` class numbers.
        validation: Share of all examples for early stopping.
        test: Share of all examples held out for evaluation; 0 leaves the test set to the caller.
        seed: Seed of the draw.
        classes: Names of the classes, for messages.

    Returns:
        `(n,)` positions in `SPLITS`.

    Raises:
        DataError: If a share is too small for an example of each class, or leaves too few.
    """
    from sklearn.model_selection import train_test_split

    split = np.full(len(labels), SPLITS.index("train"), np.uint8)
    rest = np.arange(len(labels))
    splits = 1 + (test > 0) + (validation > 0)
    _check_examples(labels, classes, splits, "Every split needs an example of each class")
    for name, share in (("test", test), ("validation", validation)):
        if share > 0:
            size = round(share * len(labels))
            count = len(np.unique(labels[rest]))
            if size < count or len(rest) - size < count:
                raise DataError(
                    f"Every split needs an example of each of the {count} classes. "
                    f"Received: {name} = {share:g}, which is {size} of {len(labels)} examples"
                )
            what = f"{name} = {share:g} must leave two examples of each class to divide"
            _check_examples(labels[rest], classes, 2, what)
            rest, drawn = train_test_split(
                rest, test_size=size, stratify=labels[rest], random_state=seed
            )
            split[drawn] = SPLITS.index(name)
    return split


def _check_examples(
    labels: NDArray[np.integer], classes: Sequence[str], needed: int, expected: str
) -> None:
    """Refuse classes with fewer examples than needed, and name them."""
    numbers, counts = np.unique(labels, return_counts=True)
    few = [(number, count) for number, count in zip(numbers, counts, strict=True) if count < needed]
    if few:
        names = ", ".join(
            f"{(classes[number] if number < len(classes) else str(number))!r} has {count}"
            for number, count in few[:10]
        )
        raise DataError(
            f"{expected}. Received: class {names} of the {needed} examples that it needs at "
            "least. Add examples, or leave the class out."
        )
