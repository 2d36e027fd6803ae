"""Read IDX files, the format of MNIST (LeCun, Cortes & Burges, "The MNIST database")."""

import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from chapterflow.data.fetch import MAX_BYTES, open_decompressed
from chapterflow.data.source import Fetch, Source, SourceData, UserData
from chapterflow.data.splits import class_numbers, label_key, stratified_split
from chapterflow.errors import ConfigError, DataError
from chapterflow.kinds.dataset import SPLITS
from chapterflow.types import DatasetBlock, RemoteFile, Seed, SplitShare, Strict

Byte = Annotated[int, Field(ge=0, le=255)]


class IdxFiles(Strict):
    """The four files of an IDX dataset."""

    train_images: RemoteFile
    train_labels: RemoteFile
    test_images: RemoteFile
    test_labels: RemoteFile


class Idx(DatasetBlock):
    """Grey images in the IDX format of MNIST, gzip or raw; its test files stay the test set.

    Attributes:
        mirror: Folder of these files below `CHAPTERFLOW_MIRROR`; null for data that no mirror
            holds, which come from `upstream` always.
        upstream: Base addresses (`https://`, `file://` or a path), tried in order.
        validation: Share of the train files for early stopping.
        seed: Seed of the split into train and validation.
        classes: Number of classes; labels are 0 to classes - 1.
        labels: Label of each class, ascending, where they are others.
    """

    kind: Literal["idx"]
    seed: Seed
    mirror: str | None = None
    upstream: Annotated[list[str], Field(min_length=1)]
    files: IdxFiles
    validation: SplitShare
    classes: Annotated[int, Field(gt=0, le=256)] = 10
    labels: Annotated[list[Byte], Field(min_length=2)] | None = None
    title: str = "IDX images"
    licence: str = "unknown"

    @field_validator("labels")
    @classmethod
    def _ascending(cls, labels: list[int] | None) -> list[int] | None:
        if labels is not None and sorted(set(labels)) != labels:
            raise ValueError("must ascend")
        return labels

    @property
    def known(self) -> Sequence[int]:
        """Label of each class."""
        return self.labels or range(self.classes)


#: Third byte of the magic number: the type of an element. The fourth counts the dimensions.
UNSIGNED_BYTE = 0x08
CHUNK = 1 << 20


def read_idx(path: Path, *, dims: int) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, gzip-compressed or not.

    Layout: magic number `0x00 0x00 0x08 dims`, the size of each dimension as a big-endian 32-bit
    number, then the elements, last dimension fastest.

    Args:
        path: The file.
        dims: Number of dimensions: 3 for images, 1 for labels.

    Returns:
        Array of shape `(n, ...)` with `dims` axes.

    Raises:
        DataError: If the file cannot be read, or its header and its length disagree.
    """
    with open_decompressed(path) as stream:
        header = stream.read(4 + 4 * dims)
        shape = _shape(header, path.name, dims)
        expected = math.prod(shape)
        # Memory grows with the bytes that are really there, never ahead of them on the header's
        # word. One byte more than expected is enough to know that the file is too long.
        content = bytearray()
        while chunk := stream.read(min(CHUNK, expected + 1 - len(content))):
            content += chunk
    if len(content) != expected:
        start = len(header)
        received = f"{start + len(content):,}" if len(content) < expected else "more"
        raise DataError(
            f"{path.name}: a header for {' x '.join(map(str, shape))} elements needs "
            f"{start + expected:,} bytes. Received: {received}"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _shape(header: bytes, name: str, dims: int) -> tuple[int, ...]:
    """Return the dimensions that a header gives."""
    magic = bytes((0, 0, UNSIGNED_BYTE, dims))
    if header[:4] != magic:
        raise DataError(
            f"{name}: an IDX file of unsigned bytes with {dims} dimension(s) must begin with "
            f"0x{magic.hex()}. Received: 0x{header[:4].hex()}"
        )
    if len(header) < 4 + 4 * dims:
        raise DataError(
            f"{name}: the header must have {4 + 4 * dims} bytes. Received: {len(header)}"
        )
    shape = struct.unpack(f">{dims}I", header[4:])
    if min(shape) == 0 or math.prod(shape) > MAX_BYTES:
        raise DataError(
            f"{name}: the dimensions must be positive and hold at most {MAX_BYTES:,} elements. "
            f"Received: {' x '.join(map(str, shape))}"
        )
    return shape


def read_pair(
    images: Path, labels: Path, *, known: Sequence[int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read the images and the labels of one part of a dataset.

    Args:
        images: IDX file of three dimensions.
        labels: IDX file of one dimension.
        known: Label of each class, ascending.

    Returns:
        Images of shape `(n, height, width)` and class numbers of shape `(n,)`.

    Raises:
        DataError: If a file is damaged, the counts differ, or a label is of no class.
    """
    pixels = read_idx(images, dims=3)
    numbers = read_idx(labels, dims=1)
    if len(pixels) != len(numbers):
        raise DataError(
            f"{images.name} and {labels.name} must hold equally many examples. "
            f"Received: {len(pixels):,} images and {len(numbers):,} labels"
        )
    return pixels, class_numbers(numbers, known, labels.name)


