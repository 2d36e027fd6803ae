"""What a page is made of: tables with sortable cells, and small notes on numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from chapterflow.errors import ChapterflowError

#: Stands where a run has no such number.
NONE = "—"


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: What is read.
        sort: What the column is sorted by; the text where there is none.
        href: Address that the text leads to, on this page or beside it.
        tone: `good`, `bad`, `dim` or nothing: a colour that only repeats what the text says.
        share: From 0 to 1, the strength of the cell's background.
        code: Whether it is an id or a hash.
    """

    text: str
    sort: float | str | None = None
    href: str = ""
    tone: str = ""
    share: float | None = None
    code: bool = False


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Attributes:
        caption: What it shows, and of what.
        headings: One for each column, with the unit.
        rows: Cells of each row.
        numeric: Whether each column holds numbers.
        sortable: Whether a reader may want another order.
        small: Whether it is as narrow as its content.
        text: Whether cells are sentences, which may break.
    """

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numeric: Sequence[bool] = field(default_factory=tuple)
    sortable: bool = True
    small: bool = False
    text: bool = False

    def __post_init__(self) -> None:
        """Refuse a row that does not fit the headings.

        Raises:
            ChapterflowError: If one has more or fewer cells.
        """
        for row in self.rows:
            if len(row) != len(self.headings):
                raise ChapterflowError(
                    f"A row of the table {self.caption!r} must have {len(self.headings)} cells. "
                    f"Received: {len(row)}"
                )

    def is_numeric(self, column: int) -> bool:
        """Tell whether a column is set flush right."""
        return bool(self.numeric) and self.numeric[column]


def number(value: float | None, digits: int, *, sign: bool = False) -> Cell:
    """Return a number with a fixed count of decimals, or the sign for none."""
    if value is None:
        return Cell(NONE, float("inf"), tone="dim")
    return Cell(f"{value:{'+' if sign else ''},.{digits}f}", value)


def interval(low: float | None, high: float | None, digits: int, *, sign: bool = False) -> Cell:
    """Return an interval; it sorts by its lower end."""
    if low is None or high is None:
        return Cell(NONE, float("inf"), tone="dim")
    form = f"{'+' if sign else ''},.{digits}f"
    return Cell(f"{low:{form}} to {high:{form}}", low)


def times(ratio: float | None) -> Cell:
    """Return how many times one figure is another."""
    return Cell(NONE, float("inf"), tone="dim") if ratio is None else Cell(f"{ratio:.2f}×", ratio)


def answered(name: str, *, right: bool) -> Cell:
    """Return an answer with a mark that tells whether it is right."""
    return Cell(f"{name}\u00a0{'✓' if right else '✗'}", tone="good" if right else "bad")


def ratio(upper: float | None, lower: float | None) -> float | None:
    """Return a ratio where there is one."""
    return upper / lower if upper is not None and lower else None


def plain(rows: Sequence[Sequence[Any]]) -> list[list[Cell]]:
    """Return rows of text as cells."""
    return [[Cell(str(value)) for value in row] for row in rows]
