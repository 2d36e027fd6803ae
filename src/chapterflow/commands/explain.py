"""`chapterflow explain`: what a registered model looks at."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from chapterflow.commands.common import JsonOption, ProfileOption, SetOption, print_json, start


def explain(
    model: Annotated[str, typer.Argument(help="NAME, NAME/VERSION or NAME@ALIAS.")],
    given: Annotated[
        str,
        typer.Argument(metavar="INPUT", help="Picture, .npy file, DATASET:INDEX or DATASET."),
    ],
    layer: Annotated[
        str | None,
        typer.Option(help="Layer for grad-cam; the last with 16 positions or more by default."),
    ] = (None),
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="For one input; may stand several times; all that the model allows by default."
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Class to explain; the model's answer by default.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; explanations/MODEL-INPUT by default.")
    ] = None,
    profile: ProfileOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a registered model looks at in an input.

    Writes pictures, and figures to believe them by. DATASET shows its probes, as the pictures of
    runs do.
    """
    project, settings = start(profile, set_)
    from chapterflow.explaining import explain_with
    from chapterflow.report import progress as live

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
            tell=live.tell_about(model),
        )
    from chapterflow.explain.storage import EXPLANATION, write_explanation

    document = write_explanation(
        done.explanation, folder, model=done.version.uri(), input=done.what, notes=done.notes
    )
    if as_json:
        print_json(document)
        return
    from chapterflow.report.explained import print_explained

    print_explained(console, document)
    console.print(Text(f"Pictures and {EXPLANATION}: {folder}"), soft_wrap=True)
