"""Arrays -> one row of plain facts per example, which expectations can be about."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.data.card import SPLITS

if TYPE_CHECKING:
    import pandas as pd

#: Bytes of pixels that are looked at together. Small enough that the intermediate arrays stay in
#: the processor's cache, so this is also the fast choice.
CHUNK_BYTES = 2**20
#: Split of an example whose code in `split.npy` stands for none.
UNKNOWN_SPLIT = "unknown"


def example_rows(split: NDArray[Any], columns: dict[str, Any]) -> pd.DataFrame:
    """Return a row for each example, with what the expectations of every kind are about.

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
            for name, found in _finite_facts(pixels, finite).items():
                facts[name][part] = found
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
