"""Explanation of one input, or of the probes of a dataset, by any registered model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chapterflow.config.settings import Settings
from chapterflow.environment import Project, load_tensorflow
from chapterflow.errors import ConfigError
from chapterflow.kinds.dataset import SPLITS, Dataset, get_kind
from chapterflow.predict.inputs import (
    check_files_possible,
    dataset_for,
    inverted,
    parse_input,
    photo_size,
    positions,
    read_example,
    read_version,
    settings_of,
)
from chapterflow.tracking.session import Session
from chapterflow.tracking.versions import OnVersion, Version, find_version, ignore
from chapterflow.types import Tell, silent

if TYPE_CHECKING:
    import keras

    from chapterflow.explain.explanation import Explanation


@dataclass(frozen=True)
class Explained:
    """An explanation, and what it explains.

    Attributes:
        version: The registered version that was explained.
        what: The input, in words.
        notes: What was changed in the input to fit the model.
        unlike: What makes the input unlike the training data; empty if nothing does.
    """

    version: Version
    what: str
    notes: list[str]
    explanation: Explanation
    unlike: str = ""


def explain_with(
    project: Project,
    settings: Settings,
    model: str,
    word: str,
    folder: Path,
    *,
    methods: Sequence[str] | None = None,
    layer: str | None = None,
    target: str | None = None,
    invert: bool = False,
    on_version: OnVersion = ignore,
    tell: Tell = silent,
) -> Explained:
    """Explain the answer of a registered model to an input.

    Args:
        model: `NAME`, `NAME/VERSION` or `NAME@ALIAS` in the registry.
        word: A picture, an `.npy` array of one example, `DATASET:INDEX`, or `DATASET` for its
            probes.
        folder: Where the pictures go.
        methods: Of attribution; by default all that the model allows.
        layer: For `grad-cam`.
        target: Name of the class to explain; by default the one that the model predicts.
        invert: Whether to exchange light and dark in the input.
        on_version: Called with the version that `model` names.

    Raises:
        ConfigError: If the model, the input or an option does not exist.
        DataError: If the input cannot be read, or does not fit the model.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out must be a folder. Received: the file {folder}")
    given = parse_input(settings, word, single=True)
    with Session(project, settings) as session:
        version = find_version(session.client, model)
        on_version(version)
        tell("explain", f"loading {version}")
        load_tensorflow()
        network, card, likeness = read_version(session.client, version)
        settings = settings_of(project, settings, session.client, version)
    if given.sort == "file":
        check_files_possible(card, version, word)
        inputs, notes = read_example(given.path, card, photo_size(settings, version))
        what = given.path.name
    else:
        dataset = dataset_for(project, settings, version, given.dataset, card, tell=tell)
        if not given.part:
            _refuse_options(methods=methods, layer=layer, target=target, invert=invert)
            return _explain_probes(version, network, dataset, folder, settings.seed, tell)
        (position,) = positions(dataset, given.part)
        if get_kind(card.kind).file is None:
            raise ConfigError(
                f"{version.name} reads {card.kind}, which are explained as a dataset: `chapterflow "
                f"explain {model} {given.dataset}`. Received: {word}"
            )
        inputs, notes = dataset.inputs(np.array([position])), []
        what = _example_in_words(dataset, int(position))
    if invert:
        inputs = inverted(inputs, card)
        notes = [*notes, "inverted"]
    unlike = likeness.notes(inputs)[0] if likeness else ""
    from chapterflow.explain.explain import explain_input

    tell("explain", what)
    explanation = explain_input(
        network,
        inputs,
        card.classes,
        card.value_max,
        folder,
        methods=methods,
        layer=layer,
        target=target,
        title=f"{version}: {what}",
        seed=settings.seed,
        unlike=unlike,
    )
    return Explained(version, what, notes, explanation, unlike)


def _refuse_options(
    *, methods: Sequence[str] | None, layer: str | None, target: str | None, invert: bool
) -> None:
    """Refuse options that would change nothing: a dataset is explained as runs explain it."""
    options = {"--method": ", ".join(methods or ()), "--layer": layer, "--target": target}
    options |= {"--invert": "a dataset" if invert else None}
    for option, value in options.items():
        if value:
            raise ConfigError(
                f"{option} is for one input: the probes of a dataset are explained by all methods, "
                f"for the classes that the model predicts. Received: {value}"
            )


def _explain_probes(
    version: Version,
    network: keras.Model,
    dataset: Dataset,
    folder: Path,
    seed: int,
    tell: Tell,
) -> Explained:
    from chapterflow.explain.explain import explain
    from chapterflow.explain.untrained import Untrained

    explanation = explain(
        network,
        dataset,
        folder,
        seed=seed,
        title=str(version),
        tell=lambda detail: tell("explain", detail),
    )
    if explanation.refusal:
        raise Untrained(explanation.refusal)
    return Explained(version, f"the probes of {dataset.card.name}", [], explanation)


def _example_in_words(dataset: Dataset, position: int) -> str:
    card, code = dataset.card, int(dataset.split[position])
    split = SPLITS[code] if code < len(SPLITS) else "no"
    what = f"example {position} of {card.name} ({split} split)"
    return what + (
        f", class {card.classes[int(dataset.labels[position])]}" if card.task.classes else ""
    )
