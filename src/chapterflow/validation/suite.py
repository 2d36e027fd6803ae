"""What every dataset must be like, as expectations over its rows; kinds add what is theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chapterflow.data.card import SPLITS, DatasetCard
from chapterflow.validation.checks import check

if TYPE_CHECKING:
    from great_expectations.expectations.expectation import Expectation

#: Splits that no gradient is computed on.
HELD_OUT = ("validation", "test")


def count_checks(card: DatasetCard) -> list[Expectation]:
    """Return what must hold for counts: those of the card, in all and in each split; none empty."""
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
    checks.append(
        check(
            "ExpectColumnDistinctValuesToContainSet",
            "held-out",
            "validation and test examples",
            "Examples are kept back for validation and for the test, even where the card promises "
            "none: a score on what a model was trained on, or chosen by, says little of new data.",
            column="split",
            value_set=list(HELD_OUT),
        )
    )
    return checks


def label_checks(card: DatasetCard, divergence: float) -> list[Expectation]:
    """Return what must hold for labels: present, of a class, in shares that differ by little."""
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
                f"at most {divergence:.4g} nats from equal shares",
                f"Every class has its share of the {split} split: a rare class is not learnt, and "
                "the accuracy hides it.",
                column="label",
                partition_object={"values": classes, "weights": [1 / len(classes)] * len(classes)},
                threshold=divergence,
                # Labels of no class are the matter of label-set; here they would be infinite.
                row_condition=(Column("split") == split) & Column("label").is_in(classes),
            )
        )
    return checks


def copy_checks(duplicates: float) -> list[Expectation]:
    """Return what must hold for copies: none in another split, at most a share in their own."""
    return [
        check(
            "ExpectColumnValuesToBeInSet",
            "one-split",
            "no example in two splits",
            "No example of one split stands in another too: the test score would reward memory.",
            column="in_other_split",
            value_set=[False],
        ),
        check(
            "ExpectColumnValuesToBeInSet",
            "repeats",
            f"at most {duplicates:.2%} repeat another",
            "Few examples repeat an earlier one of their split, bit for bit: they weigh "
            "more in training and make a test set look larger than it is.",
            column="repeats",
            value_set=[False],
            mostly=1 - duplicates,
        ),
    ]
