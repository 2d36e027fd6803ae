"""A Prefect server for as long as this process lives.

Prefect starts one by itself where no `PREFECT_API_URL` is set, but that one survives a killed
parent. This one watches its parent and ends with it, however the parent ended.
"""

import contextlib
import functools
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from chapterflow.environment import collect_rarely, end_with
from chapterflow.errors import ChapterflowError, redacted

HOST = "127.0.0.1"
START_SECONDS = 90.0
#: What pages of the server may load: nothing from other hosts.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self' ws: http://127.0.0.1:* "
    "http://localhost:*; frame-ancestors 'self'"
)
#: Routers of the API that flows ask. FastAPI builds the routes of a router when the first request
#: passes it on its way, which takes most of a second for all of them.
ASKED = (
    *("/flows", "/flow_runs", "/task_runs", "/logs", "/events", "/artifacts"),
    *("/csrf-token", "/admin"),
)
#: Seconds in which a server must answer that is not starting.
ANSWER_SECONDS = 5.0


@contextlib.contextmanager
def prefect_server(
    scratch: Path,
    *,
    ui: bool = False,
    port: int | None = None,
    meanwhile: Callable[[], None] = lambda: None,
    tell: Callable[[str], None] = print,
) -> Iterator[str]:
    """Make a Prefect API available, and yield its address.

    If the user has set `PREFECT_API_URL`, that server is used and none is started.

    Args:
        scratch: Folder for the lock and the log of the server.
        ui: Whether the server serves Prefect's pages too.
        port: Port of the server; a free one by default.
        meanwhile: What there is to do while the server starts, which takes seconds. It may import
            `prefect`.
        tell: Called with a line if a damaged database had to be replaced.

    Raises:
        ChapterflowError: If the server does not answer in time, or `port` is taken.
    """
    if configured := os.environ.get("PREFECT_API_URL"):
        _check_configured(configured)
        meanwhile()
        try:
            yield configured
        finally:
            _send_what_waits(configured, tell)
        return
    port = port or _free_port()
    address = f"http://{HOST}:{port}/api"
    scratch.mkdir(parents=True, exist_ok=True)
    log = scratch / "prefect-server.log"
    # Two servers that create the same database at once would get into each other's way.
    with FileLock(scratch / "prefect-server.lock"):
        server = _start(address, port, log, ui, meanwhile)
        if server is None and (kept := _set_aside_damaged()):
            tell(
                f"Prefect's database was damaged. Prefect starts a new one; flow runs, not models, "
                f"were in it. The file as it was: {kept}"
            )
            server = _start(address, port, log, ui)
        if server is None:
            said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise ChapterflowError(
                f"Prefect's server did not start at {address}. Received: "
                f"{said[-1] if said else 'no answer'}. Its log: {log}"
            )
    try:
        yield address
    finally:
        _send_what_waits(address, tell)
        os.environ.pop("PREFECT_API_URL", None)
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


#: The server of `kept_server`: folder of its database, address, and what ends it.
_kept: tuple[str, str, contextlib.ExitStack] | None = None


@contextlib.contextmanager
def kept_server(
    scratch: Path,
    *,
    meanwhile: Callable[[], None] = lambda: None,
    tell: Callable[[str], None] = print,
) -> Iterator[str]:
    """Make a Prefect API available as `prefect_server` does; the server stays for the next call.

    For notebooks: a start takes seconds, and the server ends with this process anyway.
    """
    global _kept  # noqa: PLW0603
    if "PREFECT_API_URL" in os.environ:
        with prefect_server(scratch, meanwhile=meanwhile, tell=tell) as address:
            yield address
        return
    home = os.environ.get("PREFECT_HOME", "")
    if _kept and not (_kept[0] == home and _still_answers(_kept[1])):
        _kept[2].close()
        _kept = None
    try:
        if _kept:
            os.environ["PREFECT_API_URL"] = _kept[1]
            _reread_settings()
            meanwhile()
        else:
            stack = contextlib.ExitStack()
            address = stack.enter_context(prefect_server(scratch, meanwhile=meanwhile, tell=tell))
            _kept = (home, address, stack)
        yield _kept[1]
    finally:
        if _kept:
            _send_what_waits(_kept[1], tell)
        # Commands that a notebook starts have servers of their own.
        os.environ.pop("PREFECT_API_URL", None)


def _still_answers(address: str) -> bool:
    try:
        answers(address)
    except OSError:
        return False
    return True


def _reread_settings() -> None:
    """Let Prefect see the environment, which it reads at its first import."""
    if "prefect" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()


def _start(
    address: str, port: int, log: Path, ui: bool, meanwhile: Callable[[], None] = lambda: None
) -> subprocess.Popen[bytes] | None:
    """Start a server, which `PREFECT_API_URL` names from then on.

    Returns:
        The server; None, and no server, if it ended or does not answer in time.
    """
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "pipelines.prefect_server", str(port), str(os.getpid())],
            env={
                **os.environ,
                "PREFECT_UI_ENABLED": str(ui).lower(),
                "PREFECT_UI_API_URL": address,
                "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
                "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
                # The pages list them; saving a block registers its type anyway.
                "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": str(ui).lower(),
                # A server of `schedule` lives for months; flow runs go after 90 days.
                "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs" if ui else "events",
            },
            stdout=out,
            stderr=out,
            # Ctrl-C in a terminal goes to the whole group; the server must outlast its client.
            start_new_session=True,
        )
    healthy = False
    try:
        os.environ["PREFECT_API_URL"] = address
        _reread_settings()
        meanwhile()
        healthy = _is_healthy(server, address)
    finally:
        if not healthy:
            os.environ.pop("PREFECT_API_URL", None)
            server.kill()
            server.wait()
    return server if healthy else None


