"""Labelled volumes in `.npz` files with the layout of MedMNIST's 3D sets."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from chapterflow.data.source import Fetch, Source, SourceData, UserData
from chapterflow.errors import DataError
from chapterflow.kinds.dataset import SPLITS
from chapterflow.types import DatasetBlock, RemoteFile


class Voxels(DatasetBlock):
    """Labelled volumes in one `.npz` file, laid out as MedMNIST's 3D sets (Yang et al. 2023).

    The file holds `train_images`, `train_labels`, `val_images`, `val_labels`, `test_images` and
    `test_labels`; its splits are kept.

    Attributes:
        mirror: Folder of the file below `CHAPTERFLOW_MIRROR`; null for a file that no mirror
            holds, which comes from `upstream` always.
        upstream: Base addresses (`https://`, `file://` or a path), tried in order.
        file: The `.npz` file.
        classes: Names of the classes; the labels number them from 0.
    """

    kind: Literal["voxels"]
    mirror: str | None = None
    upstream: Annotated[list[str], Field(min_length=1)]
    file: RemoteFile
    classes: Annotated[list[str], Field(min_length=2, max_length=256)]
    title: str = "Volumes from an .npz file"
    licence: str = "unknown"


#: Names in the file, in the order of `SPLITS`.
PARTS = ("train", "val", "test")
KEYS = tuple(f"{part}_{what}" for part in PARTS for what in ("images", "labels"))
#: Largest decompressed size of all six arrays together: 4 GiB. A small zip may claim far more.
MAX_BYTES = 4 << 30
MAX_CLASSES = 256


def read(params: Voxels, fetch: Fetch) -> SourceData:
    """Fetch and read the file; its splits are kept.

    Volumes `(n, depth, height, width)` or with a last axis of channels, uint8; labels `(n,)` or
    `(n, 1)`.

    Raises:
        DataError: If an array is missing, not numbers, of another shape or type, or a label is of
            no class.
    """
    path = fetch(params.file)
    arrays = read_arrays(path)
    volumes = [_volumes(path.name, f"{part}_images", arrays) for part in PARTS]
    shapes = {part: array.shape[1:] for part, array in zip(PARTS, volumes, strict=True)}
    if len(set(shapes.values())) > 1:
        raise DataError(
            f"{path.name}: the volumes of all splits must have one shape. Received: "
            + ", ".join(f"{part} {shape}" for part, shape in shapes.items())
        )
    labels = [
        _labels(path.name, f"{part}_labels", arrays, len(array), params.classes)
        for part, array in zip(PARTS, volumes, strict=True)
    ]
    counts = [len(array) for array in volumes]
    return SourceData(
        arrays={
            "volumes": np.concatenate(volumes),
            "labels": np.concatenate(labels),
            "split": np.repeat(np.arange(len(SPLITS), dtype=np.uint8), counts),
        },
        shape=volumes[0].shape[1:],
        classes=list(params.classes),
        value_max=255,
        title=params.title,
        source=f".npz file: {params.file.name}",
        licence=params.licence,
    )


def read_classes(path: Path) -> int:
    """Return the number of classes that the labels of a file number from 0; only they are read.

    Raises:
        DataError: As `read_arrays`, and if the labels are not 0, 1, ... with 2 to 256 classes.
    """
    arrays = read_arrays(path, KEYS[1::2])
    for key, labels in arrays.items():
        if labels.dtype.kind not in "iu" or not labels.size:
            raise DataError(
                f"{path.name}: {key} must be whole numbers, one for each volume. "
                f"Received: {labels.dtype} {labels.shape}"
            )
    seen = np.unique(np.concatenate([labels.ravel() for labels in arrays.values()]))
    classes = int(seen[-1]) + 1
    if seen[0] < 0 or not 2 <= classes <= MAX_CLASSES:
        raise DataError(
            f"{path.name}: the labels must number 2 to {MAX_CLASSES} classes from 0. "
            f"Received: {seen[0]} to {seen[-1]}"
        )
    return classes


def read_arrays(path: Path, keys: Sequence[str] = KEYS) -> dict[str, NDArray[Any]]:
    """Return arrays of a file, all six or those of some names; nothing in it is unpickled.

    Raises:
        DataError: If the file is no intact `.npz`, an array is missing or holds objects, or all of
            them would take more than `MAX_BYTES`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = {member.filename: member.file_size for member in archive.infolist()}
        missing = [key for key in KEYS if f"{key}.npy" not in claimed]
        if missing:
            names = ", ".join(sorted(name.removesuffix(".npy") for name in claimed)) or "nothing"
            raise DataError(
                f"{path.name} must hold {', '.join(KEYS)}. "
                f"Received: {names}; {', '.join(missing)} is missing"
            )
        if (size := sum(claimed[f"{key}.npy"] for key in KEYS)) > MAX_BYTES:
            raise DataError(
                f"{path.name}: the arrays must take at most {MAX_BYTES:,} bytes. Received: {size:,}"
            )
        with np.load(path, allow_pickle=False) as arrays:
            return {key: _array(path.name, key, arrays) for key in keys}
    # zipfile raises NotImplementedError for a compression that it does not know.
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise DataError(
            f"{path.name} must be an intact .npz file (a zip of .npy arrays). Received: {error}"
        ) from None


def _array(name: str, key: str, arrays: Any) -> NDArray[Any]:
    try:
        array: NDArray[Any] = arrays[key]
    except (ValueError, SyntaxError) as error:
        # Objects are pickles, which can run code; a damaged header ends here too.
        raise DataError(f"{name}: {key} must be an array of numbers. Received: {error}") from None
    if not isinstance(array, np.ndarray):
        raise DataError(f"{name}: {key} must be a .npy array. Received: something else")
    return array


def _volumes(name: str, key: str, arrays: dict[str, NDArray[Any]]) -> NDArray[np.uint8]:
    array = arrays[key]
    if array.dtype != np.uint8 or array.ndim not in (4, 5) or 0 in array.shape:
        raise DataError(
            f"{name}: {key} must be uint8 of shape (n, depth, height, width), or with channels "
            f"last. Received: {array.dtype} {array.shape}"
        )
    return array[..., np.newaxis] if array.ndim == 4 else array


def _labels(
    name: str, key: str, arrays: dict[str, NDArray[Any]], count: int, classes: list[str]
) -> NDArray[np.uint8]:
    array = arrays[key]
    if array.dtype.kind not in "iu" or array.shape not in ((count,), (count, 1)):
        raise DataError(
            f"{name}: {key} must be {count} whole numbers, one for each volume. "
            f"Received: {array.dtype} {array.shape}"
        )
    wrong = np.flatnonzero((array.ravel() < 0) | (array.ravel() >= len(classes)))
    if len(wrong):
        raise DataError(
            f"{name}: {key} must number the {len(classes)} classes of params.yaml from 0. "
            f"Received: {array.ravel()[wrong[0]]} at position {wrong[0]} ({len(wrong)} in all)"
        )
    return array.ravel().astype(np.uint8)


def own(data: UserData) -> dict[str, Any]:
    """Return the block for an `.npz` file; its labels are counted."""
    data.refuse_shares("voxels", "the archive holds the splits")
    return {
        "kind": "voxels",
        **data.file(".npz"),
        "classes": [str(number) for number in range(read_classes(data.path))],
        "title": data.title or data.path.stem,
    }


SOURCE = Source("voxels", Voxels, "volumes", read, own)