def read(params: Idx, fetch: Fetch) -> SourceData:
    """Fetch and read the four files; the test files stay the test split.

    Raises:
        DataError: If a file is damaged, or train and test images differ in size.
    """
    files = params.files
    images, labels = read_pair(
        fetch(files.train_images), fetch(files.train_labels), known=params.known
    )
    test_images, test_labels = read_pair(
        fetch(files.test_images), fetch(files.test_labels), known=params.known
    )
    if images.shape[1:] != test_images.shape[1:]:
        raise DataError(
            "Train and test images must have one size. "
            f"Received: {images.shape[1:]} and {test_images.shape[1:]}"
        )
    classes = [str(label) for label in params.known]
    split = stratified_split(
        labels, validation=params.validation, test=0.0, seed=params.seed, classes=classes
    )
    arrays = {
        "images": np.concatenate([images, test_images])[..., np.newaxis],
        "labels": np.concatenate([labels, test_labels]),
        "split": np.concatenate([split, np.full(len(test_labels), SPLITS.index("test"), np.uint8)]),
    }
    return SourceData(
        arrays=arrays,
        shape=arrays["images"].shape[1:],
        classes=classes,
        value_max=255,
        title=params.title,
        source=f"IDX files: {params.mirror or params.title}",
        licence=params.licence,
    )


def own(data: UserData) -> dict[str, Any]:
    """Return the block for a folder with four IDX files, whose names tell them apart."""
    data.refuse_shares("idx", "the test files are the test set", validation=False)
    data.need_folder("the four IDX files")
    names = [path.name for path in sorted(data.path.iterdir()) if path.is_file()]
    files = {
        f"{part}_{content}": {"name": _only(names, words, content, data.path)}
        for part, words in (("train", ("train",)), ("test", ("test", "t10k")))
        for content in ("images", "labels")
    }
    seen = [
        read_idx(data.path / files[f"{part}_labels"]["name"], dims=1) for part in ("train", "test")
    ]
    # A label that no example has would be a class that no model can learn.
    labels = np.unique(np.concatenate(seen)).tolist()
    return {
        "kind": "idx",
        "seed": data.seed,
        "upstream": [str(data.path)],
        "files": files,
        "classes": len(labels),
        **label_key(labels),
        **data.shares(test=False),
        **data.titled(),
    }


def _only(names: Sequence[str], words: Sequence[str], content: str, folder: Path) -> str:
    """Return the one name with the content and one of the words in it."""
    matches = [
        name
        for name in names
        if content in name.lower() and any(word in name.lower() for word in words)
    ]
    if len(matches) != 1:
        raise ConfigError(
            f"{folder} must hold one file with {' or '.join(words)!r} and {content!r} in its name. "
            f"Received: {', '.join(matches) or 'none'}"
        )
    return matches[0]


SOURCE = Source("idx", Idx, "images", read, own)
