"""Images of one size: one row for each, and what must hold for pixels and labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chapterflow.data.card import Dataset, DatasetCard
from chapterflow.validation.pixels import pixel_rows, pixel_suite

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.expectations.expectation import Expectation

    from chapterflow.settings.bounds import ImageExpectations


def expectations(card: DatasetCard, bounds: ImageExpectations) -> list[Expectation]:
    """Return the expectations that `rows` of a dataset must meet (see `pixel_suite`)."""
    return pixel_suite(card, bounds)


def rows(dataset: Dataset) -> pd.DataFrame:
    """Describe every example of the arrays that training reads (see `pixel_rows`)."""
    return pixel_rows(dataset, "images", ("height", "width", "channels"))
