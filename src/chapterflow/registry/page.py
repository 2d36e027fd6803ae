"""The verdict on one page that needs nothing but itself, and as a table in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from rich.console import Console
from rich.table import Table
from rich.text import Text

from chapterflow.registry.ledger import Entry
from chapterflow.registry.verdict import Verdict, shown
from chapterflow.validation.docs import stylesheet

#: A narrower terminal gets notes below the table instead of beside it.
WIDE = 120


def render_page(verdict: Verdict) -> str:
    """Return the page of a verdict: shut gates first, then those that were passed."""
    from jinja2 import Environment, StrictUndefined

    # Reasons and names come from people: everything is escaped.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(
        (resources.files("chapterflow.registry") / "templates" / "verdict.html.jinja").read_text(
            encoding="utf-8"
        )
    )
    facts = {
        "Model": verdict.model,
        "Alias": verdict.alias,
        "Challenger": f"{verdict.challenger} (run {verdict.challenger_run})",
        verdict.alias.capitalize(): f"{verdict.champion} (run {verdict.champion_run})"
        if verdict.champion
        else "none",
        "Scored now on": f"the test split of {verdict.dataset}"
        + (f", {verdict.test_digest[:12]}" if verdict.test_digest else ""),
        "When": verdict.when,
        "Asked by": verdict.who,
        **({"Reason": verdict.reason} if verdict.reason else {}),
        "Judged at commit": verdict.commit or "unknown",
    }
    page = template.render(
        verdict=verdict,
        gates=sorted(verdict.gates, key=lambda gate: gate.passed),
        facts=facts,
        shown=shown,
        style=stylesheet("common") + stylesheet("verdict"),
    )
    return page + "\n"


def print_verdict(console: Console, verdict: Verdict) -> None:
    """Print every gate, and what came of it."""
    wide = console.width >= WIDE
    if verdict.candidates:
        best, *others = verdict.candidates
        line = f"{best.version} ({best.alias}) is the best on the validation split: "
        line += f"{best.validation:.4f}"
        if others:
            line += "; " + ", ".join(f"{one.version} {one.validation:.4f}" for one in others)
        console.print(Text(line + "."), soft_wrap=True)
    table = Table(title=f"{verdict.challenger} for {verdict.model}@{verdict.alias}")
    headings = ["", "gate", "threshold", verdict.alias, "challenger", *(["note"] if wide else [])]
    for heading in headings:
        words = heading in ("", "gate", "note")
        table.add_column(heading, justify="left" if words else "right")
    for gate in verdict.gates:
        mark = Text("pass", style="green") if gate.passed else Text("SHUT", style="bold red")
        values = [shown(value) for value in (gate.threshold, gate.champion, gate.challenger)]
        table.add_row(mark, gate.name, *map(Text, values), *([Text(gate.note)] if wide else []))
    console.print(table)
    for gate in verdict.gates:
        if gate.note and (not wide) and not gate.passed:
            console.print(Text(f"{gate.name}: {gate.note}"), soft_wrap=True)
    style = "green" if verdict.verdict == "promoted" else "red"
    console.print(Text(verdict.told, style=style), soft_wrap=True)


def print_history(console: Console, model: str, past: Sequence[Entry]) -> None:
    """Print the ledger of a model, oldest first."""
    if not past:
        console.print(
            f"Nobody has judged {model} yet. `chapterflow promote {model}` does.", soft_wrap=True
        )
        return
    table = Table(title=f"History of {model}")
    for heading in ("when (UTC)", "who", "what", "alias", "from", "to", "gates", "reason"):
        table.add_column(heading, overflow="fold")
    styles = {"promoted": "green", "refused": "red", "rolled back": "yellow"}
    for entry in past:
        table.add_row(
            entry.when[:19].replace("T", " "),
            Text(entry.who),
            Text(entry.action if entry.done else f"{entry.action}: unfinished",
                 style=styles[entry.action]),
            Text(entry.alias),
            Text(entry.before or "-"),
            Text(entry.after),
            Text(entry.gates),
            Text(entry.reason or "-"),
        )  # fmt: skip
    console.print(table)
