"""The decision on a challenger and its gates, as a record and as a page."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from chapterflow.checks import Check, Keys, failures, render_verdict
from chapterflow.types import Strict

#: Folder and page among the artifacts of a run, next to `tracking.artifacts.PROMOTION`.
FOLDER, PAGE = "promotion", "verdict.html"
#: A gate in `promotion/verdict.json`. `champion` is the champion's value; null without a champion
#: or a measurement.
GATE = Keys(
    {
        "name": "name",
        "title": "title",
        "passed": "state",
        "threshold": "expected",
        "champion": "champion",
        "challenger": "observed",
        "note": "reason",
    },
    {"passed": True, "failed": False},
)


class Candidate(Strict):
    """A model that competes for its role.

    Attributes:
        version: `cnn/3`.
        validation: Validation accuracy (for curves: loss) of the chosen epoch. It ranks the
            candidates, because the test split is reserved for the gates.
    """

    version: str
    alias: str
    validation: float


class Decision(Strict):
    """Whether a version may take an alias.

    Attributes:
        model: Registered model.
        alias: The alias.
        challenger: The judged version: `cnn/5`.
        champion: Version that holds the alias; null if none does.
        test_digest: Hash over the current test examples, which both were scored on.
        when: ISO 8601, UTC.
        who: Author: git's user, or the user of the system.
        reason: The author's reason.
        commit: Commit of the checkout that judged the version.
        dry_run: Whether the decision was not carried out.
        candidates: For a role, the competing models, the best first.
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
    gates: list[Annotated[Check, BeforeValidator(GATE.read), PlainSerializer(GATE.write)]]
    candidates: list[Candidate] = Field(default_factory=list)

    @property
    def title(self) -> str:
        """Heading of the decision, `cnn/5 for cnn@champion`."""
        return f"{self.challenger} for {self.model}@{self.alias}"

    @property
    def failures(self) -> list[Check]:
        """The gates that failed."""
        return failures(self.gates)

    @property
    def summary(self) -> str:
        """The decision in one line."""
        verb = "would be" if self.dry_run else "is"
        if self.verdict == "promoted":
            replaced = f", replacing {self.champion}" if self.champion else ""
            return f"{self.challenger} {verb} {self.model}@{self.alias}{replaced}: {self.counts}."
        names = ", ".join(gate.name for gate in self.failures)
        return f"{self.challenger} {verb} refused as {self.model}@{self.alias}: {names}."

    @property
    def counts(self) -> str:
        """Number of gates that passed, in words."""
        return f"{len(self.gates) - len(self.failures)} of {len(self.gates)} gates passed"

    @property
    def columns(self) -> dict[str, str]:
        """Headings of the table of gates, by field of `Check`."""
        return {
            "name": "gate",
            "expected": "threshold",
            "champion": self.alias,
            "observed": "challenger",
        }

    @property
    def selection(self) -> str:
        """Scores that the challenger was chosen by; empty without candidates."""
        if not self.candidates:
            return ""
        best, *others = self.candidates
        line = f"{best.version} ({best.alias}) is the best on the validation split: "
        line += f"{best.validation:.4f}"
        return line + "".join(f"; {o.version} ({o.alias}) {o.validation:.4f}" for o in others)

    def to_json(self) -> str:
        """Return the content of `verdict.json`."""
        return json.dumps(self.model_dump(), indent=2, ensure_ascii=False) + "\n"


def render_page(decision: Decision) -> str:
    """Return the page of a decision, with failed gates first."""
    champion = f"{decision.champion} (run {decision.champion_run})" if decision.champion else "none"
    facts = {
        "Model": decision.model,
        "Alias": decision.alias,
        "Challenger": f"{decision.challenger} (run {decision.challenger_run})",
        decision.alias.capitalize(): champion,
        "Candidates": decision.selection,
        "Scored on": f"the test split of {decision.dataset}"
        + (f", {decision.test_digest[:12]}" if decision.test_digest else ""),
        "When": decision.when,
        "Author": decision.who,
        "Reason": decision.reason,
        "Judged at commit": decision.commit or "unknown",
    }
    return render_verdict(
        decision.title,
        decision.gates,
        {name: heading.capitalize() for name, heading in decision.columns.items()},
        passed=decision.verdict == "promoted",
        summary=decision.summary,
        facts={name: fact for name, fact in facts.items() if fact},
        heading="Gates",
    )
