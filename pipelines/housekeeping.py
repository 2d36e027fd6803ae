"""Flow runs: what is printed at their end, and those that a killed process left open."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import flow, get_run_logger, runtime, tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Crashed

from chapterflow.environment import configure, find_project, process_identity, process_is_gone
from chapterflow.registry.retention import age, find_unneeded, remove

PROCESS_TAG = "process="
#: This project's flows: others on the same server sign nothing.
FLOWS = ("chapter", "batch-predict", "promotion", "data-check", "sweep", "gc")
#: How long a flow run may be in a state before its process must have signed it. A running flow
#: signs itself first of all; a worker may need its time to start a pending one.
UNSIGNED = {"RUNNING": timedelta(minutes=10), "PENDING": timedelta(hours=1)}
#: The same for a run whose process is on another machine or in another container.
UNSEEN = timedelta(days=7)
OPEN = {"state": {"type": {"any_": list(UNSIGNED)}}}


def tell_firing(flow: Any, flow_run: Any, state: Any) -> None:
    """Print how a run of a deployment has ended, in one line; a hook of every flow."""
    if flow_run.deployment_id is None or flow_run.parent_task_run_id is not None:
        return
    try:
        ended = state.result(raise_on_failure=False)
    except Exception:  # Prefect raises many kinds of errors for a result that is not there.
        ended = None
    text = state.name.lower()
    if isinstance(ended, BaseException):
        text = f"{text}: {str(ended).partition(chr(10))[0]}"
    elif isinstance(ended, dict):
        text = f"{text}: {_words(flow.name, ended)}"
    seconds = flow_run.total_run_time.total_seconds() if flow_run.total_run_time else 0.0
    when = time.strftime("%Y-%m-%d %H:%M:%S")
    sys.stdout.write(f"{when} {flow.name}: {text} ({seconds:.0f} s)\n")
    sys.stdout.flush()


#: Hooks of every flow.
AT_THE_END: dict[str, Any] = {"on_completion": [tell_firing], "on_failure": [tell_firing]}


def _words(flow: str, document: dict[str, Any]) -> str:
    if flow == "batch-predict":
        return f"{document['examples']:,} examples in {document['out']}, {document['drift']}"
    if flow == "data-check":
        return str(document["verdict"])
    if flow == "sweep":
        return f"{len(document['trials'])} trials of {document['model']}"
    if flow == "gc":
        counts = ", ".join(f"{count:,} {name}" for name, count in document["removed"].items())
        return f"{counts or 'nothing to remove'}, {document['bytes'] / 1e6:,.1f} MB"
    key = "verdict" if flow == "promotion" else "status"
    said = [model[key] for model in document["models"]]
    counts = ", ".join(f"{said.count(word)} {word}" for word in dict.fromkeys(said))
    return counts or "nothing"


@contextmanager
def signed() -> Iterator[None]:
    """Tag flow runs that start in this process with it, from the moment they exist."""
    with tags(PROCESS_TAG + process_identity()):
        yield


def sign_flow_run() -> None:
    """Tag the current flow run with this process, so that others can tell when it is gone.

    For a run that a schedule or deployment made, which has no process yet.
    """
    mine = PROCESS_TAG + process_identity()
    if mine not in runtime.flow_run.tags:
        with get_client(sync_client=True) as client:
            client.update_flow_run(runtime.flow_run.id, tags=[*runtime.flow_run.tags, mine])


def end_dead_flow_runs() -> list[str]:
    """Set flow runs to Crashed that are open but whose process is gone; return their names.

    So are those that no process has signed in time, because it was killed before. Their task runs
    go with them.
    """
    ended = []
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(
            flow_filter=FlowFilter.model_validate({"name": {"any_": list(FLOWS)}}),
            flow_run_filter=FlowRunFilter.model_validate(OPEN),
        ):
            if _is_dead(run):
                gone: State = Crashed(message="The process that ran it is gone.")
                client.set_flow_run_state(run.id, gone, force=True)
                inside = FlowRunFilter.model_validate({"id": {"any_": [run.id]}})
                for task in client.read_task_runs(
                    flow_run_filter=inside, task_run_filter=TaskRunFilter.model_validate(OPEN)
                ):
                    client.set_task_run_state(task.id, gone, force=True)
                ended.append(run.name)
    return ended


def _is_dead(run: FlowRun) -> bool:
    owners = [tag.removeprefix(PROCESS_TAG) for tag in run.tags if tag.startswith(PROCESS_TAG)]
    if owners and all(process_is_gone(owner) for owner in owners):
        return True
    if run.state is None:
        return False
    age = datetime.now(UTC) - run.state.timestamp
    return age > (UNSEEN if owners else UNSIGNED[run.state.type.value])


@flow(name="gc", persist_result=False, **AT_THE_END)
def gc(older: str = "90d", keep: int = 3) -> dict[str, Any]:
    """Remove old runs, versions, caches and interrupted work, as `chapterflow gc` does.

    Champions, challengers, earlier champions and what they come from always stay. The history of
    flows belongs to Prefect's server, which removes what is older than 90 days by itself.

    Args:
        older: Age from which on something may go: `30d`, `12h`.
        keep: Newest finished runs to keep of each model on each dataset.

    Returns:
        `removed`, the number of each kind of thing, and `bytes`, what that was on this machine.

    Raises:
        ConfigError: If `older` is not an age.
    """
    project = find_project()
    configure(project)
    duration, logger = age(older), get_run_logger()
    sign_flow_run()
    end_dead_flow_runs()
    unneeded = find_unneeded(project, older=duration, keep=keep, on_note=logger.warning)
    document = {"removed": unneeded.counts(), "bytes": unneeded.bytes()}
    remove(project, unneeded, on_note=logger.warning)
    return document
