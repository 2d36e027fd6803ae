"""What the page is made from: runs with their artifacts, and the data if they are here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from chapterflow.errors import DataError
from chapterflow.evaluation.significance import Difference
from chapterflow.explain.explanation import EXPLANATION as EXPLAIN_JSON
from chapterflow.explain.explanation import Explanation
from chapterflow.kinds.dataset import Dataset, DatasetCard, Task, open_dataset, task_of
from chapterflow.language import message
from chapterflow.tracking import runs
from chapterflow.tracking.artifacts import (
    CARD,
    EVALUATION,
    EXPLANATION,
    PREDICTIONS,
    TRAINING,
    VERDICT,
    Artifacts,
)
from chapterflow.tracking.records import RunFacts
from chapterflow.training.history import EpochRecord

if TYPE_CHECKING:
    from chapterflow.config.settings import QuestionParams
    from chapterflow.validation.verdict import Verdict

#: Names of the scores in sentences and headings.
SCORE_NAMES = message({"accuracy": "accuracy", "rmse": "RMSE"})
#: Height and width at which photos are shown.
PHOTO_SIZE = 96, 96


@dataclass(frozen=True)
class Entry:
    """One model of the page, with the artifacts of its run.

    Attributes:
        facts: The run.
        data: Folder of the datasets on this machine.
    """

    facts: RunFacts
    data: Path

    @property
    def _artifacts(self) -> Artifacts:
        return Artifacts(self.facts.run_id, self.facts.folder)

    def _has(self, name: str) -> bool:
        return (self.facts.folder / name).is_file()

    @property
    def label(self) -> str:
        """Name of the model on the page."""
        return self.facts.label

    @property
    def anchor(self) -> str:
        """Id of the model's section."""
        return f"model-{self.facts.run_id[:12]}"

    def metric(self, name: str) -> float | None:
        """Return a metric, or None if the run does not have it."""
        return self.facts.metrics.get(name)

    @property
    def task(self) -> Task:
        """What the model learnt to answer."""
        return task_of(self.facts.metrics)

    @cached_property
    def card(self) -> DatasetCard | None:
        """The card of the run's dataset; None if the run lacks it."""
        return self._artifacts.card() if self._has(CARD) else None

    @cached_property
    def verdict(self) -> Verdict | None:
        """The verdict of the validation before the run; None if the run lacks it."""
        return self._artifacts.verdict() if self._has(VERDICT) else None

    @cached_property
    def training(self) -> tuple[list[EpochRecord], int]:
        """The epochs, and the epoch whose weights were kept; none and 0 if the run lacks them."""
        if not self._has(TRAINING):
            return [], 0
        document = self._artifacts.document(TRAINING)
        history = [EpochRecord.model_validate(record) for record in document["history"]]
        return history, int(document["chosen_epoch"])

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """`classes` and `confusion` of the evaluation; empty if the run lacks it."""
        return self._artifacts.document(EVALUATION) if self._has(EVALUATION) else {}

    @cached_property
    def predictions(self) -> dict[str, NDArray[Any]]:
        """Answers on the test split by array name; empty if the run lacks them."""
        return self._artifacts.predictions() if self._has(PREDICTIONS) else {}

    @cached_property
    def explanation(self) -> Explanation:
        """Pictures and scores of the model's inside; empty if the run was not explained."""
        explained = self._has(f"{EXPLANATION}/{EXPLAIN_JSON}")
        return self._artifacts.explanation() if explained else Explanation()

    @cached_property
    def dataset(self) -> Dataset | None:
        """The dataset on this machine; None if it is not the run's, byte for byte."""
        try:
            dataset = open_dataset(self.data / self.facts.dataset)
        except DataError:
            return None
        same = dataset.card.digest == self.facts.tags.get(runs.DIGEST)
        return dataset.sized(*PHOTO_SIZE) if same else None


@dataclass(frozen=True)
class Material:
    """All that the page shows.

    Attributes:
        profile: Profile of the runs.
        entries: The models, grouped by dataset.
        differences: Pairs of models with the same test set.
        bins: Bins of the calibration.
        questions: Questions to answer, by key.
        docs: Data Docs of each dataset, relative to the page, by dataset digest.
        facts: Further facts at the head of the page.
        playground: Models of the playground next to the page; none if there is no playground.
        origin: Hashes of all that the page is made from and of its playground; empty if unknown.
    """

    profile: str
    entries: Sequence[Entry]
    differences: Sequence[Difference]
    bins: int
    questions: Mapping[str, QuestionParams] = field(default_factory=dict)
    docs: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    playground: Sequence[str] = ()
    origin: str = ""

    def by_test_set(self) -> list[list[Entry]]:
        """Return the models in groups that were scored on the same test examples."""
        groups: dict[tuple[str, str], list[Entry]] = {}
        for entry in self.entries:
            digest = entry.facts.tags.get(runs.TEST_DIGEST, entry.facts.dataset)
            groups.setdefault((digest, entry.task.score), []).append(entry)
        return list(groups.values())
