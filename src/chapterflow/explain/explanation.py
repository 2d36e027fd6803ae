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
        refused: Why there is no explanation; None where there is one.
    """

    metrics: dict[str, float]
    pictures: list[Picture]
    details: dict[str, Any]
    refused: str | None = None


#: Names picture files with captions, figures, and what the pictures show.
EXPLANATION = "explain.json"


def write_explanation(explanation: Explanation, folder: Path, **more: Any) -> dict[str, Any]:
    """Write `explain.json` next to the pictures, and return it.

    Args:
        explanation: Its pictures are in `folder`.
        folder: Where they are.
        more: What else the document says, by key.
    """
    document: dict[str, Any] = {
        **more,
        **({"refused": explanation.refused} if explanation.refused else {}),
        "metrics": explanation.metrics,
        "pictures": [
            {"key": one.key, "step": one.step, "file": one.path.name, "caption": one.caption}
            for one in explanation.pictures
        ],
        "details": explanation.details,
    }
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=2, allow_nan=False)
    (folder / EXPLANATION).write_text(text + "\n", encoding="utf-8")
    return document


def load_explanation(folder: Path) -> Explanation:
    """Return the explanation in a folder that `write_explanation` wrote."""
    document = json.loads((folder / EXPLANATION).read_text(encoding="utf-8"))
    return Explanation(
        metrics=document["metrics"],
        pictures=[
            Picture(
                key=picture["key"],
                step=picture["step"],
                path=folder / picture["file"],
                caption=picture["caption"],
            )
            for picture in document["pictures"]
        ],
        details=document["details"],
        refused=document.get("refused"),
    )


def probes(dataset: Dataset) -> NDArray[np.intp]:
    """Return the positions of the probes, `(at most 10,)`: those that the card names.

    A fixed rule chose them when the data were built, so that pictures of two models can be laid
    side by side, and nobody picks the pretty ones.
    """
    return np.asarray(dataset.card.probes or dataset.choose_probes(), np.intp)
