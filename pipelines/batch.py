"""The flow `batch-predict`: inputs, one registered model, one table."""

import contextlib
from pathlib import Path
from typing import Any

import httpx
from prefect import flow, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.utilities.annotations import quote

from chapterflow.config.load import load_settings
from chapterflow.config.settings import Profile, Settings
from chapterflow.environment import configure, find_project
from chapterflow.predict.batch import Predicted, batch_predict
from chapterflow.predict.drift import drift_markdown
from pipelines.chapter import telling
from pipelines.housekeeping import AT_THE_END, end_dead_flow_runs, sign_flow_run


@task(task_run_name="predict with {model}", cache_policy=NO_CACHE)
def predict(settings: Settings, model: str, inputs: list[str], out: str, invert: bool) -> Predicted:
    """Predict all inputs, write the table and log a run."""
    return batch_predict(
        find_project(),
        settings,
        model,
        inputs,
        Path(out),
        invert=invert,
        tags={
            "prefect.flow_run_id": str(runtime.flow_run.id),
            "prefect.flow_run": str(runtime.flow_run.name),
        },
        tell=telling(model),
    )


@flow(
    name="batch-predict", flow_run_name="predict with {model}", persist_result=False, **AT_THE_END
)
def batch(
    model: str,
    inputs: list[str],
    out: str = "predictions.parquet",
    invert: bool = False,
    profile: Profile | None = None,
    overrides: list[str] | None = None,
) -> dict[str, Any]:
    """Predict files or datasets with a registered model.

    An interrupted flow resumes if called again.

    Args:
        model: `NAME`, `NAME/VERSION` or `NAME@ALIAS` in the registry.
        inputs: Files, folders, `DATASET`, `DATASET:SPLIT` or `DATASET:INDEX`.
        out: Parquet file to write. A worker deletes its clone: give it an absolute path.
        invert: Whether to exchange light and dark in the inputs.
        profile: Profile; by default the one in `params.yaml`.
        overrides: `path=value` changes of `params.yaml` for this run.

    Returns:
        The fields of `chapterflow.predict.batch.Predicted`.

    Raises:
        ConfigError: If the model, an input or the place of the result is not there.
        DataError: If nothing could be read.
    """
    project = find_project()
    configure(project)
    settings = load_settings(project.params, profile=profile, overrides=overrides or [])
    sign_flow_run()
    end_dead_flow_runs()
    quoted: Any = quote(settings)
    done: Predicted = predict(quoted, model, inputs, out, invert)
    document = done.model_dump(mode="json")
    # The table is written, even if Prefect's server is lost.
    with contextlib.suppress(httpx.HTTPError):
        create_markdown_artifact(
            drift_markdown(document), key="drift", description=f"Drift of {done.examples} examples"
        )
    return document
