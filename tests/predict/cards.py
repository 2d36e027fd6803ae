"""Cards of data that models learnt, and a version that did."""

from typing import Any

import numpy as np

from chapterflow.kinds.dataset import DatasetCard
from chapterflow.tracking.versions import Version
from tests.digits import digits_dataset

#: Of scikit-learn's digits.
CARD = digits_dataset(np.repeat([0, 1, 2], [900, 448, 449])).card
VERSION = Version("cnn", "1", None, "run", "cnn", "models:/m-1")

SHAPES: dict[str, list[int | None]] = {
    "images": [8, 8, 1],
    "photos": [None, None, 3],
    "volumes": [16, 16, 16, 1],
    "curves": [128, 1],
    "graphs": [None, 10],
    "citations": [None, 34],
}


def card(kind: Any) -> DatasetCard:
    """Return a card of a kind; two classes, none for curves."""
    return DatasetCard(
        name="learnt",
        kind=kind,
        title="Learnt",
        source="here",
        licence="none",
        shape=SHAPES[kind],
        classes=[] if kind == "curves" else ["a", "b"],
        value_max=16.0,
        counts={"train": 2, "validation": 1, "test": 1},
        files={},
        test_digest="",
        recipe={},
    )
