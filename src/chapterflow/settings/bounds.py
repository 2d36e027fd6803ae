"""Bounds of the validation suites, by kind of data."""

from typing import Annotated

from pydantic import Field

from chapterflow.models.parts.base import Kind, Strict
from chapterflow.settings.bounds_curves import CurveExpectations
from chapterflow.settings.bounds_graphs import GraphExpectations
from chapterflow.settings.bounds_photos import PhotoExpectations
from chapterflow.settings.types import Share


class ImageExpectations(Strict):
    """Bounds of the suite for images (see `chapterflow.validation.suite`).

    Attributes:
        class_divergence: Largest Kullback-Leibler divergence, in nats, of a split's class shares
            from equal shares.
        duplicates: Largest share of examples that repeat another one, bit for bit.
        value_use: Smallest share of the value range that the brightest pixel of the dataset uses.
            Data that were already divided by 255 fall below it.
        mean_value: Lowest and highest plausible mean of all pixels, as shares of the range.
    """

    class_divergence: Annotated[float, Field(ge=0)]
    duplicates: Share
    value_use: Share
    mean_value: Annotated[list[Share], Field(min_length=2, max_length=2)]


class ValidationParams(Strict):
    """Bounds of the validation suites, by kind of data."""

    images: ImageExpectations
    # Voxels are held against what pixels are.
    volumes: ImageExpectations
    curves: CurveExpectations
    photos: PhotoExpectations
    graphs: GraphExpectations
    citations: GraphExpectations

    def bounds(self, kind: Kind) -> Strict:
        """Return the bounds for a kind of data."""
        found: Strict = getattr(self, kind)
        return found
