"""Images of one size: one row for each, and what must hold for pixels and labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chapterflow.data.card import Dataset, DatasetCard
from chapterflow.validation.pixels import pixel_checks, pixel_rows
from chapterflow.validation.suite import copy_checks, count_checks, label_checks

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.expectations.expectation import Expectation

    from chapterflow.settings.bounds import ImageExpectations


def expectations(card: DatasetCard, bounds: ImageExpectations) -> list[Expectation]:
    """Return the expectations that `rows` of a dataset must meet.

    Args:
        card: What the dataset says about itself: counts, shape, classes, value range.
        bounds: Tolerances from `params.yaml`.
    """
    return [
        *count_checks(card),
        *pixel_checks(card, bounds),
        *label_checks(card, bounds.class_divergence),
        *copy_checks(bounds.duplicates),
    ]


def rows(dataset: Dataset) -> pd.DataFrame:
    """Describe every image of the arrays that training reads (see `pixel_rows`).

    Raises:
        DataError: If the arrays are not numbers of these shapes, or not equally long.
    """
    return pixel_rows(dataset, "images", ("height", "width", "channels"))
