"""The verdict on a dataset: a small record that git can track, and that stops a run."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError

from chapterflow.checks import Check, Keys, failures
from chapterflow.errors import DataError, ValidationFailed
from chapterflow.types import Strict

VERDICT = "verdict.json"
#: Marks what an expectation requires if its bound was set for the dataset.
ACCEPTED = "accepted for"
#: An expectation in `verdict.json`. Details: `type`, its class in Great Expectations, and `column`
#: of the rows, null for the whole table. A failed one with a bound also has,
#: outside the file, `setting`, the name of the bound, `bound`, its value, and `needed`, a value
#: that the data meet.
EXPECTATION = Keys(
    {
        "expectation": "name",
        "type": "type",
        "column": "column",
        "description": "title",
        "success": "state",
        "expected": "expected",
        "observed": "observed",
        "offending": "examples",
        "offending_count": "examples_count",
    },
    {"passed": True, "failed": False},
)


class Verdict(Strict):
    """Whether a dataset meets its expectations; equal data give equal bytes.

    Attributes:
        dataset: Name of the dataset.
        dataset_digest: Digest of its card.
        examples: Number of examples that were checked.
        results: One check for each expectation, in the order of the suite.
    """

    dataset: str
    dataset_digest: str
    success: bool
    examples: Annotated[int, Field(ge=0)]
    results: list[
        Annotated[Check, BeforeValidator(EXPECTATION.read), PlainSerializer(EXPECTATION.write)]
    ]

    @property
    def failures(self) -> list[Check]:
        """The expectations that failed."""
        return failures(self.results)

    @property
    def accepted(self) -> str:
        """The bounds that were set for this dataset, in a line; empty for none."""
        start = f"({ACCEPTED} {self.dataset}: "
        parts = [str(check.expected).partition(start)[2] for check in self.results]
        bounds = dict.fromkeys(part.removesuffix(")") for part in parts if part)
        return f"{ACCEPTED} {self.dataset}: {'; '.join(bounds)}" if bounds else ""

    @property
    def summary(self) -> str:
        """How many expectations are met, and which bounds were set for this dataset."""
        count = len(self.results)
        met = f"{count - len(self.failures)} of {count} expectations of {self.dataset} are met"
        return f"{met} ({self.accepted})" if self.accepted else met

    def raise_for_failure(self) -> None:
        """Stop here if the dataset breaks an expectation.

        Raises:
            ValidationFailed: With one line for each failed expectation: its name and column, what
                was expected and received, and ids of examples.
        """
        if self.success:
            return
        lines = [f"{self.dataset}: {len(self.failures)} of {len(self.results)} expectations failed"]
        lines += [_line(check) for check in self.failures]
        if bounds := self.needed_bounds():
            block = ", ".join(f"{name}: {_yaml(bound)}" for name, bound in bounds.items())
            options = " ".join(f"--accept {name}={bound}" for name, bound in bounds.items())
            lines.append(
                "If the data are as they should be, accept the bounds for this dataset: "
                f"`chapterflow data add {self.dataset} ... {options}`, or "
                f"`accept: {{{block}}}` in its block of params.yaml or datasets.yaml."
            )
        raise ValidationFailed("\n  ".join(lines))

    def needed_bounds(self, names: Collection[str] | None = None) -> dict[str, str]:
        """Return bounds that the data meet, by setting, for the failed checks that have one.

        Args:
            names: Checks or settings; all by default.
        """
        bounds: dict[str, str] = {}
        for check in self.failures:
            setting, needed = check.details.get("setting"), check.details.get("needed")
            chosen = names is None or not {check.name, setting}.isdisjoint(names)
            if isinstance(setting, str) and isinstance(needed, str) and chosen:
                other = bounds.get(setting, needed)
                bounds[setting] = max(needed, other, key=lambda text: _distance(check, text))
        return bounds

    def to_json(self) -> str:
        """Return the text of `verdict.json`."""
        return json.dumps(self.model_dump(), indent=2, ensure_ascii=False) + "\n"


def _distance(check: Check, needed: str) -> float:
    """Return how far a bound is from the bound in force; 0 for a pair of bounds."""
    return 0.0 if "," in needed else abs(float(needed) - float(str(check.details["bound"])))


def _yaml(bound: str) -> str:
    return f"[{bound.replace(',', ', ')}]" if "," in bound else bound


def _line(check: Check) -> str:
    column = check.details["column"]
    about = f" ({column})" if column else ""
    line = f"{check.name}{about}: expected {check.expected}. Received: {check.observed}."
    if why := check.reason or check.title:
        line += f" {why}"
    if not check.examples:
        return line
    more = (check.examples_count or 0) - len(check.examples)
    ids = ", ".join(check.examples)
    return f"{line} Examples: {ids} and {more:,} more." if more > 0 else f"{line} Examples: {ids}."


def read_verdict(path: Path) -> Verdict:
    """Return the verdict in a file, or in a folder that `validate_dataset` wrote.

    Raises:
        DataError: If it is missing or cannot be read.
    """
    if path.is_dir():
        path = path / VERDICT
    try:
        return Verdict.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"No verdict can be read from {path}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path} is not a verdict: {where}: {first['msg']}") from None
