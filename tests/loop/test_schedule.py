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

from tests.conftest import HUNG, begin, call, command_environment, copy_project, free_port
from tests.loop import stores

pytestmark = pytest.mark.slow


@pytest.fixture
def checkout(fetched_once: Path, prefect_once: Path, tmp_path: Path) -> Path:
    """A checkout with the embedded data and nothing trained."""
    root = copy_project(fetched_once, tmp_path / "checkout")
    shutil.copytree(prefect_once, root / ".prefect")
    return root


def test_a_schedule_fires_and_stops_cleanly(checkout: Path) -> None:
    import requests

    stores.set_param(checkout, "models.dnn.epochs", 2)
    port = free_port()
    words = ["chapterflow", "schedule", "--every", "10", "--model", "dnn", "--port", str(port)]
    process = begin(checkout, *words, stderr=subprocess.STDOUT, start_new_session=True)
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
    assert stores.processes_of(checkout) == []


def test_a_port_that_is_taken_and_a_cron_that_is_none(checkout: Path) -> None:
    import socket

    words = ("chapterflow", "schedule")
    result = call(checkout, *words, "--cron", "0 2 30 2 *", "--port", str(free_port()))
    assert result.returncode == 2
    assert "'0 2 30 2 *', which never does" in result.stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = call(checkout, *words, "--port", str(taken.getsockname()[1]))
    assert result.returncode != 0
    assert "Traceback" not in result.stderr


def test_a_configured_server_is_used(checkout: Path, prefect_once: Path) -> None:
    import requests

    stores.set_param(checkout, "models.dnn.epochs", 2)
    shutil.rmtree(checkout / ".prefect")
    port = free_port()
    address = f"http://127.0.0.1:{port}/api"
    home = checkout.parent / "server"
    shutil.copytree(prefect_once, home)
    server = subprocess.Popen(
        ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
        cwd=checkout.parent,
        env=command_environment(checkout)
        | {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + HUNG
        while time.monotonic() < deadline:
            try:
                if requests.get(f"{address}/health", timeout=5).ok:
                    break
            except requests.RequestException:
                time.sleep(0.5)
        result = call(checkout, "chapterflow", "run", "dnn", PREFECT_API_URL=address)
        assert result.returncode == 0, result.stdout + result.stderr
        answer = requests.post(f"{address}/flow_runs/filter", json={}, timeout=HUNG).json()
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    assert [run["state"]["type"] for run in answer] == ["COMPLETED"]
    assert not (checkout / ".prefect" / "prefect.db").exists()
