"""`chapterflow serve`: a registered model behind MLflow's scoring server, until interrupted.

MLflow's own refusals repeat the whole input and a traceback; it takes text that looks like a number
for one, and no tables of graphs, whose sides vary. So what a request says is looked at before
MLflow reads it.
"""

from __future__ import annotations

import asyncio
import json
import math
import signal
import socket
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from chapterflow.config.settings import Settings
from chapterflow.environment import Project, load_tensorflow
from chapterflow.errors import ConfigError, StoreError
from chapterflow.shipped.answers import DESCRIPTION, Inputs
from chapterflow.tracking.session import Session
from chapterflow.tracking.versions import (
    OnVersion,
    Version,
    find_version,
    ignore,
    model_file,
    model_folder,
)

if TYPE_CHECKING:
    from fastapi import FastAPI

FORMS = ("inputs", "instances", "dataframe_split", "dataframe_records")
JSON = "application/json"
_FORMS = f"{', '.join(FORMS[:-1])} or {FORMS[-1]}"


@dataclass(frozen=True)
class Reply:
    """What a client is sent.

    Attributes:
        status: HTTP status.
        body: A JSON document.
    """

    status: int
    body: str


class Refusal(Exception):
    """A request that is answered with a status of 4xx.

    Attributes:
        reply: What the client is sent.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.reply = Reply(status, json.dumps({"error_code": code, "message": message}))


def answer(model: Any, inputs: Inputs, body: bytes, content_type: str | None) -> Reply:
    """Return a model's answer to the body of a request.

    Args:
        model: `mlflow.pyfunc.PyFuncModel` of a logged chapter model.
        inputs: What it takes.
        body: In one of MLflow's JSON forms: `FORMS`.
        content_type: The request's header.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc import scoring_server

    try:
        document = _document(body, content_type)
        form = _form(document)
        columns = _columns(form, document[form])
        table = form.startswith("dataframe")
        if table:
            columns = _shaped(columns, inputs)
        try:
            values = inputs.checked(columns.get(None, columns))
        except MlflowException as error:
            status = error.get_http_status_code()
            raise Refusal(status, error.error_code, error.message) from None
        if table:
            lists = {name: value.tolist() for name, value in values.items()}
            document = {"inputs": lists.get(None, lists)}
        found = scoring_server.invocations(document, JSON, model, model.metadata.get_input_schema())
        return Reply(found.status, found.response)
    except Refusal as refusal:
        return refusal.reply
    except Exception:
        traceback.print_exc()
        return _failed()


def _document(body: bytes, content_type: str | None) -> dict[str, Any]:
    media = (content_type or "").partition(";")[0].strip().lower()
    if media != JSON:
        _refuse(f"Content-Type must be {JSON}", media or "none", 415, "UNSUPPORTED_MEDIA_TYPE")
    try:
        document = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        start = body[:40].decode("utf-8", "replace")
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        _refuse("The body must be a JSON document", f"{start!r} ({reason})")
    if not isinstance(document, dict):
        _refuse(f"The body must be an object with one of the keys {_FORMS}", _named(document))
    return document


def _no_constant(name: str) -> NoReturn:
    _refuse("All numbers must be finite", name)


def _form(document: dict[str, Any]) -> str:
    forms = [key for key in document if key in FORMS]
    if len(forms) != 1:
        _refuse(f"The body must have one of the keys {_FORMS}", _keys(document))
    return forms[0]


def _columns(form: str, content: Any) -> dict[str | None, Any]:
    """Return the values of each input by its name, None for the one that has no name."""
    if form == "dataframe_split":
        if not isinstance(content, dict) or not {"columns", "data"} <= set(content):
            received = _keys(content) if isinstance(content, dict) else _named(content)
            _refuse("dataframe_split must be an object with columns and data", received)
        names, rows = content["columns"], content["data"]
        if not _is_table(names, rows):
            _refuse(
                "dataframe_split must hold a value in each row for each of its columns", "others"
            )
        return {name: [row[place] for row in rows] for place, name in enumerate(names)}
    if isinstance(content, dict) and form != "dataframe_records":
        return dict(content)
    if not isinstance(content, list) or not content:
        received = "an empty one" if content == [] else _named(content)
        _refuse(f"{form} must be a list of examples", received)
    if not any(isinstance(row, dict) for row in content):
        if form == "dataframe_records":
            _refuse("dataframe_records must be a list of objects", "a list of others")
        return {None: content}
    if not all(isinstance(row, dict) and set(row) == set(content[0]) for row in content):
        _refuse(f"{form} must be objects with the same keys", "different ones")
    return {name: [row[name] for row in content] for name in content[0]}


def _is_table(names: Any, rows: Any) -> bool:
    return (
        isinstance(names, list)
        and isinstance(rows, list)
        and all(isinstance(name, str) for name in names)
        and all(isinstance(row, list) and len(row) == len(names) for row in rows)
    )


def _shaped(columns: dict[str | None, Any], inputs: Inputs) -> dict[str | None, Any]:
    """Return the columns of a table as the inputs that they are: cells may be flat lists.

    The one column of a model whose input has no name may be called anything.
    """
    if None in inputs.wanted and len(columns) == 1:
        columns = {None: next(iter(columns.values()))}
    return {
        name: _unflat(cells, inputs.wanted[name]["shape"]) if name in inputs.wanted else cells
        for name, cells in columns.items()
    }


def _unflat(cells: list[Any], shape: list[int | None]) -> Any:
    """Return the cells as an array of a shape; as they are where they cannot be."""
    import numpy as np

    try:
        value = np.asarray(cells)
        if value.ndim != 2 or len(shape) <= 2:
            return value
        sides = [-1 if side is None else side for side in shape[1:]]
        if sides == [-1, -1]:  # an adjacency matrix is square
            sides = [math.isqrt(value.shape[1])] * 2
        return value.reshape(len(value), *sides)
    except ValueError:
        return cells


def _keys(document: dict[str, Any]) -> str:
    """Return the first keys of an object, as messages show them."""
    return ", ".join(repr(key[:40]) for key in list(document)[:5]) or "none"


def _named(value: Any) -> str:
    """Return what kind of JSON a value is."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def _failed() -> Reply:
    message = "The model failed; the server's console says why."
    return Reply(500, json.dumps({"error_code": "INTERNAL_ERROR", "message": message}))


def _refuse(expected: str, received: str, status: int = 400, code: str = "BAD_REQUEST") -> NoReturn:
    raise Refusal(status, code, f"{expected}. Received: {received}")


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


def load(
    project: Project, settings: Settings, reference: str, *, on_version: OnVersion = ignore
) -> Served:
    """Load a version and let it answer its own example once, so that the first client waits not.

    Args:
        reference: `NAME`, `NAME/VERSION` or `NAME@ALIAS` in the registry.
        on_version: Called with the version that it names.

    Raises:
        ConfigError: If it is not in the registry.
        StoreError: If its files are not there, or it was logged before models had answers.
    """
    import mlflow

    with Session(project, settings) as session:
        version = find_version(session.client, reference)
        on_version(version)
        folder = model_folder(version)
        if not (folder / DESCRIPTION).is_file():
            raise StoreError(
                f"A served model must say what it answers. Received: {version}, which was "
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
                f"{served.version} answers at {invocations}, {seconds:.1f} s after it was "
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
