"""The inputs of a batch as sources of examples, read in chunks in a fixed order."""

from __future__ import annotations

import hashlib
import math
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.config.settings import Settings
from chapterflow.environment import Project
from chapterflow.errors import ConfigError, DataError
from chapterflow.files import sha256_file
from chapterflow.kinds.dataset import Dataset, DatasetCard, get_kind
from chapterflow.kinds.photos import EXTENSIONS, in_threads
from chapterflow.predict.inputs import (
    ARRAY,
    check_extension,
    check_files_possible,
    dataset_for,
    example_shape,
    open_array,
    parse_inputs,
    photo_size,
    positions,
    read_picture,
)
from chapterflow.tracking.versions import Version
from chapterflow.types import Strict, Tell, silent

#: A chunk is one forward pass. Its limits: examples, and bytes of inputs.
CHUNK_EXAMPLES, CHUNK_BYTES = 256, 32_000_000
#: Bytes that are read at once when a whole file is checked.
BLOCK_BYTES = 8_000_000
#: Bytes of the hash of a file's identity; there may be millions of files.
MARK_BYTES = 16
#: What changes when a file changes: path, size, times of modification and change, inode.
Identity = tuple[str, int, int, int, int]


class Unread(Strict):
    """Examples that could not be read.

    Attributes:
        input: Path, or path and positions: `a.npy[3]`, `a.npy[3:9]`.
        count: Number of examples.
    """

    input: str
    reason: str
    count: int = 1


@dataclass
class Chunk:
    """Some examples, as the model reads them.

    Attributes:
        inputs: `(n, ...)`, or a dict of such arrays.
        names: Name of each example.
        hashes: SHA-256 of the file of each example; None for datasets, which have a digest.
        truth: True class number of each example, if the dataset has classes.
        unread: Examples missing from the chunk.
        notes: How many examples were changed to fit the model, by change.
        whole: The dataset and the positions in it, for models that read all of it in one step.
    """

    inputs: Any
    names: list[str]
    hashes: list[str | None]
    truth: list[int] | None = None
    unread: list[Unread] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    whole: tuple[Dataset, NDArray[np.intp]] | None = None


class Source(ABC):
    """A sequence of examples in a fixed order, in chunks with fixed borders."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of examples."""

    @property
    @abstractmethod
    def chunk_size(self) -> int:
        """Number of examples in a chunk; the last one may have fewer."""

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return math.ceil(self.count / self.chunk_size)

    @abstractmethod
    def identity(self) -> Any:
        """Return a JSON value that changes when the examples do."""

    def read(self, chunk: int) -> Chunk:
        """Return a chunk.

        Raises:
            DataError: If all of the source is damaged or has changed.
        """
        start = chunk * self.chunk_size
        return self._read(start, min(start + self.chunk_size, self.count))

    @abstractmethod
    def _read(self, start: int, stop: int) -> Chunk: ...


