"""`chapterflow run`, `compare` and `layers`: models trained, held against each other, looked at."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from chapterflow.cli.common import JsonOption, ProfileOption, SetOption, print_json, say, start
from chapterflow.errors import ConfigError

if TYPE_CHECKING:
    from chapterflow.config.settings import Settings


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
    """Run models, from their data to the registry.

    Data, validation, training, evaluation, explanations, logging, registry, report. What a finished
    run has done already is reused. A killed training goes on where it was.
    """
    project, settings = start(profile, set_)
    names = list(dict.fromkeys(models or settings.models))
    settings.check_names(names, settings.models, "model")
    if data is not None:
        from chapterflow.loop.own_data import fitting_profile, role_overrides

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
    from chapterflow.loop import progress as live
    from chapterflow.loop import steps
    from chapterflow.loop.tables import print_results
    from chapterflow.tracking.records import Outcome
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
    from chapterflow.loop import progress as live
    from chapterflow.loop import steps
    from chapterflow.loop.tables import print_differences, print_results

    settings.check_names(models or [], settings.models, "model")
    found = steps.compare(project, settings)
    among = found.differences
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
    print_differences(console, found.differences, among)


def layers(
    model: str,
    profile: ProfileOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a model's layers: shapes, kernels, parameters, FLOPs.

    They are those of the model for the dataset of the profile, and need no training.
    """
    project, settings = start(profile, set_)
    dataset, embedded = settings.dataset_of(model), settings.profile == "embedded"
    from dataclasses import asdict

    from chapterflow.cli.layers import layer_table, print_layers, totals
    from chapterflow.environment import load_tensorflow
    from chapterflow.errors import DataError
    from chapterflow.kinds.dataset import CARD
    from chapterflow.loop import steps
    from chapterflow.loop.progress import console

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
