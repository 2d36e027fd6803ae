"""The verdict on a dataset: a small record that git can track, and that stops a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from chapterflow.errors import DataError, ValidationFailed
from chapterflow.types import Strict

VERDICT = "verdict.json"


class ExpectationResult(Strict):
    """What one expectation found.

    Attributes:
        expectation: Its name in the suite (`label-set`).
        type: Its type in Great Expectations (`expect_column_values_to_be_in_set`).
        column: Column of the rows that it is about; null for the whole table.
        description: The mistake that it guards against.
        expected: The requirement in a few words.
        observed: What was found, in a few words.
        offending: Ids of the first examples that break it, in the order of the arrays. Empty for
            expectations about a dataset or split as a whole, which no single example breaks.
        offending_count: Number of examples that break it; null where `offending` cannot tell. An
            expectation that tolerates a share of them may succeed and have some.
    """

    expectation: str
    type: str
    column: str | None
    description: str
    success: bool
    expected: str
    observed: str
    offending: list[str]
    offending_count: Annotated[int, Field(ge=0)] | None

    def __str__(self) -> str:
        about = f" ({self.column})" if self.column else ""
        line = f"{self.expectation}{about}: expected {self.expected}. Received: {self.observed}."
        if not self.offending:
            return line
        more = (self.offending_count or 0) - len(self.offending)
        return f"{line} Examples: {', '.join(self.offending)}" + (
            f" and {more:,} more." if more > 0 else "."
        )


class Verdict(Strict):
    """Whether a dataset meets its expectations; equal data give equal bytes.

    Attributes:
        dataset: Name of the dataset.
        dataset_digest: Digest of its card.
        examples: Number of examples that were looked at.
        results: One for each expectation, in the order of the suite.
    """

    dataset: str
    dataset_digest: str
    success: bool
    examples: Annotated[int, Field(ge=0)]
    results: list[ExpectationResult]

    @property
    def failures(self) -> list[ExpectationResult]:
        """The results of the expectations that failed."""
        return [result for result in self.results if not result.success]

    def raise_for_failure(self) -> None:
        """Stop here if the dataset breaks an expectation.

        Raises:
            ValidationFailed: With one line for each failed expectation: its name and column, what
                was expected and received, and ids of examples.
        """
        if self.success:
            return
        lines = [f"{self.dataset}: {len(self.failures)} of {len(self.results)} expectations failed"]
        raise ValidationFailed("\n  ".join(lines + [str(result) for result in self.failures]))

    def to_json(self) -> str:
        """Return the text of `verdict.json`."""
        return json.dumps(self.model_dump(), indent=2, ensure_ascii=False) + "\n"


def read_verdict(path: Path) -> Verdict:
    """Return the verdict in a file, or in a folder that `validate_dataset` wrote.

    Raises:
        DataError: If there is none or it cannot be read.
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
