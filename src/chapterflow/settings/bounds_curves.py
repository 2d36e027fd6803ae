"""Bounds of the suite for curves."""

from typing import Annotated

from pydantic import Field

from chapterflow.models.parts.base import Strict
from chapterflow.settings.types import Share


class CurveExpectations(Strict):
    """Bounds of the suite for curves.

    Attributes:
        duplicates: Largest share of examples that repeat another one of their split, bit for bit.
        step_tolerance: Largest difference of a step from the curve's mean step, as a share of it,
            where the source claims equal steps.
        value_use: Smallest share of the value range that the largest sample of the dataset uses.
        noise_tolerance: Largest difference between the noise that inputs show and the level that
            their source names, as a share of the level; over all curves of a level.
    """

    duplicates: Share
    step_tolerance: Annotated[float, Field(gt=0, lt=1)]
    value_use: Share
    noise_tolerance: Annotated[float, Field(gt=0, lt=1)]
