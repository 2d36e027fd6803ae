"""The check: a named thing that was expected, what was observed, its state, and why.

Validation, gates, lineage, the doctor, reproduction, drift and explanations state their verdicts as
checks. A terminal shows them as one table, a page as one block of HTML.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from chapterflow.types import Strict

if TYPE_CHECKING:
    from jinja2 import Environment
    from rich.console import Console

State = Literal["passed", "warning", "failed", "unknown"]
Value = float | str | None


class Check(Strict):
    """One check.

    Attributes:
        name: What is checked (`label-set`, `source commit`).
        state: `warning` holds with a reservation; `unknown` could not be decided.
        title: What must hold, or the mistake that it guards against, in a sentence.
        expected: The requirement, threshold or recorded value.
        observed: The value that the requirement is compared with.
        reason: Why it has this state, and what to do about it.
        details: Further values, by name; tables may have a column for each.
        examples: Ids of the first examples that break it.
        examples_count: Number of examples that break it; null if no example alone can.
        checks: Checks that belong to this one.
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
        """Whether it passed without reservation."""
        return self.state == "passed"

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Check]]:
        """Yield this check and all below it, each with its depth."""
        yield depth, self
        for check in self.checks:
            yield from check.walk(depth + 1)

    def value(self, column: str) -> Any:
        """Return the field or the detail of a name; None if it has neither."""
        return getattr(self, column) if column in Check.model_fields else self.details.get(column)


def failures(checks: Sequence[Check]) -> list[Check]:
    """Return the checks that failed."""
    return [check for check in checks if check.state == "failed"]


@dataclass(frozen=True)
class Keys:
    """How a document spells a check.

    Attributes:
        fields: Field of `Check`, or name of a detail, by the document's key, in its order.
        states: The document's word for each state.
    """

    fields: Mapping[str, str]
    states: Mapping[State, Any]

    def write(self, check: Check) -> dict[str, Any]:
        """Return a check as the document has it."""
        values: dict[str, Any] = {key: check.value(field) for key, field in self.fields.items()}
        for key, field in self.fields.items():
            if field == "state":
                values[key] = self.states[check.state]
            elif field == "checks":
                values[key] = [self.write(below) for below in check.checks]
        return values

    def read(self, document: Any) -> Any:
        """Return the fields of a check; a validator for records whose JSON has such documents."""
        if not isinstance(document, dict):
            return document
        if wrong := document.keys() ^ self.fields.keys():
            raise ValueError(f"missing or unknown keys: {', '.join(sorted(wrong))}")
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


#: The word and the style of a state in a terminal.
STATES: dict[State, tuple[str, str]] = {
    "passed": ("ok", "green"),
    "warning": ("warning", "yellow"),
    "failed": ("FAILED", "bold red"),
    "unknown": ("unknown", "yellow"),
}
#: In a narrower terminal reasons are printed below the table.
WIDE = 120


def text(value: Any) -> str:
    """Return a value as a table shows it: a number with four digits, more before the point."""
    if value is None:
        return "-"
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    whole = float(value).is_integer() or abs(value) >= 1e4
    return f"{value:,.0f}" if whole and abs(value) < 1e15 else f"{value:.4g}"


def print_checks(
    console: Console, checks: Sequence[Check], columns: Mapping[str, str], title: str = ""
) -> None:
    """Print checks and all below them as a table.

    Args:
        console: Where.
        checks: The rows.
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
    table.add_column("")
    for name in names:
        numbers = any(isinstance(check.value(name), float) for _, check in rows)
        table.add_column(columns[name], justify="right" if numbers else "left", overflow="fold")
    for depth, check in rows:
        word, style = STATES[check.state]
        cells = [Text(text(check.value(name))) for name in names]
        cells[0] = Text("  " * depth + check.name)
        table.add_row(Text(word, style), *cells)
    console.print(table)
    for _, check in rows:
        if below and check.reason and not check.passed:
            console.print(Text(f"{check.name}: {check.reason}"), soft_wrap=True)


def markdown(checks: Sequence[Check], columns: Mapping[str, str]) -> str:
    """Return checks as a table in markdown."""
    lines = [[*columns.values()], ["---"] * len(columns)]
    lines += [[text(check.value(name)) for name in columns] for check in checks]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


TEMPLATES = Path(__file__).parent / "templates"


def templates(*folders: Path) -> Environment:
    """Return the templates of pages, and those in other folders."""
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
    return environment


def stylesheet(*names: str) -> str:
    """Return stylesheets as one, for a page to hold inline."""
    return "".join((TEMPLATES / f"{name}.css").read_text(encoding="utf-8") for name in names)


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
    """Return the page of a verdict, which needs nothing but itself.

    Args:
        title: Its heading.
        checks: What was checked; the page shows first what did not pass.
        columns: Heading by field of `Check` or name of a detail.
        passed: Whether the verdict is good.
        summary: The verdict in a sentence.
        facts: What it is about, by name.
        heading: Heading of the checks.
        link: Address and text of more.
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
