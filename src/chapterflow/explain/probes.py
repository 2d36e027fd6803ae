"""The examples that are explained: the same for every model of a dataset."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chapterflow.data.card import Dataset

#: Probes at most, and where there are no classes.
MOST, WITHOUT_CLASSES = 10, 4


def probes(dataset: Dataset) -> NDArray[np.intp]:
    """Return the positions of the probes, `(at most 10,)`.

    Those that the card names, if it names some. Otherwise the first test example of each class, or
    the first four where there are no classes: a fixed rule, so that pictures of two models can be
    laid side by side and nobody picks the pretty ones.
    """
    named = getattr(dataset.card, "probes", None)
    if named is not None and len(named):
        return np.asarray(named, np.intp)[:MOST]
    test = dataset.indices("test")
    if not dataset.card.classes:
        return test[:WITHOUT_CLASSES]
    _, first = np.unique(np.asarray(dataset.labels[test]), return_index=True)
    return test[first][:MOST]
