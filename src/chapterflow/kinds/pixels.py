"""Arrays of pixels or voxels: one row per example, and the expectations for the values."""

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
from chapterflow.language import message
from chapterflow.types import Share, Strict

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.expectations.expectation import Expectation


class ImageExpectations(Strict):
    """Bounds of the suite for images (see `chapterflow.kinds.rows`).

    Attributes:
        class_divergence: Largest Kullback-Leibler divergence, in nats, of a split's class shares
            from equal shares.
        duplicates: Largest share of examples that are bit-for-bit copies of another.
        value_use: Smallest brightest pixel of the dataset, as a share of the value range. Data
            already divided by 255 fall below it.
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

    Labels, split codes and pixels may be invalid: the rows reveal what is wrong. Statistics cover
    the finite pixels and are NaN if an example has none; `nan` counts the others.

    Args:
        dataset: Pixels `(n, ...)`, labels `(n,)` and split codes `(n,)`. Memory-mapped arrays are
            read in chunks.
        name: Array of pixels.
        axes: Names of its axes after the first.

    Returns:
        A frame of n rows, in the order of the arrays, with the columns
        `id` (split and position in the arrays, `train/00012`), `split`, `label`,
        `shape` (`28x28x1`, with all axes), one for each of `axes` (0 if the axis is absent),
        `dtype`, `min`, `max`, `mean`, `std`, `nan` (number of pixels that are not finite),
        `blank` (all pixels are equal), `content_hash`, `in_other_split` (the same pixels occur in
        another split) and `repeats` (the same pixels occur earlier in the split).

    Raises:
        DataError: If an array has the wrong dtype or shape, or the lengths differ.
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
    card: DatasetCard,
    bounds: ImageExpectations,
    *,
    example: str = message("image"),
    value: str = message("pixel"),
) -> list[Expectation]:
    """Return the expectations that `pixel_rows` of a dataset must meet.

    Args:
        card: Card of the dataset.
        bounds: Tolerances from `params.yaml`.
        example: Noun for an example.
        value: Noun for one of its values.
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
    """Return the checks of pixels: raw, finite, in range, using the range, not blank."""
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
            f"{value.capitalize()}s are raw 8-bit values: floats were probably scaled already, and "
            "the model would scale them again.",
            column="dtype",
            values_named=True,
            value_set=["uint8"],
        ),
        check(
            "ExpectColumnValuesToBeInSet",
            "finite",
            "no NaN or infinity",
            f"Every {value} is a finite number: a single NaN turns all weights into NaN.",
            column="nan",
            value_set=[0],
        ),
        check(
            "ExpectColumnValuesToBeBetween",
            "value-min",
            "at least 0",
            f"No {value} is negative: negative values result from centring or an overflow.",
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
            f"The brightest {value} is close to {top}: data already divided by their maximum are "
            "much smaller.",
            setting="value_use",
            unit=top,
            column="max",
            min_value=bounds.value_use * top,
        ),
        check(
            "ExpectColumnMeanToBeBetween",
            "mean-value",
            f"{darkest:.4g} to {brightest:.4g}",
            f"The {example}s are neither very dark nor very bright on average: otherwise their "
            f"{value}s are inverted, clipped or wrongly scaled.",
            setting="mean_value",
            unit=top,
            column="mean",
            min_value=darkest,
            max_value=brightest,
        ),
        check(
            "ExpectColumnValuesToBeInSet",
            "not-blank",
            f"no {example} of one value only",
            f"Every {example} has different {value}s: equal {value}s come from a damaged file or a "
            "decoding error.",
            column="blank",
            value_set=[False],
        ),
    ]
