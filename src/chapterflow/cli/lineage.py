"""`chapterflow why` and `reproduce`: what a model was made from, and whether it can be again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from chapterflow.cli.common import MODEL_HELP, JsonOption, print_json, say, say_version, start

if TYPE_CHECKING:
    from chapterflow.lineage.reproduce import Reproduction
    from chapterflow.lineage.why import Lineage


def print_lineage(console: Console, lineage: Lineage) -> None:
    """Print the links, indented below the link that leads to them, and then the broken ones."""
    from chapterflow.checks import print_checks

    print_checks(console, [lineage.root], {"name": "link", "observed": "leads to"})
    count = sum(1 for _ in lineage.root.walk())
    if broken := lineage.broken:
        summary = Text(f"{len(broken)} of {count} links broken: {', '.join(broken)}", "bold red")
    else:
        summary = Text(f"All {count} links hold", "green")
        if lineage.warnings:
            names = ", ".join(dict.fromkeys(lineage.warnings))
            summary.append(f"; with a reservation: {names}", "yellow")
    console.print(summary, soft_wrap=True)


def print_reproduction(console: Console, done: Reproduction) -> None:
    """Print the environment then and now, where the data came from, and the verdict."""
    from chapterflow.checks import print_checks

    print_checks(
        console,
        done.environment,
        {"name": "fact", "expected": "recorded", "observed": "today"},
        title=f"{done.version} made again: run {done.reproduces}",
    )
    console.print(Text(f"Data: {done.data}"), soft_wrap=True)
    if done.changed_sources:
        files = ", ".join(done.changed_sources)
        console.print(Text(f"Source files that have changed: {files}"), soft_wrap=True)
    if done.get_sources:
        console.print(Text(f"The recorded sources: {done.get_sources}"), soft_wrap=True)
    style = {"identical": "green", "agrees": "green", "differs": "bold red"}[done.verdict]
    console.print(Text(done.told, style), soft_wrap=True)
    console.print(
        Text(f"{done.seconds:.1f} s of training; logged as run {done.run_id}"), soft_wrap=True
    )


RecordedArgument = Annotated[
    str,
    typer.Argument(metavar="MODEL", help=f"{MODEL_HELP} Or the id of a run, or its beginning."),
]


def why(
    model: RecordedArgument,
    as_json: JsonOption = False,
) -> None:
    """Trace a registered model to its origin, and check each link.

    Run, data, validation, source code and gates. The exit code is 1 if a link is broken.
    """
    project, settings = start(models=False)
    from chapterflow.lineage.why import why as find_out
    from chapterflow.loop import progress as live
    from chapterflow.registry.ledger import settle

    console = live.console()
    with live.shown(live.console(stderr=True), [model]):
        settle(project, model, on_note=say)
        lineage = find_out(
            project, settings, model, on_version=say_version, tell=live.tell_about(model)
        )
    if as_json:
        print_json(lineage.document())
    else:
        print_lineage(console, lineage)
    if lineage.broken:
        raise typer.Exit(1)


def reproduce(
    model: RecordedArgument,
    as_json: JsonOption = False,
) -> None:
    """Train a recorded model again, and compare both.

    Uses the recorded data, parameters and seed, and changes nothing in the project. The exit code
    is 0 if the weights are equal bit for bit, or if the answers agree in another environment.
    """
    project, settings = start(models=False)
    from chapterflow.lineage.reproduce import reproduce as make_again
    from chapterflow.loop import progress as live

    console = live.console(stderr=as_json)
    with live.shown(console, [model]):
        done = make_again(
            project, settings, model, on_version=say_version, tell=live.tell_about(model)
        )
    if as_json:
        print_json(done.model_dump(mode="json"))
    else:
        print_reproduction(console, done)
    if done.verdict == "differs":
        raise typer.Exit(1)
