"""What a dataset of images must be like, as a suite of Great Expectations over its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chapterflow.data.card import SPLITS, DatasetCard
from chapterflow.validation.checks import check, pixel_checks

if TYPE_CHECKING:
    import great_expectations as gx
    from great_expectations.expectations.expectation import Expectation

    from chapterflow.settings import ImageExpectations

SUITE = "images"


def image_suite(card: DatasetCard, bounds: ImageExpectations) -> gx.ExpectationSuite:
    """Return the expectations that `image_rows` of a dataset must meet.

    Every expectation carries in `meta` its `name` (unique in the suite, and what a verdict calls
    it), `expected` (the requirement in a few words) and `reason` (the mistake that it guards
    against); its `description` holds all three.

    Args:
        card: What the dataset says about itself: counts, shape, classes, value range.
        bounds: Tolerances from `params.yaml`.
    """
    import great_expectations as gx

    checks = [*_counts(card), *pixel_checks(card, bounds), *_labels(card, bounds), *_copies(bounds)]
    return gx.ExpectationSuite(name=SUITE, expectations=checks)


def _counts(card: DatasetCard) -> list[Expectation]:
    from great_expectations.expectations.row_conditions import Column

    total = sum(card.counts.values())
    checks = [
        check(
            "ExpectTableRowCountToEqual",
            "count",
            f"{total:,} examples",
            "All the examples of the dataset card are there: nothing was lost or added on the way.",
            value=total,
        ),
        check(
            "ExpectColumnValuesToBeInSet",
            "split-names",
            ", ".join(SPLITS),
            "Every example belongs to a known split: a wrong code would drop it from all of them.",
            column="split",
            value_set=list(SPLITS),
        ),
    ]
    for split in SPLITS:
        count = card.counts.get(split, 0)
        # Row counts take no condition in Great Expectations; ids are unique, so this counts rows.
        checks.append(
            check(
                "ExpectColumnUniqueValueCountToBeBetween",
                f"count-{split}",
                f"{count:,} examples",
                f"The {split} split has the size that the dataset card states: splits were made "
                "once and have not moved since.",
                column="id",
                min_value=count,
                max_value=count,
                row_condition=Column("split") == split,
            )
        )
    return checks


def _labels(card: DatasetCard, bounds: ImageExpectations) -> list[Expectation]:
    from great_expectations.expectations.row_conditions import Column

    classes = list(range(len(card.classes)))
    checks = [
        check(
            "ExpectColumnValuesToNotBeNull",
            "label-present",
            "a label for every example",
            "Every example has a label.",
            column="label",
        ),
        check(
            "ExpectColumnValuesToBeInSet",
            "label-set",
            f"0 to {classes[-1]}",
            f"Labels number the {len(classes)} classes from 0: anything else is off by one, text "
            "read as a number, or a class that the model has no output for.",
            column="label",
            value_set=classes,
        ),
    ]
    for split in (name for name in SPLITS if card.counts.get(name)):
        checks.append(
            check(
                "ExpectColumnKLDivergenceToBeLessThan",
                f"class-balance-{split}",
                f"at most {bounds.class_divergence:.4g} nats from equal shares",
                f"Every class has its share of the {split} split: a rare class is not learnt, and "
                "the accuracy hides it.",
                column="label",
                partition_object={"values": classes, "weights": [1 / len(classes)] * len(classes)},
                threshold=bounds.class_divergence,
                # Labels of no class are the matter of label-set; here they would be infinite.
                row_condition=(Column("split") == split) & Column("label").is_in(classes),
            )
        )
    return checks


def _copies(bounds: ImageExpectations) -> list[Expectation]:
    return [
        check(
            "ExpectColumnValuesToBeInSet",
            "one-split",
            "no example in two splits",
            "No image of one split stands in another too: the test score would reward memory.",
            column="in_other_split",
            value_set=[False],
        ),
        check(
            "ExpectColumnValuesToBeInSet",
            "repeats",
            f"at most {bounds.duplicates:.2%} repeat another",
            "Few images repeat an earlier one of their split, bit for bit: repeated examples weigh "
            "more in training and make a test set look larger than it is.",
            column="repeats",
            value_set=[False],
            mostly=1 - bounds.duplicates,
        ),
    ]
