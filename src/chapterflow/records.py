"""Small records that steps hand to each other: names, ids and paths, never arrays."""

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from chapterflow.evaluation.compare import Difference
from chapterflow.models.parts.base import Strict

#: What models are judged by: accuracy where the target is a class.
SCORES = ("accuracy", "rmse")
#: Told of what a step does right now: `tell("train", "epoch 3/25")`.
Tell = Callable[[str, str], None]


def silent(step: str, detail: str) -> None:
    """Tell nobody."""


class Prepared(Strict):
    """A dataset that is on disk.

    Attributes:
        digest: Digest of its card.
        built: Whether it was built just now.
        version: Hash of `data/` in `data.dvc`; None where there is none.
    """

    dataset: str
    digest: str
    built: bool
    version: str | None


class Trained(Strict):
    """A model that is trained, or was.

    Attributes:
        status: `trained` now, or `reused` from the finished run `run_id`.
        work: Folder of what evaluation needs; empty for a reused run.
    """

    model: str
    dataset: str
    fingerprint: str
    run_id: str
    status: Literal["trained", "reused"]
    work: str


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

    def told(self) -> str:
        """Return what the model is judged by, in a few words."""
        name = next(name for name in SCORES if f"test/{name}" in self.metrics)
        return f"test {name} {self.metrics[f'test/{name}']:.4f}"


class Comparison(Strict):
    """The newest runs side by side, and which differences between them are real."""

    profile: str
    models: list[Outcome]
    differences: list[Difference]
