"""`chapterflow predict`: many inputs, one version, one table."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from chapterflow.cli.common import (
    InvertOption,
    JsonOption,
    ModelArgument,
    ProfileOption,
    SetOption,
    print_json,
    say,
    say_version,
    start,
)

#: Most unreadable inputs that a terminal lists; the run has all of them.
LISTED = 10


def print_predicted(console: Console, done: Mapping[str, Any]) -> None:
    """Print the comparison with the test data, counts and notes of a batch."""
    from chapterflow.checks import print_checks
    from chapterflow.predict.drift import COLUMNS, Drift

    print_checks(
        console,
        [Drift.model_validate(figure).check for figure in done["figures"]],
        COLUMNS,
        title=f"Compared with {done['reference']}",
    )
    lines = [
        f"{_counted(done['examples'], 'example')} predicted by {done['model']} "
        f"in {done['seconds']:.1f} s"
        + (f", {done['resumed']:,} of them before an interruption" if done["resumed"] else "")
        + "."
    ]
    if done["labelled"]:
        lines.append(f"{done['correct']:,} of {done['labelled']:,} with a known class are right.")
    if done["skipped"]:
        lines.append(f"Skipped {_counted(len(done['skipped']), 'file')} of another format.")
    lines += done["notes"]
    lines.append(f"Table: {done['out']}. Run {done['run_id']} in MLflow has the details.")
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def unreadable_lines(done: Mapping[str, Any]) -> list[str]:
    """Return lines about the inputs that could not be read; none if all could."""
    unread = done["unreadable"]
    if not unread:
        return []
    count = sum(item["count"] for item in unread)
    lines = [f"{_counted(count, 'input')} could not be read:"]
    lines += [f"  {item['input']}: {item['reason']}" for item in unread[:LISTED]]
    if len(unread) > LISTED:
        lines.append(f"  and {len(unread) - LISTED:,} more; unreadable.json of the run has all.")
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
        bool, typer.Option("--strict", help="Exit with 2 if an input cannot be read.")
    ] = False,
    invert: InvertOption = False,
    profile: ProfileOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict files or datasets with a registered model.

    Also compares them with the model's test data, to detect drift. Lists inputs that cannot be read
    and predicts the others. After an interruption the same command resumes.
    """
    project, settings = start(profile, set_)
    from chapterflow.loop import progress as live
    from chapterflow.predict.batch import check_batch
    from pipelines.prefect_server import outcome_of, prefect_server

    # Bad input is refused before a server starts.
    model = check_batch(
        project, settings, model, inputs, out, invert=invert, on_version=say_version
    )
    console = live.console(stderr=as_json)
    with live.shown(console, [model]) as progress:
        progress.update(model, "starting", "Prefect")
        with prefect_server(project.scratch, tell=say):
            from pipelines.batch import batch

            done: Any = outcome_of(
                batch,
                model=model,
                inputs=inputs,
                out=str(out),
                invert=invert,
                profile=settings.profile,
                overrides=set_,
            )
    if isinstance(done, BaseException):
        raise done

    if as_json:
        print_json(done)
    else:
        print_predicted(console, done)
    for line in unreadable_lines(done):
        say(line, "red")
    sys.exit(2 if strict and done["unreadable"] else 0)
