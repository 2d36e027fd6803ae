"""Volumes of one size.

`volumes` uint8 `(n, depth, height, width, channels)`, `labels` and `split` uint8 `(n,)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.kinds.dataset import Dataset, DatasetCard, Kind, examples_of
from chapterflow.kinds.pixels import ImageExpectations, pixel_rows, pixel_suite
from chapterflow.language import message

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.expectations.expectation import Expectation


class Data(Dataset):
    """Raw voxels in, class numbers out."""

    ARRAYS = ("volumes", "labels", "split")

    def inputs(self, chosen: NDArray[np.intp]) -> Any:
        """Return float32 `(batch, depth, height, width, channels)`."""
        return np.asarray(self.stored(chosen), np.float32)

    def stored(self, chosen: NDArray[np.intp]) -> Any:
        """Return the same as uint8."""
        return examples_of(self.arrays["volumes"], chosen)


def expectations(card: DatasetCard, bounds: ImageExpectations) -> list[Expectation]:
    """Return the expectations that `rows` of a dataset must meet (see `pixel_suite`)."""
    return pixel_suite(card, bounds, example=message("volume"), value=message("voxel"))


def rows(dataset: Dataset) -> pd.DataFrame:
    """Describe every example of the arrays that training reads (see `pixel_rows`)."""
    return pixel_rows(dataset, "volumes", ("depth", "height", "width", "channels"))


KIND = Kind("volumes", Data, ImageExpectations, rows, expectations, look="picture", bounded=True)
