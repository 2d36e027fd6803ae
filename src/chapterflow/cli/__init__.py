"""The command line. Each command imports what it needs when it runs, so help appears at once."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from typing import Annotated, Any

import typer

from chapterflow.cli import (
    data,
    explain,
    init,
    layers,
    lineage,
    operate,
    play,
    predict,
    promote,
    report,
    run,
    serve,
    step,
    sweep,
)
from chapterflow.cli.common import say
from chapterflow.environment import Redacted, repeat_lost_interrupts
from chapterflow.errors import ChapterflowError, disk_full

app = typer.Typer(
    name="chapterflow",
    help="Run the models of a textbook chapter on convolution through one production loop.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
# In the order of use, which is the order in the help.
for command in (
    init.init, run.run, run.compare, sweep.sweep, layers.layers,
    explain.explain, play.play, report.report,
    promote.promote, promote.rollback, promote.history,
    lineage.why, lineage.reproduce,
    serve.serve, predict.predict,
    operate.ui, operate.schedule, operate.gc, operate.doctor,
):  # fmt: skip
    app.command()(command)
app.add_typer(data.app, name="data")
app.add_typer(step.app, name="step", hidden=True)
#: Exit code of Typer after Ctrl-C.
INTERRUPTED = 130
#: Commands that only Ctrl-C ends, also while they start.
UNTIL_INTERRUPTED = ("ui", "serve", "schedule")


def main() -> None:
    """Run the command line; a failure is one message and an exit code.

    Nothing that it prints contains a secret.
    """
    repeat_lost_interrupts()
    out: Any = Redacted(sys.stdout)
    err: Any = Redacted(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            _main()
        except SystemExit as ended:
            if server := sys.modules.get("pipelines.prefect_server"):
                server.leave(ended.code if isinstance(ended.code, int) else 1)
            raise


def _main() -> None:
    debug = "--debug" in sys.argv or bool(os.environ.get("CHAPTERFLOW_DEBUG"))
    sys.argv = [word for word in sys.argv if word != "--debug"]
    if debug:
        # Prefect's log shows the traceback of a failure inside a flow.
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "ERROR")
    try:
        app()
    except ChapterflowError as error:
        if debug:
            traceback.print_exc()
        say(str(error), "red")
        sys.exit(error.exit_code)
    except SystemExit as ended:
        if ended.code == INTERRUPTED and _command(sys.argv[1:]) in UNTIL_INTERRUPTED:
            sys.exit(0)
        if ended.code == INTERRUPTED:
            say(f"Interrupted. {_resumption(sys.argv[1:])}".strip(), "yellow")
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            traceback.print_exc()
        if full := disk_full(error):
            say(str(full), "red")
            sys.exit(full.exit_code)
        if debug:
            sys.exit(1)
        say(f"{type(error).__name__}: {error}", "red")
        say("This error was not expected; `--debug` shows where it happened.", "red")
        sys.exit(1)


def _command(words: list[str]) -> str:
    return next((word for word in words if not word.startswith("-")), "")


def _resumption(words: list[str]) -> str:
    """Return where an interrupted command resumes; nothing if it starts over."""
    command = _command(words)
    if command == "run" and "--force" in words:
        return "With --force, the next run begins again."
    return {
        "run": "The next run resumes after the last finished epoch.",
        "step": "The next run resumes after the last finished epoch.",
        "sweep": "The same command continues; finished trials are kept.",
        "predict": "The same command resumes after the last finished part.",
    }.get(command, "")


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Options before any command; `main` reads them."""
