"""A schedule that really fires, and a server of one's own."""

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import (
    HUNG,
    NO_REPORT,
    Run,
    begin,
    command_environment,
    flow_runs,
    free_port,
    invoke,
)
from tests.loop import stores

pytestmark = pytest.mark.slow


@pytest.fixture
def checkout(fetched: Path, prefect_once: Path) -> Path:
    """A checkout with the embedded data, nothing trained, and a database of Prefect."""
    shutil.copytree(prefect_once, fetched / ".prefect")
    return fetched


def test_a_schedule_fires_and_stops_cleanly(checkout: Path) -> None:
    import requests

    stores.set_param(checkout, "models.dnn.epochs", 2)
    port = free_port()
    words = ["chapterflow", "schedule", "dnn", "--every", "10", "--port", str(port)]
    process = begin(
        checkout,
        *words,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=command_environment(checkout) | NO_REPORT,
    )
    database = checkout / ".prefect" / "prefect.db"
    try:
        deadline = time.monotonic() + HUNG
        completed = 0
        while completed < 2 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(1)
            if database.exists():
                with suppress(sqlite3.OperationalError):  # its tables are still being made
                    rows = stores.query(
                        database, "SELECT count(*) FROM flow_run WHERE state_type = 'COMPLETED'"
                    )
                    completed = rows[0][0]
        page = requests.get(f"http://127.0.0.1:{port}/", timeout=HUNG)
    finally:
        os.kill(process.pid, signal.SIGINT)
        text, _ = process.communicate(timeout=HUNG)
    assert completed >= 2, text
    assert page.ok
    assert "<html" in page.text.lower()
    assert f"http://127.0.0.1:{port}" in text
    assert process.returncode == 0, text
    assert len(stores.model_runs(checkout)) == 1  # the second time it is reused
    assert [run["tags"]["chapterflow.kind"] for run in stores.mlflow_runs(checkout)].count(
        "flow"
    ) == 1
    for name in ("chapter-nightly: every 10 s", "data-check: at '0 * * * *'", "model: on demand"):
        assert name in text
    firings = [line for line in text.splitlines() if " chapter: completed: " in line]
    assert [line.split(": ")[2].split(" (")[0] for line in firings[:2]] == ["1 trained", "1 reused"]
    assert len(text.splitlines()) <= 13, text
    assert stores.processes_of(checkout) == {}


def test_ctrl_c_while_it_starts_is_no_failure(checkout: Path) -> None:
    words = ["chapterflow", "schedule", "dnn", "--port", str(free_port())]
    process = begin(checkout, *words, stderr=subprocess.STDOUT, start_new_session=True)
    deadline = time.monotonic() + HUNG
    # The server is starting: nothing is served yet.
    while not (checkout / ".chapterflow/prefect-server.log").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    text, _ = process.communicate(timeout=HUNG)
    assert process.returncode == 0, text
    assert "Traceback" not in text
    # A server that was started at that very moment ends with its parent.
    while stores.processes_of(checkout):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_port_that_is_taken_and_a_cron_that_is_none(checkout: Path) -> None:
    import socket

    words = ("schedule",)
    result = invoke(checkout, *words, "--cron", "0 2 30 2 *", "--port", str(free_port()))
    assert result.returncode == 2
    assert "'0 2 30 2 *', which never does" in result.stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = invoke(checkout, *words, "--port", str(taken.getsockname()[1]))
    assert result.returncode != 0
    assert "Traceback" not in result.stderr


def test_a_configured_server_is_used(
    checkout: Path, run_flow: Run, prefect_api: dict[str, str]
) -> None:
    stores.set_param(checkout, "models.dnn.epochs", 2)
    shutil.rmtree(checkout / ".prefect")
    before = {run["id"] for run in flow_runs(prefect_api)}
    result = run_flow(checkout, "run", "dnn")
    assert result.returncode == 0, result.stdout + result.stderr
    states = [run["state"]["type"] for run in flow_runs(prefect_api) if run["id"] not in before]
    assert states == ["COMPLETED"]
    assert not (checkout / ".prefect").exists()
