"""Explaining one input, or a dataset, with any registered model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow import steps
from chapterflow.config import load_settings
from chapterflow.data.card import SPLITS, Dataset, DatasetCard, open_dataset
from chapterflow.data.photo_files import open_photo
from chapterflow.environment import Project, load_tensorflow
from chapterflow.errors import ConfigError, DataError
from chapterflow.models.parts.registry import get_model, model_names
from chapterflow.records import Tell, silent
from chapterflow.settings import Settings, nearest
from chapterflow.tracking import runs
from chapterflow.tracking.registry import Version, find_version, read_version
from chapterflow.tracking.session import Session

if TYPE_CHECKING:
    import keras

    from chapterflow.explain.explanation import Explanation

GRAPHS = ("graphs", "citations")


@dataclass(frozen=True)
class Explained:
    """What was explained, and how.

    Attributes:
        version: The registered version that was asked.
        what: The input, in words.
        notes: What was done to the input so that the model takes it.
    """

    version: Version
    what: str
    notes: list[str]
    explanation: Explanation


def explain_with(
    project: Project,
    settings: Settings,
    model: str,
    given: str,
    folder: Path,
    *,
    methods: Sequence[str] | None = None,
    layer: str | None = None,
    target: str | None = None,
    tell: Tell = silent,
) -> Explained:
    """Explain what a registered model answers to an input of the user's.

    Args:
        model: `NAME`, `NAME/VERSION` or `NAME@ALIAS` in the registry; the newest version of a name
            alone.
        given: A picture, an `.npy` array of one example, `DATASET:INDEX` (a position in the
            dataset), or `DATASET` for its probes.
        folder: Where the pictures go.
        methods: Of attribution; all that the model allows unless given.
        layer: For `grad-cam`.
        target: Name of the class to explain; the one that the model says unless given.

    Raises:
        ConfigError: If the model, the input or an option is not there.
        DataError: If the input cannot be read, or is not of the form that the model takes.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out must be a folder. Received: the file {folder}")
    with Session(project, settings) as session:
        version = find_version(session.client, model)
        tell("explain", f"loading {version.told()}")
        load_tensorflow()
        network, card = read_version(session.client, version)
        profile = session.client.get_run(version.run_id).data.tags.get(runs.PROFILE)
    if profile not in (None, settings.profile):
        # The size of photos is that of the profile which the version was trained in.
        settings = load_settings(project.params, profile=profile)
    title = f"{version.told()}"
    name, _, index = given.partition(":")
    place = Path(given).expanduser()
    if place.is_file():
        inputs, notes = _read(place, card, _photo_size(settings, version))
        what = place.name
    elif name in settings.datasets:
        dataset = _dataset(project, settings, version, name, card, tell)
        if not index:
            _refuse_options(methods=methods, layer=layer, target=target)
            return _explain_dataset(version, network, dataset, folder, settings.seed, title, tell)
        position = _position(index, dataset)
        inputs, notes = dataset.inputs(np.array([position])), []
        code = int(dataset.split[position])
        split = SPLITS[code] if code < len(SPLITS) else "no"
        what = f"example {position} of {name} ({split} split)"
        if card.classes:
            what += f", class {card.classes[int(dataset.labels[position])]}"
    elif place.exists():
        raise ConfigError(f"INPUT must be one file, or a dataset. Received: the folder {given}")
    else:
        raise ConfigError(
            "INPUT must be a picture or .npy file that is there, DATASET or DATASET:INDEX. "
            f"Received: {given!r}."
            + ("" if Path(name).suffix else nearest(name, settings.datasets))
        )
    if card.kind in GRAPHS:
        raise ConfigError(
            f"{version.name} reads graphs: they are explained as a dataset, `chapterflow explain "
            f"{model} {card.name}`. Received: {given!r}"
        )
    from chapterflow.explain.explain import explain_input

    tell("explain", what)
    found = explain_input(
        network,
        inputs,
        card.classes,
        card.value_max,
        folder,
        methods=methods,
        layer=layer,
        target=target,
        title=f"{title}: {what}",
        seed=settings.seed,
    )
    return Explained(version, what, notes, found)


