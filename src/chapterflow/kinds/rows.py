"""One row of plain facts per example, and the expectations that all kinds share."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.kinds.dataset import SPLITS, DatasetCard

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.expectations.expectation import Expectation

#: Bytes of pixels in a chunk: small enough that the intermediate arrays stay in the processor's
#: cache, which is also fastest.
CHUNK_BYTES = 2**20
#: Split of an example with an unknown code in `split.npy`.
UNKNOWN_SPLIT = "unknown"


def example_rows(split: NDArray[Any], columns: dict[str, Any]) -> pd.DataFrame:
    """Return a row for each example, with the columns that all kinds share.

    Args:
        split: `(n,)` split codes; they may hold anything.
        columns: Columns of the kind, `content_hash` among them.

    Returns:
        A frame of n rows with `id` (split and position, `train/00012`), `split`, the columns,
        `in_other_split` (another split holds the same content) and `repeats` (an earlier example
        of the split does).
    """
    import pandas as pd

    width = max(5, len(str(len(split) - 1)))
    splits = _split_names(split)
    ids = [f"{name}/{position:0{width}d}" for position, name in enumerate(splits)]
    rows = pd.DataFrame({"id": ids, "split": splits} | columns)
    contents = rows.groupby("content_hash", sort=False)
    rows["in_other_split"] = contents["split"].transform("nunique") > 1
    rows["repeats"] = rows.duplicated(["split", "content_hash"])
    return rows


def _split_names(codes: NDArray[Any]) -> list[str]:
    names = np.full(len(codes), UNKNOWN_SPLIT, dtype=object)
    for code, split in enumerate(SPLITS):
        names[codes == code] = split
    return [str(name) for name in names]


def value_facts(values: NDArray[Any]) -> dict[str, Any]:
    """Return minimum, maximum, mean, deviation, NaN count, blankness and hash of each example.

    Args:
        values: `(n, ...)`; memory-mapped arrays are read in chunks.
    """
    count = len(values)
    facts = {name: np.empty(count) for name in ("min", "max", "mean", "std")}
    nan = np.zeros(count, dtype=np.int64)
    hashes: list[str] = []
    step = max(1, CHUNK_BYTES // max(1, values[:1].nbytes))
    for start in range(0, count, step):
        part = slice(start, start + step)
        pixels = np.ascontiguousarray(values[part]).reshape(len(values[part]), -1)
        hashes += [hashlib.blake2b(example.data, digest_size=16).hexdigest() for example in pixels]
        finite = np.isfinite(pixels)
        nan[part] = pixels.shape[1] - np.count_nonzero(finite, axis=1)
        if not nan[part].any():
            facts["min"][part] = pixels.min(axis=1)
            facts["max"][part] = pixels.max(axis=1)
            facts["mean"][part] = pixels.mean(axis=1, dtype=np.float64)
            facts["std"][part] = pixels.std(axis=1, dtype=np.float64)
        else:
            for name, values_of in _finite_facts(pixels, finite).items():
                facts[name][part] = values_of
    blank = (nan == 0) & (facts["min"] == facts["max"])
    return facts | {"nan": nan, "blank": blank, "content_hash": hashes}


def _finite_facts(pixels: NDArray[Any], finite: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """Return minimum, maximum, mean and deviation `(n,)` of the finite pixels of `(n, pixels)`."""
    some = finite.any(axis=1)
    count = np.maximum(finite.sum(axis=1), 1)
    values = np.where(finite, pixels, 0.0).astype(np.float64)
    mean = values.sum(axis=1) / count
    squares = np.where(finite, (values - mean[:, None]) ** 2, 0.0)
    facts = {
        "min": np.where(finite, pixels, np.inf).min(axis=1),
        "max": np.where(finite, pixels, -np.inf).max(axis=1),
        "mean": mean,
        "std": np.sqrt(squares.sum(axis=1) / count),
    }
    return {name: np.where(some, values, np.nan) for name, values in facts.items()}


def check(
    expectation: str,
    name: str,
    expected: str,
    reason: str,
    *,
    values_named: bool = False,
    **kwargs: Any,
) -> Expectation:
    """Return one expectation of a suite for rows.

    Args:
        expectation: Class in `great_expectations.expectations`.
        name: Its name, unique in the suite, which verdicts use.
        expected: The requirement in a few words.
        reason: The mistake that it guards against.
        values_named: Whether the verdict names unexpected values, because they say more than that
            they are unexpected.
        **kwargs: Arguments of the class.
    """
    import great_expectations.expectations as gxe

    # Data Docs show the description instead of a sentence made from the arguments.
    built: Expectation = getattr(gxe, expectation)(
        description=f"{name}: {expected}. {reason}",
        meta={
            "name": name,
            "expected": expected,
            "reason": reason,
            "values_named": values_named,
        },
        **kwargs,
    )
    return built


#: Splits that no gradient is computed on.
HELD_OUT = ("validation", "test")


def count_checks(card: DatasetCard) -> list[Expectation]:
    """Return the checks of counts: the card's, in all and per split; no split is empty."""
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
            values_named=True,
            value_set=list(SPLITS),
        ),
    ]
    for split in SPLITS:
        count = card.counts.get(split, 0)
        # Row counts take no condition in Great Expectations; unique ids count rows.
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
    """Return the checks of labels: present, of a class, in similar shares."""
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
            values_named=True,
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
                # label-set reports labels of no class; here they would be infinite.
                row_condition=(Column("split") == split) & Column("label").is_in(classes),
            )
        )
    return checks


def copy_checks(duplicates: float) -> list[Expectation]:
    """Return the checks of copies: none in another split, at most a share in their own."""
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
