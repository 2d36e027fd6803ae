"""Prefect's server or database fails: the models and the exit code do not depend on it."""

import json
import os
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import (
    NO_REPORT,
    START_PREFECT,
    begin,
    call,
    command_environment,
    free_port,
    invoke,
)
from tests.loop import stores

REPOSITORY_PATHS = os.pathsep.join(filter(None, sys.path))


@pytest.mark.slow
@pytest.mark.fault("Prefect's database damaged before run", "Set aside; a new one is made")
def test_a_damaged_database_is_set_aside(
    prefect_once: Path, tmp_path: Path, record_property: Any
) -> None:
    shutil.copy(prefect_once.parent / "params.yaml", tmp_path)
    shutil.copytree(prefect_once, tmp_path / ".prefect")
    database = tmp_path / ".prefect" / "prefect.db"
    for file in database.parent.glob("prefect.db-*"):  # SQLite would mend the database from it
        file.unlink()
    database.write_bytes(b"garbage" * 1000)
    done = call(tmp_path, "python", "-c", START_PREFECT, PYTHONPATH=REPOSITORY_PATHS)
    assert done.returncode == 0, done.stderr
    assert "Prefect's database was damaged" in done.stdout
    kept = database.with_name("prefect.db.damaged")
    assert kept.read_bytes() == b"garbage" * 1000
    assert database.read_bytes().startswith(b"SQLite format 3")
    record_property("saw", "server started with a new database; the damaged one is kept")


@pytest.mark.fault("Prefect server of PREFECT_API_URL unreachable", "Refused within 10 s")
def test_a_server_that_does_not_answer_is_refused(fetched: Path, record_property: Any) -> None:
    root = fetched
    address = f"http://127.0.0.1:{free_port()}/api"
    started = time.monotonic()
    for words in (["run", "dnn"], ["schedule"]):
        done = invoke(root, *words, PREFECT_API_URL=address)
        assert done.returncode == 1
        assert f"PREFECT_API_URL does not answer. Received: {address}" in done.stderr
        assert "unset PREFECT_API_URL" in done.stderr
    assert time.monotonic() - started < 20
    assert not (root / ".chapterflow" / "work").exists()
    record_property("saw", "refused, exit 1")


@pytest.mark.fault(
    "Prefect's server killed during a flow of `schedule`",
    "The flow ends after its models; the exit code says what they did",
)
def test_a_flow_of_a_schedule_ends_early(project: Any, record_property: Any) -> None:
    leave = "from pipelines.prefect_server import leave_schedule; leave_schedule(4); print('on')"
    words = (sys.executable, "-c", leave)
    lost = {
        "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api",
        "PYTHONPATH": REPOSITORY_PATHS,
    }
    alone = call(project.root, *words, **lost)
    assert (alone.returncode, alone.stdout) == (0, "on\n")  # a flow of `run` ends with its command
    done = call(project.root, *words, PREFECT__FLOW_RUN_ID="1", **lost)
    assert (done.returncode, done.stdout) == (4, "")
    assert "was lost. What the models did is in the tracking store" in done.stderr
    record_property("saw", f"ended with exit {done.returncode}")


@pytest.mark.slow
@pytest.mark.fault(
    "`schedule` killed during a flow", "The next `schedule` frees its place and runs"
)
def test_a_killed_schedule_does_not_block_the_next(
    prefect_api: dict[str, str], monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    for name, value in prefect_api.items():
        monkeypatch.setenv(name, value)
    from prefect.client.orchestration import get_client
    from prefect.states import Running

    from pipelines import schedule
    from pipelines.chapter import chapter
    from pipelines.housekeeping import PROCESS_TAG

    with get_client(sync_client=True) as client:
        gone = [f"{PROCESS_TAG}{socket.gethostname()}:999999999:1.0"]
        left = client.create_flow_run(chapter, state=Running(), tags=gone).id
        states = []

        def served(*_: Any, **__: Any) -> None:  # without end, otherwise
            states.append(client.read_flow_run(left).state)

        monkeypatch.setattr(schedule, "serve", served)
        schedule.serve_deployments(
            schedule.choose_deployments(["chapter-nightly"]),
            cron=None,
            timezone="UTC",
            every=None,
            named=False,
            parameters={},
            address="",
            tell=str,
        )
    assert [state.type.value for state in states if state] == ["CRASHED"]
    record_property("saw", "the flow run that was left is Crashed before the first firing")


@pytest.mark.slow
@pytest.mark.fault(
    "Prefect's server killed during training",
    "The model is finished; the exit code says what it did; no hang",
)
def test_a_server_lost_during_a_flow(
    fetched: Path, prefect_once: Path, record_property: Any
) -> None:
    root = fetched
    shutil.copytree(prefect_once, root / ".prefect")
    stores.set_param(root, "models.dnn.epochs", 10)
    # One retry (2 s) instead of two (6 s) for each request that follows.
    variables = {"PREFECT_CLIENT_MAX_RETRIES": "1"} | NO_REPORT
    environment = command_environment(root) | variables
    process = begin(root, "chapterflow", "run", "dnn", "--json", env=environment)
    while not list(root.glob(".chapterflow/work/*/checkpoints/epoch-*")):
        assert process.poll() is None
        time.sleep(0.05)
    processes = stores.processes_of(root)
    (server,) = [words for words in processes if "pipelines.prefect_server" in words]
    processes[server].kill()
    stdout, stderr = process.communicate(timeout=150)
    assert process.returncode == 0, stderr
    (model,) = json.loads(stdout)["models"]
    assert model["status"] == "trained"
    assert "was lost. What the models did is in the tracking store" in stderr
    assert "Traceback" not in stderr
    assert {run["status"] for run in stores.mlflow_runs(root)} == {"FINISHED"}
    record_property("saw", "model finished and registered, exit 0")
