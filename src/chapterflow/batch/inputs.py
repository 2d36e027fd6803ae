"""What INPUT names -> sources of examples in a stable order, and what is left out."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from chapterflow.batch.arrays import array_file
from chapterflow.batch.folders import ARRAY, files_below
from chapterflow.batch.sources import (
    DatasetPart,
    Pictures,
    Source,
    Unread,
    mark_of,
    shown,
)
from chapterflow.data.card import SPLITS, Dataset, DatasetCard
from chapterflow.environment import Project
from chapterflow.errors import ConfigError, DataError
from chapterflow.fitted import GRAPHS, PICTURES, dataset_for, example_shape, photo_size
from chapterflow.records import Tell, silent
from chapterflow.settings import Settings, nearest
from chapterflow.tracking.registry import Version


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
    if card.kind in GRAPHS:
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
            elif card.kind in PICTURES:
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
