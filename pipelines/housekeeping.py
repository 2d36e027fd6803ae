"""Flow runs that a killed process left RUNNING."""

from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import State
from prefect.states import Crashed

from chapterflow.environment import process_identity, process_is_gone

PROCESS_TAG = "process="
RUNNING = {"state": {"type": {"any_": ["RUNNING"]}}}


def sign_flow_run() -> None:
    """Tag the current flow run with this process, so that others can tell when it is gone."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(
            runtime.flow_run.id, tags=[*runtime.flow_run.tags, PROCESS_TAG + process_identity()]
        )


def end_dead_flow_runs() -> list[str]:
    """Set flow runs to Crashed that say RUNNING but whose process is gone; return their names.

    Their task runs go with them.
    """
    filters = FlowRunFilter.model_validate(RUNNING)
    ended = []
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=filters):
            owners = [tag.removeprefix(PROCESS_TAG) for tag in run.tags if PROCESS_TAG in tag]
            if owners and all(process_is_gone(owner) for owner in owners):
                gone: State = Crashed(message="The process that ran it is gone.")
                client.set_flow_run_state(run.id, gone, force=True)
                inside = FlowRunFilter.model_validate({"id": {"any_": [run.id]}})
                for task in client.read_task_runs(
                    flow_run_filter=inside, task_run_filter=TaskRunFilter.model_validate(RUNNING)
                ):
                    client.set_task_run_state(task.id, gone, force=True)
                ended.append(run.name)
    return ended
