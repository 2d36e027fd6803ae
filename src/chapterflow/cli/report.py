"""`chapterflow report`: one page of all results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from chapterflow.cli.common import (
    JsonOption,
    LanguageOption,
    ProfileOption,
    SetOption,
    print_json,
    start,
)

OUT = Path("report")


def report(
    runs: Annotated[
        list[str] | None,
        typer.Option(metavar="RUN", help="Id of a run, or its beginning; repeatable."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the page.")] = OUT,
    profile: ProfileOption = None,
    set_: SetOption = None,
    lang: LanguageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write one HTML page of all results.

    Models, differences, pictures, data and lineage of the runs that `compare` compares, or of those
    given by --runs. The page needs no network.
    """
    project, settings = start(profile, set_, language=lang)
    from chapterflow.loop import progress as live
    from chapterflow.page.report import write_report

    console = live.console(stderr=as_json)
    with live.shown(console, ["report"]):
        made = write_report(
            project, settings, out=out, wanted=runs or [], tell=live.tell_about("report")
        )
    if as_json:
        print_json(made.model_dump(mode="json"))
    else:
        console.print(Text(made.summary()), soft_wrap=True)
