"""Images of one size.

`images` uint8 `(n, height, width, channels)`, `labels` and `split` uint8 `(n,)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.kinds.dataset import Dataset, DatasetCard, Kind, examples_of
from chapterflow.kinds.pixels import ImageExpectations, pixel_rows, pixel_suite

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.expectations.expectation import Expectation


class Data(Dataset):
    """Raw pixels in, class numbers out."""

    ARRAYS = ("images", "labels", "split")

    def inputs(self, chosen: NDArray[np.intp]) -> Any:
        """Return float32 `(batch, height, width, channels)`."""
        return np.asarray(self.stored(chosen), np.float32)

    def stored(self, chosen: NDArray[np.intp]) -> Any:
        """Return the same as uint8."""
        return examples_of(self.arrays["images"], chosen)


def expectations(card: DatasetCard, bounds: ImageExpectations) -> list[Expectation]:
    """Return the expectations that `rows` of a dataset must meet (see `pixel_suite`)."""
    return pixel_suite(card, bounds)


def rows(dataset: Dataset) -> pd.DataFrame:
    """Describe every example of the arrays that training reads (see `pixel_rows`)."""
    return pixel_rows(dataset, "images", ("height", "width", "channels"))


KIND = Kind(
    "images",
    Data,
    ImageExpectations,
    rows,
    expectations,
    look="picture",
    file="picture",
    bounded=True,
)
