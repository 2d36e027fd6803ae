"""`chapterflow run` and `compare`: train models, and test which differences are real."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from chapterflow.cli.common import (
    AddressOption,
    EngineOption,
    JsonOption,
    LanguageOption,
    ModelsArgument,
    ProfileOption,
    SetOption,
    execution_override,
    print_json,
    say,
    start,
)
from chapterflow.errors import SMALL_RUN, ConfigError, check_space
from chapterflow.language import tr

if TYPE_CHECKING:
    from chapterflow.config.settings import Settings
    from chapterflow.environment import Project
    from chapterflow.evaluation.significance import Difference
    from chapterflow.tracking.records import Comparison


def run(
    models: ModelsArgument = None,
    profile: ProfileOption = None,
    set_: SetOption = None,
    force: Annotated[bool, typer.Option(help="Train again, even if nothing has changed.")] = False,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATASET",
            help="Train on this dataset for this call, in the profile that fits its kind.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Models to run side by side; by default as many as cores and memory allow.",
        ),
    ] = None,
    engine: EngineOption = None,
    address: AddressOption = None,
    seeds: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Train each model with N seeds: mean, interval and comparison (docs/compare.md).",
        ),
    ] = 1,
    lang: LanguageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run models, from their data to the registry.

    Data, validation, training, evaluation, explanation, logging, registry, report. Finished work is
    reused; an interrupted training resumes.
    """
    project, settings = start(profile, set_, language=lang)
    settings, names, overrides = choose(project, settings, models, data, profile, set_)
    execution = execution_override(settings, engine, address)
    if execution:
        project, settings = start(settings.profile, [*overrides, *execution], language=lang)
    from chapterflow.loop import progress as live
    from chapterflow.loop.tables import print_results, print_seeds
    from chapterflow.tracking.records import Outcome
    from pipelines.prefect_server import prefect_server

    exit_code = 0
    console = live.console(stderr=as_json)
    results = run_models(
        project,
        settings,
        names,
        [*overrides, *execution],
        force=force,
        workers=workers,
        seeds=seeds,
        console=console,
        server=prefect_server,
    )
    from pipelines.chapter import ModelsFailed

    if isinstance(results, ModelsFailed):
        exit_code, results = results.exit_code, results.results
    elif isinstance(results, BaseException):
        raise results
    if as_json:
        print_json(results)
    else:
        outcomes = [Outcome.model_validate(model) for model in results["models"]]
        print_results(console, outcomes)
        print_seeds(console, results)
        print_accepted(console, project, [outcome.dataset for outcome in outcomes])
        print_next_steps(console, results["models"], settings, overrides, project=project)
    sys.exit(exit_code)


def choose(
    project: Project,
    settings: Settings,
    models: Sequence[str] | None,
    data: str | None,
    profile: str | None,
    overrides: Sequence[str] | None,
) -> tuple[Settings, list[str], list[str]]:
    """Return the settings, names and overrides of a run of models on their data, or on a dataset.

    Args:
        models: Names; all of `params.yaml` by default.
        data: Dataset for the models' roles; None for the data of `params.yaml`.
        profile: Profile that the user names; None for the one that fits.
        overrides: `path=value` changes of `params.yaml`.

    Raises:
        ConfigError: If there is no such model or dataset, or they do not fit.
    """
    from chapterflow.config.load import load_settings

    names = list(dict.fromkeys(models or settings.models))
    settings.check_names(names, settings.models, "model")
    changes = list(overrides or [])
    if data is None:
        return settings, names, changes
    from chapterflow.loop.own_data import fitting_profile, role_overrides

    if not models:
        raise ConfigError(
            f"--data needs the names of models: `chapterflow run MODEL --data {data}`"
        )
    if profile is None and (fit := fitting_profile(settings, names, data)) != settings.profile:
        profile = fit
        say(f"The profile {fit!r} fits data like {data!r}; --profile chooses another.")
        settings = load_settings(project.params, profile=profile, overrides=changes)
    changes += role_overrides(settings, names, data)
    return load_settings(project.params, profile=profile, overrides=changes), names, changes


