"""What the page is made from: runs with what their artifacts say, and the data if they are here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.errors import DataError
from chapterflow.evaluation.compare import Difference
from chapterflow.kinds.dataset import Dataset, DatasetCard, open_dataset
from chapterflow.kinds.kind import task_of
from chapterflow.tracking.records import RunFacts
from chapterflow.training.history import EpochRecord

if TYPE_CHECKING:
    from chapterflow.validation.verdict import Verdict

#: Name and direction of what models are judged by.
SCORE_NAMES = {"accuracy": "accuracy", "rmse": "RMSE"}


@dataclass(frozen=True)
class Explanation:
    """One picture of a model's inside."""

    key: str
    step: int
    file: Path
    caption: str


@dataclass(frozen=True)
class Entry:
    """One model of the page, with what its run kept.

    Attributes:
        facts: The run.
        data: Folder of datasets on this machine.
    """

    facts: RunFacts
    data: Path

    @property
    def label(self) -> str:
        """What the model is called on the page."""
        return self.facts.label

    @property
    def anchor(self) -> str:
        """Id of the model's place on the page."""
        return f"model-{self.facts.run_id[:12]}"

    def metric(self, name: str) -> float | None:
        """Return a metric, or None where the run has none of the name."""
        return self.facts.metrics.get(name)

    @property
    def score(self) -> str:
        """What the model is judged by: `accuracy`, or `rmse` where the target is no class."""
        return task_of(self.facts.metrics).score

    @cached_property
    def card(self) -> DatasetCard | None:
        """The dataset as the run saw it; None where the run does not hold its card."""
        kept = _read(self.facts.folder / "dataset.json")
        return None if kept is None else DatasetCard.model_validate(kept)

    @cached_property
    def verdict(self) -> Verdict | None:
        """The validation that the run passed; None where the run does not hold it."""
        from chapterflow.validation.verdict import Verdict

        kept = _read(self.facts.folder / "validation" / "verdict.json")
        return None if kept is None else Verdict.model_validate(kept)

    @cached_property
    def training(self) -> tuple[list[EpochRecord], int]:
        """The epochs, and the one whose weights were kept; none and 0 where the run lacks them."""
        kept = _read(self.facts.folder / "training.json")
        if not kept:
            return [], 0
        return [EpochRecord.model_validate(r) for r in kept["history"]], int(kept["chosen_epoch"])

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """`classes` and `confusion` of the evaluation; empty where the run lacks it."""
        return _read(self.facts.folder / "evaluation.json") or {}

    @cached_property
    def predictions(self) -> dict[str, NDArray[Any]]:
        """Answers on the test split; empty where the run lacks them."""
        path = self.facts.folder / "predictions.npz"
        if not path.is_file():
            return {}
        with np.load(path, allow_pickle=False) as kept:
            return {name: kept[name] for name in kept.files}

    @cached_property
    def dataset(self) -> Dataset | None:
        """The dataset, if the one on this machine is the one of the run, byte for byte."""
        try:
            dataset = open_dataset(self.data / self.facts.dataset)
        except DataError:
            return None
        same = dataset.card.digest == self.facts.tags.get("chapterflow.dataset_digest")
        return dataset.sized(96, 96) if same else None

    @cached_property
    def explanations(self) -> list[Explanation]:
        """Pictures of the model's inside, in their order; none where it was not explained."""
        folder = self.facts.folder / "explain"
        kept = _read(folder / "explain.json")
        if kept is None:
            return []
        # A run from elsewhere could name any file: only what lies beside the list is shown.
        return [
            Explanation(picture["key"], int(picture["step"]), folder / name, picture["caption"])
            for picture in kept["pictures"]
            if (folder / (name := Path(picture["file"]).name)).is_file()
        ]

    @cached_property
    def explain_metrics(self) -> dict[str, float]:
        """Scores of the explanations by name (`explain/...`)."""
        kept = _read(self.facts.folder / "explain" / "explain.json") or {}
        return {name: float(value) for name, value in kept.get("metrics", {}).items()}


@dataclass(frozen=True)
class Material:
    """All that the page shows.

    Attributes:
        profile: Profile of the runs.
        entries: The models, those of one dataset together.
        differences: Pairs of models that share a test set.
        docs: Where Data Docs of a dataset are, relative to the page, by dataset digest.
        facts: What else stands at the head of the page.
    """

    profile: str
    entries: Sequence[Entry]
    differences: Sequence[Difference]
    bins: int
    docs: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)

    def by_test_set(self) -> list[list[Entry]]:
        """Return the models in groups that were scored on the same test examples."""
        groups: dict[tuple[str, str], list[Entry]] = {}
        for entry in self.entries:
            digest = entry.facts.tags.get("chapterflow.test_digest", entry.facts.dataset)
            groups.setdefault((digest, entry.score), []).append(entry)
        return list(groups.values())

    def model(self, name: str) -> Entry | None:
        """Return the first entry of a chapter model."""
        return next((entry for entry in self.entries if entry.facts.model == name), None)


def _read(path: Path) -> Any:
    """Return the content of a JSON file, or None where there is none."""
    if not path.is_file():
        return None
    return json.loads(path.read_text(encoding="utf-8"))
