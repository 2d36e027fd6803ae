"""A batch in MLflow: a run of kind `batch`, which no list of models' runs takes up."""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chapterflow.batch.inputs import Inputs
from chapterflow.batch.picture import draw_drift
from chapterflow.batch.sources import Unread
from chapterflow.data.versioning import data_version
from chapterflow.environment import Project, machine
from chapterflow.tracking import runs
from chapterflow.tracking.registry import Version
from chapterflow.tracking.session import Session

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from chapterflow.batch.run import Predicted

#: Characters of a parameter that name inputs; the whole list may be long.
TOLD = 500


def start_run(
    project: Project,
    session: Session,
    version: Version,
    inputs: Inputs,
    given: Sequence[str],
    out: Path,
    folder: Path,
    tags: Mapping[str, str] | None,
) -> str:
    """Start the run of a batch, or continue the one whose parts are in `folder`; return its id."""
    from mlflow.entities import LoggedModelInput

    marker = folder / "run_id"
    datasets = inputs.datasets()
    # Which data these were; of files the table has the hashes.
    data = {"chapterflow.datasets": json.dumps(datasets)} if datasets else {}
    if datasets and (named := data_version(project)):
        data[runs.DATA_VERSION] = named
    earlier = marker.read_text(encoding="utf-8") if marker.is_file() else None
    run_id = runs.open_run(
        session.client,
        session.experiment_id,
        name=f"predict {version.uri()}",
        run_id=earlier,
        tags={
            runs.KIND: "batch",
            "chapterflow.model_uri": f"models:/{version.uri()}",
            "chapterflow.model_alias": version.alias or "none",
            "chapterflow.model_run": version.run_id,
            "chapterflow.output": str(out.resolve()),
            runs.MACHINE: machine(),
            runs.PYTHON: platform.python_version(),
            "mlflow.note.content": f"Predictions of **{version.told()}** for "
            f"{sum(source.count for source in inputs.sources)} examples; `drift.json` says whether "
            "they are like the data that it was tested on.",
            **data,
            **runs.git_tags(project),
            **(tags or {}),
        },
    )
    marker.write_text(run_id, encoding="utf-8")
    if run_id != earlier:
        told = " ".join(given)
        told = told if len(told) <= TOLD else f"{told[:TOLD]}..."
        runs.log_params(session.client, run_id, {"model": version.uri(), "inputs": told})
        model_id = version.source.rpartition("/")[2]
        if model_id.startswith("m-"):
            session.client.log_inputs(run_id, models=[LoggedModelInput(model_id)])
    return run_id


def log_unread(client: MlflowClient, run_id: str, unread: Sequence[Unread]) -> None:
    """Log what could not be read, and why."""
    client.log_dict(run_id, [one.model_dump() for one in unread], "unreadable.json")


def finish_run(client: MlflowClient, run_id: str, done: Predicted) -> None:
    """Log counts, hashes and the comparison with the test data, and end the run."""
    import PIL.Image

    log_unread(client, run_id, done.unreadable)
    drift: dict[str, Any] = {"reference": done.reference, "reading": done.drift}
    client.log_dict(
        run_id, drift | {"figures": [one.model_dump() for one in done.figures]}, "drift.json"
    )
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "drift.png"
        if draw_drift(done.figures, f"{done.model}: these data and the test data", picture):
            client.log_artifact(run_id, str(picture))
            with PIL.Image.open(picture) as image:
                client.log_image(run_id, image, key="drift", step=0)
    metrics = {
        "batch/examples": done.examples,
        "batch/unreadable": sum(one.count for one in done.unreadable),
        "batch/skipped_files": len(done.skipped),
        "batch/resumed_examples": done.resumed,
        "batch/seconds": done.seconds,
        "batch/examples_per_second": done.examples_per_second,
    }
    if done.labelled:
        metrics |= {"batch/labelled": done.labelled, "batch/correct": done.correct}
    for one in done.figures:
        if one.psi is not None:
            metrics[f"drift/psi_{one.name.replace(' ', '_')}"] = one.psi
    runs.log_metrics(client, run_id, {name: float(value) for name, value in metrics.items()}, 0)
    runs.set_tags(
        client,
        run_id,
        {
            "chapterflow.inputs_sha256": done.inputs_sha256,
            "chapterflow.output_sha256": done.sha256,
            "chapterflow.drift": done.drift,
        },
    )
    runs.close_run(client, run_id, "FINISHED")
