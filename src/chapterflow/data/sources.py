"""Sources of data: each kind of `params.yaml` -> images, labels and splits in memory."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.data.card import SPLITS
from chapterflow.data.splits import stratified_split
from chapterflow.errors import DataError
from chapterflow.settings import DatasetParams, Idx, SklearnDigits

#: Called with the file's name, bytes received so far, and bytes in all where known.
OnProgress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class SourceImages:
    """Images in canonical form, before they are written.

    Attributes:
        images: uint8 `(n, height, width, channels)`, raw values.
        labels: uint8 `(n,)`.
        split: uint8 `(n,)`, positions in `SPLITS`.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    split: NDArray[np.uint8]
    classes: list[str]
    value_max: int
    title: str
    source: str
    licence: str


def recipe(params: DatasetParams) -> dict[str, Any]:
    """Return what decides a dataset's bytes: where it differs from the card's, build anew.

    Addresses are left out: they say where bytes come from, not which bytes.
    """
    return params.model_dump(mode="json", exclude={"mirror", "upstream", "title", "licence"})


def read_source(params: DatasetParams, *, cache: Path, on_progress: OnProgress) -> SourceImages:
    """Read a dataset from its source, fetching it where it is not on this machine.

    Args:
        params: The dataset's block of `params.yaml`.
        cache: Folder for downloads.
        on_progress: Told of downloaded bytes.

    Raises:
        DataError: If the source is damaged or not what `params.yaml` says.
        FetchError: If it cannot be fetched.
    """
    if isinstance(params, SklearnDigits):
        return _sklearn_digits(params)
    return _idx(params, cache, on_progress)


def _sklearn_digits(params: SklearnDigits) -> SourceImages:
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = digits.target.astype(np.uint8)
    return SourceImages(
        images=digits.images.astype(np.uint8)[..., np.newaxis],
        labels=labels,
        split=stratified_split(
            labels, validation=params.validation, test=params.test, seed=params.seed
        ),
        classes=[str(digit) for digit in range(10)],
        value_max=16,
        title="Handwritten digits, 8x8, 17 grey levels",
        source="scikit-learn load_digits; UCI Optical Recognition of Handwritten Digits, test part "
        "(Alpaydin & Kaynak 1998)",
        licence="CC BY 4.0",
    )


def _idx(params: Idx, cache: Path, on_progress: OnProgress) -> SourceImages:
    from chapterflow.data.download import fetch
    from chapterflow.data.idx import read_pair

    def local(name: str) -> Path:
        return fetch(
            getattr(params.files, name),
            mirror_folder=params.mirror,
            upstream=params.upstream,
            cache=cache,
            on_progress=on_progress,
        )

    images, labels = read_pair(local("train_images"), local("train_labels"), classes=params.classes)
    test_images, test_labels = read_pair(
        local("test_images"), local("test_labels"), classes=params.classes
    )
    if images.shape[1:] != test_images.shape[1:]:
        raise DataError(
            "Train and test images must have one size. "
            f"Received: {images.shape[1:]} and {test_images.shape[1:]}"
        )
    split = stratified_split(labels, validation=params.validation, test=0.0, seed=params.seed)
    return SourceImages(
        images=np.concatenate([images, test_images])[..., np.newaxis],
        labels=np.concatenate([labels, test_labels]),
        split=np.concatenate([split, np.full(len(test_labels), SPLITS.index("test"), np.uint8)]),
        classes=[str(number) for number in range(params.classes)],
        value_max=255,
        title=params.title,
        source=f"IDX files: {params.mirror or params.title}",
        licence=params.licence,
    )
