"""What INPUT names -> sources of examples, read a chunk at a time in a stable order."""

from __future__ import annotations

import hashlib
import importlib
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from chapterflow.config.load import load_settings
from chapterflow.config.settings import Settings
from chapterflow.data.build import open_whole
from chapterflow.environment import Project
from chapterflow.errors import ConfigError, DataError, nearest
from chapterflow.files import sha256_file
from chapterflow.kinds.dataset import SPLITS, Dataset, DatasetCard, shape_text
from chapterflow.kinds.kind import get_kind
from chapterflow.kinds.photos import EXTENSIONS, in_threads, open_photo
from chapterflow.loop import steps
from chapterflow.models.catalog import get_model, model_names
from chapterflow.tracking import runs
from chapterflow.tracking.session import Session
from chapterflow.tracking.versions import Version
from chapterflow.types import Strict, Tell, silent


def settings_of(
    project: Project, settings: Settings, session: Session, version: Version
) -> Settings:
    """Return the settings in the profile that a version was trained in.

    The size of photos is that of the profile.
    """
    profile = session.client.get_run(version.run_id).data.tags.get(runs.PROFILE)
    if profile in (None, settings.profile):
        return settings
    return load_settings(project.params, profile=profile)


def dataset_for(
    project: Project,
    settings: Settings,
    version: Version,
    name: str,
    card: DatasetCard,
    *,
    tell: Tell = silent,
) -> Dataset:
    """Return a dataset as the model reads it; it is built or fetched where it is not here.

    Args:
        card: Of the data that the version learnt.

    Raises:
        ConfigError: If it is of another kind, or has other classes or another shape.
        DataError: If its files are not what its card says.
    """
    steps.prepare(project, settings, name, tell=tell)
    dataset = open_whole(project.data / name)
    fits(version, card, dataset.card)
    if version.model in model_names():
        from chapterflow.training.batches import sized_for

        return sized_for(get_model(version.model), settings.params(version.model), dataset)
    return dataset


def fits(version: Version, card: DatasetCard, shown: DatasetCard) -> None:
    """Refuse a dataset that is not like the one that a version learnt.

    Args:
        card: Of the data that it learnt.
        shown: Of the dataset that it is shown.

    Raises:
        ConfigError: If it is of another kind, or has other classes, another shape or range.
    """
    if (card.kind, card.classes) != (shown.kind, shown.classes):
        raise ConfigError(
            f"{version} must be shown data like those that it learnt: {card.kind} of "
            f"{len(card.classes)} classes ({card.name}). Received: {shown.kind} of "
            f"{len(shown.classes)} classes ({shown.name})"
        )
    if not _same_shape(card.shape, shown.shape):
        raise ConfigError(
            f"{version} reads {card.kind} of {shape_text(card.shape)} ({card.name}). "
            f"Received: {shape_text(shown.shape)} ({shown.name})"
        )
    if get_kind(card.kind).bounded and card.value_max != shown.value_max:
        # The model divides by the range that it learnt, so it would see another brightness.
        raise ConfigError(
            f"{version} reads raw values from 0 to {card.value_max:g} ({card.name}). "
            f"Received: 0 to {shown.value_max:g} ({shown.name})"
        )


def _same_shape(wanted: list[int | None], received: list[int | None]) -> bool:
    return len(wanted) == len(received) and all(
        None in (mine, theirs) or mine == theirs
        for mine, theirs in zip(wanted, received, strict=True)
    )


def photo_size(settings: Settings, version: Version) -> tuple[int, int]:
    """Return height and width at which a model was shown photos."""
    from chapterflow.training.batches import PHOTO_SIZE

    entry = get_model(version.model) if version.model in model_names() else None
    if entry is None or entry.size is None:
        return PHOTO_SIZE
    return entry.size(settings.params(version.model))


def example_shape(card: DatasetCard, size: tuple[int, int]) -> tuple[int, ...]:
    """Return the shape of one example as the model reads it.

    Args:
        card: Of the data that the model learnt; not of graphs.
        size: Height and width of photos, which come in any size.
    """
    sides = (*size, 3) if get_kind(card.kind).resized else card.shape
    return tuple(int(side) for side in sides if side is not None)


def read_picture(
    path: Path, card: DatasetCard, size: tuple[int, int]
) -> tuple[NDArray[np.float32], list[str]]:
    """Return a picture as one input `(height, width, channels)`, and what was done to it.

    Raises:
        DataError: If it cannot be read; it names the file.
    """
    from PIL import Image

    facts: dict[str, Any] = {}
    image = open_photo(path, facts=facts)
    notes = []
    height, width, channels = example_shape(card, size)
    if channels == 1:
        image = image.convert("L")
        if facts["mode"] not in ("1", "L", "LA"):
            notes.append("made grey")
    if image.size != (width, height):
        notes.append(f"resized from {image.width}x{image.height} to {width}x{height}")
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.float32)
    if card.value_max != 255:
        notes.append(f"scaled from 0-255 to 0-{card.value_max:g}")
        pixels = pixels * np.float32(card.value_max / 255)
    return pixels.reshape(height, width, channels), notes


