"""The command line: thin, and quick to answer: a command imports what it needs when it runs."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from chapterflow.commands import data as data_commands
from chapterflow.commands import explain as explain_command
from chapterflow.commands import report as report_command
from chapterflow.commands import step as step_commands
from chapterflow.commands.common import (
    JsonOption,
    ProfileOption,
    SetOption,
    print_json,
    say,
    start,
)
from chapterflow.environment import configure, find_project
from chapterflow.errors import ChapterflowError, ConfigError

if TYPE_CHECKING:
    from chapterflow.settings import Settings

app = typer.Typer(
    name="chapterflow",
    help="Run the models of a textbook chapter on convolution through one production loop.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
app.add_typer(data_commands.app, name="data")
app.add_typer(step_commands.app, name="step", hidden=True)
app.command()(explain_command.explain)
app.command()(report_command.report)

#: What Typer makes of Ctrl-C.
INTERRUPTED = 130


def main() -> None:
    """Run the command line; every failure is one clear message and an exit code."""
    debug = "--debug" in sys.argv or bool(os.environ.get("CHAPTERFLOW_DEBUG"))
    sys.argv = [word for word in sys.argv if word != "--debug"]
    if debug:
        # What fails inside a flow is told by Prefect's log, with its traceback.
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "ERROR")
    try:
        app()
    except ChapterflowError as error:
        if debug:
            traceback.print_exc()
        say(str(error), "red")
        sys.exit(error.exit_code)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            say("Interrupted. The next run continues from the last finished epoch.", "yellow")
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            traceback.print_exc()
            sys.exit(1)
        say(f"{type(error).__name__}: {error}", "red")
        say("This was not expected; `--debug` shows where it happened.", "red")
        sys.exit(1)


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Options before any command; `main` has read them."""


@app.command()
def run(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="All by default.")
    ] = None,
    profile: ProfileOption = None,
    set_: SetOption = None,
    force: Annotated[bool, typer.Option(help="Train even what is done already.")] = False,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATASET",
            help="Learn this dataset, for this call, in the profile that is made for its kind.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run models: data, validation, training, evaluation, logging, registry.

    What a finished run has done already is reused. A killed training goes on where it was.
    """
    project, settings = start(profile, set_)
    names = list(dict.fromkeys(models or settings.models))
    settings.check_names(names, settings.models, "model")
    if data is not None:
        from chapterflow.data.fitting import fitting_profile, role_overrides

        if not models:
            raise ConfigError(
                "--data needs the names of models: `chapterflow run MODEL --data ...`"
            )
        if profile is None and (fit := fitting_profile(settings, names, data)) != settings.profile:
            profile = fit
            say(f"The profile {fit!r} is made for data like {data!r}; --profile chooses another.")
            project, settings = start(profile, set_)
        set_ = [*(set_ or []), *role_overrides(settings, names, data)]
        project, settings = start(profile, set_)
    from chapterflow import steps
    from chapterflow.records import Outcome
    from chapterflow.report import progress as live
    from chapterflow.report.tables import print_results
    from pipelines.server import prefect_server

    datasets = list(dict.fromkeys(d for name in names for d in settings.datasets_of(name)))
    exit_code = 0
    console = live.console(stderr=as_json)
    with live.shown(console, [*datasets, *names]) as progress:
        progress.update(datasets[0], "starting", "Prefect")
        with prefect_server(
            project.scratch, meanwhile=lambda: steps.preload(project, settings, names)
        ):
            from pipelines.chapter import ModelsFailed, chapter

            state: Any = chapter(
                models=names,
                profile=settings.profile,
                overrides=set_,
                force=force,
                return_state=True,
            )
    results = state.result(raise_on_failure=False)
    if isinstance(results, ModelsFailed):
        exit_code, results = results.exit_code, results.results
    elif isinstance(results, BaseException):
        raise results
    if as_json:
        print_json(results)
    else:
        print_results(console, [Outcome.model_validate(model) for model in results["models"]])
        _next_steps(console, results["models"], settings, set_ or [])
    sys.exit(exit_code)


def _next_steps(
    console: Console, models: list[dict[str, Any]], settings: Settings, overrides: list[str]
) -> None:
    options = f" --profile {settings.profile}" if settings.profile != "embedded" else ""
    options += "".join(f" --set {shlex.quote(override)}" for override in overrides)
    count = {s: sum(m["status"] == s for m in models) for s in ("trained", "reused", "failed")}
    told = ", ".join(f"{n} {status}" for status, n in count.items() if n)
    if count["reused"]:
        told += " (nothing they depend on has changed; --force trains anew)"
    console.print(Text(told + "."), soft_wrap=True)
    if count["failed"] == len(models):
        return
    console.print(
        f"Next: `chapterflow compare{options}` tells which differences are real; "
        "`chapterflow ui` opens the runs in MLflow.",
        soft_wrap=True,
        highlight=False,
    )


@app.command()
def compare(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="All by default.")
    ] = None,
    profile: ProfileOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare models pair by pair: is the difference real?

    Each model is shown by its run with today's parameters (params.yaml and --set), or else by its
    newest run.
    """
    project, settings = start(profile, set_)
    from chapterflow import steps
    from chapterflow.report import progress as live
    from chapterflow.report.tables import print_differences, print_results

    settings.check_names(models or [], settings.models, "model")
    found = steps.compare(project, settings)
    if models:
        # Holm's correction stays that of all pairs: who looks at a few of them has seen the rest.
        found = found.only(models)
    if as_json:
        print_json(found.model_dump(exclude={"models": {"__all__": {"exit_code"}}}))
        return
    console = live.console()
    if not found.models:
        console.print(
            f"No finished runs in the profile {settings.profile!r}. `chapterflow run` makes some."
        )
        return
    print_results(console, found.models, show_status=False)
    print_differences(console, found.differences)


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.", min=1, max=65535)] = 5000,
) -> None:
    """Open the MLflow UI over this project's runs on 127.0.0.1; Ctrl-C ends it."""
    project, settings = start()
    from chapterflow.tracking.session import Session
    from chapterflow.tracking.ui import serve_ui

    with Session(project, settings) as session:
        experiment = session.experiment_id
    serve_ui(project, port, experiment, tell=say)