def run_models(
    project: Project,
    settings: Settings,
    names: list[str],
    overrides: list[str],
    *,
    force: bool,
    workers: int | None,
    console: Console,
    server: Callable[..., AbstractContextManager[str]],
    seeds: int = 1,
) -> Any:
    """Run the flow with its progress on a console.

    Args:
        server: Makes a Prefect API available (`prefect_server`).

    Returns:
        Its document (`pipelines.chapter.document`), or the exception that it raised.
    """
    from chapterflow.tracking.store import check_reachable

    # Before imports that take seconds.
    check_reachable(project)
    check_space(project.root, SMALL_RUN, "a run")
    from chapterflow.loop import progress as live
    from chapterflow.loop import steps
    from chapterflow.loop.workers import active_workers
    from pipelines.prefect_server import outcome_of

    datasets = list(dict.fromkeys(d for name in names for d in settings.datasets_of(name)))
    with live.shown(console, [*datasets, *names]) as progress, contextlib.ExitStack() as stack:
        progress.update(datasets[0], "starting", "Prefect")

        def preload() -> None:
            if started := steps.preload(
                project, settings, names, workers=workers, force=force, seeds=seeds
            ):
                stack.enter_context(started)
            # A second of imports, while the server still imports its own.
            import pipelines.chapter  # noqa: F401

        with server(project.scratch, meanwhile=preload, tell=say):
            from pipelines.chapter import chapter

            return outcome_of(
                chapter,
                models=names,
                profile=settings.profile,
                overrides=overrides,
                force=force,
                workers=workers if active_workers() else 1,
                seeds=seeds,
            )


def print_accepted(console: Console, project: Project, datasets: Iterable[str]) -> None:
    """Print the bounds of the validation that were set for single datasets."""
    from chapterflow.kinds.dataset import CARD, read_card

    for name in dict.fromkeys(datasets):
        if not (project.data / name / CARD).is_file():
            continue
        if accepted := read_card(project.data / name).accepted_text:
            text = tr(
                "{dataset}: validated with bounds of its own: {accepted}.",
                dataset=name,
                accepted=accepted,
            )
            console.print(Text(text, style="yellow"), soft_wrap=True)


def print_next_steps(
    console: Console,
    models: list[dict[str, Any]],
    settings: Settings,
    overrides: list[str],
    *,
    project: Project,
) -> None:
    """Print how many models were trained, and which commands show more of them."""
    from chapterflow.tracking.versions import CHALLENGER, challenger_alias

    options = f" --profile {settings.profile}" if settings.profile != "embedded" else ""
    options += "".join(f" --set {shlex.quote(override)}" for override in overrides)
    count = {s: sum(m["status"] == s for m in models) for s in ("trained", "reused", "failed")}
    summary = ", ".join(
        tr("{count} {status}", count=number, status=tr(status))
        for status, number in count.items()
        if number
    )
    if count["reused"]:
        summary = tr(
            "{summary} (nothing they depend on has changed; --force trains again)", summary=summary
        )
    console.print(Text(f"{summary}."), soft_wrap=True)
    finished = [model for model in models if model["status"] != "failed"]
    if not finished:
        return
    aliases = {
        model["model"]: challenger_alias(
            project, settings.params(model["model"]).role, model["dataset"]
        )
        for model in finished
    }
    elsewhere = [f"{name}@{alias}" for name, alias in aliases.items() if alias != CHALLENGER]
    if elsewhere:
        text = tr("On other data than the project's: {models}.", models=", ".join(elsewhere))
        console.print(Text(text), soft_wrap=True)
    if len(finished) > 1:
        text = tr(
            "Next: `chapterflow compare{options}` tests which differences are real; "
            "`chapterflow ui` opens the runs in MLflow.",
            options=options,
        )
    else:
        (model,) = finished
        name = f"{model['model']}/{model['model_version']}" if elsewhere else model["model"]
        text = tr(
            "Next: `chapterflow explain {model} {dataset}` shows what the model looks at; "
            "`chapterflow ui` opens the run in MLflow.",
            model=name,
            dataset=model["dataset"],
        )
    console.print(Text(text))


def compare(
    models: ModelsArgument = None,
    profile: ProfileOption = None,
    set_: SetOption = None,
    lang: LanguageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare models pair by pair: is the difference real?

    Each model is represented by its run with the current parameters (params.yaml and --set), or
    by its newest run if there is none.
    """
    project, settings = start(profile, set_, language=lang)
    from chapterflow.loop import progress as live
    from chapterflow.loop import steps

    settings.check_names(models or [], settings.models, "model")
    comparison = steps.compare(project, settings)
    every = comparison.differences
    if models:
        # Holm's correction still counts all pairs: the choice may depend on their results.
        comparison = comparison.only(models)
    if as_json:
        print_json(comparison.model_dump(exclude={"models": {"__all__": {"exit_code"}}}))
        return
    print_comparison(live.console(), project, comparison, every)


def print_comparison(
    console: Console, project: Project, comparison: Comparison, among: Sequence[Difference]
) -> None:
    """Print the results and differences of a comparison.

    Args:
        among: All pairs that Holm's correction covers.
    """
    from chapterflow.loop.tables import print_differences, print_results

    if not comparison.models:
        console.print(
            tr(
                "The profile {profile!r} has no finished runs. `chapterflow run` starts one.",
                profile=comparison.profile,
            ),
            soft_wrap=True,
        )
        return
    print_results(console, comparison.models, show_status=False)
    print_accepted(console, project, [outcome.dataset for outcome in comparison.models])
    print_differences(console, comparison.differences, among)
