"""What an explanation hands back, and how it is kept: pictures and `explain.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.kinds.dataset import Dataset
from chapterflow.types import Strict


class Picture(Strict):
    """One picture of an explanation.

    Attributes:
        key: What sort it is: `walk`, `feature_maps`, `kernels`, `attributions`, `reactions` or
            `nodes`.
        step: Number of the layer, from 0 at the input, for `feature_maps`; 0 for the others.
        path: The PNG.
        caption: What it shows, in words.
    """

    key: str
    step: int
    path: Path
    caption: str


class Explanation(Strict):
    """Pictures of what a model looks at, and figures that say whether to believe them.

    Attributes:
        metrics: `explain/<method>/<measure>`, all finite.
        pictures: In the order in which they are read.
        details: What the pictures show: probes with answers and scores, layers with channels.
    """

    metrics: dict[str, float]
    pictures: list[Picture]
    details: dict[str, Any]


#: Names picture files with captions, figures, and what the pictures show.
EXPLANATION = "explain.json"


def write_explanation(found: Explanation, folder: Path, **more: Any) -> dict[str, Any]:
    """Write `explain.json` beside the pictures, and return it.

    Args:
        found: Its pictures are in `folder`.
        folder: Where they are.
        more: What else the document says, by key.
    """
    document: dict[str, Any] = {
        **more,
        "metrics": found.metrics,
        "pictures": [
            {"key": one.key, "step": one.step, "file": one.path.name, "caption": one.caption}
            for one in found.pictures
        ],
        "details": found.details,
    }
    _write(folder, document)
    return document


def write_refusal(folder: Path, reason: str) -> None:
    """Write an `explain.json` that says why there is no explanation."""
    _write(folder, {"refused": reason, "metrics": {}, "pictures": [], "details": {}})


def read_explanation(folder: Path) -> dict[str, Any]:
    """Return what `explain.json` holds."""
    found: dict[str, Any] = json.loads((folder / EXPLANATION).read_text(encoding="utf-8"))
    return found


def _write(folder: Path, document: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=2, allow_nan=False)
    (folder / EXPLANATION).write_text(text + "\n", encoding="utf-8")


def probes(dataset: Dataset) -> NDArray[np.intp]:
    """Return the positions of the probes, `(at most 10,)`: those that the card names.

    A fixed rule chose them when the data were built, so that pictures of two models can be laid
    side by side, and nobody picks the pretty ones.
    """
    return np.asarray(dataset.card.probes or dataset.choose_probes(), np.intp)