def open_array(path: Path, shape: tuple[int, ...]) -> tuple[NDArray[Any], bool]:
    """Return an `.npy` file as a memory-mapped batch `(n, *shape)`, and whether it has that axis.

    It may hold one example or a batch of them, and leave out a last axis of 1.

    Args:
        shape: Of one example.

    Raises:
        DataError: If it cannot be read, or does not hold numbers of that shape; it names the file.
    """
    try:
        # Not `np.load`, which takes files of other formats for pickles or archives.
        values: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} must be an .npy array of numbers. Received: {error}") from None
    if values.dtype.kind in "uif":
        for one in (shape, shape[:-1] if shape[-1] == 1 else shape):
            if values.shape == one:
                return values.reshape(1, *shape), False
            if values.shape[1:] == one:
                return values.reshape(len(values), *shape), True
    raise DataError(
        f"{path} must hold finite numbers of the shape {shape}, or (n, "
        f"{', '.join(map(str, shape))}) for n examples. Received: {values.dtype} {values.shape}"
    )


def read_array(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the one example that an `.npy` file holds.

    Raises:
        DataError: As `open_array`, and if it holds more than one, or numbers that are not finite.
    """
    values, _ = open_array(path, shape)
    if len(values) != 1 or not np.isfinite(values).all():
        raise DataError(
            f"{path} must hold finite numbers of the shape {shape}. Received: "
            + (f"{len(values)} examples" if len(values) != 1 else "values that are not finite")
        )
    one: NDArray[np.float32] = values[0].astype(np.float32)
    return one


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
        if self.dataset.kind.whole:
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
        whole = self.dataset.kind.whole
        return Chunk(
            {} if whole else self.dataset.inputs(chosen),
            [f"{self.dataset.card.name}:{position}" for position in chosen],
            [None] * len(chosen),
            truth=self.dataset.targets(chosen).tolist() if self.dataset.card.task.classes else None,
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
    if get_kind(card.kind).bounded:
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


ARRAY = ".npy"


def files_below(
    folder: Path, card: DatasetCard | None
) -> tuple[list[str], list[str], list[Unread]]:
    """Return the files of the wanted sort below a folder, the others, and what cannot be listed.

    Names that begin with a dot are passed over. Paths come as text: a `Path` takes five times the
    memory, and there may be millions. They are in the order of paths, folder by folder.

    Args:
        folder: Where to look.
        card: Of the data that the model learnt; None where any model's files are wanted.

    Raises:
        ConfigError: If there is none of the wanted sort, though all of it could be listed.
    """
    extensions = _extensions(card)
    wanted: list[str] = []
    others: list[str] = []
    closed: list[Unread] = []

    def note(error: OSError) -> None:
        closed.append(Unread(input=str(error.filename), reason=f"{error.strerror}."))

    for path in _walk(folder, note):
        (wanted if _extension(path) in extensions else others).append(path)
    for found in (wanted, others):
        found.sort(key=lambda path: path.replace(os.sep, "\0"))
    if not wanted and not closed:
        raise ConfigError(
            f"The folder {folder} must hold {_sort(card)}. Received: {len(others)} other files"
            + (f", {shown(others[0])} among them" if others else "")
        )
    return wanted, others, closed


def check_folder(folder: Path, card: DatasetCard | None) -> None:
    """Refuse a folder that `files_below` would refuse; one file that is wanted is enough to tell.

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


def _sort(card: DatasetCard | None) -> str:
    """Return the files that are searched for, in words."""
    if card is None:
        return "pictures, or .npy files for a model of curves or volumes"
    return (
        "pictures"
        if get_kind(card.kind).file == "picture"
        else f".npy files, for a model of {card.kind}"
    )


@dataclass
class Inputs:
    """What to predict.

    Attributes:
        sources: In the order in which they were named; a folder's files sorted.
        unread: Files that do not fit.
        skipped: Files of folders that are of another sort.
        notes: What is odd about an input.
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


@dataclass(frozen=True)
class Named:
    """What one word of INPUT names.

    Attributes:
        sort: Which of the three.
        place: The path, of files and folders.
        dataset: The dataset, and the part of it.
    """

    word: str
    sort: Literal["file", "dataset", "folder"]
    place: Path
    dataset: tuple[str, str]


def named(settings: Settings, given: Sequence[str]) -> list[Named]:
    """Return what INPUTs name; neither a store nor a model is needed to tell.

    A file that is there goes before a dataset of the same name, and that before a folder.

    Raises:
        ConfigError: If one of them names nothing.
    """
    found = []
    for word in dict.fromkeys(given):
        name, _, part = word.partition(":")
        place = Path(word).expanduser()
        sort: Literal["file", "dataset", "folder"]
        if place.is_file():
            sort = "file"
        elif name in settings.datasets:
            sort = "dataset"
        elif place.is_dir():
            sort = "folder"
        else:
            raise ConfigError(
                "INPUT must be a file or folder that is there, DATASET, DATASET:SPLIT or "
                f"DATASET:INDEX. Received: {word!r}."
                + ("" if Path(name).suffix else nearest(name, settings.datasets))
            )
        found.append(Named(word, sort, place, (name, part)))
    return found


def find_inputs(
    project: Project,
    settings: Settings,
    version: Version,
    card: DatasetCard,
    given: Sequence[str],
    *,
    tell: Tell = silent,
) -> Inputs:
    """Return the sources that INPUTs name.

    A file that is named twice counts once.

    Args:
        settings: In the profile that the version was trained in.
        version: Version that will predict.
        card: Of the data that it learnt.
        given: Files, folders, `DATASET`, `DATASET:SPLIT` or `DATASET:INDEX`.

    Raises:
        ConfigError: If one of them names nothing, or nothing that the model reads.
    """
    found = Inputs()
    files: list[str] = []
    seen: set[bytes] = set()
    twice: list[str] = []

    def take(path: str) -> None:
        # Pictures that follow each other are one source, whose chunks are full.
        real = hashlib.blake2b(os.fsencode(os.path.realpath(path)), digest_size=16).digest()
        if real in seen:
            twice.append(path)
            return
        seen.add(real)
        files.append(path)

    def close() -> None:
        add_files(found, files, card, photo_size(settings, version))
        files.clear()

    for one in named(settings, given):
        if one.sort == "dataset":
            close()
            tell("read", f"dataset {one.word}")
            name, part = one.dataset
            dataset = dataset_for(project, settings, version, name, card, tell=tell)
            chosen = positions(dataset, part)
            found.sources.append(DatasetPart(dataset, chosen))
            found.notes.extend(_learnt(dataset, chosen, card))
            continue
        refuse_files(card, version, one.word)
        if one.sort == "file":
            take(str(one.place))
            continue
        tell("read", f"folder {one.word}")
        wanted, others, closed = files_below(one.place, card)
        found.skipped.extend(map(shown, others))
        found.unread.extend(closed)
        for path in wanted:
            take(path)
    close()
    if twice:
        found.notes.append(
            f"{shown(twice[0])}{f' and {len(twice) - 1:,} more' if len(twice) > 1 else ''}: the "
            "same file as another INPUT, or a link to it; predicted once."
        )
    return found


def _learnt(dataset: Dataset, chosen: NDArray[np.intp], card: DatasetCard) -> list[str]:
    """Return a note on examples that the model learnt from, or may have: few of them are wrong."""
    name = dataset.card.name
    if dataset.card.digest == card.digest:
        count = int(np.isin(chosen, dataset.indices("train")).sum())
        if count:
            return [
                f"{name}: {count:,} of {len(chosen):,} examples are of the train split, which the "
                "model learnt; its answers to them say little."
            ]
    elif name == card.name:
        return [
            f"data/{name} is another one than the model learnt, which may have had some of these "
            "examples for training."
        ]
    return []


def refuse_files(card: DatasetCard, version: Version, word: str) -> None:
    """Refuse files for a model of graphs.

    Raises:
        ConfigError: If it is one.
    """
    if get_kind(card.kind).file is None:
        raise ConfigError(
            f"{version.name} reads graphs, which come as a dataset: {card.name}, or "
            f"{card.name}:test. Received: {word}"
        )


def add_files(
    found: Inputs, files: Sequence[str], card: DatasetCard, size: tuple[int, int]
) -> None:
    """Append sources for files: runs of pictures, and each array."""
    pictures: list[str] = []
    marks = bytearray()

    def close() -> None:
        if pictures:
            shape = example_shape(card, size)
            found.sources.append(Pictures(tuple(pictures), bytes(marks), card, shape))
            pictures.clear()
            marks.clear()

    for path in files:
        try:
            if Path(path).suffix.lower() == ARRAY:
                source, notes = array_file(Path(path), card, example_shape(card, size))
                close()
                found.sources.append(source)
                found.notes.extend(notes)
            elif get_kind(card.kind).file == "picture":
                marks += mark_of(path)
                pictures.append(path)
            else:
                raise DataError(
                    f"{path} must be an .npy array, for a model of {card.kind}. Received: "
                    f"{Path(path).suffix or 'no extension'}"
                )
        except (DataError, OSError) as error:
            reason = str(error).removeprefix(f"{path} ")
            found.unread.append(Unread(input=shown(path), reason=reason))
    close()


def positions(dataset: Dataset, part: str) -> NDArray[np.intp]:
    """Return the positions that `DATASET:PART` means.

    Raises:
        ConfigError: If there are none.
    """
    if not part:
        return np.arange(dataset.count)
    for split in SPLITS:
        if part == split and len(chosen := dataset.indices(split)):
            return chosen
    if re.fullmatch(r"\d+", part) and int(part) < dataset.count:
        return np.array([int(part)])
    raise ConfigError(
        f"Behind {dataset.card.name!r} must stand a split with examples ("
        f"{', '.join(name for name in SPLITS if len(dataset.indices(name)))}), or a position from "
        f"0 to {dataset.count - 1}. Received: {part!r}"
    )
