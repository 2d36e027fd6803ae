"""Finished runs as a report reads them: found by id, with copies of their small artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from chapterflow.errors import ConfigError
from chapterflow.records import RunFacts, Tell, silent
from chapterflow.settings import Profile
from chapterflow.tracking import runs

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

#: Files and folders that are copied, where a run has them.
ARTIFACTS = (runs.EVALUATION, runs.PREDICTIONS, "training.json", "dataset.json")
FOLDERS = ("validation", "explain")
#: So few runs are named in the message of a wrong id.
TOLD = 8


def named_runs(client: MlflowClient, experiment_id: str, wanted: Sequence[str]) -> list[Run]:
    """Return the finished model runs of any profile whose ids begin with the words, in their order.

    Raises:
        ConfigError: If a word fits no run, or several.
    """
    there = [
        run
        for profile in get_args(Profile)
        for run in runs.finished_model_runs(client, experiment_id, profile)
    ]
    found: dict[str, Run] = {}
    for word in wanted:
        fitting = [run for run in there if word and run.info.run_id.startswith(word)]
        if len(fitting) != 1:
            problem = f"{len(fitting)} runs begin so" if fitting else "no finished run begins so"
            raise ConfigError(
                f"--runs takes ids of finished model runs, or how one of them begins: {problem}. "
                f"Received: {word!r}. {_told(fitting or there)}"
            )
        found[fitting[0].info.run_id] = fitting[0]
    return list(found.values())


def _told(there: Sequence[Run]) -> str:
    if not there:
        return "There is none yet; `chapterflow run` makes some."
    names = [f"{run.info.run_id[:8]} ({run.data.tags[runs.MODEL]})" for run in there[:TOLD]]
    more = f" and {len(there) - TOLD} more" if len(there) > TOLD else ""
    return f"There: {', '.join(names)}{more}."


def labels(chosen: Sequence[Run]) -> dict[str, str]:
    """Return what each run is called, by id: its model, with the run where one is there twice."""
    models = [run.data.tags[runs.MODEL] for run in chosen]
    return {
        run.info.run_id: model if models.count(model) == 1 else f"{model} {run.info.run_id[:8]}"
        for run, model in zip(chosen, models, strict=True)
    }


def read_run(
    client: MlflowClient, run: Run, label: str, into: Path, *, tell: Tell = silent
) -> RunFacts:
    """Copy a run's small artifacts into a folder of its own below `into`, and return its facts."""
    tell("report", f"run of {label}")
    run_id = str(run.info.run_id)
    folder = into / run_id
    folder.mkdir(parents=True, exist_ok=True)
    there = {item.path for item in client.list_artifacts(run_id)}
    for name in (*ARTIFACTS, *FOLDERS):
        if name in there:
            client.download_artifacts(run_id, name, str(folder))
    return RunFacts(
        label=label,
        run_id=run_id,
        model=run.data.tags[runs.MODEL],
        dataset=run.data.tags[runs.DATASET],
        tags=dict(run.data.tags),
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        started=int(run.info.start_time),
        folder=folder,
    )


def newest_flow_run(client: MlflowClient, experiment_id: str, profile: str) -> str | None:
    """Return the id of the newest run of a flow in a profile; None where there is none."""
    found = client.search_runs(
        [experiment_id],
        f"tags.`{runs.KIND}` = 'flow' and tags.`{runs.PROFILE}` = '{profile}'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return str(found[0].info.run_id) if found else None
