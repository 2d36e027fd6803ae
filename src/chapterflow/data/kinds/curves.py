"""Curves of one length and what they should be smoothed to.

`inputs` and `targets` float32 `(n, length, 1)`, `weights` float32 `(n, length)`, 1 where a target
is known and scored and 0 elsewhere; `noise` float32 `(n,)`, the standard deviation of the noise, 0
where it is unknown; `times` float64 `(n, length)` of the samples, in the card's `time_unit`;
`split` uint8 `(n,)`. There are no classes and no labels.

The card's facts: `truth` (what the targets are), `noise_levels`, `time_unit`, `constant_step`
(whether the source claims equal steps) and, of splits by time, `spans`: the first and the last time
of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.data.card import Dataset, Split


class Data(Dataset):
    """Noisy curves in, smooth ones out."""

    ARRAYS = ("inputs", "targets", "weights", "noise", "times", "split")

    def inputs(self, chosen: NDArray[np.intp]) -> Any:
        """Return float32 `(batch, length, 1)`."""
        return np.asarray(self.arrays["inputs"][chosen], np.float32)

    def targets(self, chosen: NDArray[np.intp]) -> NDArray[Any]:
        """Return float32 `(batch, length, 1)`."""
        return np.asarray(self.arrays["targets"][chosen], np.float32)

    def weights(self, chosen: NDArray[np.intp]) -> NDArray[np.float32] | None:
        """Return float32 `(batch, length)`: which samples count."""
        return np.asarray(self.arrays["weights"][chosen], np.float32)

    def content(self, split: Split) -> Iterator[bytes]:
        """Yield inputs and targets, and the weights, which decide the scores too."""
        yield from super().content(split)
        yield np.ascontiguousarray(self.weights(self.indices(split))).tobytes()

    def target_shapes(self) -> list[tuple[tuple[int | None, ...], str]]:
        """Return the shapes of targets and weights."""
        shape = (None, *self.card.shape)
        return [(shape, "float32"), (shape[:2], "float32")]
