"""The verdict on a dataset: a small record that git can track, and that stops a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError

from chapterflow.checks import Check, Keys, failures
from chapterflow.errors import DataError, ValidationFailed
from chapterflow.types import Strict

VERDICT = "verdict.json"
#: An expectation in `verdict.json`. Details: `type`, its class in Great Expectations, and `column`
#: of the rows, null for the whole table.
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
    def summary(self) -> str:
        """How many expectations are met."""
        count = len(self.results)
        return f"{count - len(self.failures)} of {count} expectations of {self.dataset} are met"

    def raise_for_failure(self) -> None:
        """Stop here if the dataset breaks an expectation.

        Raises:
            ValidationFailed: With one line for each failed expectation: its name and column, what
                was expected and received, and ids of examples.
        """
        if self.success:
            return
        lines = [f"{self.dataset}: {len(self.failures)} of {len(self.results)} expectations failed"]
        raise ValidationFailed("\n  ".join(lines + [_line(check) for check in self.failures]))

    def to_json(self) -> str:
        """Return the text of `verdict.json`."""
        return json.dumps(self.model_dump(), indent=2, ensure_ascii=False) + "\n"


def _line(check: Check) -> str:
    column = check.details["column"]
    about = f" ({column})" if column else ""
    line = f"{check.name}{about}: expected {check.expected}. Received: {check.observed}."
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
