"""`chapterflow play`: one page to draw on, whose layers answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from chapterflow.cli.common import (
    MODEL_HELP,
    JsonOption,
    LanguageOption,
    ProfileOption,
    SetOption,
    print_json,
    say_version,
    start,
)

OUT = Path("playground")


def play(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help=f"{MODEL_HELP} By default all registered models, dnn and cnn first.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the page.")] = OUT,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    profile: ProfileOption = None,
    set_: SetOption = None,
    lang: LanguageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a page to draw a digit on: every layer answers.

    Further tabs show what convolution, stride and pooling do to one picture, and how features
    spread in a graph. The page computes the layers itself, and needs no network.
    """
    project, settings = start(profile, set_, language=lang)
    from chapterflow.errors import ConfigError
    from chapterflow.loop import progress as live
    from chapterflow.page.playground import write_playground
    from chapterflow.tracking.session import Session

    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out must be a folder. Received: the file {out}")
    console = live.console(stderr=as_json)
    with (
        live.shown(console, ["playground"]),
        Session(project, settings, reading=True) as session,
    ):
        made = write_playground(
            project,
            settings,
            session,
            out / "index.html",
            wanted=models or [],
            on_version=say_version,
            tell=live.tell_about("playground"),
        )
    if as_json:
        print_json(made.model_dump(mode="json"))
    else:
        console.print(Text(made.summary()), soft_wrap=True)
    if open_:
        import webbrowser

        webbrowser.open(made.page.as_uri())
