"""The check: a name, an expected value, an observed value, a state and a reason.

Validation, gates, lineage, the doctor, reproduction, drift and explanations report their results as
checks. A terminal shows them as a table, a page as a block of HTML.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from chapterflow.language import Language, recorded, speaking, tr, trn
from chapterflow.types import Strict

if TYPE_CHECKING:
    from jinja2 import Environment
    from rich.console import Console

State = Literal["passed", "warning", "failed", "unknown"]
Value = float | str | None


class Check(Strict):
    """One check.

    Attributes:
        name: Subject of the check (`label-set`, `source commit`).
        state: `warning`: passed with a reservation; `unknown`: could not be decided.
        title: The requirement, or the mistake that it guards against, in a sentence.
        expected: The requirement, threshold or recorded value.
        observed: The value that the requirement is compared with.
        reason: Why the check has this state, and what to do about it.
        details: Further values, by name; tables may have a column for each.
        examples: Ids of the first examples that violate it.
        examples_count: Number of examples that violate it; null if no single example can.
        checks: Checks that this one is made of.
    """

    name: str
    state: State
    title: str = ""
    expected: Value = None
    observed: Value = None
    reason: str = ""
    details: Mapping[str, bool | Value] = Field(default_factory=dict)
    examples: list[str] = Field(default_factory=list)
    examples_count: Annotated[int, Field(ge=0)] | None = None
    checks: list[Check] = Field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether the check passed without reservation."""
        return self.state == "passed"

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Check]]:
        """Yield this check and all below it, each with its depth."""
        yield depth, self
        for check in self.checks:
            yield from check.walk(depth + 1)

    def value(self, column: str) -> Any:
        """Return the field or detail with a name; None if there is neither."""
        return getattr(self, column) if column in Check.model_fields else self.details.get(column)


def failures(checks: Sequence[Check]) -> list[Check]:
    """Return the checks that failed."""
    return [check for check in checks if check.state == "failed"]


@dataclass(frozen=True)
class Keys:
    """The JSON form of a check.

    Attributes:
        fields: Field of `Check`, or name of a detail, by key, in the order of the document.
        states: JSON value of each state.
    """

    fields: Mapping[str, str]
    states: Mapping[State, Any]

    def write(self, check: Check) -> dict[str, Any]:
        """Return the JSON object of a check."""
        values: dict[str, Any] = {key: check.value(field) for key, field in self.fields.items()}
        for key, field in self.fields.items():
            if field == "state":
                values[key] = self.states[check.state]
            elif field == "checks":
                values[key] = [self.write(below) for below in check.checks]
        return values

    def read(self, document: Any) -> Any:
        """Return the fields of a check from its JSON object; return other values unchanged."""
        if not isinstance(document, dict):
            return document
        if unexpected := document.keys() ^ self.fields.keys():
            raise ValueError(f"missing or unknown keys: {', '.join(sorted(unexpected))}")
        states = {word: state for state, word in reversed([*self.states.items()])}
        fields: dict[str, Any] = {"details": {}}
        for key, field in self.fields.items():
            value = document[key]
            if field == "state":
                if not isinstance(value, bool | str) or value not in states:
                    raise ValueError(f"{key} must be one of {[*states]}. Received: {value!r}")
                value = states[value]
            (fields if field in Check.model_fields else fields["details"])[field] = value
        return fields


#: Text and style of each state in a terminal.
STATES: dict[State, tuple[str, str]] = {
    "passed": ("ok", "green"),
    "warning": ("warning", "yellow"),
    "failed": ("FAILED", "bold red"),
    "unknown": ("unknown", "yellow"),
}
#: In a terminal with fewer columns, reasons follow below the table.
WIDE = 120


def text(value: Any) -> str:
    """Format a value for a table: numbers with four significant digits, integers in full."""
    if value is None:
        return "-"
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    whole = float(value).is_integer() or abs(value) >= 1e4
    return f"{value:,.0f}" if whole and abs(value) < 1e15 else f"{value:.4g}"


def print_checks(
    console: Console, checks: Sequence[Check], columns: Mapping[str, str], title: str = ""
) -> None:
    """Print checks and their subordinate checks as a table.

    Args:
        console: Terminal.
        checks: Checks, one a row.
        columns: Heading by field of `Check` or name of a detail. Without `reason`, or in a narrow
            terminal, the reasons of checks that did not pass follow below the table.
        title: Title of the table.
    """
    from rich.table import Table
    from rich.text import Text

    rows = [row for check in checks for row in check.walk()]
    below = "reason" not in columns or console.width < WIDE
    names = [name for name in columns if name != "reason" or not below]
    table = Table(title=title or None, title_justify="left")
    table.add_column("state")
    for name in names:
        numbers = any(isinstance(check.value(name), float) for _, check in rows)
        table.add_column(columns[name], justify="right" if numbers else "left", overflow="fold")
    for depth, check in rows:
        word, style = STATES[check.state]
        cells = [Text(text(check.value(name))) for name in names]
        cells[0] = Text("  " * depth + check.name)
        table.add_row(Text(word, style), *cells)
    console.print(table)
    reasons: dict[str, list[str]] = {}
    for _, check in rows:
        if below and check.reason and not check.passed:
            reasons.setdefault(check.reason, []).append(check.name)
    for reason, subjects in reasons.items():
        console.print(Text(f"{', '.join(subjects)}: {reason}"), soft_wrap=True)


def markdown(checks: Sequence[Check], columns: Mapping[str, str]) -> str:
    """Return checks as a Markdown table."""
    lines = [[*columns.values()], ["---"] * len(columns)]
    lines += [[text(check.value(name)) for name in columns] for check in checks]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


TEMPLATES = Path(__file__).parent / "templates"


@cache  # A template is compiled once.
def templates(*folders: Path) -> Environment:
    """Return the Jinja environment of the page templates and of those in other folders."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # Names, titles, licences and reasons come from users and datasets: everything is escaped.
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FileSystemLoader([*folders, TEMPLATES]),
    )
    environment.filters["value"] = text
    environment.globals |= {"tr": tr, "trn": trn, "recorded": recorded}
    return environment


def stylesheet(*names: str) -> str:
    """Return stylesheets joined into one, to embed in a page."""
    return "".join((TEMPLATES / f"{name}.css").read_text(encoding="utf-8") for name in names)


@speaking(Language.en)  # It is an artifact of the validation, which does not know its readers.
def render_verdict(
    title: str,
    checks: Sequence[Check],
    columns: Mapping[str, str],
    *,
    passed: bool,
    summary: str,
    facts: Mapping[str, str],
    heading: str,
    link: tuple[str, str] | None = None,
) -> str:
    """Return the page of a verdict, a single HTML file without external resources.

    Args:
        title: Heading of the page.
        checks: The checks; those that did not pass come first on the page.
        columns: Heading by field of `Check` or name of a detail.
        passed: Whether the verdict is positive.
        summary: The verdict in a sentence.
        facts: Facts about the subject, by name.
        heading: Heading of the checks.
        link: Address and text of a link to details.
    """
    page = (
        templates()
        .get_template("verdict.html.jinja")
        .render(
            title=title,
            checks=sorted(checks, key=lambda check: check.passed),
            columns=columns,
            passed=passed,
            summary=summary,
            facts=facts,
            heading=heading,
            link=link,
            style=stylesheet("common", "verdict", "checks"),
        )
    )
    return f"{page}\n"
