"""Files and datasets of the user's, brought to the form that a registered model reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chapterflow import steps
from chapterflow.config import load_settings
from chapterflow.data.build import open_whole
from chapterflow.data.card import Dataset, DatasetCard, shape_text
from chapterflow.data.photo_files import open_photo
from chapterflow.environment import Project
from chapterflow.errors import ConfigError, DataError
from chapterflow.models.parts.registry import get_model, model_names
from chapterflow.records import Tell, silent
from chapterflow.settings import Settings
from chapterflow.tracking import runs
from chapterflow.tracking.registry import Version
from chapterflow.tracking.session import Session

#: Kinds whose examples are pictures: files that Pillow reads become inputs.
PICTURES = ("images", "photos")
#: Kinds whose inputs are several arrays, which no single file holds.
GRAPHS = ("graphs", "citations")


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
        from chapterflow.training.pipeline import sized_for

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
            f"{version.told()} must be shown data like those that it learnt: {card.kind} of "
            f"{len(card.classes)} classes ({card.name}). Received: {shown.kind} of "
            f"{len(shown.classes)} classes ({shown.name})"
        )
    if not _same_shape(card.shape, shown.shape):
        raise ConfigError(
            f"{version.told()} reads {card.kind} of {shape_text(card.shape)} ({card.name}). "
            f"Received: {shape_text(shown.shape)} ({shown.name})"
        )
    if card.kind in (*PICTURES, "volumes") and card.value_max != shown.value_max:
        # The model divides by the range that it learnt, so it would see another brightness.
        raise ConfigError(
            f"{version.told()} reads raw values from 0 to {card.value_max:g} ({card.name}). "
            f"Received: 0 to {shown.value_max:g} ({shown.name})"
        )


def _same_shape(wanted: list[int | None], received: list[int | None]) -> bool:
    return len(wanted) == len(received) and all(
        None in (mine, theirs) or mine == theirs
        for mine, theirs in zip(wanted, received, strict=True)
    )


def photo_size(settings: Settings, version: Version) -> tuple[int, int]:
    """Return height and width at which a model was shown photos."""
    from chapterflow.training.pipeline import PHOTO_SIZE

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
    sides = (*size, 3) if card.kind == "photos" else card.shape
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
