"""`chapterflow predict`: many inputs, one registered model, one table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from chapterflow.commands.common import (
    JsonOption,
    ProfileOption,
    SetOption,
    print_json,
    say,
    start,
)


def predict(
    model: Annotated[str, typer.Argument(help="NAME (its champion), NAME/VERSION or NAME@ALIAS.")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Pictures, folders, .npy files, DATASET, DATASET:SPLIT or DATASET:INDEX.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Parquet file to write.")] = Path("predictions.parquet"),
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 2 where an input could not be read.")
    ] = False,
    profile: ProfileOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict files or datasets with a registered model.

    They are compared with its test data: drift. What cannot be read is named; the rest goes on. A
    killed command goes on when called again.
    """
    project, settings = start(profile, set_)
    from chapterflow.batch.early import check_batch
    from chapterflow.report import progress as live
    from pipelines.server import prefect_server

    # What is wrong with the words of the command is told before any server starts.
    check_batch(project, settings, model, inputs, out)
    console = live.console(stderr=as_json)
    with live.shown(console, [model]) as progress:
        progress.update(model, "starting", "Prefect")
        with prefect_server(project.scratch):
            from pipelines.batch import batch

            state: Any = batch(
                model=model,
                inputs=inputs,
                out=str(out),
                profile=settings.profile,
                overrides=set_,
                return_state=True,
            )
    done = state.result(raise_on_failure=False)
    if isinstance(done, BaseException):
        raise done
    from chapterflow.report.predicted import print_predicted, unreadable_lines

    if as_json:
        print_json(done)
    else:
        print_predicted(console, done)
    for line in unreadable_lines(done):
        say(line, "red")
    sys.exit(2 if strict and done["unreadable"] else 0)
