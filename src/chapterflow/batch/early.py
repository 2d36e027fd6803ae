"""What is wrong with a batch and can be told at once, before Prefect and TensorFlow start."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from chapterflow.batch.arrays import BLOCK_BYTES
from chapterflow.batch.folders import ARRAY, check_folder
from chapterflow.batch.inputs import (
    Inputs,
    Named,
    add_files,
    named,
    positions,
    refuse_files,
)
from chapterflow.batch.parts import RUN_KEY
from chapterflow.batch.sources import Pictures, Unread, shown
from chapterflow.data.card import CARD, DatasetCard, open_dataset, read_card
from chapterflow.data.photo_files import EXTENSIONS, open_photo
from chapterflow.data.sources import recipe
from chapterflow.environment import Project
from chapterflow.errors import ConfigError, DataError
from chapterflow.fitted import fits, photo_size, settings_of
from chapterflow.settings import Settings
from chapterflow.tracking.registry import CHAMPION, Version, card_of, find_version
from chapterflow.tracking.session import Session

#: More files than these are not looked into beforehand.
FEW = 16
#: Characters of all INPUTs: Prefect refuses parameters of half a megabyte.
MOST_CHARACTERS = 400_000


def check_batch(
    project: Project, settings: Settings, model: str, given: Sequence[str], out: Path
) -> None:
    """Refuse a batch that cannot come to anything, in the words of the batch itself.

    What needs no tracking store is told first. Large arrays, and what lies in folders, are looked
    into only when the batch reads them.

    Raises:
        ConfigError: If the model, an input or the place of the result is not there.
        DataError: If none of a few files can be read.
    """
    words = named(settings, given)
    check_words(words)
    check_out(out)
    with Session(project, settings) as session:
        version = find_version(session.client, model, default=CHAMPION)
        card = card_of(session.client, version)
        settings = settings_of(project, settings, session, version)
    check_inputs(project, settings, version, card, words)


def check_out(out: Path) -> None:
    """Refuse a place where no file can be written; nothing is left there.

    Raises:
        ConfigError: If it is no file, or the folder around it cannot be made or written.
    """
    if out.is_dir():
        raise ConfigError(f"--out must be a file, such as {out}/predictions.parquet. Received: the "
                          f"folder {out}")  # fmt: skip
    if out.is_file() and out.stat().st_size and not _is_table(out):
        raise ConfigError(
            "--out must be a new file or an older table of predictions, which is replaced. "
            f"Received: {out}, which is another file"
        )
    if out.exists() and not out.is_file():
        raise ConfigError(f"--out must be a file. Received: {out}, a device or pipe")
    if not _is_text(str(out)):
        raise ConfigError(f"--out must be a name in UTF-8. Received: {shown(out)}")
    folder = next(above for above in out.absolute().parents if os.path.lexists(above))
    try:
        # Permissions alone do not tell: a file system may be read-only, or take no files at all.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"--out must be in a folder that can be written. Received: {out} "
            f"({error.strerror or error})"
        ) from None


def check_words(words: Sequence[Named]) -> None:
    """Refuse what no model reads, whichever is asked for.

    Raises:
        ConfigError: If a folder holds neither a picture nor an array, or the words are too many.
        DataError: If all are files, few, and none is either.
    """
    length = sum(len(json.dumps(word.word)) + 2 for word in words)
    if length > MOST_CHARACTERS:
        raise ConfigError(
            f"INPUTs must be {MOST_CHARACTERS:,} characters at most; name folders in place of "
            f"their files. Received: {len(words):,} INPUTs of {length:,} characters"
        )
    for word in words:
        if not _is_text(word.word):
            raise ConfigError(
                "INPUT must be a name in UTF-8; name the folder of the file instead. "
                f"Received: {shown(word.word)}"
            )
        if word.sort == "folder":
            check_folder(word.place, None)
    unread = []
    for word in words:
        if len(words) > FEW or word.sort != "file" or word.place.suffix.lower() == ARRAY:
            return
        try:
            open_photo(word.place)
        except DataError as error:
            ending = word.place.suffix.lower()
            reason = (
                str(error).removeprefix(f"{word.place} ")
                if ending in EXTENSIONS
                else "must be a JPEG, PNG, BMP, GIF or WebP picture, or an .npy array. Received: "
                f"{ending or 'no extension'}"
            )
            unread.append(Unread(input=shown(word.place), reason=reason))
        else:
            return
    raise nothing_read(unread)


def check_inputs(
    project: Project,
    settings: Settings,
    version: Version,
    card: DatasetCard,
    words: Sequence[Named],
) -> None:
    """Refuse inputs of which one is sure not to be what the model reads, or none can be read.

    Args:
        settings: In the profile that the version was trained in.
        card: Of the data that it learnt.

    Raises:
        ConfigError: If one of them is nothing that the model reads.
        DataError: If all are files, few, and none can be read.
    """
    for word in words:
        if word.sort == "dataset":
            _check_dataset(project, settings, version, card, word)
            continue
        refuse_files(card, version, word.word)
        if word.sort == "folder":
            check_folder(word.place, card)
    if len(words) <= FEW and all(word.sort == "file" for word in words):
        _check_files([word.place for word in words], card, photo_size(settings, version))


def nothing_read(unread: Sequence[Unread]) -> DataError:
    """Return the error of a batch of which nothing could be read."""
    told = "\n".join(f"  {one.input}: {one.reason}" for one in unread[:10])
    more = f"\n  and {len(unread) - 10} more" if len(unread) > 10 else ""
    return DataError(f"None of the inputs could be read; nothing was written.\n{told}{more}")


def _check_dataset(
    project: Project, settings: Settings, version: Version, card: DatasetCard, word: Named
) -> None:
    """Check a dataset that is here; one that must be built or fetched first is told about later."""
    name, part = word.dataset
    folder = project.data / name
    if (folder / CARD).is_file() and read_card(folder).recipe == recipe(settings.datasets[name]):
        dataset = open_dataset(folder)
        fits(version, card, dataset.card)
        positions(dataset, part)


def _check_files(files: Sequence[Path], card: DatasetCard, size: tuple[int, int]) -> None:
    for path in files:
        if path.suffix.lower() == ARRAY and path.stat().st_size > BLOCK_BYTES:
            return
    found = Inputs()
    add_files(found, [str(path) for path in files], card, size)
    for source in found.sources:
        if not isinstance(source, Pictures):
            return
        chunk = source.read(0)
        found.unread.extend(chunk.unread)
        if chunk.names:
            return
    raise nothing_read(found.unread)


def _is_table(path: Path) -> bool:
    """Tell whether a file is a result of `chapterflow predict`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return RUN_KEY.encode() in (pq.read_metadata(path).metadata or {})
    except (pa.ArrowException, OSError):
        return False


def _is_text(name: str) -> bool:
    """Tell whether a name is text: stores refuse bytes that are no UTF-8."""
    return shown(name) == name
