"""Images of one size: one row for each, and what must hold for pixels and labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chapterflow.data.card import Dataset, DatasetCard
from chapterflow.errors import DataError
from chapterflow.validation.checks import check
from chapterflow.validation.rows import example_rows, value_facts
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
    """Describe every example of the arrays that training reads.

    Labels, split codes and pixels may hold anything: finding what is wrong is what the rows are
    for. Statistics of pixels leave out NaN and infinities, which have a column of their own; they
    are NaN where an example has no finite pixel.

    Args:
        dataset: Images `(n, ...)`, labels `(n,)` and split codes `(n,)`. Memory-mapped arrays are
            read in chunks.

    Returns:
        A frame of n rows, in the order of the arrays, with the columns
        `id` (split and position in the arrays, `train/00012`), `split`, `label`,
        `shape` (`28x28x1`; exact whatever the number of axes), `height`, `width`, `channels`
        (absent axes are 0), `dtype`, `min`, `max`, `mean`, `std`,
        `nan` (number of pixels that are not finite), `blank` (all pixels are equal),
        `content_hash`, `in_other_split` (another split holds the same pixels) and
        `repeats` (an earlier example of the split holds the same pixels).

    Raises:
        DataError: If the arrays are not numbers of these shapes, or not equally long.
    """
    _check_arrays(dataset)
    shape = dataset.arrays["images"].shape[1:]
    columns = {
        "label": np.asarray(dataset.labels),
        "shape": "x".join(map(str, shape)),
        **_axes(shape),
        "dtype": str(dataset.arrays["images"].dtype),
        **value_facts(dataset.arrays["images"]),
    }
    return example_rows(dataset.split, columns)


def _axes(shape: tuple[int, ...]) -> dict[str, int]:
    padded = (*shape, 0, 0, 0)
    return dict(zip(("height", "width", "channels"), padded, strict=False))


def _check_arrays(dataset: Dataset) -> None:
    images, labels, split = dataset.arrays["images"], dataset.labels, dataset.split
    if images.dtype.kind not in "biuf" or images.ndim < 2 or 0 in images.shape[1:]:
        raise DataError(
            f"{dataset.folder}: images must be numbers of shape (n, height, width, channels). "
            f"Received: {images.dtype} {images.shape}"
        )
    for name, array in (("labels", labels), ("split", split)):
        if array.dtype.kind not in "biuf" or array.shape != (len(images),):
            raise DataError(
                f"{dataset.folder}: {name} must be {len(images)} numbers, one for each image. "
                f"Received: {array.dtype} {array.shape}"
            )


def pixel_checks(card: DatasetCard, bounds: ImageExpectations) -> list[Expectation]:
    """Return what must hold for pixels: raw, finite, in range, using the range, not blank."""
    top = card.value_max
    darkest, brightest = bounds.mean_value[0] * top, bounds.mean_value[1] * top
    shape = "x".join(map(str, card.shape))
    return [
        check(
            "ExpectColumnValuesToBeInSet",
            "shape",
            shape,
            "Every image has the shape that the models are built for.",
            column="shape",
            value_set=[shape],
        ),
        check(
            "ExpectColumnValuesToBeInSet",
            "dtype",
            "uint8",
            "Pixels are raw 8-bit values: floats mean that somebody has scaled them already, and "
            "the model would scale them a second time.",
            column="dtype",
            value_set=["uint8"],
        ),
        check(
            "ExpectColumnValuesToBeInSet",
            "finite",
            "no NaN or infinity",
            "Every pixel is a finite number: one NaN turns all the weights into NaN.",
            column="nan",
            value_set=[0],
        ),
        check(
            "ExpectColumnValuesToBeBetween",
            "value-min",
            "at least 0",
            "No pixel is negative, as it would be after centring or an overflow.",
            column="min",
            min_value=0,
        ),
        check(
            "ExpectColumnValuesToBeBetween",
            "value-max",
            f"at most {top}",
            f"No pixel exceeds {top}, the value that the models divide by.",
            column="max",
            max_value=top,
        ),
        check(
            "ExpectColumnMaxToBeBetween",
            "value-use",
            f"at least {bounds.value_use * top:.4g}",
            f"The brightest pixel comes near {top}: data that were already divided by their "
            "largest value stay far below.",
            column="max",
            min_value=bounds.value_use * top,
        ),
        check(
            "ExpectColumnMeanToBeBetween",
            "mean-value",
            f"{darkest:.4g} to {brightest:.4g}",
            "The images are neither nearly all dark nor nearly all bright: that would mean "
            "inverted, clipped or wrongly scaled pixels.",
            column="mean",
            min_value=darkest,
            max_value=brightest,
        ),
        check(
            "ExpectColumnValuesToBeInSet",
            "not-blank",
            "no image of one value only",
            "Every image shows something: pixels that are all equal are a damaged file or a "
            "failed decoding.",
            column="blank",
            value_set=[False],
        ),
    ]
