"""Curves of one length and their smooth targets.

`inputs` and `targets` float32 `(n, length, 1)`; `weights` float32 `(n, length)`, 1 for scored
samples, whose target is known, and 0 for others; `noise` float32 `(n,)`, standard deviation of the
noise, 0 if unknown; `times` float64 `(n, length)` in the card's `time_unit`; `split` uint8 `(n,)`.
There are no classes and no labels.

Facts on the card: `truth` (origin of the targets), `noise_levels`, `time_unit`, `constant_step`
(whether the source claims equal steps) and, if the data are split by time, `spans` (first and last
time of each split).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from chapterflow.errors import DataError
from chapterflow.kinds.dataset import REGRESSION, SPLITS, Dataset, DatasetCard, Kind, Split
from chapterflow.kinds.rows import check, copy_checks, count_checks, example_rows, value_facts
from chapterflow.types import Share, Strict

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.expectations.expectation import Expectation


class CurveExpectations(Strict):
    """Bounds of the suite for curves.

    Attributes:
        duplicates: Largest share of examples that are bit-for-bit copies within their split.
        step_tolerance: Largest relative difference between a step and the curve's mean step, if
            the source claims equal steps.
        value_use: Smallest value for the largest sample of the dataset, as a share of the range.
        noise_tolerance: Largest relative difference between the measured noise of all curves of a
            level and that level.
    """

    duplicates: Share
    step_tolerance: Annotated[float, Field(gt=0, lt=1)]
    value_use: Share
    noise_tolerance: Annotated[float, Field(gt=0, lt=1)]


class Data(Dataset):
    """Noisy curves in, smooth ones out."""

    ARRAYS = ("inputs", "targets", "weights", "noise", "times", "split")

    def inputs(self, chosen: NDArray[np.intp]) -> Any:
        """Return float32 `(batch, length, 1)`."""
        return np.asarray(self.arrays["inputs"][chosen], np.float32)

    def targets(self, chosen: NDArray[np.intp]) -> NDArray[Any]:
        """Return float32 `(batch, length, 1)`."""
        return np.asarray(self.arrays["targets"][chosen], np.float32)

    def weights(self, chosen: NDArray[np.intp]) -> NDArray[np.float32] | None:
        """Return float32 `(batch, length)`: which samples count."""
        return np.asarray(self.arrays["weights"][chosen], np.float32)

    def content(self, split: Split) -> Iterator[bytes]:
        """Yield inputs, targets and weights: all three determine the scores."""
        yield from super().content(split)
        yield np.ascontiguousarray(self.weights(self.indices(split))).tobytes()

    def target_shapes(self) -> list[tuple[tuple[int | None, ...], str]]:
        """Return the shapes of targets and weights."""
        shape = (None, *self.card.shape)
        return [(shape, "float32"), (shape[:2], "float32")]


#: Number of axes of each array.
AXES = {"inputs": 3, "targets": 3, "weights": 2, "times": 2, "noise": 1, "split": 1}


def expectations(card: DatasetCard, bounds: CurveExpectations) -> list[Expectation]:
    """Return the expectations that `rows` of a dataset must meet.

    Args:
        card: Card of the dataset.
        bounds: Tolerances from `params.yaml`.
    """
    return [
        *count_checks(card),
        *_sample_checks(card, bounds),
        *_score_checks(),
        *_noise_checks(card, bounds.noise_tolerance),
        *_time_checks(card, bounds.step_tolerance),
        *copy_checks(bounds.duplicates),
    ]


def rows(dataset: Dataset) -> pd.DataFrame:
    """Describe every curve of the arrays that training reads.

    Returns:
        A frame of n rows with the columns of `example_rows` and `shape`, `dtype`, `nan` (number
        of values that are not finite, over all arrays), `largest` (largest absolute value of
        inputs and targets), `blank` (all inputs are equal), `odd_weights` (number of weights other
        than 0 and 1), `scored` (number of weights equal to 1), `shown` (share of the scored
        samples whose input equals the target), `level` (position in the card's noise levels, -1 if
        it is not among them), `power` (mean square of input - target over the square of the
        level), `step_min`, `step_spread` (largest relative difference from the mean step), `first`
        and `last` (times).

        Across splits, curves with the same targets are copies, whichever samples their inputs hide.
        Within a split, copies also have the same inputs and weights.

    Raises:
        DataError: If an array has the wrong dtype or shape.
    """
    _check_arrays(dataset)
    arrays = {name: np.asarray(array) for name, array in dataset.arrays.items()}
    inputs, targets, weights = (
        arrays[name].reshape(len(arrays["split"]), -1).astype(np.float64)
        for name in ("inputs", "targets", "weights")
    )
    input_facts, target_facts = value_facts(arrays["inputs"]), value_facts(arrays["targets"])
    numbers = [inputs, targets, weights, arrays["times"], arrays["noise"][:, np.newaxis]]
    scored = weights == 1
    extremes = [
        np.abs(facts[end]) for facts in (input_facts, target_facts) for end in ("min", "max")
    ]
    columns = {
        "shape": "x".join(map(str, arrays["inputs"].shape[1:])),
        "dtype": str(arrays["inputs"].dtype),
        "nan": sum(np.count_nonzero(~np.isfinite(values), axis=1) for values in numbers),
        "largest": np.max(extremes, axis=0),
        "blank": input_facts["blank"],
        "odd_weights": np.count_nonzero((weights != 0) & (weights != 1), axis=1),
        "scored": scored.sum(axis=1),
        "shown": (scored & (inputs == targets)).sum(axis=1) / np.maximum(scored.sum(axis=1), 1),
        **_noise_facts(arrays["noise"], inputs - targets, dataset.card),
        **_time_facts(arrays["times"]),
        "content_hash": target_facts["content_hash"],
    }
    table = example_rows(dataset.split, columns)
    masks = value_facts(arrays["weights"])["content_hash"]
    contents = table[["split", "content_hash"]].assign(
        inputs=input_facts["content_hash"], weights=masks
    )
    table["repeats"] = contents.duplicated()
    return table


def _noise_facts(
    noise: NDArray[Any], difference: NDArray[np.float64], card: DatasetCard
) -> dict[str, NDArray[Any]]:
    levels = np.asarray(card.facts["noise_levels"], np.float32)
    equal = noise[:, np.newaxis].astype(np.float32) == levels
    level = np.where(equal.any(axis=1), equal.argmax(axis=1), -1)
    claimed = np.where(level >= 0, levels[level], 0).astype(np.float64)
    power = np.square(difference).mean(axis=1)
    return {"level": level, "power": power / np.where(claimed > 0, claimed, 1) ** 2}


def _time_facts(times: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    steps = np.diff(times, axis=1)
    mean = steps.mean(axis=1)
    spread = np.abs(steps - mean[:, np.newaxis]).max(axis=1)
    return {
        "step_min": steps.min(axis=1),
        "step_spread": spread / np.where(mean > 0, mean, 1),
        "first": times[:, 0],
        "last": times[:, -1],
    }


def _check_arrays(dataset: Dataset) -> None:
    arrays = dataset.arrays
    curves = arrays["inputs"].shape[:2]
    for name, axes in AXES.items():
        array = arrays[name]
        full = (*curves, 1)[:axes]
        if array.dtype.kind not in "biuf" or array.shape != full or min(curves[1:], default=0) < 2:
            raise DataError(
                f"{dataset.folder}: {name} must be numbers of shape {full}, with at least two "
                f"samples per curve. Received: {array.dtype} {array.shape}"
            )


def _sample_checks(card: DatasetCard, bounds: CurveExpectations) -> list[Expectation]:
    shape = "x".join(map(str, card.shape))
    least = bounds.value_use * card.value_max
    return [
        check(
            "ExpectColumnValuesToBeInSet",
            "shape",
            shape,
            "Every curve has the length that the dataset card states.",
            column="shape",
            values_named=True,
            value_set=[shape],
        ),
        check(
            "ExpectColumnValuesToBeInSet",
            "dtype",
            "float32",
            "Samples are float32: integers were probably rounded.",
            column="dtype",
            values_named=True,
            value_set=["float32"],
        ),
        check(
            "ExpectColumnValuesToBeInSet",
            "finite",
            "no NaN or infinity",
            "Every sample, target, weight and time is a finite number: a single NaN turns all "
            "weights of a model into NaN.",
            column="nan",
            value_set=[0],
        ),
        check(
            "ExpectColumnValuesToBeBetween",
            "amplitude",
            f"at most {card.value_max:g}",
            f"No absolute value exceeds {card.value_max:g}, the value that the models divide by.",
            column="largest",
            max_value=card.value_max,
        ),
        check(
            "ExpectColumnMaxToBeBetween",
            "value-use",
            f"at least {least:.4g}",
            f"The largest sample is close to {card.value_max:g}: curves that were already scaled "
            "are much smaller.",
            setting="value_use",
            unit=card.value_max,
            column="largest",
            min_value=least,
        ),
        check(
            "ExpectColumnValuesToBeInSet",
            "not-blank",
            "no curve of one value only",
            "Every curve varies: constant samples come from a broken sensor or a reading error.",
            column="blank",
            value_set=[False],
        ),
    ]


def _score_checks() -> list[Expectation]:
    return [
        check(
            "ExpectColumnValuesToBeInSet",
            "weight-set",
            "0 and 1",
            "A sample either counts or does not: with other weights, errors of models are not "
            "comparable.",
            column="odd_weights",
            value_set=[0],
        ),
        check(
            "ExpectColumnValuesToBeBetween",
            "scored",
            "at least one sample of each curve",
            "Every curve has scored samples: without any, it adds nothing to training or scores.",
            column="scored",
            min_value=1,
        ),
        check(
            "ExpectColumnValuesToBeBetween",
            "not-shown",
            "at most half of the scored samples",
            "Inputs do not reveal the targets: where they are equal, a model that copies its input "
            "is perfect without denoising or predicting anything. Leave out columns of a CSV file "
            "whose values hardly change, or give generated curves noise.",
            column="shown",
            max_value=0.5,
        ),
    ]


def _noise_checks(card: DatasetCard, tolerance: float) -> list[Expectation]:
    from great_expectations.expectations.row_conditions import Column

    levels = card.facts["noise_levels"]
    checks = [
        check(
            "ExpectColumnValuesToBeInSet",
            "noise-level",
            ", ".join(f"{level:g}" for level in levels),
            "Every curve has a noise level of the dataset card.",
            column="level",
            value_set=list(range(len(levels))),
        )
    ]
    for position, level in enumerate(levels):
        if level > 0:  # 0 means unknown, as in measured series.
            checks.append(
                check(
                    "ExpectColumnMeanToBeBetween",
                    f"noise-{level:g}",
                    f"{(1 - tolerance) ** 2:.4g} to {(1 + tolerance) ** 2:.4g} of its square",
                    f"Curves of noise level {level:g} have that noise: otherwise levels were "
                    "confused, or inputs and targets belong to different curves.",
                    setting="noise_tolerance",
                    unit=None,
                    column="power",
                    min_value=(1 - tolerance) ** 2,
                    max_value=(1 + tolerance) ** 2,
                    row_condition=Column("level") == position,
                )
            )
    return checks


def _time_checks(card: DatasetCard, tolerance: float) -> list[Expectation]:
    from great_expectations.expectations.row_conditions import Column

    checks = [
        check(
            "ExpectColumnValuesToBeBetween",
            "time-order",
            "increasing times",
            "Samples are in chronological order: a convolution relies on the order of its inputs.",
            column="step_min",
            min_value=0,
            strict_min=True,
        )
    ]
    if card.facts["constant_step"]:
        checks.append(
            check(
                "ExpectColumnValuesToBeBetween",
                "step",
                f"equal steps, within {tolerance:.2%}",
                "Samples are equally spaced, as the source claims: a filter mistakes a gap for a "
                "jump.",
                setting="step_tolerance",
                column="step_spread",
                max_value=tolerance,
            )
        )
    spans = card.facts.get("spans", {})
    for split in (name for name in SPLITS if name in spans):
        first, last = spans[split]
        for column, bound in (("first", {"min_value": first}), ("last", {"max_value": last})):
            checks.append(
                check(
                    "ExpectColumnValuesToBeBetween",
                    f"span-{split}-{column}",
                    f"{first:g} to {last:g}",
                    f"Windows of the {split} split lie within its time span: they contain no "
                    "sample of the future or of another split.",
                    column=column,
                    row_condition=Column("split") == split,
                    **bound,
                )
            )
    return checks


KIND = Kind("curves", Data, CurveExpectations, rows, expectations, look="curve", task=REGRESSION)
