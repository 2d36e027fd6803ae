"""Images of one size.

`images` uint8 `(n, height, width, channels)`, `labels` and `split` uint8 `(n,)`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.data.card import Dataset


class Data(Dataset):
    """Raw pixels in, class numbers out."""

    ARRAYS = ("images", "labels", "split")

    def inputs(self, chosen: NDArray[np.intp]) -> Any:
        """Return float32 `(batch, height, width, channels)`."""
        return np.asarray(self.arrays["images"][chosen], np.float32)
