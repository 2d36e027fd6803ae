"""The handwritten 8x8 digits that ship inside scikit-learn."""

import numpy as np

from chapterflow.data.source import Fetch, SourceData
from chapterflow.data.splits import stratified_split
from chapterflow.settings.datasets import SklearnDigits


def read(params: SklearnDigits, fetch: Fetch) -> SourceData:
    """Return the 1,797 digits; nothing is fetched."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = digits.target.astype(np.uint8)
    images = digits.images.astype(np.uint8)[..., np.newaxis]
    split = stratified_split(
        labels, validation=params.validation, test=params.test, seed=params.seed
    )
    return SourceData(
        kind="images",
        arrays={"images": images, "labels": labels, "split": split},
        shape=images.shape[1:],
        classes=[str(digit) for digit in range(10)],
        value_max=16,
        title="Handwritten digits, 8x8, 17 grey levels",
        source="scikit-learn load_digits; UCI Optical Recognition of Handwritten Digits, test part "
        "(Alpaydin & Kaynak 1998)",
        licence="CC BY 4.0",
    )