def _set_aside_damaged() -> Path | None:
    """Rename Prefect's database if it is damaged; return the new name."""
    home = os.environ.get("PREFECT_HOME")
    path = Path(home or Path.home() / ".prefect") / "prefect.db"
    if not path.is_file():
        return None
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
            if db.execute("PRAGMA quick_check(1)").fetchone() == ("ok",):
                return None
    except sqlite3.OperationalError:
        return None  # locked or unreadable: another fault
    except sqlite3.DatabaseError:
        pass
    kept = path.with_name(f"{path.name}.damaged")
    for journal in ("", "-wal", "-shm", "-journal"):  # they would be applied to the new database
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + journal).replace(kept.with_name(kept.name + journal))
    return kept


def _check_configured(address: str) -> None:
    """Raise if the server that the user has chosen does not answer within seconds."""
    try:
        answers(address)
    except OSError as error:
        raise ChapterflowError(
            f"The Prefect server of PREFECT_API_URL does not answer. Received: {address} "
            f"({type(error).__name__}). Start it (`prefect server start`), or unset "
            "PREFECT_API_URL; then chapterflow starts a server for itself."
        ) from None


def answers(address: str) -> None:
    """Return if a server answers, whatever it answers.

    Raises:
        OSError: If it does not.
    """
    import requests

    requests.get(f"{address.rstrip('/')}/health", timeout=ANSWER_SECONDS)


def outcome_of(flow: Any, **parameters: Any) -> Any:
    """Run a flow, and return what its function returned or the exception that it raised.

    Prefect records the parameters without the logins of addresses in them; the function receives
    them as they are.

    If the server is lost meanwhile, Prefect cannot record how the flow ended and raises an error of
    its connection instead; what the flow did counts all the same.
    """
    import httpx
    from prefect.context import TagsContext

    from pipelines.housekeeping import signed

    results: list[Any] = []
    kept = flow.with_options()

    @functools.wraps(flow.fn)
    def function(*_recorded: Any, **_options: Any) -> Any:
        try:
            # Tasks would inherit the tag of the process, and ask the server about a limit for each
            # tag before they start.
            with TagsContext(current_tags=set()):
                results.append(flow.fn(**parameters))
        except Exception as error:
            results.append(error)
            raise
        return results[0]

    kept.fn = function
    try:
        with signed():
            recorded = {name: _without_secrets(value) for name, value in parameters.items()}
            return kept(**recorded, return_state=True).result(raise_on_failure=False)
    except httpx.HTTPError:
        if not results:
            raise
    return results[0]


def leave_schedule(code: int) -> None:
    """End this process if a schedule has started its flow and Prefect's server is lost.

    For the end of a flow whose work is done: Prefect would try for a minute to record it.
    """
    address = os.environ.get("PREFECT_API_URL")
    if "PREFECT__FLOW_RUN_ID" not in os.environ or address is None:
        return
    try:
        answers(address)
    except OSError:
        sys.stderr.write(f"{_lost_text(address)}\n")
        sys.stderr.flush()
        os._exit(code)


def _lost_text(address: str) -> str:
    return (
        f"Prefect's server at {address} was lost. What the models did is in the tracking "
        "store; Prefect's record of this flow is incomplete."
    )


def _without_secrets(value: Any) -> Any:
    """Return a parameter of a flow as Prefect may keep it."""
    if isinstance(value, str):
        return redacted(value)
    return [_without_secrets(item) for item in value] if isinstance(value, list) else value


def leave(code: int) -> None:
    """End this process if its server is lost; Prefect would try to reach it for minutes."""
    if _lost:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


#: Addresses of servers that did not answer at the end.
_lost: list[str] = []


def _send_what_waits(address: str, tell: Callable[[str], None]) -> None:
    """Deliver Prefect's events and log records, which it sends from threads in the background."""
    if "prefect" not in sys.modules:
        return
    try:
        answers(address)
    except OSError:
        _lost.append(address)
        tell(_lost_text(address))
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler

    EventsWorker.drain_all(timeout=5)
    APILogHandler().flush()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _is_healthy(server: subprocess.Popen[bytes], address: str) -> bool:
    import requests

    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(requests.ConnectionError, requests.Timeout):
            if requests.get(f"{address}/health", timeout=2).ok and server.poll() is None:
                return True
        time.sleep(0.05)
    return False


def main(port: int, parent: int) -> None:
    """Serve Prefect's API until terminated, or until the process `parent` is gone."""
    end_with(parent)
    collect_rarely()
    import prefect
    import uvicorn
    from prefect.server.api import server

    from pipelines.prefect_tables import create_tables

    create_tables()
    # Its new pages load a program that reports each visit to an analytics host. Those that stay
    # do not, whatever a browser remembers; `ui` of the server answers with them alone.
    prefect.__ui_v2_static_path__ = Path(os.devnull) / "no-pages"
    server.API_ROUTERS = tuple(  # type: ignore[assignment]
        sorted(server.API_ROUTERS, key=lambda router: router.prefix not in ASKED)
    )
    app = server.create_app()

    @app.middleware("http")
    async def stay_here(request: Any, call_next: Any) -> Any:
        """Let browsers connect to this server only."""
        response = await call_next(request)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        return response

    uvicorn.run(app, host=HOST, port=port, log_level="error", lifespan="on")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