def _dataset(
    project: Project,
    settings: Settings,
    version: Version,
    name: str,
    card: DatasetCard,
    tell: Tell,
) -> Dataset:
    """Return a dataset as the model reads it."""
    steps.prepare(project, settings, name, tell=tell)
    dataset = open_dataset(project.data / name)
    wanted = (card.kind, card.classes)
    received = (dataset.card.kind, dataset.card.classes)
    if wanted != received:
        raise ConfigError(
            f"{version.told()} must be shown data like those that it learnt: {wanted[0]} of "
            f"{len(wanted[1])} classes ({card.name}). Received: {received[0]} of "
            f"{len(received[1])} classes ({name})"
        )
    if version.name in model_names():
        from chapterflow.training.pipeline import sized_for

        return sized_for(get_model(version.name), settings.params(version.name), dataset)
    return dataset


def _position(index: str, dataset: Dataset) -> int:
    if not re.fullmatch(r"\d+", index) or int(index) >= dataset.count:
        raise ConfigError(
            f"INDEX must be a position from 0 to {dataset.count - 1} in {dataset.card.name}. "
            f"Received: {index!r}"
        )
    return int(index)


def _refuse_options(
    *, methods: Sequence[str] | None, layer: str | None, target: str | None
) -> None:
    """Refuse options that would change nothing: a dataset is explained as runs explain it."""
    given = {"--method": ", ".join(methods or ()), "--layer": layer, "--target": target}
    for option, value in given.items():
        if value:
            raise ConfigError(
                f"{option} is for one input: DATASET is explained by all methods, of the model's "
                f"own answers. Received: {value}"
            )


def _explain_dataset(
    version: Version,
    network: keras.Model,
    dataset: Dataset,
    folder: Path,
    seed: int,
    title: str,
    tell: Tell,
) -> Explained:
    from chapterflow.explain.explain import explain

    found = explain(
        network,
        dataset,
        folder,
        seed=seed,
        title=title,
        tell=lambda detail: tell("explain", detail),
    )
    return Explained(version, f"the probes of {dataset.card.name}", [], found)


def _photo_size(settings: Settings, version: Version) -> tuple[int, int]:
    """Return height and width at which a model was shown photos."""
    from chapterflow.training.pipeline import PHOTO_SIZE

    entry = get_model(version.name) if version.name in model_names() else None
    if entry is None or entry.size is None:
        return PHOTO_SIZE
    return entry.size(settings.params(version.name))


def _read(
    path: Path, card: DatasetCard, photo_size: tuple[int, int]
) -> tuple[NDArray[Any], list[str]]:
    """Return one input `(1, ...)` from a file, and what was done to it."""
    if path.suffix == ".npy":
        return _read_array(path, card), []
    if card.kind not in ("images", "photos"):
        raise ConfigError(
            f"A model of {card.kind} takes an .npy array of one example, or DATASET:INDEX. "
            f"Received: {path.name}"
        )
    facts: dict[str, Any] = {}
    image = open_photo(path, facts=facts)
    return _fitted(image, facts, card, photo_size)


def _fitted(
    image: Any, facts: dict[str, Any], card: DatasetCard, photo_size: tuple[int, int]
) -> tuple[NDArray[Any], list[str]]:
    from PIL import Image

    notes = []
    height, width, channels = card.shape
    if height is None or width is None:  # photos of any size
        height, width = photo_size
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
    return pixels.reshape(1, height, width, channels or 3), notes


def _read_array(path: Path, card: DatasetCard) -> NDArray[Any]:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} must be an .npy array of numbers. Received: {error}") from None
    shape = tuple(card.shape)
    if values.shape[:1] == (1,) and values.ndim == len(shape) + 1:
        values = values[0]
    if values.ndim == len(shape) - 1 and shape[-1] == 1:
        values = values[..., np.newaxis]
    fits = len(values.shape) == len(shape) and all(
        wanted in (None, side) for wanted, side in zip(shape, values.shape, strict=True)
    )
    if not fits or values.dtype.kind not in "uif" or not np.isfinite(values).all():
        raise DataError(
            f"{path} must hold finite numbers of the shape {shape}. "
            f"Received: {values.dtype} {values.shape}"
        )
    found: NDArray[Any] = values[np.newaxis].astype(np.float32)
    return found
