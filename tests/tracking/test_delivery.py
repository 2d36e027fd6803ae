"""A tracking store that fails while a model trains: training goes on, and no metric is lost."""

import json
import sqlite3
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from chapterflow.config.load import load_settings
from chapterflow.environment import Project
from chapterflow.errors import StoreUnavailable
from chapterflow.tracking import runs
from chapterflow.tracking.session import Session
from chapterflow.tracking.store import database, open_client
from chapterflow.training.history import EpochRecord
from tests.conftest import HUNG, call, invoke
from tests.loop.stores import set_param
from tests.tracking.proxy import proxy

#: More than a request holds.
EPOCHS = runs.EPOCHS_PER_REQUEST + 20

#: `chapterflow`, which waits for less than 30 s at the end of a training.
IMPATIENT = """
from chapterflow.tracking import runs
runs.DELIVERY_SECONDS = 3.0
from chapterflow import cli
cli.main()
"""


def record(epoch: int) -> EpochRecord:
    return EpochRecord(
        epoch=epoch, train_loss=1 / epoch, validation_loss=2.0, learning_rate=0.1, seconds=0.1
    )


def steps_of(session: Session, run_id: str) -> list[int]:
    return [metric.step for metric in session.client.get_metric_history(run_id, "train/loss")]


@pytest.fixture
def session(project: Project) -> Session:
    return Session(project, load_settings(project.params))


@pytest.mark.fault(
    "Tracking database locked throughout a training",
    "Training never waits; metrics are kept and delivered by the next command",
)
def test_epochs_are_kept_while_the_store_is_locked(
    session: Session,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Any,
) -> None:
    monkeypatch.setattr(runs, "DELIVERY_SECONDS", 0.2)
    run_id = runs.open_run(session.client, session.experiment_id, name="x", tags={})
    folder = project.scratch / "work" / "0123"
    logger = runs.EpochLogger(session.client, run_id, folder)
    lock = sqlite3.connect(database(project), isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    started = time.monotonic()
    with pytest.raises(StoreUnavailable), logger:  # noqa: PT012 - the training is the point
        for epoch in range(1, EPOCHS + 1):
            logger(record(epoch))
        trained = time.monotonic() - started
    assert trained < 3
    kept = (folder / runs.KEPT).read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in kept] == list(range(1, EPOCHS + 1))
    lock.execute("ROLLBACK")
    logger._thread.join(HUNG)  # what was under way when the training ended

    # Any command opens a session.
    Session(project, load_settings(project.params))

    assert steps_of(session, run_id) == list(range(1, EPOCHS + 1))
    assert not (folder / runs.KEPT).exists()
    record_property("saw", f"{EPOCHS} of {EPOCHS} epochs delivered, training not held up")


def test_a_process_that_trains_delivers_its_own_epochs(session: Session, project: Project) -> None:
    from chapterflow.environment import project_lock

    run_id = runs.open_run(session.client, session.experiment_id, name="x", tags={})
    folder = project.scratch / "work" / "0123"
    folder.mkdir(parents=True)
    kept = runs.Epoch(run_id=run_id, epoch=1, time=1, metrics={"train/loss": 1.0})
    (folder / runs.KEPT).write_text(kept.model_dump_json() + "\n")
    with project_lock(project, "run-0123", pytest.fail):
        runs.deliver_kept(session.client, project)
    assert steps_of(session, run_id) == []
    runs.deliver_kept(session.client, project)
    assert steps_of(session, run_id) == [1]


def test_epochs_are_logged_once_and_in_the_end_nothing_is_kept(
    session: Session, project: Project
) -> None:
    run_id = runs.open_run(session.client, session.experiment_id, name="x", tags={})
    for epochs in (3, 5):  # the second resumes, and reports the first three again
        with runs.EpochLogger(session.client, run_id, project.scratch / "work" / "0") as logger:
            for epoch in range(1, epochs + 1):
                logger(record(epoch))
    assert logger.last == 3
    assert steps_of(session, run_id) == [1, 2, 3, 4, 5]
    assert not list(project.scratch.glob(f"work/*/{runs.KEPT}"))


