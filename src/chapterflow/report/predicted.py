"""What a batch prediction came to, for people to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

ALIKE = "like the test data"
#: Unreadable inputs that are named on the screen; the run has all of them.
NAMED = 10


def print_predicted(console: Console, done: Mapping[str, Any]) -> None:
    """Print counts, the comparison with the test data and notes.

    Args:
        done: A batch as a document.
    """
    table = Table(title=f"Compared with {done['reference']}", title_justify="left")
    table.add_column("figure")
    table.add_column("PSI", justify="right")
    table.add_column("chance alone", justify="right")
    table.add_column("reading")
    for figure in done["figures"]:
        reading = figure["reading"] + (f" ({figure['why']})" if figure["why"] else "")
        style = "" if figure["psi"] is None or figure["reading"] == ALIKE else "red"
        table.add_row(
            Text(figure["name"]),
            _number(figure["psi"]),
            _number(figure["chance"]),
            Text(reading, style=style),
        )
    console.print(table)
    told = [
        f"{_counted(done['examples'], 'example')} predicted by {done['model']} "
        f"in {done['seconds']:.1f} s"
        + (f", {done['resumed']:,} of them before an interruption" if done["resumed"] else "")
        + "."
    ]
    if done["labelled"]:
        told.append(f"{done['correct']:,} of {done['labelled']:,} with a known class are right.")
    if done["skipped"]:
        told.append(f"Passed over: {_counted(len(done['skipped']), 'file')} of another sort.")
    told += done["notes"]
    told.append(f"Table: {done['out']}. Run {done['run_id']} in MLflow has the rest.")
    for line in told:
        console.print(Text(line), soft_wrap=True)


def unreadable_lines(done: Mapping[str, Any]) -> list[str]:
    """Return lines that name what could not be read; [] where everything could."""
    lost = done["unreadable"]
    if not lost:
        return []
    count = sum(one["count"] for one in lost)
    lines = [f"{_counted(count, 'input')} could not be read:"]
    lines += [f"  {one['input']}: {one['reason']}" for one in lost[:NAMED]]
    if len(lost) > NAMED:
        lines.append(f"  and {len(lost) - NAMED:,} more; unreadable.json of the run has all.")
    return lines


def drift_markdown(done: Mapping[str, Any]) -> str:
    """Return the comparison with the test data as a table in markdown."""
    lines = [
        f"{done['model']}: {done['examples']:,} examples against {done['reference']}.",
        "",
        "| figure | PSI | chance alone | reading |",
        "| --- | ---: | ---: | --- |",
    ]
    lines += [
        f"| {one['name']} | {_number(one['psi'])} | {_number(one['chance'])} | {one['reading']} |"
        for one in done["figures"]
    ]
    return "\n".join(lines) + "\n"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