def _examples_per_chunk(shape: Sequence[int]) -> int:
    return max(1, min(CHUNK_EXAMPLES, CHUNK_BYTES // (4 * math.prod(shape))))


@dataclass(frozen=True)
class Pictures(Source):
    """Picture files. Only those of a chunk are decoded, and little memory is used for each.

    Attributes:
        files: Their paths.
        marks: Hashes of their identities, `MARK_BYTES` each.
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
    def chunk_size(self) -> int:
        """Number of pictures in a chunk."""
        return _examples_per_chunk(self.shape)

    def identity(self) -> Any:
        """Return a hash of the identities of all files."""
        return hashlib.sha256(self.marks).hexdigest()

    def _read(self, start: int, stop: int) -> Chunk:
        """Decode the pictures of a chunk, in threads."""
        chunk = Chunk(None, [], [])
        arrays = []
        places = range(start, stop)
        for place, result in zip(places, in_threads(self._decode, places), strict=True):
            name = path_text(self.files[place])
            if isinstance(result, str):
                chunk.unread.append(Unread(input=name, reason=result))
                continue
            array, digest, notes = result
            arrays.append(array)
            chunk.names.append(name)
            chunk.hashes.append(digest)
            # Pictures come in many sizes, which are counted together.
            chunk.notes.update(re.sub(r" from \d+x\d+ ", " ", note) for note in notes)
        chunk.inputs = np.stack(arrays) if arrays else np.empty((0, *self.shape), np.float32)
        return chunk

    def _decode(self, place: int) -> tuple[NDArray[np.float32], str, list[str]] | str:
        """Return a picture, its SHA-256 and what was changed in it; or why it cannot be read."""
        path = Path(self.files[place])
        try:
            array, notes = read_picture(path, self.card, (self.shape[0], self.shape[1]))
            digest = sha256_file(path)
            if mark_of(path) != self.marks[place * MARK_BYTES : (place + 1) * MARK_BYTES]:
                return "It was changed while this ran."
        except (DataError, OSError) as error:
            return str(error).removeprefix(f"{path} ")
        return array, digest, notes


@dataclass(frozen=True)
class ArrayFile(Source):
    """An `.npy` file of one example or many, read in blocks.

    Not through a memory map, because every page that it touches counts as this process's memory
    until the system runs short of it.
    """

    path: Path
    file: Identity
    array: NDArray[Any]
    digest: str
    batched: bool

    @property
    def count(self) -> int:
        """Number of examples."""
        return len(self.array)

    @property
    def chunk_size(self) -> int:
        """Number of examples in a chunk."""
        return _examples_per_chunk(self.array.shape[1:])

    def identity(self) -> Any:
        """Return the identity of the file."""
        return self.file

    def _read(self, start: int, stop: int) -> Chunk:
        """Read the examples of a chunk that have finite values only."""
        values = _read_rows(self.path, self.array, start, stop).astype(np.float32)
        if identity_of(self.path) != self.file:
            raise DataError(f"{self.path} was changed while it was read. Run the command again.")
        finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
        readable = np.flatnonzero(finite)
        return Chunk(
            values[readable],
            [self._name(start + int(place)) for place in readable],
            [self.digest] * len(readable),
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
            return path_text(self.path)
        several = "" if stop is None or stop == start + 1 else f":{stop}"
        return f"{path_text(self.path)}[{start}{several}]"


def open_array_file(
    path: Path, card: DatasetCard, shape: tuple[int, ...]
) -> tuple[ArrayFile, list[str]]:
    """Return an `.npy` file as a source, and notes on its values; all of them are read once.

    Raises:
        DataError: If it does not fit the model, or its values lie outside the range of the data
            that the model was trained on: there is no telling how they were scaled.
    """
    before = identity_of(path)
    array, batched = open_array(path, shape)
    low, high = math.inf, -math.inf
    rows = max(1, BLOCK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        block = _read_rows(path, array, start, min(start + rows, len(array)))
        if block.dtype.kind == "f":
            block = block[np.isfinite(block)]
        if block.size:
            low, high = min(low, float(block.min())), max(high, float(block.max()))
    if not len(array) or low > high:
        received = "values that are not finite" if len(array) else "no example"
        raise DataError(f"{path} must hold finite numbers. Received: {received}")
    notes = []
    if get_kind(card.kind).bounded:
        if low < 0 or high > card.value_max:
            raise DataError(
                f"{path} must hold raw values from 0 to {card.value_max:g}, as {card.name} does. "
                f"Received: {low:g} to {high:g}"
            )
        if high <= 1 < card.value_max and array.dtype.kind == "f":
            notes.append(
                f"{path_text(path)}: no value exceeds {high:g}, but the model reads raw values up "
                f"to {card.value_max:g} and scales them itself. Were they divided already?"
            )
    return ArrayFile(path, before, array, sha256_file(path), batched), notes


def _read_rows(path: Path, array: NDArray[Any], start: int, stop: int) -> NDArray[Any]:
    """Return some rows of a memory-mapped array, read past the map if they are contiguous."""
    offset = getattr(array, "offset", None)
    if offset is None or not array.flags.c_contiguous:
        return np.asarray(array[start:stop])
    row = array.dtype.itemsize * math.prod(array.shape[1:])
    count = (stop - start) * math.prod(array.shape[1:])
    read = np.fromfile(path, array.dtype, count, offset=offset + start * row)
    return read.reshape(-1, *array.shape[1:])


def _runs(places: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    """Yield the runs of consecutive places."""
    if len(places):
        yield from np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)


@dataclass(frozen=True)
class DatasetPart(Source):
    """Examples of a dataset of the project."""

    dataset: Dataset
    positions: NDArray[np.intp]

    @property
    def count(self) -> int:
        """Number of examples."""
        return len(self.positions)

    @property
    def chunk_size(self) -> int:
        """Number of examples in a chunk: all if the model reads the dataset in one step."""
        if self.dataset.kind.whole:
            return max(1, self.count)
        shapes = self.dataset.input_shapes()
        if isinstance(shapes, dict):  # graphs may be large
            return CHUNK_EXAMPLES // 4
        return _examples_per_chunk([side for side in shapes[0] if side is not None])

    def identity(self) -> Any:
        """Return the digest of the dataset, and a hash of the positions."""
        return [
            self.dataset.card.name,
            self.dataset.card.digest,
            hashlib.sha256(self.positions.astype(np.int64).tobytes()).hexdigest(),
        ]

    def _read(self, start: int, stop: int) -> Chunk:
        chosen = self.positions[start:stop]
        card, whole = self.dataset.card, self.dataset.kind.whole
        return Chunk(
            {} if whole else self.dataset.inputs(chosen),
            [f"{card.name}:{position}" for position in chosen],
            [None] * len(chosen),
            truth=self.dataset.targets(chosen).tolist() if card.task.classes else None,
            whole=(self.dataset, chosen) if whole else None,
        )


def path_text(path: Path | str) -> str:
    """Return a path as text that any program can store: bytes that are not UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def identity_of(path: Path | str) -> Identity:
    """Return what changes when a file is rewritten; programs cannot set the time of change."""
    status = os.stat(path)
    return path_text(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def mark_of(path: Path | str) -> bytes:
    """Return a hash of the identity of a file."""
    return hashlib.blake2b(repr(identity_of(path)).encode(), digest_size=MARK_BYTES).digest()


@dataclass
class BatchInputs:
    """The inputs of a batch.

    Attributes:
        sources: In the order of the INPUTs; the files of a folder sorted.
        unread: Files that do not fit the model.
        skipped: Files in folders that are of another format.
        notes: Oddities of the inputs.
    """

    sources: list[Source] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def datasets(self) -> dict[str, str]:
        """Return the digest of each dataset among the sources, by name."""
        return {
            source.dataset.card.name: source.dataset.card.digest
            for source in self.sources
            if isinstance(source, DatasetPart)
        }

    def add_files(self, files: Sequence[str], card: DatasetCard, size: tuple[int, int]) -> None:
        """Append a source for each array, and for each sequence of pictures, so chunks are full.

        Args:
            card: Of the data that the model was trained on.
            size: Height and width of the photos that the model reads.
        """
        shape = example_shape(card, size)
        pictures: list[str] = []
        marks = bytearray()

        def end_sequence() -> None:
            if pictures:
                self.sources.append(Pictures(tuple(pictures), bytes(marks), card, shape))
                pictures.clear()
                marks.clear()

        for path in files:
            try:
                check_extension(Path(path), card)
                if _extension(path) == ARRAY:
                    source, notes = open_array_file(Path(path), card, shape)
                    end_sequence()
                    self.sources.append(source)
                    self.notes.extend(notes)
                else:
                    marks += mark_of(path)
                    pictures.append(path)
            except (DataError, OSError) as error:
                reason = str(error).removeprefix(f"{path} ")
                self.unread.append(Unread(input=path_text(path), reason=reason))
        end_sequence()


def open_inputs(
    project: Project,
    settings: Settings,
    version: Version,
    card: DatasetCard,
    words: Sequence[str],
    *,
    tell: Tell = silent,
) -> BatchInputs:
    """Return the sources that INPUTs name; a file that several of them name is read once.

    Args:
        settings: In the profile that the version was trained in.
        version: Version that will predict.
        card: Of the data that it was trained on.
        words: Files, folders, `DATASET`, `DATASET:SPLIT` or `DATASET:INDEX`.

    Raises:
        ConfigError: If one of them names nothing, or nothing that the model reads.
        DataError: If a dataset is damaged.
    """
    inputs = BatchInputs()
    size = photo_size(settings, version)
    files: list[str] = []
    known: set[bytes] = set()
    duplicates: list[str] = []

    def add(path: str) -> None:
        real = hashlib.blake2b(os.fsencode(os.path.realpath(path)), digest_size=16).digest()
        (duplicates if real in known else files).append(path)
        known.add(real)

    def open_files() -> None:
        inputs.add_files(files, card, size)
        files.clear()

    for given in parse_inputs(settings, words):
        if given.sort == "dataset":
            open_files()
            tell("read", f"dataset {given.word}")
            dataset = dataset_for(project, settings, version, given.dataset, card, tell=tell)
            chosen = positions(dataset, given.part)
            inputs.sources.append(DatasetPart(dataset, chosen))
            inputs.notes.extend(_training_examples(dataset, chosen, card))
            continue
        check_files_possible(card, version, given.word)
        if given.sort == "file":
            add(str(given.path))
            continue
        tell("read", f"folder {given.word}")
        readable, others, unread = files_below(given.path, card)
        inputs.skipped.extend(map(path_text, others))
        inputs.unread.extend(unread)
        for path in readable:
            add(path)
    open_files()
    if duplicates:
        more = f" and {len(duplicates) - 1:,} more" if len(duplicates) > 1 else ""
        inputs.notes.append(
            f"{path_text(duplicates[0])}{more}: the same file as another INPUT, or a link to it; "
            "predicted once."
        )
    return inputs


def _training_examples(dataset: Dataset, chosen: NDArray[np.intp], card: DatasetCard) -> list[str]:
    """Return a note if the model was trained on some of the examples, or may have been."""
    name = dataset.card.name
    if dataset.card.digest == card.digest:
        count = int(np.isin(chosen, dataset.indices("train")).sum())
        if count:
            return [
                f"{name}: {count:,} of {len(chosen):,} examples are in the train split, on which "
                "the model was trained; its answers to them say little."
            ]
    elif name == card.name:
        return [
            f"data/{name} differs from the data that the model was trained on, which may have had "
            "some of these examples in its train split."
        ]
    return []


def files_below(
    folder: Path, card: DatasetCard | None
) -> tuple[list[str], list[str], list[Unread]]:
    """Return the files below a folder that a model reads, the others, and unreadable folders.

    Hidden files and folders are skipped. Files are sorted by path, folder by folder. Paths are
    text, because a `Path` takes five times the memory, and there may be millions.

    Args:
        folder: Where to look.
        card: Of the data that the model was trained on; None for the files of any model.

    Raises:
        ConfigError: If there is no file that the model reads, though all folders could be listed.
    """
    extensions = _extensions(card)
    readable: list[str] = []
    others: list[str] = []
    unread: list[Unread] = []

    def add_unread(error: OSError) -> None:
        unread.append(Unread(input=str(error.filename), reason=f"{error.strerror}."))

    for path in _walk(folder, add_unread):
        (readable if _extension(path) in extensions else others).append(path)
    for paths in (readable, others):
        paths.sort(key=lambda path: path.replace(os.sep, "\0"))
    if not readable and not unread:
        example = f", such as {path_text(others[0])}" if others else ""
        raise ConfigError(
            f"The folder {folder} must hold {_formats(card)}. "
            f"Received: {len(others)} other files{example}"
        )
    return readable, others, unread


def check_folder(folder: Path, card: DatasetCard | None) -> None:
    """Refuse a folder that `files_below` would refuse; stop at the first readable file.

    Raises:
        ConfigError: As `files_below`.
    """
    extensions = _extensions(card)
    if not any(_extension(path) in extensions for path in _walk(folder, lambda _: None)):
        files_below(folder, card)


def _walk(folder: Path, on_error: Callable[[OSError], None]) -> Iterator[str]:
    for place, folders, names in os.walk(folder, onerror=on_error):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(place, name) for name in names if not name.startswith("."))


def _extension(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _extensions(card: DatasetCard | None) -> frozenset[str]:
    if card is None:
        return EXTENSIONS | {ARRAY}
    return EXTENSIONS if get_kind(card.kind).file == "picture" else frozenset({ARRAY})


def _formats(card: DatasetCard | None) -> str:
    """Return the formats of the files that a model reads, in words."""
    if card is None:
        return "pictures, or .npy files for a model of curves or volumes"
    if get_kind(card.kind).file == "picture":
        return "pictures"
    return f".npy files, for a model of {card.kind}"