@pytest.mark.parametrize("fault", ["500", "gone", "silent"])
def test_a_server_that_fails_is_not_taken_for_a_run_that_is_missing(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("MAX_RETRIES", "1"), ("BACKOFF_FACTOR", "0"), ("TIMEOUT", "1")):
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", value)
    with proxy(fault=fault) as server, pytest.raises(StoreUnavailable) as failure:
        open_client(server.address).get_run("0" * 32)
    assert f"{server.address} does not answer" in str(failure.value)
    assert "Pool" not in str(failure.value)


@pytest.mark.slow
@pytest.mark.fault("Tracking server gone, silent or answering 500 at the start", "Refused in 10 s")
@pytest.mark.parametrize("fault", ["500", "gone", "silent"])
def test_a_command_refuses_a_server_that_fails_at_the_start(
    fault: str, project: Project, record_property: Any
) -> None:
    started = time.monotonic()
    with proxy(fault=fault) as server:
        done = invoke(project.root, "run", "dnn", MLFLOW_TRACKING_URI=server.address)
    seconds = time.monotonic() - started
    assert done.returncode == 1
    assert f"The tracking server {server.address} does not answer" in done.stderr
    assert "unset MLFLOW_TRACKING_URI" in done.stderr
    assert seconds < 10
    record_property("saw", f"refused within {5 * (1 + seconds // 5):.0f} s")


@pytest.mark.slow
@pytest.mark.fault(
    "Tracking server answering 500 from the second epoch on",
    "Training goes on; the next run delivers and ends with the same metrics",
)
def test_a_server_that_fails_during_training(
    fetched: Path, prefect_api: dict[str, str], mlflow_server: str, record_property: Any
) -> None:
    root = fetched
    epochs = 30
    set_param(root, "models.dnn.epochs", epochs)
    set_param(root, "models.dnn.patience", None)
    with proxy(mlflow_server) as server:

        def break_down() -> None:
            while not list(root.glob(".chapterflow/work/*/checkpoints/epoch-*")):
                time.sleep(0.05)
            server.fault = "500"

        threading.Thread(target=break_down, daemon=True).start()
        canary = uuid.uuid4().hex
        address = server.address.replace("://", f"://user:{canary}@")
        words = ("python", "-c", IMPATIENT, "run", "dnn")
        # MLflow must have given up before the command does.
        variables = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_TRACKING_URI": address}
        failed = call(root, *words, **variables, **prefect_api)
        assert failed.returncode == 1, failed.stderr
        # Prefect's database and all other files included.
        folders = (root, Path(prefect_api["PREFECT_HOME"]))
        files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
        assert not [file for file in files if canary.encode() in file.read_bytes()]
        assert canary not in failed.stdout + failed.stderr
        assert "does not answer (too many 500 error responses)" in failed.stdout
        assert "continues from there" in failed.stdout
        assert len(list(root.glob(".chapterflow/work/*/model.keras"))) == 1
        (kept,) = root.glob(f".chapterflow/work/*/{runs.KEPT}")
        waiting = len(kept.read_text().splitlines())
        assert waiting > 0
        server.fault = ""
        words = ("chapterflow", "run", "dnn", "--json")
        done = call(root, *words, MLFLOW_TRACKING_URI=server.address, **prefect_api)
    assert done.returncode == 0, done.stderr
    assert "delivered to the tracking store: " in done.stderr
    assert "INFO mlflow" not in done.stderr
    (model,) = json.loads(done.stdout)["models"]
    assert model["status"] == "trained"
    history = open_client(mlflow_server).get_metric_history(model["run_id"], "train/loss")
    assert [metric.step for metric in history] == list(range(1, epochs + 1))
    record_property("saw", f"{waiting} of {epochs} epochs kept, all delivered by the next run")
