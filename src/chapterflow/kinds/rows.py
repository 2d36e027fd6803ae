"""A table with one row per example, and the expectations that all kinds share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.kinds.dataset import RESIDENT, SPLITS, DatasetCard, release

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.expectations.expectation import Expectation

#: Bytes of values in a chunk, so that the intermediate arrays fit the processor's cache.
CHUNK_BYTES = 2**20
#: Split of an example with an unknown code in `split.npy`.
UNKNOWN_SPLIT = "unknown"
#: Classes that an expectation names.
NAMED = 10


def example_rows(split: NDArray[Any], columns: dict[str, Any]) -> pd.DataFrame:
    """Return a row for each example, with the columns that all kinds share.

    Args:
        split: `(n,)` split codes; invalid codes are allowed.
        columns: Columns of the kind, including `content_hash`.

    Returns:
        A frame of n rows with `id` (split and position, `train/00012`), `split`, the given
        columns, `in_other_split` (the same content occurs in another split) and `repeats` (the
        same content occurs earlier in the split).
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
    """Return columns about the values of each example.

    They are minimum, maximum, mean and standard deviation of the finite values, the number of
    values that are not finite, whether all values are equal, and a hash.

    Args:
        values: `(n, ...)`; memory-mapped arrays are read in chunks.
    """
    count = len(values)
    facts = {name: np.empty(count) for name in ("min", "max", "mean", "std")}
    nan = np.zeros(count, dtype=np.int64)
    hashes: list[str] = []
    step = max(1, CHUNK_BYTES // max(1, values[:1].nbytes))
    chunks_kept = max(1, RESIDENT // CHUNK_BYTES)
    for number, start in enumerate(range(0, count, step), 1):
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
        if number % chunks_kept == 0:
            release(values)
    release(values)
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
    setting: str = "",
    unit: float | None = 1.0,
    **kwargs: Any,
) -> Expectation:
    """Return one expectation of a suite for rows.

    Args:
        expectation: Class in `great_expectations.expectations`.
        name: Name in verdicts, unique in the suite.
        expected: The requirement in a few words.
        reason: The mistake that it guards against.
        values_named: Whether the verdict lists the unexpected values.
        setting: The bound in `params.yaml` that decides, by its name below the kind of data.
        unit: Value of the column that corresponds to 1 of the setting: the largest possible value
            if the setting is a share of the range. None if the column does not measure it.
        **kwargs: Arguments of the class.
    """
    import great_expectations.expectations as gxe

    # Data Docs show the description; without it they generate a sentence from the arguments.
    instance: Expectation = getattr(gxe, expectation)(
        description=f"{name}: {expected}. {reason}",
        meta={
            "name": name,
            "expected": expected,
            "reason": reason,
            "values_named": values_named,
            "setting": setting,
            "unit": unit,
        },
        **kwargs,
    )
    return instance


#: Setting of a check's bound by the beginning of the check's name, where the names differ.
BOUNDS = {
    "class-balance": "class_divergence",
    "repeats": "duplicates",
    "near-duplicates": "near_distance",
    "step": "step_tolerance",
    "noise": "noise_tolerance",
}


def bound_of(name: str) -> str:
    """Return the setting of a check's bound; `name` is the check's name or already the setting."""
    start = next((start for start in BOUNDS if name == start or name.startswith(f"{start}-")), "")
    return BOUNDS.get(start, name.replace("-", "_"))


#: Splits that are not trained on.
HELD_OUT = ("validation", "test")


def count_checks(card: DatasetCard) -> list[Expectation]:
    """Return the checks of the number of examples, in total and per split."""
    from great_expectations.expectations.row_conditions import Column

    total = sum(card.counts.values())
    checks = [
        check(
            "ExpectTableRowCountToEqual",
            "count",
            f"{total:,} examples",
            "The number of examples equals the dataset card's: none was lost or added.",
            value=total,
        ),
        check(
            "ExpectColumnValuesToBeInSet",
            "split-names",
            ", ".join(SPLITS),
            "Every example belongs to a known split: an example with another code is in no split.",
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
                f"The {split} split has the size that the dataset card states: splits never change "
                "once they are made.",
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
            "There are validation and test examples, whatever the card states: scores on training "
            "or model selection data say little about new data.",
            column="split",
            value_set=list(HELD_OUT),
        )
    )
    return checks


def label_checks(card: DatasetCard, divergence: float) -> list[Expectation]:
    """Return the checks of labels: present, valid, balanced."""
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
            f"0 to {classes[-1]}{_names(card.classes)}",
            f"Labels number the {len(classes)} classes from 0: other labels are off by one, text "
            "parsed as a number, or classes without an output in the model.",
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
                f"divergence from equal shares of at most {divergence:.4g}",
                f"The classes of the {split} split are balanced: models do not learn a rare class, "
                "and accuracy does not reveal it.",
                setting="class_divergence",
                column="label",
                partition_object={"values": classes, "weights": [1 / len(classes)] * len(classes)},
                threshold=divergence,
                # label-set reports invalid labels; here they would make the divergence infinite.
                row_condition=(Column("split") == split) & Column("label").is_in(classes),
            )
        )
    return checks


def _names(classes: Sequence[str]) -> str:
    """Return the classes in brackets, unless their names are their numbers."""
    if [*classes] == [str(number) for number in range(len(classes))]:
        return ""
    shown = ", ".join(classes[:NAMED])
    return f" ({shown}, and {len(classes) - NAMED} more)" if classes[NAMED:] else f" ({shown})"


def copy_checks(duplicates: float) -> list[Expectation]:
    """Return the checks of copies: none across splits, few within a split."""
    return [
        check(
            "ExpectColumnValuesToBeInSet",
            "one-split",
            "no example in two splits",
            "No example belongs to two splits: the test score would reward memorization.",
            column="in_other_split",
            value_set=[False],
        ),
        check(
            "ExpectColumnValuesToBeInSet",
            "repeats",
            f"at most {duplicates:.2%} repeat another",
            "Few examples are bit-for-bit copies of an earlier one in their split: copies weigh "
            "more in training and make a test set look larger than it is.",
            setting="duplicates",
            column="repeats",
            value_set=[False],
            mostly=1 - duplicates,
        ),
    ]
