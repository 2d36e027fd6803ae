"""`chapterflow ui`, `schedule` and `doctor`: the MLflow UI, scheduled runs, diagnosis."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from chapterflow.cli.common import ProfileOption, SetOption, say, start
from chapterflow.environment import configure, find_project
from chapterflow.errors import ConfigError


def ui(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.", min=1, max=65535)] = 5000,
) -> None:
    """Open the MLflow UI on 127.0.0.1, with this project's runs.

    Ctrl-C ends it.
    """
    project, settings = start(models=False)
    from chapterflow.tracking.session import Session
    from chapterflow.tracking.ui import serve_ui

    with Session(project, settings) as session:
        experiment = session.experiment_id
    serve_ui(project, port, experiment, tell=say)


def schedule(
    cron: Annotated[
        str | None, typer.Option(help='Cron expression, such as "0 2 * * *" (UTC).')
    ] = None,
    every: Annotated[int | None, typer.Option(help="Seconds between runs.", min=5)] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help="Model of params.yaml; repeatable; all by default."),
    ] = None,
    profile: ProfileOption = None,
    set_: SetOption = None,
    port: Annotated[
        int, typer.Option(help="Port of Prefect's UI on 127.0.0.1.", min=1, max=65535)
    ] = 4200,
) -> None:
    """Run the chapter flow on a schedule, from this process.

    Runs every night at 02:00 UTC unless --cron or --every is given. Ctrl-C ends it.
    """
    if cron and every:
        raise ConfigError("--cron and --every exclude each other. Received: both")
    project, settings = start(profile, set_)
    settings.check_names(models or [], settings.models, "model")
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "INFO"
    from pipelines.server import prefect_server

    with prefect_server(project.scratch, ui=True, port=port) as address:
        from pipelines.schedule import serve_chapter

        os.chdir(project.root)
        serve_chapter(
            cron=None if every else cron or "0 2 * * *",
            every=every,
            parameters={"models": models, "profile": settings.profile, "overrides": set_},
            address=address,
            tell=say,
        )


def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Repair the tracking store.")] = False,
) -> None:
    """Check this machine and project.

    Prints what to do about each check that fails.
    """
    project = find_project()
    configure(project)
    from chapterflow.checks import failures, print_checks
    from chapterflow.cli.doctor import diagnose, mend

    console = Console()
    if fix:
        for line in mend(project):
            console.print(Text(f"mended: {line}"), soft_wrap=True)
    checks = diagnose(project)
    print_checks(console, checks, {"name": "check", "observed": "result"})
    sys.exit(1 if failures(checks) else 0)
