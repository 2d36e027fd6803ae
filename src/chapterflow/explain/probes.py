"""The examples that are explained: the same for every model of a dataset."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chapterflow.data.card import Dataset


def probes(dataset: Dataset) -> NDArray[np.intp]:
    """Return the positions of the probes, `(at most 10,)`: those that the card names.

    A fixed rule chose them when the data were built, so that pictures of two models can be laid
    side by side, and nobody picks the pretty ones.
    """
    return np.asarray(dataset.card.probes or dataset.choose_probes(), np.intp)
