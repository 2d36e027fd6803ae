"""Explaining one input, or a dataset, with any registered model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.config.settings import Settings
from chapterflow.environment import Project, load_tensorflow
from chapterflow.errors import ConfigError, nearest
from chapterflow.kinds.dataset import SPLITS, Dataset, DatasetCard
from chapterflow.kinds.kind import get_kind
from chapterflow.predict.inputs import (
    dataset_for,
    example_shape,
    photo_size,
    read_array,
    read_picture,
    settings_of,
)
from chapterflow.tracking.session import Session
from chapterflow.tracking.versions import OnVersion, Version, find_version, ignore, read_version
from chapterflow.types import Tell, silent

if TYPE_CHECKING:
    import keras

    from chapterflow.explain.explanation import Explanation


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
    on_version: OnVersion = ignore,
    tell: Tell = silent,
) -> Explained:
    """Explain what a registered model answers to an input of the user's.

    Args:
        model: `NAME`, `NAME/VERSION` or `NAME@ALIAS` in the registry.
        given: A picture, an `.npy` array of one example, `DATASET:INDEX` (a position in the
            dataset), or `DATASET` for its probes.
        folder: Where the pictures go.
        methods: Of attribution; all that the model allows unless given.
        layer: For `grad-cam`.
        target: Name of the class to explain; the one that the model says unless given.
        on_version: Called with the version that `model` names.

    Raises:
        ConfigError: If the model, the input or an option is not there.
        DataError: If the input cannot be read, or is not of the form that the model takes.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out must be a folder. Received: the file {folder}")
    with Session(project, settings) as session:
        version = find_version(session.client, model)
        on_version(version)
        tell("explain", f"loading {version}")
        load_tensorflow()
        network, card = read_version(session.client, version)
        settings = settings_of(project, settings, session, version)
    title = str(version)
    name, _, index = given.partition(":")
    place = Path(given).expanduser()
    if place.is_file():
        inputs, notes = _read(place, card, photo_size(settings, version))
        what = place.name
    elif name in settings.datasets:
        dataset = dataset_for(project, settings, version, name, card, tell=tell)
        if not index:
            _refuse_options(methods=methods, layer=layer, target=target)
            return _explain_dataset(version, network, dataset, folder, settings.seed, title, tell)
        position = _position(index, dataset)
        inputs, notes = dataset.inputs(np.array([position])), []
        code = int(dataset.split[position])
        split = SPLITS[code] if code < len(SPLITS) else "no"
        what = f"example {position} of {name} ({split} split)"
        if card.task.classes:
            what += f", class {card.classes[int(dataset.labels[position])]}"
    elif place.exists():
        raise ConfigError(f"INPUT must be one file, or a dataset. Received: the folder {given}")
    else:
        raise ConfigError(
            "INPUT must be a picture or .npy file that is there, DATASET or DATASET:INDEX. "
            f"Received: {given!r}."
            + ("" if Path(name).suffix else nearest(name, settings.datasets))
        )
    if get_kind(card.kind).file is None:
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
    from chapterflow.explain.untrained import Untrained

    found = explain(
        network,
        dataset,
        folder,
        seed=seed,
        title=title,
        tell=lambda detail: tell("explain", detail),
    )
    if found.refusal:
        raise Untrained(found.refusal)
    return Explained(version, f"the probes of {dataset.card.name}", [], found)


def _read(path: Path, card: DatasetCard, size: tuple[int, int]) -> tuple[NDArray[Any], list[str]]:
    """Return one input `(1, ...)` from a file, and what was done to it."""
    if path.suffix == ".npy":
        return read_array(path, example_shape(card, size))[np.newaxis], []
    if get_kind(card.kind).file != "picture":
        raise ConfigError(
            f"A model of {card.kind} takes an .npy array of one example, or DATASET:INDEX. "
            f"Received: {path.name}"
        )
    picture, notes = read_picture(path, card, size)
    return picture[np.newaxis], notes
