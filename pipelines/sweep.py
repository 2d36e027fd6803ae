"""The flow `sweep`: trials of one model with other parameters, judged on validation."""

import os
from typing import Any

from prefect import flow, runtime

from chapterflow.config.settings import Profile
from chapterflow.config.space import read_space
from chapterflow.environment import SWEEP_STORAGE, configure, find_project
from chapterflow.loop.sweep import sweep as search
from pipelines.chapter import telling
from pipelines.housekeeping import AT_THE_END, end_dead_flow_runs, sign_flow_run


@flow(name="sweep", flow_run_name="sweep of {model}", persist_result=False, **AT_THE_END)
def sweep(
    model: str,
    space: list[str],
    trials: int = 20,
    workers: int | None = None,
    profile: Profile | None = None,
) -> dict[str, Any]:
    """Search for better parameters of a model; `params.yaml` stays as it is.

    An interrupted sweep continues if called again. The variable `CHAPTERFLOW_SWEEP_STORAGE` names
    a storage that several machines share; as a parameter, Prefect would keep its password.

    Args:
        model: Model of `params.yaml`.
        space: What varies, as `--set` takes it: `models.cnn.dense=64,128,256`.
        trials: Trials in total, those of earlier calls included.
        workers: Trials to run side by side; by default one, or one on each worker of a cluster.
        profile: Profile; by default the one in `params.yaml`.

    Returns:
        The fields of `chapterflow.loop.sweep.Sweep`.

    Raises:
        ConfigError: If the model refuses a value; no trial starts.
        ChapterflowError: If all trials failed.
    """
    project = find_project()
    configure(project)
    parameters, settings = read_space(project.params, model, space, profile=profile)
    sign_flow_run()
    end_dead_flow_runs()
    result = search(
        project,
        settings,
        parameters,
        trials=trials,
        storage=os.environ.get(SWEEP_STORAGE) or None,
        workers=workers,
        tags={
            "prefect.flow_run_id": str(runtime.flow_run.id),
            "prefect.flow_run": str(runtime.flow_run.name),
        },
        tell_of=telling,
    )
    return result.model_dump()
