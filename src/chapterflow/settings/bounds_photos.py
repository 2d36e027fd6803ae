"""Bounds of the validation suite for photos."""

from typing import Annotated

from pydantic import Field

from chapterflow.models.parts.base import PositiveInt, Strict
from chapterflow.settings.types import Share


class PhotoExpectations(Strict):
    """Bounds of the suite for photos (see `chapterflow.validation.kinds.photos`).

    Attributes:
        class_divergence: Largest Kullback-Leibler divergence, in nats, of a split's class shares
            from equal shares.
        duplicates: Largest share of photos that repeat another one of their split, pixel by pixel.
        min_side: Smallest height and width, in pixels.
        aspect_ratio: Largest ratio of the longer side to the shorter one.
        value_use: Smallest share of the value range that the brightest pixel of the dataset uses.
        near_distance: Two photos of different splits are near duplicates where their perceptual
            hashes, of 64 bits, differ in at most so many.
    """

    class_divergence: Annotated[float, Field(ge=0)]
    duplicates: Share
    min_side: PositiveInt
    aspect_ratio: Annotated[float, Field(ge=1)]
    value_use: Share
    near_distance: Annotated[int, Field(ge=0, le=63)]
