"""Volumes of one size.

`volumes` uint8 `(n, depth, height, width, channels)`, `labels` and `split` uint8 `(n,)`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.data.card import Dataset


class Data(Dataset):
    """Raw voxels in, class numbers out."""

    ARRAYS = ("volumes", "labels", "split")

    def inputs(self, chosen: NDArray[np.intp]) -> Any:
        """Return float32 `(batch, depth, height, width, channels)`."""
        return np.asarray(self.arrays["volumes"][chosen], np.float32)
