"""Lineage and reproductions in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from chapterflow.lineage.reproduce import Reproduction
from chapterflow.lineage.tree import Lineage, Link, State

#: How a link of each state looks; the word tells it where there are no colours.
STYLES: dict[State, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "warning": ("MIND", "yellow"),
    "broken": ("BROKEN", "bold red"),
}


def print_lineage(console: Console, lineage: Lineage) -> None:
    """Print the tree of links, and in the last line which are broken."""
    if lineage.note:
        console.print(Text(lineage.note, style="yellow"), soft_wrap=True)
    root = Tree(_line(lineage.root), guide_style="dim")
    _add(root, lineage.root)
    console.print(root)  # not softly: a tree crops lines that are not to be wrapped
    count = sum(1 for _ in lineage.root.all())
    if broken := lineage.broken:
        told = Text(f"{len(broken)} of {count} links broken: {', '.join(broken)}", "bold red")
    else:
        told = Text(f"All {count} links hold", "green")
        if lineage.warnings:
            told.append(f"; mind {', '.join(dict.fromkeys(lineage.warnings))}", "yellow")
    console.print(told, soft_wrap=True)


def _add(tree: Tree, link: Link) -> None:
    for below in link.below:
        _add(tree.add(_line(below)), below)


def _line(link: Link) -> Text:
    word, style = STYLES[link.state]
    line = Text()
    if link.state != "ok":
        line.append(f"{word} ", style)
    line.append(link.name, "bold" if link.state == "ok" else style)
    return line.append(f"  {link.told}")


def print_reproduction(console: Console, done: Reproduction) -> None:
    """Print the environment then and now, where the data came from, and the verdict."""
    if done.note:
        console.print(Text(done.note, style="yellow"), soft_wrap=True)
    table = Table(title=f"{done.version} made again: run {done.reproduces}")
    for heading in ("", "recorded", "today", "same?"):
        table.add_column(heading, overflow="fold")
    for fact in done.environment:
        same = Text("yes", "green") if fact.same else Text("no" if fact.known else "?", "yellow")
        table.add_row(fact.name, fact.recorded, fact.today, same)
    console.print(table)
    console.print(Text(f"Data: {done.data}"), soft_wrap=True)
    if done.changed_sources:
        told = f"Source files that are others now: {', '.join(done.changed_sources)}"
        console.print(Text(told), soft_wrap=True)
    if done.get_sources:
        console.print(Text(f"The recorded sources: {done.get_sources}"), soft_wrap=True)
    style = {"identical": "green", "agrees": "green", "differs": "bold red"}[done.verdict]
    console.print(Text(done.told, style), soft_wrap=True)
    console.print(
        Text(f"{done.seconds:.1f} s of training; logged as run {done.run_id}"), soft_wrap=True
    )
