"""`chapterflow sweep`: search for better parameters of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from chapterflow.cli.common import (
    AddressOption,
    EngineOption,
    JsonOption,
    LanguageOption,
    ProfileOption,
    execution_override,
    print_json,
)
from chapterflow.environment import SWEEP_STORAGE, configure, find_project
from chapterflow.errors import SMALL_RUN, check_space
from chapterflow.language import choose_language, message, recorded, tr, trn

if TYPE_CHECKING:
    from chapterflow.loop.sweep import Sweep, Trial

#: Trials in the table.
BEST = 10
STATES = message(["finished", "pruned", "failed", "running"])


def sweep(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model of params.yaml.")],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=SPACE",
            help="What varies: log:1e-4..1e-2, 16..256 or relu,tanh; a single value holds for "
            "all trials.",
        ),
    ] = None,
    trials: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Trials in total, those of earlier calls included."),
    ] = 20,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar=SWEEP_STORAGE,
            show_envvar=False,
            help="Database that several machines share: postgresql://...; by default that of "
            f"MLFLOW_TRACKING_URI, or a file of the project. {SWEEP_STORAGE} sets it, too.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Trials to run side by side; by default one, on a cluster one per worker.",
        ),
    ] = None,
    engine: EngineOption = None,
    address: AddressOption = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Write the best parameters to params.yaml.")
    ] = False,
    profile: ProfileOption = None,
    lang: LanguageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search for better parameters of a model, judged on validation.

    Optuna proposes them; trials that are worse than most end early. The same command continues an
    interrupted sweep, and shares the trials with others that run it on the same storage.
    """
    choose_language(lang)
    project = find_project()
    configure(project)
    from chapterflow.config.load import load_settings
    from chapterflow.config.space import read_space

    space, settings = read_space(project.params, model, set_ or [], profile=profile)
    if execution := execution_override(settings, engine, address):
        settings = load_settings(
            project.params, profile=settings.profile, overrides=[*space.fixed, *execution]
        )
    from chapterflow.tracking.store import check_reachable

    check_reachable(project)
    check_space(project.root, SMALL_RUN, "a sweep")
    from chapterflow.loop import progress as live
    from chapterflow.loop import sweep as loop

    console = live.console(stderr=as_json)
    with live.shown(console, [*settings.datasets_of(model), model]):
        result = loop.sweep(
            project,
            settings,
            space,
            trials=trials,
            storage=storage,
            workers=workers,
            tell_of=live.tell_about,
        )
    if apply:
        loop.apply(project, space, result)
    if as_json:
        print_json(result.model_dump())
    else:
        print_sweep(console, result, applied=apply)


def print_sweep(console: Console, result: Sweep, *, applied: bool = False) -> None:
    """Print the best trials, and the change of `params.yaml` to the best one.

    Args:
        applied: Whether `params.yaml` has been changed.
    """
    table = Table(
        Column(tr("Trial"), justify="right"),
        Column(result.metric, justify="right"),
        *(Column(name, justify="right", overflow="fold") for name in _names(result)),
        Column(tr("Epochs"), justify="right"),
        Column(tr("State")),
    )
    for trial in result.trials[:BEST]:
        table.add_row(*map(Text, _cells(trial, _names(result))))
    console.print(table)
    counts = {state: sum(trial.state == state for trial in result.trials) for state in STATES}
    text = ", ".join(
        tr("{count} {status}", count=count, status=tr(state))
        for state, count in counts.items()
        if count
    )
    number = len(result.trials)
    text = trn("{count} trial: {states}.", "{count} trials: {states}.", number, states=text)
    console.print(Text(text))
    if applied:
        text = tr("params.yaml has the best parameters now. The change:")
    elif result.diff:
        text = tr("The best parameters, as a change of params.yaml (--apply writes it):")
    else:
        text = "" if result.notes else tr("params.yaml has the best parameters already.")
    if text:
        console.print(Text(text))
    console.print(Text(result.diff), soft_wrap=True, end="")
    for note in result.notes:
        console.print(Text(recorded(note)), soft_wrap=True)
    text = tr(
        "Next: `chapterflow run {model}` trains with the parameters of params.yaml; "
        "`chapterflow ui` opens the trials in MLflow.",
        model=result.model,
    )
    console.print(Text(text), soft_wrap=True)


def _names(result: Sweep) -> list[str]:
    return list(dict.fromkeys(name for trial in result.trials for name in trial.params))


def _cells(trial: Trial, names: list[str]) -> list[str]:
    def cell(value: Any) -> str:
        return f"{value:g}" if isinstance(value, float) else str(value)

    state: str = tr(trial.state)
    if trial.same_as is not None:
        state = tr("as {number}", number=trial.same_as)
    return [
        str(trial.number),
        "" if trial.value is None else f"{trial.value:.4f}",
        *(cell(trial.params[name]) if name in trial.params else "" for name in names),
        str(trial.epochs or ""),
        state,
    ]
