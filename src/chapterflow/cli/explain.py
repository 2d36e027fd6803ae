"""`chapterflow explain`: what a registered model looks at in an input."""

from __future__ import annotations

import re
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
    say_version,
    start,
)


def print_explained(console: Console, document: Mapping[str, Any]) -> None:
    """Print what `explain.json` of one input or dataset says.

    Args:
        document: Content of `explain.json`, with `model`, `input`, `notes` and `unlike`.
    """
    notes = f" ({', '.join(document['notes'])})" if document["notes"] else ""
    console.print(Text(f"{document['model']}: {document['input']}{notes}"), soft_wrap=True)
    for row in document["details"].get("probes", []):
        console.print(Text("  " + _answer(row)), soft_wrap=True)
    from chapterflow.checks import print_checks
    from chapterflow.explain.explain import OUTSIDE
    from chapterflow.explain.sanity import verdicts

    if document["unlike"]:
        console.print(Text(f"  {OUTSIDE.format(document['unlike'])}", "yellow"), soft_wrap=True)
    checks = verdicts(document["metrics"])
    if not checks:
        return
    print_checks(
        console,
        checks,
        {
            "name": "method",
            "observed": "deletion",
            "expected": "random order",
            "insertion": "insertion",
        },
        title="Can the maps be believed?",
    )
    caption = (
        "Area under the probability while positions are deleted, the most important first: lower "
        "is better; while they are inserted: higher is better. See docs/explain.md."
    )
    console.print(Text(caption, "dim"), soft_wrap=True)


def _answer(row: Mapping[str, Any]) -> str:
    if "value" in row:
        return f"sample {row['sample']}: value {row['value']:.4g}"
    given = f"{row['name']}: " if "name" in row else ""
    return f"{given}{row['predicted']}, confidence {row['confidence']:.3f}"


def explain(
    model: ModelArgument,
    given: Annotated[
        str,
        typer.Argument(
            metavar="INPUT", help="Picture, .npy file, DATASET:INDEX or DATASET (its probes)."
        ),
    ],
    layer: Annotated[
        str | None,
        typer.Option(help="Layer for grad-cam; by default the last with 16 positions or more."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Attribution method; repeatable; by default all that the model allows."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Class to explain; by default the predicted one.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; by default explanations/MODEL-INPUT.")
    ] = None,
    invert: InvertOption = False,
    profile: ProfileOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a registered model looks at in an input.

    Writes pictures, and measures of how far to believe them. --layer, --method and --target apply
    to a single input.
    """
    project, settings = start(profile, set_)
    from chapterflow.loop import progress as live
    from chapterflow.predict.explain_input import explain_with

    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{model}-{Path(given).name}").strip("-")
    folder = out or Path("explanations") / name
    console = live.console(stderr=as_json)
    with live.shown(console, [model]):
        done = explain_with(
            project,
            settings,
            model,
            given,
            folder,
            methods=method,
            layer=layer,
            target=target,
            invert=invert,
            on_version=say_version,
            tell=live.tell_about(model),
        )
    from chapterflow.explain.explanation import EXPLANATION

    document = done.explanation.save(
        folder,
        model=done.version.uri(),
        input=done.what,
        notes=done.notes,
        unlike=done.unlike or None,
    )
    if as_json:
        print_json(document)
        return

    print_explained(console, document)
    console.print(Text(f"Pictures and {EXPLANATION}: {folder}"), soft_wrap=True)
