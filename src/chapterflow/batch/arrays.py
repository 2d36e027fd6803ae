"""Arrays on disk as a source: looked through once, and read in blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.batch.sources import Chunk, Identity, Unread, chunk_size, identity_of, shown
from chapterflow.data.card import DatasetCard, sha256_file
from chapterflow.errors import DataError
from chapterflow.fitted import PICTURES, open_array

#: Bytes that are read at once where a file is looked through.
BLOCK_BYTES = 8_000_000


@dataclass(frozen=True)
class ArrayFile:
    """A file `.npy` of one example or many, read in blocks.

    A memory map would do the same, but every page that was touched counts as this process's memory
    until the system is short of it.
    """

    path: Path
    identity_: Identity
    array: NDArray[Any]
    digest: str
    batched: bool

    @property
    def count(self) -> int:
        """Number of examples."""
        return len(self.array)

    @property
    def _size(self) -> int:
        return chunk_size(self.array.shape[1:])

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return math.ceil(self.count / self._size)

    def identity(self) -> Any:
        """Return the identity of the file."""
        return self.identity_

    def read(self, chunk: int) -> Chunk:
        """Read the examples of a chunk; those with values that are not finite are named.

        Raises:
            DataError: If the file is another one by now.
        """
        start = chunk * self._size
        stop = min(start + self._size, self.count)
        values = _block(self.path, self.array, start, stop).astype(np.float32)
        if identity_of(self.path) != self.identity_:
            raise DataError(f"{self.path} was changed while it was read. Run the command again.")
        finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        kept = np.flatnonzero(finite)
        return Chunk(
            values[kept],
            [self._name(start + int(place)) for place in kept],
            [self.digest] * len(kept),
            unread=[
                Unread(
                    input=self._name(start + int(run[0]), start + int(run[-1]) + 1),
                    reason="It holds values that are not finite.",
                    count=len(run),
                )
                for run in _runs(np.flatnonzero(~finite))
            ],
        )

    def _name(self, start: int, stop: int | None = None) -> str:
        if not self.batched:
            return shown(self.path)
        several = "" if stop is None or stop == start + 1 else f":{stop}"
        return f"{shown(self.path)}[{start}{several}]"


def array_file(
    path: Path, card: DatasetCard, shape: tuple[int, ...]
) -> tuple[ArrayFile, list[str]]:
    """Return an `.npy` file as a source, looked through once, and what is odd about it.

    Raises:
        DataError: If it does not fit the model, or its values lie outside those of the data that
            the model learnt: there is no telling how they were scaled.
    """
    before = identity_of(path)
    array, batched = open_array(path, shape)
    low, high = math.inf, -math.inf
    rows = max(1, BLOCK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        block = _block(path, array, start, min(start + rows, len(array)))
        if block.dtype.kind == "f":
            block = block[np.isfinite(block)]
        if block.size:
            low, high = min(low, float(block.min())), max(high, float(block.max()))
    if not len(array) or low > high:
        received = "values that are not finite" if len(array) else "no example"
        raise DataError(f"{path} must hold finite numbers. Received: {received}")
    notes = []
    if card.kind in (*PICTURES, "volumes"):
        if low < 0 or high > card.value_max:
            raise DataError(
                f"{path} must hold raw values from 0 to {card.value_max:g}, as {card.name} does. "
                f"Received: {low:g} to {high:g}"
            )
        if high <= 1 < card.value_max and block.dtype.kind == "f":
            notes.append(
                f"{shown(path)}: no value is above {high:g}, but the model reads raw values up to "
                f"{card.value_max:g} and scales them itself. Were they divided already?"
            )
    return ArrayFile(path, before, array, sha256_file(path), batched), notes


def _block(path: Path, array: NDArray[Any], start: int, stop: int) -> NDArray[Any]:
    """Return some rows of a memory-mapped array, read past the map where they lie in one piece."""
    offset = getattr(array, "offset", None)
    if offset is None or not array.flags.c_contiguous:
        return np.asarray(array[start:stop])
    row = array.dtype.itemsize * math.prod(array.shape[1:])
    count = (stop - start) * math.prod(array.shape[1:])
    read = np.fromfile(path, array.dtype, count, offset=offset + start * row)
    return read.reshape(-1, *array.shape[1:])


def _runs(places: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    """Yield runs of neighbouring places."""
    if len(places):
        yield from np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
