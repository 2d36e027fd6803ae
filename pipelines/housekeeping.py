"""Flow runs that a killed process left RUNNING."""

from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.states import Crashed

from chapterflow.environment import process_identity, process_is_gone

PROCESS_TAG = "process="


def sign_flow_run() -> None:
    """Tag the current flow run with this process, so that others can tell when it is gone."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(
            runtime.flow_run.id, tags=[*runtime.flow_run.tags, PROCESS_TAG + process_identity()]
        )


def end_dead_flow_runs() -> list[str]:
    """Set flow runs to Crashed that say RUNNING but whose process is gone; return their names."""
    filters = FlowRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING"]}}})
    ended = []
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=filters):
            owners = [tag.removeprefix(PROCESS_TAG) for tag in run.tags if PROCESS_TAG in tag]
            if owners and all(process_is_gone(owner) for owner in owners):
                client.set_flow_run_state(
                    run.id, Crashed(message="The process that ran it is gone."), force=True
                )
                ended.append(run.name)
    return ended
