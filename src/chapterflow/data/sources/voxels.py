"""Labelled volumes in `.npz` files with the layout of MedMNIST's 3D sets."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from chapterflow.data.archive import check_size, open_zip
from chapterflow.data.source import Fetch, Source, SourceData, UserData
from chapterflow.data.splits import class_numbers, label_key
from chapterflow.errors import DataError
from chapterflow.kinds.dataset import SPLITS
from chapterflow.types import DatasetBlock, PositiveInt, RemoteFile


class Voxels(DatasetBlock):
    """Labelled volumes in one `.npz` file, laid out as MedMNIST's 3D sets (Yang et al. 2023).

    The file holds `train_images`, `train_labels`, `val_images`, `val_labels`, `test_images` and
    `test_labels`; its splits are kept.

    Attributes:
        mirror: Folder of the file below `CHAPTERFLOW_MIRROR`; null for a file that no mirror
            holds, which comes from `upstream` always.
        upstream: Base addresses (`https://`, `file://` or a path), tried in order.
        file: The `.npz` file.
        classes: Names of the classes, in the order of their labels.
        labels: Label of each class, ascending; null for 0, 1, ...
        max_bytes: Largest decompressed size of the file; null: 4 GiB.
    """

    kind: Literal["voxels"]
    mirror: str | None = None
    upstream: Annotated[list[str], Field(min_length=1)]
    file: RemoteFile
    classes: Annotated[list[str], Field(min_length=2, max_length=256)]
    labels: list[int] | None = None
    max_bytes: PositiveInt | None = None
    title: str = "Volumes from an .npz file"
    licence: str = "unknown"

    @model_validator(mode="after")
    def _label_for_each(self) -> Self:
        if self.labels is not None and (
            len(self.labels) != len(self.classes) or sorted(set(self.labels)) != self.labels
        ):
            raise ValueError("`labels` must give one label for each of `classes`, ascending")
        return self


#: Names in the file, in the order of `SPLITS`.
PARTS = ("train", "val", "test")
KEYS = tuple(f"{part}_{what}" for part in PARTS for what in ("images", "labels"))
#: Largest decompressed size of all six arrays together: 4 GiB. A small zip may claim far more.
MAX_BYTES = 4 << 30
MAX_CLASSES = 256
MAX_MEMBERS = 1000
MAX_AXES = 8


def read(params: Voxels, fetch: Fetch) -> SourceData:
    """Fetch and read the file; its splits are kept.

    Volumes `(n, depth, height, width)` or with a last axis of channels, uint8; labels `(n,)` or
    `(n, 1)`.

    Raises:
        DataError: If an array is missing, not numbers, of another shape or type, or a label is of
            no class.
    """
    path = fetch(params.file)
    arrays = read_arrays(path, max_bytes=params.max_bytes or MAX_BYTES)
    volumes = [_volumes(path.name, f"{part}_images", arrays) for part in PARTS]
    shapes = {part: array.shape[1:] for part, array in zip(PARTS, volumes, strict=True)}
    if len(set(shapes.values())) > 1:
        raise DataError(
            f"{path.name}: the volumes of all splits must have one shape. Received: "
            + ", ".join(f"{part} {shape}" for part, shape in shapes.items())
        )
    labels = [
        _labels(path.name, f"{part}_labels", arrays, len(array), params)
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


def read_labels(path: Path) -> list[int]:
    """Return the labels that occur in a file, ascending; only they are read.

    Raises:
        DataError: As `read_arrays`, and if there are not 2 to 256 of them.
    """
    arrays = read_arrays(path, KEYS[1::2])
    for key, labels in arrays.items():
        if labels.dtype.kind not in "iu" or not labels.size:
            raise DataError(
                f"{path.name}: {key} must be whole numbers, one for each volume. "
                f"Received: {labels.dtype} {labels.shape}"
            )
    seen = np.unique(np.concatenate([labels.ravel() for labels in arrays.values()]))
    if not 2 <= len(seen) <= MAX_CLASSES:
        raise DataError(
            f"{path.name}: the labels must be of 2 to {MAX_CLASSES} classes. "
            f"Received: {len(seen)}, from {seen[0]} to {seen[-1]}"
        )
    return [int(label) for label in seen]


def read_arrays(
    path: Path, keys: Sequence[str] = KEYS, *, max_bytes: int = MAX_BYTES
) -> dict[str, NDArray[Any]]:
    """Return arrays of a file, all six or those of some names; nothing in it is unpickled.

    Raises:
        DataError: If the file is no intact `.npz`, an array is missing or does not hold
            numbers, or all of them would take more than `max_bytes`.
    """
    try:
        form = ".npz file (a zip of .npy arrays)"
        with open_zip(path, max_members=MAX_MEMBERS, form=form) as archive:
            members = {member.filename: member for member in archive.infolist()}
            missing = [key for key in KEYS if f"{key}.npy" not in members]
            if missing:
                names = sorted(name.removesuffix(".npy")[:40] for name in members)
                raise DataError(
                    f"{path.name} must hold {', '.join(KEYS)}. "
                    f"Received: {', '.join(names) or 'nothing'}; {', '.join(missing)} is missing"
                )
            size = sum(members[f"{key}.npy"].file_size for key in KEYS)
            check_size(path, size, max_bytes, remedy="Save it with `numpy.savez`")
            return {key: _array(path.name, key, archive, members[f"{key}.npy"]) for key in keys}
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def _array(name: str, key: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """Return one array, whose header must fit the bytes that follow it.

    `numpy.load` takes the memory that a header asks for before it looks for the bytes.
    """
    expected = f"{name}: {key} must be an array of numbers"
    with archive.open(member) as stream:
        try:
            major, _ = np.lib.format.read_magic(stream)
            header = {
                1: np.lib.format.read_array_header_1_0,
                2: np.lib.format.read_array_header_2_0,
            }
            shape, fortran, dtype = header[major](stream)
        # A header is a literal of Python, whose parser raises nearly anything.
        except Exception as error:
            reason = str(error).split("\n")[0][:200]
            raise DataError(f"{expected}. Received: a damaged header ({reason})") from None
        if dtype.kind not in "biuf":  # Objects are pickles, which can run code.
            raise DataError(f"{expected}. Received: {dtype}"[:300])
        needed = math.prod(shape) * dtype.itemsize
        if not 0 <= needed <= member.file_size or len(shape) > MAX_AXES:
            raise DataError(
                f"{expected}. Received: a header for {str(shape)[:80]} elements before "
                f"{member.file_size:,} bytes"
            )
        content = stream.read(needed + 1)
    if len(content) != needed:
        raise DataError(
            f"{expected}. Received: a header for {str(shape)[:80]} elements, which do not fit"
        )
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def _volumes(name: str, key: str, arrays: dict[str, NDArray[Any]]) -> NDArray[np.uint8]:
    array = arrays[key]
    if array.dtype != np.uint8 or array.ndim not in (4, 5) or 0 in array.shape:
        raise DataError(
            f"{name}: {key} must be uint8 of shape (n, depth, height, width), or with channels "
            f"last. Received: {array.dtype} {array.shape}"
        )
    if array.ndim == 4 and array.shape[-1] in (3, 4) and min(array.shape[1:3]) > array.shape[-1]:
        raise DataError(
            f"{name}: {key} must be volumes, but their shape {array.shape} is that of colour "
            "pictures (n, height, width, colours). Save pictures as files, in one folder per class "
            "(`data add --kind images`); give thin volumes a last axis of 1 (a channel)."
        )
    return array[..., np.newaxis] if array.ndim == 4 else array


def _labels(
    name: str, key: str, arrays: dict[str, NDArray[Any]], count: int, params: Voxels
) -> NDArray[np.uint8]:
    array = arrays[key]
    if array.dtype.kind not in "iu" or array.shape not in ((count,), (count, 1)):
        raise DataError(
            f"{name}: {key} must be {count} whole numbers, one for each volume. "
            f"Received: {array.dtype} {array.shape}"
        )
    known = params.labels or range(len(params.classes))
    return class_numbers(array.ravel(), known, f"{name}: {key}")


def own(data: UserData) -> dict[str, Any]:
    """Return the block for an `.npz` file; its labels are counted."""
    data.refuse_shares("voxels", "the archive holds the splits")
    place = data.file(".npz")
    labels = read_labels(data.path)
    return {
        "kind": "voxels",
        **place,
        "classes": [str(label) for label in labels],
        **label_key(labels),
        "title": data.title or data.path.stem,
    }


SOURCE = Source("voxels", Voxels, "volumes", read, own)
