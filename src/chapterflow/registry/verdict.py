"""The verdict on a challenger: a table of gates that explains itself."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import Field

from chapterflow.types import Strict

#: Among the artifacts of a run, beside `tracking.registry.VERDICT_FILE`.
FOLDER, PAGE = "promotion", "verdict.html"
Value = float | str | None


class Gate(Strict):
    """One named check.

    Attributes:
        title: What must be so.
        threshold: What it is held against.
        champion: What the champion shows; null where there is none, or it was not measured.
        challenger: What the challenger shows; null where it was not measured.
        note: What else there is to say; why, where the gate is shut.
    """

    name: str
    title: str
    passed: bool
    threshold: Value = None
    champion: Value = None
    challenger: Value = None
    note: str = ""


class Candidate(Strict):
    """A model that could stand for its role.

    Attributes:
        version: `cnn/3`.
        validation: Validation accuracy of the chosen epoch (for curves: loss), which decides
            among them: the test split is for the gates.
    """

    version: str
    alias: str
    validation: float


class Verdict(Strict):
    """Whether a version may take an alias.

    Attributes:
        model: Registered model.
        alias: The alias.
        challenger: Version that is judged: `cnn/5`.
        champion: Version that holds the alias; null where none does.
        test_digest: Hash over the test examples that both were scored on, as they are now.
        when: ISO 8601, UTC.
        who: Who asked: git's user, or that of the system.
        reason: In the words of who asked.
        commit: Commit of the checkout that judged.
        dry_run: Whether nothing was to be changed.
        candidates: Where the model of a role is judged: what there was to choose from.
    """

    model: str
    alias: str
    challenger: str
    challenger_run: str
    champion: str | None
    champion_run: str | None
    dataset: str
    profile: str
    test_digest: str | None
    when: str
    who: str
    reason: str
    commit: str | None
    dry_run: bool
    verdict: Literal["promoted", "refused"]
    gates: list[Gate]
    candidates: list[Candidate] = Field(default_factory=list)

    @property
    def shut(self) -> list[Gate]:
        """The gates that were not passed."""
        return [gate for gate in self.gates if not gate.passed]

    @property
    def told(self) -> str:
        """What came of it, in one line."""
        if self.verdict == "promoted":
            verb = "would be" if self.dry_run else "is"
            before = f" in place of {self.champion}" if self.champion else ""
            return f"{self.challenger} {verb} {self.model}@{self.alias}{before}: {self.counted}."
        names = ", ".join(gate.name for gate in self.shut)
        verb = "would be" if self.dry_run else "is"
        return f"{self.challenger} {verb} refused as {self.model}@{self.alias}: {names}."

    @property
    def counted(self) -> str:
        """How many gates were passed."""
        return f"{len(self.gates) - len(self.shut)} of {len(self.gates)} gates passed"

    def to_json(self) -> str:
        """Return the text of `verdict.json`."""
        return json.dumps(self.model_dump(), indent=2, ensure_ascii=False) + "\n"


def shown(value: Value) -> str:
    """Return a value for people."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.4g}"
