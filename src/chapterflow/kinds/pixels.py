"""Arrays of pixels or voxels: one row for each example, and what must hold for the values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from chapterflow.errors import DataError
from chapterflow.kinds.dataset import Dataset, DatasetCard
from chapterflow.kinds.rows import (
    check,
    copy_checks,
    count_checks,
    example_rows,
    label_checks,
    value_facts,
)
from chapterflow.types import Share, Strict

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.expectations.expectation import Expectation


class ImageExpectations(Strict):
    """Bounds of the suite for images (see `chapterflow.kinds.rows`).

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

    @field_validator("mean_value")
    @classmethod
    def _ascending(cls, value: list[float]) -> list[float]:
        if value[0] >= value[1]:
            raise PydanticCustomError("ascending", "must be [lowest, highest]")
        return value


def pixel_rows(dataset: Dataset, name: str, axes: tuple[str, ...]) -> pd.DataFrame:
    """Describe every example of the arrays that training reads.

    Labels, split codes and pixels may hold anything: the rows reveal what is wrong. Statistics of
    pixels leave out NaN and infinities, which have a column of their own; they are NaN where an
    example has no finite pixel.

    Args:
        dataset: Pixels `(n, ...)`, labels `(n,)` and split codes `(n,)`. Memory-mapped arrays are
            read in chunks.
        name: Array of pixels.
        axes: Names of its axes after the first.

    Returns:
        A frame of n rows, in the order of the arrays, with the columns
        `id` (split and position in the arrays, `train/00012`), `split`, `label`,
        `shape` (`28x28x1`; exact whatever the number of axes), one for each of `axes`
        (absent axes are 0), `dtype`, `min`, `max`, `mean`, `std`,
        `nan` (number of pixels that are not finite), `blank` (all pixels are equal),
        `content_hash`, `in_other_split` (another split holds the same pixels) and
        `repeats` (an earlier example of the split holds the same pixels).

    Raises:
        DataError: If the arrays are not numbers of these shapes, or not equally long.
    """
    _check_arrays(dataset, name, axes)
    pixels = dataset.arrays[name]
    sides = pixels.shape[1:] + (0,) * len(axes)
    columns = {
        "label": np.asarray(dataset.labels),
        "shape": "x".join(map(str, pixels.shape[1:])),
        **dict(zip(axes, sides, strict=False)),
        "dtype": str(pixels.dtype),
        **value_facts(pixels),
    }
    return example_rows(dataset.split, columns)


def _check_arrays(dataset: Dataset, name: str, axes: tuple[str, ...]) -> None:
    pixels, labels, split = dataset.arrays[name], dataset.labels, dataset.split
    if pixels.dtype.kind not in "biuf" or pixels.ndim < len(axes) or 0 in pixels.shape[1:]:
        raise DataError(
            f"{dataset.folder}: {name} must be numbers of shape (n, {', '.join(axes)}). "
            f"Received: {pixels.dtype} {pixels.shape}"
        )
    for other, array in (("labels", labels), ("split", split)):
        if array.dtype.kind not in "biuf" or array.shape != (len(pixels),):
            raise DataError(
                f"{dataset.folder}: {other} must be {len(pixels)} numbers, one for each "
                f"{name.removesuffix('s')}. Received: {array.dtype} {array.shape}"
            )


def pixel_suite(
    card: DatasetCard, bounds: ImageExpectations, *, example: str = "image", value: str = "pixel"
) -> list[Expectation]:
    """Return the expectations that `pixel_rows` of a dataset must meet.

    Args:
        card: What the dataset says about itself: counts, shape, classes, value range.
        bounds: Tolerances from `params.yaml`.
        example: What an example is called.
        value: What one of its values is called.
    """
    return [
        *count_checks(card),
        *_pixel_checks(card, bounds, example, value),
        *label_checks(card, bounds.class_divergence),
        *copy_checks(bounds.duplicates),
    ]


def _pixel_checks(
    card: DatasetCard, bounds: ImageExpectations, example: str, value: str
) -> list[Expectation]:
    """Return what must hold for pixels: raw, finite, in range, using the range, not blank."""
    top = card.value_max
    darkest, brightest = bounds.mean_value[0] * top, bounds.mean_value[1] * top
    shape = "x".join(map(str, card.shape))
    return [
        check(
            "ExpectColumnValuesToBeInSet",
            "shape",
            shape,
            f"Every {example} has the shape that the models are built for.",
            column="shape",
            values_named=True,
            value_set=[shape],
        ),
        check(
            "ExpectColumnValuesToBeInSet",
            "dtype",
            "uint8",
            f"{value.capitalize()}s are raw 8-bit values: floats mean that somebody has scaled "
            "them already, and the model would scale them a second time.",
            column="dtype",
            values_named=True,
            value_set=["uint8"],
        ),
        check(
            "ExpectColumnValuesToBeInSet",
            "finite",
            "no NaN or infinity",
            f"Every {value} is a finite number: one NaN turns all the weights into NaN.",
            column="nan",
            value_set=[0],
        ),
        check(
            "ExpectColumnValuesToBeBetween",
            "value-min",
            "at least 0",
            f"No {value} is negative, as it would be after centring or an overflow.",
            column="min",
            values_named=True,
            min_value=0,
        ),
        check(
            "ExpectColumnValuesToBeBetween",
            "value-max",
            f"at most {top}",
            f"No {value} exceeds {top}, the value that the models divide by.",
            column="max",
            values_named=True,
            max_value=top,
        ),
        check(
            "ExpectColumnMaxToBeBetween",
            "value-use",
            f"at least {bounds.value_use * top:.4g}",
            f"The brightest {value} comes near {top}: data that were already divided by their "
            "largest value stay far below.",
            column="max",
            min_value=bounds.value_use * top,
        ),
        check(
            "ExpectColumnMeanToBeBetween",
            "mean-value",
            f"{darkest:.4g} to {brightest:.4g}",
            f"The {example}s are neither nearly all dark nor nearly all bright: that would mean "
            f"inverted, clipped or wrongly scaled {value}s.",
            column="mean",
            min_value=darkest,
            max_value=brightest,
        ),
        check(
            "ExpectColumnValuesToBeInSet",
            "not-blank",
            f"no {example} of one value only",
            f"Every {example} shows something: {value}s that are all equal are a damaged file or a "
            "failed decoding.",
            column="blank",
            value_set=[False],
        ),
    ]
