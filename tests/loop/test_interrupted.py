"""Killed processes: the next run goes on where they were, and nothing is left behind."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import (
    HUNG,
    NO_REPORT,
    Run,
    begin,
    call,
    command_environment,
    copy_checkout,
)
from tests.loop import stores

pytestmark = pytest.mark.slow

EPOCHS = 40


def train_long(root: Path) -> None:
    """Let dnn train for long enough to be killed in the middle."""
    stores.set_param(root, "models.dnn.epochs", EPOCHS)
    stores.set_param(root, "models.dnn.patience", 50)


@pytest.fixture
def prepared(fetched: Path, prefect_once: Path) -> Path:
    """A checkout with data whose dnn can be killed in its training."""
    train_long(fetched)
    shutil.copytree(prefect_once, fetched / ".prefect")
    return fetched


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A checkout in which two runs started at once, undisturbed, and what each said of dnn."""
    root = tmp_path_factory.mktemp("both") / "checkout"
    root.mkdir()
    copy_checkout(root)
    train_long(root)
    processes = [start(root, "dnn", "--json") for _ in range(2)]
    documents = []
    for process in processes:
        stdout, stderr = process.communicate(timeout=HUNG)
        assert process.returncode == 0, stderr
        documents.append(json.loads(stdout)["models"][0])
    return root, documents


def start(root: Path, *words: str) -> subprocess.Popen[str]:
    environment = command_environment(root) | NO_REPORT
    return begin(root, "chapterflow", "run", *words, env=environment)


def epochs_done(root: Path) -> int:
    names = [p.name for p in root.glob(".chapterflow/work/*/checkpoints/epoch-*")]
    return max((int(name[6:10]) for name in names), default=0)


def wait_until(condition: Any, seconds: float = HUNG) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def weights(root: Path) -> list[Any]:
    import mlflow

    with stores.mlflow_at(root):
        return list(mlflow.keras.load_model("models:/dnn/1").get_weights())


def run_to_end(root: Path, run_flow: Run | None = None) -> dict[str, Any]:
    words = ("run", "dnn", "--json")
    result = run_flow(root, *words) if run_flow else call(root, "chapterflow", *words, **NO_REPORT)
    assert result.returncode == 0, result.stderr
    (model,) = json.loads(result.stdout)["models"]
    return dict(model)


@pytest.mark.fault(
    "`run` killed during training", "The next run resumes; equal weights and metrics"
)
def test_a_killed_training_ends_as_an_undisturbed_one(both: Any, prepared: Path) -> None:
    undisturbed, (expected, _) = both

    process = start(prepared, "dnn")
    wait_until(lambda: epochs_done(prepared) >= 5)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = epochs_done(prepared)
    assert 5 <= done < EPOCHS
    # The server of the killed process sees that its parent is gone, and ends too.
    wait_until(lambda: stores.processes_of(prepared) == {})
    (interrupted,) = stores.model_runs(prepared)
    assert interrupted["status"] == "RUNNING"

    model = run_to_end(prepared)

    assert model["status"] == "trained"
    assert model["run_id"] == interrupted["id"]
    for name in ("test/accuracy", "test/log_loss", "test/brier", "train/epochs", "test/ece"):
        assert model["metrics"][name] == expected["metrics"][name]
    for mine, theirs in zip(weights(prepared), weights(undisturbed), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    statuses = [run["status"] for run in stores.mlflow_runs(prepared)]
    assert sorted(statuses) == ["FINISHED", "FINISHED", "KILLED"]  # killed: the first flow
    assert stores.flow_states(prepared) == ["CRASHED", "COMPLETED"]
    assert "RUNNING" not in {state for _, state in stores.task_states(prepared)}
    assert stores.processes_of(prepared) == {}
    assert not list(prepared.glob(".chapterflow/work/*"))
    # Each epoch once, in order, none from before the kill missing.
    rows = stores.query(
        prepared / "mlruns" / "mlflow.db",
        "SELECT step FROM metrics WHERE key = 'train/loss' "
        f"AND run_uuid = '{model['run_id']}' ORDER BY timestamp, step",
    )
    assert [step for (step,) in rows] == list(range(1, int(model["metrics"]["train/epochs"]) + 1))


@pytest.mark.fault("Ctrl-C during training", "Ends at once; the next run resumes")
def test_ctrl_c_ends_at_once_and_is_resumed(prepared: Path, run_flow: Run) -> None:
    process = start(prepared, "dnn")
    wait_until(lambda: epochs_done(prepared) >= 3)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=HUNG)
    assert process.returncode == 130
    assert "resumes after the last finished epoch" in stderr
    assert "Traceback" not in stderr
    assert {run["status"] for run in stores.mlflow_runs(prepared)} == {"KILLED"}
    assert stores.processes_of(prepared) == {}
    killed = stores.model_runs(prepared)[0]["id"]
    assert run_to_end(prepared, run_flow)["run_id"] == killed


