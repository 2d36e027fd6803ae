"""What a version's own run knows of the data that it was tested on."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

import numpy as np

from chapterflow.batch.drift import Figures, Reference, answer_figures, input_figures
from chapterflow.data.card import Dataset, DatasetCard, open_dataset
from chapterflow.environment import Project
from chapterflow.errors import DataError
from chapterflow.tracking import runs
from chapterflow.tracking.registry import Version

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Test examples whose inputs are looked at, evenly spaced; decoding thousands of photos takes long.
EXAMPLES = 2000
#: Examples that are read at once.
AT_ONCE = 64


def read_reference(
    client: MlflowClient,
    project: Project,
    version: Version,
    card: DatasetCard,
    size: tuple[int, int],
) -> Reference:
    """Return figures of the test split that a version was scored on.

    Answers come from the run that trained it. Inputs come from the dataset, if the very same one is
    on this machine; else their figures are missing, and it is said why.

    Args:
        card: Of the data that the version learnt.
        size: Height and width at which it reads photos.
    """
    figures: Figures = {}
    missing: dict[str, str] = {}
    figures |= _answers(client, version, card, missing)
    try:
        figures |= _inputs(project, card, size)
    except DataError as error:
        reason = str(error).partition("\n")[0]
        missing |= dict.fromkeys(input_names(card), reason)
    what = f"the {card.counts.get('test', 0)} test examples of {card.name}"
    return Reference(what, figures, missing)


def input_names(card: DatasetCard) -> list[str]:
    """Return the names of the figures of inputs of a kind of data."""
    if card.kind == "citations":
        return []
    return ["nodes", "edges per node"] if card.kind == "graphs" else ["input mean", "input spread"]


def _answers(
    client: MlflowClient, version: Version, card: DatasetCard, missing: dict[str, str]
) -> Figures:
    from mlflow.exceptions import MlflowException

    names = [*answer_figures(np.ones((1, 1), np.float32), classes=bool(card.classes))]
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = client.download_artifacts(version.run_id, runs.PREDICTIONS, folder)
            with np.load(path, allow_pickle=False) as kept:
                answers = kept["probability" if card.classes else "prediction"]
    except (MlflowException, OSError, ValueError, KeyError) as error:
        told = f"{runs.PREDICTIONS} of run {version.run_id} cannot be read ({error})"
        missing |= dict.fromkeys(names, told)
        return {}
    return answer_figures(answers, classes=bool(card.classes))


def _inputs(project: Project, card: DatasetCard, size: tuple[int, int]) -> Figures:
    """Return figures of the test inputs.

    Raises:
        DataError: If the dataset is not here, is another one, or is damaged.
    """
    if not input_names(card):
        return {}
    dataset: Dataset = open_dataset(project.data / card.name).sized(*size)
    if dataset.card.digest != card.digest:
        raise DataError(f"data/{card.name} is another one than the version learnt")
    test = dataset.indices("test")
    if not len(test):
        raise DataError(f"{card.name} has no test examples")
    chosen = test[np.unique(np.linspace(0, len(test) - 1, min(len(test), EXAMPLES), dtype=int))]
    parts = [
        input_figures(dataset.inputs(chosen[start : start + AT_ONCE]))
        for start in range(0, len(chosen), AT_ONCE)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in input_names(card)}
