"""The MLflow UI over the project's own store."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from chapterflow.environment import Project
from chapterflow.errors import ConfigError
from chapterflow.tracking.store import is_local, tracking_uri

HOST = "127.0.0.1"


def serve_ui(
    project: Project, port: int, experiment_id: str, *, tell: Callable[[str], None]
) -> None:
    """Serve MLflow's pages on 127.0.0.1 until interrupted.

    Raises:
        ConfigError: If the port is taken.
    """
    if not is_local(project):
        tell(f"MLFLOW_TRACKING_URI is set; its server shows the runs: {tracking_uri(project)}")
        return
    if _answers(port):
        raise ConfigError(f"Port {port} on {HOST} is taken. Choose another with --port.")
    tell("Starting the MLflow UI")
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server"),
            *("--backend-store-uri", tracking_uri(project)),
            *("--registry-store-uri", tracking_uri(project)),
            *("--uvicorn-opts", "--log-level=warning"),
            *("--host", HOST, "--port", str(port), "--workers", "1"),
        ],
        cwd=project.root,
        env={**os.environ, "MLFLOW_LOGGING_LEVEL": "WARNING", "PYTHONWARNINGS": "ignore"},
        start_new_session=True,
    )

    def stop(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        while server.poll() is None and not _answers(port):
            time.sleep(0.2)
        if server.poll() is None:
            page = f"http://{HOST}:{port}/#/experiments/{experiment_id}/runs"
            tell(f"MLflow UI: {page} (Ctrl-C ends it)")
        server.wait()
    except KeyboardInterrupt:
        pass
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0
