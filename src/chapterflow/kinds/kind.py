"""What differs between kinds of data: each file of this folder registers one `Kind`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from chapterflow import plugins
from chapterflow.errors import DataError, nearest
from chapterflow.types import Strict

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.expectations.expectation import Expectation

    from chapterflow.kinds.dataset import Dataset, DatasetCard

#: Files of this folder that are no kinds.
NOT_KINDS = ("dataset", "edges", "kind", "pixels", "rows")


@dataclass(frozen=True)
class Task:
    """What models learn to answer.

    Attributes:
        classes: Whether the answer is one class of several.
        score: Metric that models are compared by, below `test/`.
        higher_is_better: Whether a larger score is a better one.
        answer: Array of `predictions.npz` with the answers.
    """

    name: Literal["classification", "regression"]
    classes: bool
    score: Literal["accuracy", "rmse"]
    higher_is_better: bool
    answer: Literal["probability", "prediction"]

    @property
    def metric(self) -> str:
        """Full name of the score: `test/accuracy`."""
        return f"test/{self.score}"


#: Logits `(batch, classes)` in, class numbers as targets, cross-entropy as loss.
CLASSIFICATION = Task("classification", True, "accuracy", True, "probability")
#: Curves `(batch, length, 1)` as targets, mean squared error as loss.
REGRESSION = Task("regression", False, "rmse", False, "prediction")
TASKS = (CLASSIFICATION, REGRESSION)


def task_of(metrics: Mapping[str, Any]) -> Task:
    """Return the task that logged metrics belong to; classification where there is no score."""
    return REGRESSION if REGRESSION.metric in metrics else CLASSIFICATION


def value_figures() -> dict[str, Callable[[Any], NDArray[np.float64]]]:
    """Return the figures of an array of raw values `(n, ...)`: mean and spread of each example."""

    def flat(values: NDArray[Any]) -> NDArray[Any]:
        return values.reshape(len(values), -1)

    return {
        "input mean": lambda values: flat(values).mean(1, dtype=np.float64),
        "input spread": lambda values: flat(values).std(1, dtype=np.float64),
    }


@dataclass(frozen=True)
class Kind:
    """A kind of data: its arrays, what models read, and what must hold for it.

    Attributes:
        name: Name of its file, with dashes; `kind` on the dataset card.
        data: Class of its datasets: arrays, inputs and targets.
        bounds: Class of its block below `validation:` in `params.yaml`.
        rows: Describes each example in one row of plain facts.
        expectations: Returns what the rows must meet, given the card and the bounds. It imports
            Great Expectations itself.
        look: How people see an example: as a picture, as a curve, or as a graph with nodes.
        task: What models learn of it.
        file: Files that hold examples of it for `predict` and `explain`: pictures, `.npy` arrays,
            or none.
        bounded: Whether raw values lie between 0 and the card's `value_max`.
        resized: Whether examples of any size are brought to the size that the model takes.
        whole: Whether the examples are parts of one whole (the nodes of a graph), which models
            read in one step; otherwise they read batches.
        folds: Whether cross-validation is possible.
        figures: Figures `(n,)` of a batch of inputs by name, which drift compares.
        columns: Numbers about the example at a position by name, for tables of examples.
    """

    name: str
    data: type[Dataset]
    bounds: type[Strict]
    rows: Callable[[Dataset], pd.DataFrame]
    expectations: Callable[[DatasetCard, Any], list[Expectation]]
    look: Literal["picture", "curve", "graph"]
    task: Task = CLASSIFICATION
    file: Literal["picture", "array"] | None = "array"
    bounded: bool = False
    resized: bool = False
    whole: bool = False
    folds: bool = False
    figures: Mapping[str, Callable[[Any], NDArray[np.float64]]] = field(
        default_factory=value_figures
    )
    columns: Mapping[str, Callable[[Dataset, int], int]] = field(default_factory=dict)


def kind_modules() -> dict[str, str]:
    """Return the module of each kind, by name."""
    return plugins.modules("chapterflow.kinds", skip=NOT_KINDS)


def kind_names() -> list[str]:
    """Return the names of all kinds, sorted."""
    return list(kind_modules())


def get_kind(name: str) -> Kind:
    """Return the kind called `name`.

    Raises:
        DataError: If there is none.
        ConfigError: If its file does not register a `Kind` of its own name as `KIND`.
    """
    modules = kind_modules()
    if name not in modules:
        raise DataError(
            f"Unknown kind of data. Received: {name!r}.{nearest(name, modules)} "
            "A kind from another package is known while that package is installed."
        )
    return plugins.load(modules[name], "KIND", Kind, name)