@pytest.mark.fault("The same `run` started twice at once", "One trains, the other reuses it")
def test_two_runs_at_once_train_once_and_corrupt_nothing(both: Any) -> None:
    root, documents = both
    assert sorted(document["status"] for document in documents) == ["reused", "trained"]
    assert documents[0]["run_id"] == documents[1]["run_id"]
    assert documents[0]["metrics"] == documents[1]["metrics"]
    for store in ("mlruns/mlflow.db", ".prefect/prefect.db"):
        assert stores.query(root / store, "PRAGMA integrity_check") == [("ok",)]
    assert {run["status"] for run in stores.mlflow_runs(root)} == {"FINISHED"}
    assert stores.flow_states(root) == ["COMPLETED", "COMPLETED"]
    assert os.listdir(root / ".chapterflow" / "work") == []


@pytest.mark.fault(
    "Run killed after logging, after registering (and its folder deleted), before the alias",
    "One run, version and logged model; no work left",
)
def test_a_run_killed_at_its_end_registers_once(fetched: Path, record_property: Any) -> None:
    root = fetched
    stores.set_param(root, "models.dnn.epochs", 2)
    step = ("chapterflow", "step", "run", "dnn", "--profile", "embedded")
    store = root / "mlruns" / "mlflow.db"
    for place in (
        "chapterflow.loop.logged_model:log_keras_model:after",
        "chapterflow.tracking.versions:register:after",
        "chapterflow.tracking.session:Session.challenge:before",
    ):
        done = call(root, *step, CHAPTERFLOW_TEST_KILL=place)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert list(root.glob(".chapterflow/work/*"))
        if ":register:" in place:
            shutil.rmtree(root / ".chapterflow" / "work")
    done = call(root, *step)
    assert done.returncode == 0, done.stderr
    assert not list(root.glob(".chapterflow/work/*"))

    versions = stores.query(store, "SELECT version, source FROM model_versions")
    assert [version for version, _ in versions] == [1]
    logged = stores.query(
        store, "SELECT model_id FROM logged_models WHERE lifecycle_stage = 'active'"
    )
    assert [f"models:/{name}" for (name,) in logged] == [source for _, source in versions]
    assert [run["status"] for run in stores.model_runs(root)] == ["FINISHED"]
    aliases = stores.query(store, "SELECT alias, version FROM registered_model_aliases")
    assert aliases == [("challenger", 1)]
    record_property("saw", "3 kills, folder deleted: 1 run, 1 version, 1 logged model, 0 folders")


#: Starts a flow that is killed before it signs itself, makes flow runs that nobody signed, and
#: prints the states of all after they were looked through, at once and when their time was over.
UNSIGNED = """
import json, os, subprocess
from chapterflow.environment import configure, find_project
project = find_project()
configure(project)
from pipelines.prefect_server import prefect_server
with prefect_server(project.scratch):
    dead = subprocess.run(
        ["chapterflow", "run", "dnn"],
        env=os.environ | {"CHAPTERFLOW_TEST_KILL": "pipelines.housekeeping:sign_flow_run:before"},
        capture_output=True,
    )
    from datetime import timedelta
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.states import Pending, Running
    from pipelines import housekeeping
    from pipelines.chapter import chapter

    @flow(name="another")
    def another(): ...

    def states():
        with get_client(sync_client=True) as client:
            return sorted((run.name.split(":")[0], run.state.type.value)
                          for run in client.read_flow_runs())

    with get_client(sync_client=True) as client:
        client.create_flow_run(chapter, name="running", state=Running())
        client.create_flow_run(chapter, name="pending", state=Pending())
        client.create_flow_run(another, name="another", state=Running())
    housekeeping.end_dead_flow_runs()
    seen = [dead.returncode, states()]
    housekeeping.UNSIGNED = dict.fromkeys(housekeeping.UNSIGNED, timedelta(0))
    housekeeping.end_dead_flow_runs()
    print(json.dumps([*seen, states()]))
"""


@pytest.mark.fault(
    "Flow killed before it signed itself", "Set to Crashed by the next flow; others untouched"
)
def test_a_flow_that_was_killed_at_its_start_is_ended(
    fetched: Path, prefect_once: Path, record_property: Any
) -> None:
    shutil.copytree(prefect_once, fetched / ".prefect")
    done = call(fetched, "python", "-c", UNSIGNED)
    assert done.returncode == 0, done.stderr
    code, at_once, later = json.loads(done.stdout.strip().splitlines()[-1])
    assert code == -signal.SIGKILL
    others = [["another", "RUNNING"], ["embedded", "CRASHED"]]
    assert at_once == [*others, ["pending", "PENDING"], ["running", "RUNNING"]]
    assert later == [*others, ["pending", "CRASHED"], ["running", "CRASHED"]]
    record_property("saw", "the killed flow crashed at once; unsigned ones when their time is over")