@app.command()
def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Mend the tracking store.")] = False,
) -> None:
    """Check this machine and project; each line is ok, or says what to do."""
    project = find_project()
    configure(project)
    from chapterflow.doctor import diagnose, mend

    console = Console()
    if fix:
        for line in mend(project):
            console.print(Text(f"mended: {line}"), soft_wrap=True)
    checks = diagnose(project)
    for check in checks:
        mark = Text("ok   ", style="green") if check.ok else Text("FAIL ", style="red")
        console.print(mark + Text(f"{check.name}: {check.detail}", style=""), soft_wrap=True)
        if not check.ok and check.remedy:
            console.print(Text(f"      {check.remedy}"), soft_wrap=True)
    sys.exit(0 if all(check.ok for check in checks) else 1)


@app.command()
def schedule(
    cron: Annotated[str | None, typer.Option(help='Such as "0 2 * * *" (UTC).')] = None,
    every: Annotated[int | None, typer.Option(help="Seconds between runs.", min=5)] = None,
    models: Annotated[
        list[str] | None, typer.Option("--model", help="May stand several times.")
    ] = None,
    profile: ProfileOption = None,
    set_: SetOption = None,
    port: Annotated[
        int, typer.Option(help="Port of Prefect's UI on 127.0.0.1.", min=1, max=65535)
    ] = 4200,
) -> None:
    """Run the chapter flow on a schedule from this process; Ctrl-C ends it.

    Without --cron and --every it runs at 02:00 UTC each night.
    """
    if cron and every:
        raise ConfigError("Give --cron or --every, not both.")
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


@app.command()
def layers(
    model: str,
    profile: ProfileOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the layers of a model: output shape, kernel, stride, padding, parameters, FLOPs.

    They are those of the model for the dataset of the profile, and need no training.
    """
    project, settings = start(profile, set_)
    dataset, embedded = settings.dataset_of(model), settings.profile == "embedded"
    from dataclasses import asdict

    from chapterflow import steps
    from chapterflow.data.card import CARD
    from chapterflow.environment import load_tensorflow
    from chapterflow.errors import DataError
    from chapterflow.report.layers import layer_table, print_layers, totals
    from chapterflow.report.progress import console

    if not embedded and not (project.data / dataset / CARD).is_file():
        raise DataError(
            f"The layers of {model} depend on the shape of {dataset!r}, which is not here. "
            f"`chapterflow data fetch {dataset}` brings it."
        )
    load_tensorflow()
    rows = layer_table(steps.untrained(project, settings, model, build=embedded))
    if as_json:
        parameters, flops = totals(rows)
        document = {"model": model, "dataset": dataset, "parameters": parameters, "flops": flops}
        print_json(document | {"layers": [asdict(row) for row in rows]})
    else:
        print_layers(console(), rows, f"{model} for {dataset}")


if __name__ == "__main__":
    main()
