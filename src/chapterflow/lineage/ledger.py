"""The record of a reproduction: a run of its own kind, which is no model's run."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from chapterflow.environment import Project, machine
from chapterflow.tracking import runs
from chapterflow.tracking.session import Session

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

#: Value of `chapterflow.kind`.
REPRODUCTION = "reproduction"
#: Tags: the run that was made again, and what came out.
REPRODUCES, OUTCOME = "chapterflow.reproduces", "chapterflow.reproduction"
#: Artifact with all of it.
DOCUMENT = "verdict.json"


def log_reproduction(
    project: Project, session: Session, run: Run, document: Mapping[str, Any]
) -> str:
    """Log a finished reproduction, and return the id of its run.

    It carries no fingerprint: nothing may take it for the training that it repeats.

    Args:
        project: The project.
        session: Its store.
        run: The run that was made again.
        document: What `verdict.json` says.
    """
    client, tags = session.client, run.data.tags
    run_id = runs.open_run(
        client,
        session.experiment_id,
        name=f"reproduce {document['version']}",
        tags={
            runs.KIND: REPRODUCTION,
            REPRODUCES: run.info.run_id,
            OUTCOME: document["verdict"],
            **{key: tags[key] for key in (runs.MODEL, runs.DATASET, runs.DIGEST) if key in tags},
            runs.MACHINE: machine(),
            runs.PYTHON: platform.python_version(),
            **runs.git_tags(project),
            "mlflow.note.content": document["told"],
        },
    )
    with session.ending_on_error(run_id):
        client.log_dict(run_id, dict(document), DOCUMENT)
        comparison = document["comparison"]
        figures = {
            "reproduction/identical": float(comparison["identical"]),
            "reproduction/agreement": comparison["agreement"],
            "reproduction/answers_rmse": comparison["answers_rmse"],
            f"reproduction/{comparison['metric']}_difference": comparison["difference"],
            "reproduction/largest_weight_difference": comparison["largest_difference"],
            "reproduction/seconds": document["seconds"],
        }
        told = {name: value for name, value in figures.items() if value is not None}
        runs.log_metrics(client, run_id, told, 0)
        runs.close_run(client, run_id, "FINISHED")
    return run_id


def reproductions(client: MlflowClient, experiment_id: str, run_id: str) -> list[Run]:
    """Return the reproductions of a run, newest first."""
    found: list[Run] = client.search_runs(
        [experiment_id],
        f"tags.`{runs.KIND}` = '{REPRODUCTION}' and tags.`{REPRODUCES}` = '{run_id}'",
        order_by=["attributes.start_time DESC"],
    )
    return found
