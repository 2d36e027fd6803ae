"""Parameters of what is loaded through TensorFlow Hub."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from chapterflow.models.parts.base import PositiveInt
from chapterflow.models.parts.heads import HeadParams

#: Role of the data on which the flow trains a backbone of its own.
PRETEXT = "pretext"
#: Handles that name a backbone which the flow exports itself.
EXPORTED = (PRETEXT, "mobilenet")


class HubParams(HeadParams):
    """Which SavedModel.

    Attributes:
        pooling: How the maps of `pretext` and `mobilenet` become one vector in their export; other
            SavedModels bring a vector.
        handle: Path, `file://` or `http(s)://` address of a TF2 SavedModel or its `.tar.gz`;
            `pretext` and `mobilenet` are backbones that the flow exports itself.
        alpha: Width multiplier of `mobilenet`.
        sha256: Hash over the SavedModel's files that it must have; null takes what is there.
        image_size: Side to which images are resized where the SavedModel takes any size.
    """

    handle: Annotated[str, Field(min_length=1)]
    alpha: Annotated[float, Field(gt=0, le=2)] = 0.25
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    image_size: PositiveInt = 224
