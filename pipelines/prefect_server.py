"""A Prefect server for as long as this process lives.

Prefect starts one by itself where no `PREFECT_API_URL` is set, but that one survives a killed
parent. This one watches its parent and ends with it, however the parent ended.
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock

from chapterflow.errors import ChapterflowError

HOST = "127.0.0.1"
START_SECONDS = 90.0


@contextlib.contextmanager
def prefect_server(
    scratch: Path,
    *,
    ui: bool = False,
    port: int | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> Iterator[str]:
    """Make a Prefect API available, and yield its address.

    Call it before the first import of `prefect`, which reads `PREFECT_API_URL` then. If the user
    has set that variable, that server is used and none is started.

    Args:
        scratch: Folder for the lock and the log of the server.
        ui: Whether the server serves Prefect's pages too.
        port: Port of the server; a free one by default.
        meanwhile: What there is to do while the server starts, which takes seconds.

    Raises:
        ChapterflowError: If the server does not answer in time, or `port` is taken.
    """
    if configured := os.environ.get("PREFECT_API_URL"):
        meanwhile()
        yield configured
        return
    port = port or _free_port()
    address = f"http://{HOST}:{port}/api"
    scratch.mkdir(parents=True, exist_ok=True)
    log = scratch / "prefect-server.log"
    # Two servers that create the same database at once would get into each other's way.
    with FileLock(scratch / "prefect-server.lock"), log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "pipelines.prefect_server", str(port), str(os.getpid())],
            env={
                **os.environ,
                "PREFECT_UI_ENABLED": str(ui).lower(),
                "PREFECT_UI_API_URL": address,
                "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
            },
            stdout=out,
            stderr=out,
            # Ctrl-C in a terminal goes to the whole group; the server must outlast its client.
            start_new_session=True,
        )
        try:
            meanwhile()
            _wait_until_healthy(server, address, log)
        except BaseException:
            server.kill()
            server.wait()
            raise
    os.environ["PREFECT_API_URL"] = address
    try:
        yield address
    finally:
        _send_what_waits()
        del os.environ["PREFECT_API_URL"]
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _send_what_waits() -> None:
    """Deliver Prefect's events and log records, which it sends from threads in the background."""
    if "prefect" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler

    EventsWorker.drain_all(timeout=5)
    APILogHandler().flush()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    import requests

    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(requests.ConnectionError, requests.Timeout):
            if requests.get(f"{address}/health", timeout=2).ok and server.poll() is None:
                return
        time.sleep(0.05)
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise ChapterflowError(
        f"Prefect's server did not start at {address}: {said[-1] if said else 'no answer'}. "
        f"Its log: {log}"
    )


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)


def main(port: int, parent: int) -> None:
    """Serve Prefect's API until terminated, or until the process `parent` is gone."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    import uvicorn
    from prefect.server.api.server import create_app

    uvicorn.run(create_app, factory=True, host=HOST, port=port, log_level="error", lifespan="on")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
