"""The files below a folder that a model reads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from chapterflow.batch.sources import Unread, shown
from chapterflow.data.card import DatasetCard
from chapterflow.data.photo_files import EXTENSIONS
from chapterflow.errors import ConfigError
from chapterflow.fitted import PICTURES

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
    return EXTENSIONS if card.kind in PICTURES else frozenset({ARRAY})


def _sort(card: DatasetCard | None) -> str:
    """Return the files that are searched for, in words."""
    if card is None:
        return "pictures, or .npy files for a model of curves or volumes"
    return "pictures" if card.kind in PICTURES else f".npy files, for a model of {card.kind}"
