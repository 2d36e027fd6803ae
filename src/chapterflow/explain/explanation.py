"""What an explanation hands back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chapterflow.models.parts.base import Strict


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
