"""`chapterflow predict`: many inputs, one registered model, one table."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from chapterflow.checks import print_checks
from chapterflow.cli.common import (
    JsonOption,
    ModelArgument,
    ProfileOption,
    SetOption,
    print_json,
    say,
    say_version,
    start,
)

#: Unreadable inputs that are named on the screen; the run has all of them.
NAMED = 10


def print_predicted(console: Console, done: Mapping[str, Any]) -> None:
    """Print counts, the comparison with the test data and notes.

    Args:
        done: A batch as a document.
    """
    from chapterflow.predict.drift import COLUMNS, Drift

    print_checks(
        console,
        [Drift.model_validate(figure).check for figure in done["figures"]],
        COLUMNS,
        title=f"Compared with {done['reference']}",
    )
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


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def predict(
    model: ModelArgument,
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
    from chapterflow.loop import progress as live
    from chapterflow.predict.batch import check_batch
    from pipelines.server import prefect_server

    # What is wrong with the words of the command is told before any server starts.
    check_batch(project, settings, model, inputs, out, on_version=say_version)
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

    if as_json:
        print_json(done)
    else:
        print_predicted(console, done)
    for line in unreadable_lines(done):
        say(line, "red")
    sys.exit(2 if strict and done["unreadable"] else 0)
