"""Records of what became of datasets, runs and reports: names, ids and metrics, no arrays."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field

from chapterflow.evaluation.significance import Difference
from chapterflow.kinds.dataset import TASKS, task_of
from chapterflow.types import Strict

#: What models are judged by: accuracy where the target is a class.
SCORES = tuple(task.score for task in TASKS)


def over_folds(metrics: Mapping[str, float], variant: str = "") -> tuple[float, float] | None:
    """Return mean and deviation of the accuracy over folds, under the inner protocol.

    It covers all examples, so it is a better estimate than the accuracy on a small test split.

    Args:
        metrics: Metrics of a run.
        variant: Name of a variant of the model; empty for the model itself.

    Returns:
        None without a cross-validation.
    """
    start = f"beside/{variant}/cv_inner_accuracy" if variant else "cv/inner/accuracy"
    if f"{start}_mean" not in metrics:
        return None
    return metrics[f"{start}_mean"], metrics[f"{start}_std"]


class Outcome(Strict):
    """What became of one model.

    Attributes:
        model_version: Version in the model registry.
        metrics: Final metrics by name.
        error: One line or more for people; None unless failed.
        exit_code: What the command line should return for this failure.
    """

    model: str
    dataset: str
    status: Literal["trained", "reused", "failed"]
    run_id: str | None = None
    model_version: str | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    error: str | None = None
    exit_code: int = 0

    def summary(self) -> str:
        """Return the score that the model is judged by, in a few words."""
        if folds := over_folds(self.metrics):
            return f"accuracy {folds[0]:.4f} +- {folds[1]:.4f} over the folds"
        task = task_of(self.metrics)
        return f"test {task.score} {self.metrics[task.metric]:.4f}"


class Comparison(Strict):
    """The newest runs side by side, and which differences between them are real."""

    profile: str
    models: list[Outcome]
    differences: list[Difference]

    def only(self, names: Collection[str]) -> Self:
        """Return what concerns some models alone."""
        return self.model_copy(
            update={
                "models": [outcome for outcome in self.models if outcome.model in names],
                "differences": [
                    pair for pair in self.differences if pair.a in names and pair.b in names
                ],
            }
        )


class RunFacts(Strict):
    """A finished model run, read from the tracking store, with its small artifacts in a folder.

    Attributes:
        label: The model's name, with the run's id where several runs are of one model.
        params: Parameters, as the text that the store keeps.
        started: Milliseconds since 1970, UTC.
        folder: Copies of the artifacts that were there, below their own paths.
    """

    label: str
    run_id: str
    model: str
    dataset: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]
    started: int
    folder: Path


class Reported(Strict):
    """A page that was written.

    Attributes:
        page: The file.
        size: Its bytes.
        models: What it shows.
        run_id: Run that holds a copy.
        artifact: Path of the copy within that run.
        seconds: What it took.
    """

    page: Path
    size: int
    models: list[str]
    run_id: str
    artifact: str
    seconds: float

    def summary(self) -> str:
        """Return what was written and where, with an address that a browser opens."""
        models = "1 model" if len(self.models) == 1 else f"{len(self.models)} models"
        return (
            f"{self.page.as_uri()}\n{models}, {self.size / 1e6:.1f} MB, "
            f"{self.seconds:.1f} s; also in MLflow: run {self.run_id}, {self.artifact}"
        )


class LeftOut(Strict):
    """A model that the playground does not show; `reason` completes "it is left out: "."""

    model: str
    reason: str


class Played(Strict):
    """A playground that was written.

    Attributes:
        page: The file.
        size: Its bytes.
        models: Versions on it.
        seconds: What it took.
    """

    page: Path
    size: int
    models: list[str]
    left_out: list[LeftOut]
    seconds: float

    def summary(self) -> str:
        """Return what was written and where, with an address that a browser opens."""
        lines = [f"left out: {item.model}: {item.reason}" for item in self.left_out]
        lines.append(self.page.as_uri())
        lines.append(f"{', '.join(self.models)}: {self.size / 1e6:.2f} MB, {self.seconds:.1f} s")
        return "\n".join(lines)
