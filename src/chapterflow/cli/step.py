"""`chapterflow step`: single steps, which the stages of dvc.yaml call."""

from __future__ import annotations

import typer
from rich.console import Console

from chapterflow.cli.common import ProfileOption, start

app = typer.Typer(help="Single steps, which the stages of dvc.yaml call.", no_args_is_help=True)


@app.command("validate")
def step_validate(role: str, profile: ProfileOption = None) -> None:
    """Validate the dataset of a role; write results/validation/<role>.json."""
    project, settings = start(profile)
    settings.check_names([role], settings.roles, "role")
    from chapterflow.loop.stages import validate_stage

    validate_stage(project, settings, role)


@app.command("fingerprint")
def step_fingerprint(profile: ProfileOption = None) -> None:
    """Write all that decides the run of each model; one file in results/fingerprints/ for each."""
    project, settings = start(profile)
    from chapterflow.loop.stages import fingerprint_stage

    fingerprint_stage(project, settings)


@app.command("run")
def step_run(model: str, profile: ProfileOption = None) -> None:
    """Train, evaluate and log one model; write results/models/<model>/."""
    project, settings = start(profile)
    settings.check_names([model], settings.models, "model")
    from chapterflow.loop.progress import shown
    from chapterflow.loop.stages import run_stage

    with shown(Console(), [model]):
        run_stage(project, settings, model)


@app.command("compare")
def step_compare(profile: ProfileOption = None) -> None:
    """Compare the models; write results/comparison.json and .md."""
    project, settings = start(profile)
    from chapterflow.loop.stages import compare_stage

    compare_stage(project, settings)
