"""Expectations about single images, and the form that all expectations have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chapterflow.data.card import DatasetCard

if TYPE_CHECKING:
    from great_expectations.expectations.expectation import Expectation

    from chapterflow.settings import ImageExpectations


def check(kind: str, name: str, expected: str, reason: str, **kwargs: Any) -> Expectation:
    """Return one expectation of a suite for rows.

    Args:
        kind: Class in `great_expectations.expectations`.
        name: Its name, unique in the suite, which verdicts use.
        expected: The requirement in a few words.
        reason: The mistake that it guards against.
        **kwargs: Arguments of the class.
    """
    import great_expectations.expectations as gxe

    # Data Docs show the description in place of a sentence made from the arguments.
    expectation: Expectation = getattr(gxe, kind)(
        description=f"{name}: {expected}. {reason}",
        meta={"name": name, "expected": expected, "reason": reason},
        **kwargs,
    )
    return expectation


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
