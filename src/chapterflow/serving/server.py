"""`chapterflow serve`: one registered model on 127.0.0.1, until interrupted."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chapterflow.environment import Project, load_tensorflow
from chapterflow.errors import ConfigError, StoreError
from chapterflow.serving.requests import JSON, Refusal, Reply, answer
from chapterflow.settings import Settings
from chapterflow.shipped.answers import DESCRIPTION, Inputs
from chapterflow.tracking.registry import (
    CHAMPION,
    Version,
    find_version,
    model_file,
    model_folder,
)
from chapterflow.tracking.session import Session

if TYPE_CHECKING:
    from fastapi import FastAPI

HOST = "127.0.0.1"
#: What MLflow's server answers beside requests.
PAGES = ("/ping", "/health", "/version")
#: What MLflow writes beside a model: a request with its input example.
EXAMPLE_REQUEST = "serving_input_example.json"
#: How long requests under way have when the server is stopped, and what the others are told.
GRACE_SECONDS = 30
STOPPED = Refusal(
    503, "TEMPORARILY_UNAVAILABLE", f"The server was stopped, and waits {GRACE_SECONDS} s at most."
)


@dataclass(frozen=True)
class Served:
    """A registered version, loaded as MLflow serves it.

    Attributes:
        model: `mlflow.pyfunc.PyFuncModel`.
        folder: Its files.
    """

    version: Version
    model: Any
    folder: Path


def load(project: Project, settings: Settings, reference: str) -> Served:
    """Load a version and let it answer its own example once, so that the first client waits not.

    Args:
        reference: `NAME` (its champion), `NAME/VERSION` or `NAME@ALIAS`.

    Raises:
        ConfigError: If it is not in the registry.
        StoreError: If its files are not there, or it was logged before models had answers.
    """
    import mlflow

    with Session(project, settings) as session:
        version = find_version(session.client, reference, default=CHAMPION)
        folder = model_folder(version)
        if not (folder / DESCRIPTION).is_file():
            raise StoreError(
                f"A served model must say what it answers. Received: {version.told()}, which was "
                f"logged without {DESCRIPTION}. `chapterflow run {version.model} --force` trains "
                "and logs it anew"
            )
        model_file(session.client, version, folder)
        load_tensorflow()
        model = mlflow.pyfunc.load_model(str(folder), suppress_warnings=True)
    model.predict(model.input_example)
    return Served(version, model, folder)


def application(model: Any, folder: Path, max_bytes: int) -> FastAPI:
    """Return MLflow's scoring server for a model, with refusals that people can read.

    `/ping`, `/health` and `/version` are MLflow's own; `/invocations` is, once a request has been
    found to be one that the model takes. `/example` is such a request.

    Args:
        model: `mlflow.pyfunc.PyFuncModel` of a logged chapter model.
        folder: Its files.
        max_bytes: Largest body of a request.
    """
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import FileResponse
    from mlflow.pyfunc import scoring_server
    from starlette.requests import ClientDisconnect

    inputs = Inputs(json.loads((folder / DESCRIPTION).read_text(encoding="utf-8")))
    # FastAPI's own pages would load their scripts from elsewhere.
    app = FastAPI(openapi_url=None)
    # Not asyncio's own pool, for whose threads the event loop would wait at its end.
    pool = ThreadPoolExecutor(thread_name_prefix="answer")
    app.state.computing = computing = set[Future[Reply]]()

    async def invocations(request: Request) -> Response:
        kind = request.headers.get("content-type")
        try:
            body = await _body(request, max_bytes)
            future = pool.submit(answer, model, inputs, body, kind)
            computing.add(future)
            future.add_done_callback(computing.discard)
            reply = await asyncio.wrap_future(future)
        except Refusal as refusal:
            reply = refusal.reply
        except asyncio.CancelledError:
            reply = STOPPED.reply
        except ClientDisconnect:
            reply = Reply(400, "")  # which nobody is there to read
        return respond(reply)

    async def example() -> Response:
        return FileResponse(folder / EXAMPLE_REQUEST, media_type=JSON)

    def respond(reply: Reply) -> Response:
        return Response(reply.body, reply.status, media_type=JSON)

    # Annotations are texts here, which FastAPI would look up among the module's names.
    invocations.__annotations__["request"] = Request
    app.post("/invocations", response_model=None)(invocations)
    app.get("/example", response_model=None)(example)
    # Not the rest: pages of documentation, whose scripts come from elsewhere.
    own = scoring_server.init(model).routes
    app.router.routes += [route for route in own if getattr(route, "path", "") in PAGES]
    return app


async def _body(request: Any, max_bytes: int) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > max_bytes:
            raise Refusal(
                413,
                "PAYLOAD_TOO_LARGE",
                f"A request must have at most {max_bytes / 1e6:g} MB (`--max-mb` of the server). "
                "Received: more. Send fewer examples at once",
            )
    return bytes(body)


def bind(port: int) -> socket.socket:
    """Return a socket on a port of 127.0.0.1, which is taken from now on.

    Args:
        port: 0 for any that is free.

    Raises:
        ConfigError: If it is taken, also by a server that still loads.
    """
    # With the protocol by name: asyncio turns Nagle's algorithm off for no other, and every answer,
    # being two writes, would wait 40 ms for the client's delayed acknowledgement.
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((HOST, port))
        # Until one listens, Linux lets several processes bind the same port.
        found.listen()
    except OSError as error:
        found.close()
        raise ConfigError(
            f"Port {port} on {HOST} is taken. Choose another with --port. Received: {error}"
        ) from None
    return found


def serve(
    served: Served,
    listener: socket.socket,
    max_bytes: int,
    tell: Callable[[str], None],
) -> bool:
    """Answer requests until SIGINT or SIGTERM; requests under way are answered first.

    Args:
        listener: Of `bind`.
        max_bytes: Largest body of a request.
        tell: Told the address, and how to ask this model, once it answers.

    Returns:
        Whether all computations have ended; a client whose answer took too long was told so, but a
        thread cannot be stopped.
    """
    import psutil
    import uvicorn

    address = f"http://{HOST}:{listener.getsockname()[1]}"
    invocations = f"{address}/invocations"

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            seconds = time.time() - psutil.Process().create_time()
            tell(
                f"{served.version.told()} answers at {invocations}, {seconds:.1f} s after it was "
                "started (Ctrl-C ends it). Try:"
            )
            tell(
                f"curl -s {address}/example | curl -s {invocations} -H 'Content-Type: {JSON}' -d @-"
            )

    def stop(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    app = application(served.model, served.folder, max_bytes)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_SECONDS
    )
    try:
        Server(config).run([listener])
    except KeyboardInterrupt:
        pass  # uvicorn has shut down, and hands the signal on
    finally:
        listener.close()
    return not app.state.computing
