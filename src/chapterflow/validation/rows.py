"""Image arrays -> one row of plain facts per example, which expectations can be about."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.data.card import SPLITS, Dataset
from chapterflow.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

#: Bytes of pixels that are looked at together. Small enough that the intermediate arrays stay in
#: the processor's cache, so this is also the fast choice.
CHUNK_BYTES = 2**20
#: Split of an example whose code in `split.npy` stands for none.
UNKNOWN_SPLIT = "unknown"


def image_rows(dataset: Dataset) -> pd.DataFrame:
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
    import pandas as pd

    _check_arrays(dataset)
    count = len(dataset.images)
    width = max(5, len(str(count - 1)))
    splits = _split_names(dataset.split)
    rows = pd.DataFrame(
        {
            "id": [f"{split}/{position:0{width}d}" for position, split in enumerate(splits)],
            "split": splits,
            "label": np.asarray(dataset.labels),
            "shape": "x".join(map(str, dataset.images.shape[1:])),
            **_axes(dataset.images.shape[1:]),
            "dtype": str(dataset.images.dtype),
        }
        | _pixel_columns(dataset.images)
    )
    contents = rows.groupby("content_hash", sort=False)
    rows["in_other_split"] = contents["split"].transform("nunique") > 1
    rows["repeats"] = rows.duplicated(["split", "content_hash"])
    return rows


def _axes(shape: tuple[int, ...]) -> dict[str, int]:
    padded = (*shape, 0, 0, 0)
    return dict(zip(("height", "width", "channels"), padded, strict=False))


def _check_arrays(dataset: Dataset) -> None:
    images, labels, split = dataset.images, dataset.labels, dataset.split
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


def _split_names(codes: NDArray[Any]) -> list[str]:
    names = np.full(len(codes), UNKNOWN_SPLIT, dtype=object)
    for code, split in enumerate(SPLITS):
        names[codes == code] = split
    return [str(name) for name in names]


def _pixel_columns(images: NDArray[Any]) -> dict[str, Any]:
    """Return the columns that are computed from the pixels, a chunk of examples at a time."""
    count = len(images)
    facts = {name: np.empty(count) for name in ("min", "max", "mean", "std")}
    nan = np.zeros(count, dtype=np.int64)
    hashes: list[str] = []
    step = max(1, CHUNK_BYTES // max(1, images[:1].nbytes))
    for start in range(0, count, step):
        part = slice(start, start + step)
        pixels = np.ascontiguousarray(images[part]).reshape(len(images[part]), -1)
        hashes += [hashlib.blake2b(example.data, digest_size=16).hexdigest() for example in pixels]
        finite = np.isfinite(pixels)
        nan[part] = pixels.shape[1] - np.count_nonzero(finite, axis=1)
        if not nan[part].any():
            facts["min"][part] = pixels.min(axis=1)
            facts["max"][part] = pixels.max(axis=1)
            facts["mean"][part] = pixels.mean(axis=1, dtype=np.float64)
            facts["std"][part] = pixels.std(axis=1, dtype=np.float64)
        else:
            for name, values in _finite_facts(pixels, finite).items():
                facts[name][part] = values
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
