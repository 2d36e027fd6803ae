"""MNIST and whatever else comes as four IDX files."""

import numpy as np

from chapterflow.data.card import SPLITS
from chapterflow.data.idx import read_pair
from chapterflow.data.source import Fetch, SourceData
from chapterflow.data.splits import stratified_split
from chapterflow.errors import DataError
from chapterflow.settings.datasets import Idx


def read(params: Idx, fetch: Fetch) -> SourceData:
    """Fetch and read the four files; the test files stay the test split.

    Raises:
        DataError: If a file is damaged, or train and test images differ in size.
    """
    files = params.files
    images, labels = read_pair(
        fetch(files.train_images), fetch(files.train_labels), classes=params.classes
    )
    test_images, test_labels = read_pair(
        fetch(files.test_images), fetch(files.test_labels), classes=params.classes
    )
    if images.shape[1:] != test_images.shape[1:]:
        raise DataError(
            "Train and test images must have one size. "
            f"Received: {images.shape[1:]} and {test_images.shape[1:]}"
        )
    split = stratified_split(labels, validation=params.validation, test=0.0, seed=params.seed)
    arrays = {
        "images": np.concatenate([images, test_images])[..., np.newaxis],
        "labels": np.concatenate([labels, test_labels]),
        "split": np.concatenate([split, np.full(len(test_labels), SPLITS.index("test"), np.uint8)]),
    }
    return SourceData(
        kind="images",
        arrays=arrays,
        shape=arrays["images"].shape[1:],
        classes=[str(number) for number in range(params.classes)],
        value_max=255,
        title=params.title,
        source=f"IDX files: {params.mirror or params.title}",
        licence=params.licence,
    )
