"""`chapterflow why` and `chapterflow reproduce`: where a model comes from, and if it can again."""

from __future__ import annotations

from typing import Annotated

import typer

from chapterflow.commands.common import JsonOption, print_json, start


def why(
    model: Annotated[str, typer.Argument(help="NAME, NAME/VERSION or NAME@ALIAS.")],
    as_json: JsonOption = False,
) -> None:
    """Show what stands behind a registered model, each link checked.

    Run, data, validation, source code and gates. Each link is checked; where one is broken, the
    exit code is 1. NAME alone is the champion, or else its challenger.
    """
    project, settings = start(models=False)
    from chapterflow.lineage.printed import print_lineage
    from chapterflow.lineage.why import why as find_out
    from chapterflow.report import progress as live

    console = live.console()
    with live.shown(live.console(stderr=True), [model]):
        lineage = find_out(project, settings, model, tell=live.tell_about(model))
    if as_json:
        print_json(lineage.document())
    else:
        print_lineage(console, lineage)
    if lineage.broken:
        raise typer.Exit(1)


def reproduce(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="NAME, NAME/VERSION or NAME@ALIAS, or a run's id or its start."
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Train a recorded model again, and compare both.

    It has the data, the parameters and the seed of the record. Nothing of the project is changed.
    The exit code is 0 where the weights are the same bit for bit, or where another environment
    gives answers that agree.
    """
    project, settings = start(models=False)
    from chapterflow.lineage.printed import print_reproduction
    from chapterflow.lineage.reproduce import reproduce as make_again
    from chapterflow.report import progress as live

    console = live.console(stderr=as_json)
    with live.shown(console, [model]):
        done = make_again(project, settings, model, tell=live.tell_about(model))
    if as_json:
        print_json(done.model_dump(mode="json"))
    else:
        print_reproduction(console, done)
    if done.verdict == "differs":
        raise typer.Exit(1)
