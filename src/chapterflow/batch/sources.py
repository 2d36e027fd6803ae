"""Where examples come from, read a chunk at a time: picture files and datasets."""

from __future__ import annotations

import hashlib
import importlib
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chapterflow.data.card import Dataset, DatasetCard, sha256_file
from chapterflow.data.kinds.photos import in_threads
from chapterflow.errors import DataError
from chapterflow.fitted import read_picture
from chapterflow.models.parts.base import Strict

#: A chunk is one forward pass: so many examples at most, and so many bytes of inputs.
CHUNK_EXAMPLES, CHUNK_BYTES = 256, 32_000_000
#: Bytes of a file's identity where there are many files.
MARK = 16

#: What tells that a file is still the same: path, size, times of change, number of the inode.
Identity = tuple[str, int, int, int, int]


class Unread(Strict):
    """What could not be read, and why.

    Attributes:
        input: Path, or path and positions: `a.npy[3]`, `a.npy[3:9]`.
        count: Examples that it would have been.
    """

    input: str
    reason: str
    count: int = 1


@dataclass
class Chunk:
    """Some examples, as the model reads them.

    Attributes:
        inputs: `(n, ...)`, or a dict of such arrays.
        names: What each is called.
        hashes: SHA-256 of the file of each; None for datasets, which have a digest.
        truth: Class number of each, where a dataset has classes.
        unread: What is missing from the chunk.
        notes: What was done to how many examples so that the model takes them.
        whole: The dataset and the positions in it, where models read all of it at once.
    """

    inputs: Any
    names: list[str]
    hashes: list[str | None]
    truth: list[int] | None = None
    unread: list[Unread] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    whole: tuple[Dataset, NDArray[np.intp]] | None = None


class Source(Protocol):
    """A sequence of examples in a fixed order, in chunks of fixed borders."""

    @property
    def count(self) -> int:
        """Number of examples."""

    @property
    def chunks(self) -> int:
        """Number of chunks."""

    def identity(self) -> Any:
        """Return what tells whether it is still the same, as JSON takes it."""

    def read(self, chunk: int) -> Chunk:
        """Return a chunk."""


def shown(path: Path | str) -> str:
    """Return a path as text that any program can store: bytes that are no UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def identity_of(path: Path | str) -> Identity:
    """Return what changes when a file is written anew; the last time of change cannot be set."""
    there = os.stat(path)
    return shown(path), there.st_size, there.st_mtime_ns, there.st_ctime_ns, there.st_ino


def mark_of(path: str) -> bytes:
    """Return the identity of a file in `MARK` bytes."""
    return hashlib.blake2b(repr(identity_of(path)).encode(), digest_size=MARK).digest()


def chunk_size(shape: Sequence[int]) -> int:
    """Return how many examples of a shape go into one chunk."""
    return max(1, min(CHUNK_EXAMPLES, CHUNK_BYTES // (4 * math.prod(shape))))


@dataclass(frozen=True)
class Pictures:
    """Picture files; only those of a chunk are decoded, and little is kept of each.

    Attributes:
        files: Their paths.
        marks: Their identities, `MARK` bytes each.
    """

    files: Sequence[str]
    marks: bytes
    card: DatasetCard
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of files."""
        return len(self.files)

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return math.ceil(self.count / chunk_size(self.shape))

    def identity(self) -> Any:
        """Return a hash of the identities of all files."""
        return hashlib.sha256(self.marks).hexdigest()

    def read(self, chunk: int) -> Chunk:
        """Decode the pictures of a chunk, in threads; those that fail are named."""
        size = chunk_size(self.shape)
        places = range(chunk * size, min((chunk + 1) * size, self.count))
        made = Chunk(None, [], [])
        arrays = []
        for place, found in zip(places, in_threads(self._one, places), strict=True):
            if isinstance(found, str):
                made.unread.append(Unread(input=shown(self.files[place]), reason=found))
                continue
            array, digest, notes = found
            arrays.append(array)
            made.names.append(shown(self.files[place]))
            made.hashes.append(digest)
            # Pictures come in many sizes: they are told together.
            made.notes.update(re.sub(r" from \d+x\d+ ", " ", note) for note in notes)
        made.inputs = np.stack(arrays) if arrays else np.empty((0, *self.shape), np.float32)
        return made

    def _one(self, place: int) -> tuple[NDArray[np.float32], str, list[str]] | str:
        name = self.files[place]
        path = Path(name)
        try:
            array, notes = read_picture(path, self.card, (self.shape[0], self.shape[1]))
            digest = sha256_file(path)
            if mark_of(name) != self.marks[place * MARK : (place + 1) * MARK]:
                return "It was changed while this ran."
        except (DataError, OSError) as error:
            # What stands before the reason names the file once more.
            return str(error).removeprefix(f"{path} ")
        return array, digest, notes


@dataclass(frozen=True)
class DatasetPart:
    """Examples of a dataset of the project."""

    dataset: Dataset
    positions: NDArray[np.intp]

    @property
    def count(self) -> int:
        """Number of examples."""
        return len(self.positions)

    @property
    def _size(self) -> int:
        if self.dataset.WHOLE:
            return max(1, self.count)
        shapes = self.dataset.input_shapes()
        if isinstance(shapes, dict):  # graphs are padded to the largest of a chunk
            return CHUNK_EXAMPLES // 4
        return chunk_size([side for side in shapes[0] if side is not None])

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return math.ceil(self.count / self._size)

    def identity(self) -> Any:
        """Return the digest of the dataset, and a hash of the positions."""
        return [
            self.dataset.card.name,
            self.dataset.card.digest,
            hashlib.sha256(self.positions.astype(np.int64).tobytes()).hexdigest(),
        ]

    def read(self, chunk: int) -> Chunk:
        """Return the examples of a chunk.

        Raises:
            DataError: If the dataset is damaged.
        """
        chosen = self.positions[chunk * self._size : (chunk + 1) * self._size]
        whole = self.dataset.WHOLE
        return Chunk(
            {} if whole else self.dataset.inputs(chosen),
            [f"{self.dataset.card.name}:{position}" for position in chosen],
            [None] * len(chosen),
            truth=self.dataset.targets(chosen).tolist() if self.dataset.card.classes else None,
            whole=(self.dataset, chosen) if whole else None,
        )


def answers(forward: Any, chunk: Chunk) -> NDArray[np.float32]:
    """Return a model's answers to a chunk, `(n, classes)` or `(n, ...)`.

    Args:
        forward: Compiled function of a batch; the model itself where a dataset is read as a whole.
    """
    if chunk.whole is None:
        return np.asarray(forward(chunk.inputs), np.float32)
    full_batch = importlib.import_module("chapterflow.training.full_batch")
    dataset, positions = chunk.whole
    found: NDArray[np.float32] = full_batch.predict_full(forward, dataset)[positions]
    return found
