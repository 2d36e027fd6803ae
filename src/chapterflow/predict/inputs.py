"""INPUT on a command line: parsing it, and converting it to the input of a model."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from chapterflow.config.load import load_settings
from chapterflow.config.settings import Settings
from chapterflow.data.build import open_whole, prepare
from chapterflow.environment import Project
from chapterflow.errors import ConfigError, DataError, nearest
from chapterflow.files import open_regular
from chapterflow.kinds.dataset import SPLITS, Dataset, DatasetCard, get_kind, shape_text
from chapterflow.kinds.likeness import Likeness
from chapterflow.kinds.photos import few_bits, open_photo
from chapterflow.models.catalog import get_model, model_names
from chapterflow.shipped.answers import DESCRIPTION
from chapterflow.tracking import runs
from chapterflow.tracking.versions import Version, card_of, model_file, model_folder
from chapterflow.training.batches import PHOTO_SIZE
from chapterflow.types import Tell, silent

if TYPE_CHECKING:
    import keras
    from mlflow import MlflowClient

#: Extension of files that hold arrays.
ARRAY = ".npy"


@dataclass(frozen=True)
class Input:
    """What one INPUT names.

    Attributes:
        word: The INPUT as it was written.
        path: The file or folder.
        dataset: Name of the dataset.
        part: Part of the dataset, a split or a position; empty for all of it.
    """

    word: str
    sort: Literal["file", "folder", "dataset"]
    path: Path
    dataset: str = ""
    part: str = ""


def parse_input(settings: Settings, word: str, *, single: bool = False) -> Input:
    """Parse an INPUT, without reading files, stores or models.

    A file takes precedence over a dataset of the same name, and a dataset over a folder.

    Args:
        single: Whether the command takes one example, or the probes of a dataset: no folder and no
            split.

    Raises:
        ConfigError: If it names nothing that the command takes.
    """
    path = Path(word).expanduser()
    dataset, _, part = word.partition(":")
    if path.is_file():
        return Input(word, "file", path)
    known = dataset in settings.datasets
    if known and not (single and part in SPLITS):
        return Input(word, "dataset", path, dataset, part)
    if path.is_dir() and not single:
        return Input(word, "folder", path)
    accepted = (
        "an existing file, DATASET:INDEX for one example, or DATASET for its probes"
        if single
        else "an existing file or folder, DATASET, DATASET:SPLIT or DATASET:INDEX"
    )
    if known or path.is_dir():
        fault = f"the {'split' if known else 'folder'} {word}"
    else:
        fault = f"{word!r}."
        fault += "" if Path(dataset).suffix else nearest(dataset, settings.datasets)
    raise ConfigError(f"INPUT must be {accepted}. Received: {fault}")


def parse_inputs(settings: Settings, words: Sequence[str]) -> list[Input]:
    """Parse several INPUTs; repeated ones count once.

    Raises:
        ConfigError: If one of them names nothing.
    """
    return [parse_input(settings, word) for word in dict.fromkeys(words)]


def positions(dataset: Dataset, part: str) -> NDArray[np.intp]:
    """Return the positions of the examples in a part of a dataset: a split, a position, or all.

    Raises:
        ConfigError: If there is no such part, or it has no examples.
    """
    if not part:
        return np.arange(dataset.count)
    for split in SPLITS:
        if part == split and len(chosen := dataset.indices(split)):
            return chosen
    if re.fullmatch(r"\d+", part) and int(part) < dataset.count:
        return np.array([int(part)])
    splits = ", ".join(split for split in SPLITS if len(dataset.indices(split)))
    name = dataset.card.name
    raise ConfigError(
        f"`{name}:` must be followed by a split with examples ({splits}), or by a position from 0 "
        f"to {dataset.count - 1}. Received: {part!r}"
    )


def settings_of(
    project: Project, settings: Settings, client: MlflowClient, version: Version
) -> Settings:
    """Return the settings in the profile that a version was trained in: it sets the photo size."""
    profile = client.get_run(version.run_id).data.tags.get(runs.PROFILE)
    if profile in (None, settings.profile):
        return settings
    return load_settings(project.params, profile=profile)


def photo_size(settings: Settings, version: Version) -> tuple[int, int]:
    """Return height and width of the photos that a version reads."""
    entry = get_model(version.model) if version.model in model_names() else None
    if entry is None or entry.size is None:
        return PHOTO_SIZE
    return entry.size(settings.params(version.model))


def example_shape(card: DatasetCard, size: tuple[int, int]) -> tuple[int, ...]:
    """Return the shape of one example in a file, as the model reads it; () if no file can hold it.

    Args:
        card: Of the data that the model was trained on.
        size: Height and width of photos, whose files have any size.
    """
    kind = get_kind(card.kind)
    if kind.file is None:
        return ()
    sides = (*size, 3) if kind.resized else card.shape
    return tuple(int(side) for side in sides if side is not None)


def dataset_for(
    project: Project,
    settings: Settings,
    version: Version,
    name: str,
    card: DatasetCard,
    *,
    tell: Tell = silent,
) -> Dataset:
    """Return a dataset as a version reads it; fetch or build it first if necessary.

    Args:
        settings: In the profile that the version was trained in.
        card: Of the data that the version was trained on.

    Raises:
        ConfigError: As `fits`.
        DataError: If its files do not match its card.
    """
    params, profile = settings.datasets[name], settings.profile_datasets()
    prepare(project, name, params, profile=profile, tell=tell)
    dataset = open_whole(project.data / name)
    fits(version, card, dataset.card)
    return dataset.sized(*photo_size(settings, version))


def fits(version: Version, card: DatasetCard, other: DatasetCard) -> None:
    """Refuse a dataset that differs in form from the one that a version was trained on.

    Args:
        card: Of the data that the version was trained on.
        other: Of the dataset that it is to read.

    Raises:
        ConfigError: If kind, classes, shape or range of values differ.
    """
    if (card.kind, card.classes) != (other.kind, other.classes):
        raise ConfigError(
            f"{version} reads {card.kind} of {len(card.classes)} classes ({card.name}). "
            f"Received: {other.kind} of {len(other.classes)} classes ({other.name})"
        )
    if not _same_shape(card.shape, other.shape):
        raise ConfigError(
            f"{version} reads {card.kind} of {shape_text(card.shape)} ({card.name}). "
            f"Received: {shape_text(other.shape)} ({other.name})"
        )
    if get_kind(card.kind).bounded and card.value_max != other.value_max:
        # The model divides by the range of its own data, so brightness would change.
        raise ConfigError(
            f"{version} reads raw values from 0 to {card.value_max:g} ({card.name}). "
            f"Received: 0 to {other.value_max:g} ({other.name})"
        )


def _same_shape(shape: list[int | None], other: list[int | None]) -> bool:
    return len(shape) == len(other) and all(
        None in sides or sides[0] == sides[1] for sides in zip(shape, other, strict=True)
    )


def check_files_possible(card: DatasetCard, version: Version, word: str) -> None:
    """Refuse files and folders for a model whose examples no file can hold.

    Raises:
        ConfigError: If it is such a model.
    """
    if get_kind(card.kind).file is None:
        raise ConfigError(
            f"{version.name} reads {card.kind}, which come as a dataset: {card.name}, or "
            f"{card.name}:test. Received: {word}"
        )


def check_extension(path: Path, card: DatasetCard) -> None:
    """Refuse a file that is not of the format that a model reads.

    Raises:
        DataError: If the model reads arrays, and the file is none.
    """
    if path.suffix.lower() != ARRAY and get_kind(card.kind).file != "picture":
        raise DataError(
            f"{path} must be an .npy array, because the model reads {card.kind}. Received: "
            f"{path.suffix or 'no extension'}"
        )


def read_example(
    path: Path, card: DatasetCard, size: tuple[int, int]
) -> tuple[NDArray[np.float32], list[str]]:
    """Return the one example in a file as a batch `(1, ...)`, and what was changed to make it fit.

    Args:
        path: A picture, or an `.npy` array of one example.
        card: Of the data that the model was trained on.
        size: Height and width of the photos that the model reads.

    Raises:
        DataError: If it cannot be read, or does not fit the model; the message names the file.
    """
    check_extension(path, card)
    if path.suffix.lower() != ARRAY:
        picture, notes = read_picture(path, card, size)
        return picture[np.newaxis], notes
    shape = example_shape(card, size)
    values, _ = open_array(path, shape)
    if len(values) != 1 or not np.isfinite(values).all():
        raise DataError(
            f"{path} must hold finite numbers of the shape {shape}. Received: "
            + (f"{len(values)} examples" if len(values) != 1 else "values that are not finite")
        )
    return np.asarray(values, np.float32), []


def read_picture(
    path: Path, card: DatasetCard, size: tuple[int, int]
) -> tuple[NDArray[np.float32], list[str]]:
    """Return a picture as one input `(height, width, channels)`, and what was changed in it.

    Raises:
        DataError: If it cannot be read; the message names the file.
    """
    from PIL import Image

    facts: dict[str, Any] = {}
    height, width, channels = example_shape(card, size)
    image = open_photo(path, size=(width, height), facts=facts)
    notes = []
    if channels == 1:
        image = image.convert("L")
        if facts["mode"] not in ("1", "L", "LA"):
            notes.append("made grey")
    if image.size != (width, height):
        notes.append(f"resized from {facts['width']}x{facts['height']} to {width}x{height}")
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    if few_bits(facts["largest"]):
        notes.append(f"dark: its 16-bit values use {facts['largest'].bit_length()} bits only")
    pixels = np.asarray(image, np.float32)
    if card.value_max != 255:
        notes.append(f"scaled from 0-255 to 0-{card.value_max:g}")
        pixels = pixels * np.float32(card.value_max / 255)
    return pixels.reshape(height, width, channels), notes


def open_array(path: Path, shape: tuple[int, ...]) -> tuple[NDArray[Any], bool]:
    """Return an `.npy` file as a memory-mapped batch `(n, *shape)`, and whether it is a batch.

    It may hold one example or a batch of them, with or without a last axis of 1.

    Args:
        shape: Of one example.

    Raises:
        DataError: If it cannot be read, or does not hold numbers of that shape; the message names
            the file.
    """
    try:
        open_regular(path).close()
        # Not `np.load`, which takes files of other formats for pickles or archives.
        values: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except DataError:
        raise
    except Exception as error:  # A damaged header may raise nearly anything.
        reason = str(error).split("\n")[0][:200]
        raise DataError(f"{path} must be an .npy array of numbers. Received: {reason}") from None
    if values.dtype.kind in "uif":
        for example in (shape, shape[:-1] if shape[-1] == 1 else shape):
            if values.shape == example:
                return values.reshape(1, *shape), False
            if values.shape[1:] == example:
                return values.reshape(len(values), *shape), True
    raise DataError(
        f"{path} must hold finite numbers of the shape {shape}, or (n, "
        f"{', '.join(map(str, shape))}) for n examples. Received: {values.dtype} {values.shape}"
    )


def read_version(
    client: MlflowClient, version: Version
) -> tuple[keras.Model, DatasetCard, Likeness | None]:
    """Return a version's model, the card of the data that it learnt, and their likeness.

    The likeness is None for graphs, and for versions that were logged without it.

    Raises:
        StoreError: If its files are not in the store, or differ from those that were logged.
    """
    from chapterflow.training.batches import load_model

    card = card_of(client, version)
    folder = model_folder(client, version)
    return load_model(model_file(client, version, folder)), card, read_likeness(folder)


def read_likeness(folder: Path) -> Likeness | None:
    """Return what a logged model's training data look like, from its description, if it has one."""
    path = folder / DESCRIPTION
    about = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return Likeness.read(about.get("likeness"))


def inverted(values: Any, card: DatasetCard) -> Any:
    """Return inputs with light and dark exchanged.

    Raises:
        ConfigError: If the values of the model's data have no bounds.
    """
    if not get_kind(card.kind).bounded:
        raise ConfigError(
            "--invert is for pictures and volumes, whose values lie between 0 and a largest one. "
            f"Received: a model of {card.kind}"
        )
    return np.float32(card.value_max) - values
