"""The scoring server of `chapterflow serve`: MLflow's, with requests checked before it reads them.

MLflow's own errors repeat the whole input and a traceback. It also accepts text that looks like a
number, and refuses tables of graphs, whose sides vary.
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
from chapterflow.kinds.likeness import Likeness
from chapterflow.predict.inputs import read_likeness
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

#: MLflow's forms of a request.
FORMS = ("inputs", "instances", "dataframe_split", "dataframe_records")
_FORMS = f"{', '.join(FORMS[:-1])} or {FORMS[-1]}"
JSON = "application/json"
HOST = "127.0.0.1"
#: Routes of MLflow's server that are kept; the others are pages with scripts from other servers.
PAGES = ("/ping", "/health", "/version")
#: File next to MLflow's model: a request with its input example.
EXAMPLE_REQUEST = "serving_input_example.json"
#: How long a stopped server waits for the answers to open requests.
GRACE_SECONDS = 30
#: How long a client may take to send the headers of a request, and its body.
HEADER_SECONDS, BODY_SECONDS = 10.0, 120.0
#: Names of this machine. A page in a browser can reach this server under the page's own name.
HOST_NAMES = (HOST, "localhost")


@dataclass(frozen=True)
class Reply:
    """An answer to a request.

    Attributes:
        status: HTTP status.
        body: A JSON document.
    """

    status: int
    body: str


class Refusal(Exception):
    """A request that cannot be answered.

    Attributes:
        reply: What the client receives: the error, with a status of 400 or more.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.reply = Reply(status, json.dumps({"error_code": code, "message": message}))


STOPPED = Refusal(
    503, "TEMPORARILY_UNAVAILABLE", f"The server was stopped, and waits {GRACE_SECONDS} s at most."
)


def answer(
    model: Any,
    inputs: Inputs,
    body: bytes,
    content_type: str | None,
    likeness: Likeness | None = None,
) -> Reply:
    """Return a model's answer to the body of a request.

    Args:
        model: `mlflow.pyfunc.PyFuncModel` of a logged chapter model.
        inputs: The inputs that it accepts.
        body: JSON in one of the `FORMS`.
        content_type: Header of the request.
        likeness: Bounds of the inputs that it learnt: the answer to another input has a `note`.
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
        if "edges" in values:
            # MLflow's signature names the adjacency matrix, so the model answers without it.
            frame = model.get_raw_model().predict(values)
            return Reply(200, json.dumps({"predictions": frame.to_dict("records")}))
        if table:
            lists = {name: value.tolist() for name, value in values.items()}
            document = {"inputs": lists.get(None, lists)}
        result = scoring_server.invocations(
            document, JSON, model, model.metadata.get_input_schema()
        )
        notes = likeness.notes(values[None]) if likeness else []
        return Reply(result.status, _with_notes(result.response, notes))
    except Refusal as refusal:
        return refusal.reply
    except Exception:
        traceback.print_exc()
        return _failed()


def _with_notes(response: str, notes: list[str]) -> str:
    """Return a response whose predictions have the notes on their inputs that are not empty."""
    if not any(notes):
        return response
    document = json.loads(response)
    for prediction, note in zip(document["predictions"], notes, strict=True):
        if note:
            prediction["note"] = note
    return json.dumps(document)


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
        _refuse(f"The body must be an object with one of the keys {_FORMS}", _type_name(document))
    return document


def _no_constant(name: str) -> NoReturn:
    _refuse("All numbers must be finite", name)


def _form(document: dict[str, Any]) -> str:
    forms = [key for key in document if key in FORMS]
    if len(forms) != 1:
        _refuse(f"The body must have one of the keys {_FORMS}", _keys(document))
    return forms[0]


def _columns(form: str, content: Any) -> dict[str | None, Any]:
    """Return the values of each input by name; None is the name of an unnamed input."""
    if form == "dataframe_split":
        if not isinstance(content, dict) or not {"columns", "data"} <= set(content):
            received = _keys(content) if isinstance(content, dict) else _type_name(content)
            _refuse("dataframe_split must be an object with columns and data", received)
        names, rows = content["columns"], content["data"]
        if not _is_table(names, rows):
            _refuse("dataframe_split must have a value for each column in each row", "other rows")
        return {name: [row[place] for row in rows] for place, name in enumerate(names)}
    if isinstance(content, dict) and form != "dataframe_records":
        return dict(content)
    if not isinstance(content, list) or not content:
        received = "an empty list" if content == [] else _type_name(content)
        _refuse(f"{form} must be a list of examples", received)
    if not any(isinstance(row, dict) for row in content):
        if form == "dataframe_records":
            _refuse("dataframe_records must be a list of objects", "a list of other values")
        return {None: content}
    if not all(isinstance(row, dict) and set(row) == set(content[0]) for row in content):
        _refuse(f"{form} must be objects with the same keys", "different keys")
    return {name: [row[name] for row in content] for name in content[0]}


def _is_table(names: Any, rows: Any) -> bool:
    return (
        isinstance(names, list)
        and isinstance(rows, list)
        and all(isinstance(name, str) for name in names)
        and all(isinstance(row, list) and len(row) == len(names) for row in rows)
    )


def _shaped(columns: dict[str | None, Any], inputs: Inputs) -> dict[str | None, Any]:
    """Return the columns of a table as inputs of the model; their cells may be flat lists.

    The only column may have any name if the model's input is unnamed.
    """
    if None in inputs.wanted and len(columns) == 1:
        columns = {None: next(iter(columns.values()))}
    return {
        name: _reshaped(cells, inputs.wanted[name]["shape"]) if name in inputs.wanted else cells
        for name, cells in columns.items()
    }


def _reshaped(cells: list[Any], shape: list[int | None]) -> Any:
    """Return the cells as an array of a shape; unchanged if they do not fit it."""
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
    """Return the first keys of an object, for messages."""
    return ", ".join(repr(key[:40]) for key in list(document)[:5]) or "none"


def _type_name(value: Any) -> str:
    """Return the JSON type of a value, for messages."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def _failed() -> Reply:
    message = "The model failed; see the server's console."
    return Reply(500, json.dumps({"error_code": "INTERNAL_ERROR", "message": message}))


def _refuse(expected: str, received: str, status: int = 400, code: str = "BAD_REQUEST") -> NoReturn:
    raise Refusal(status, code, f"{expected}. Received: {received}")


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
    """Load a version and let it answer its own example once, so the first request is fast.

    Args:
        reference: `NAME`, `NAME/VERSION` or `NAME@ALIAS` in the registry.
        on_version: Called with the version that it means.

    Raises:
        ConfigError: If it is not in the registry.
        StoreError: If its files are missing, or it was logged before models described their
            answers.
    """
    import mlflow

    with Session(project, settings) as session:
        version = find_version(session.client, reference)
        on_version(version)
        folder = model_folder(session.client, version)
        if not (folder / DESCRIPTION).is_file():
            raise StoreError(
                f"A served model must describe its answers. Received: {version}, which was logged "
                f"without {DESCRIPTION}. `chapterflow run {version.model} --force` trains and logs "
                "it again"
            )
        model_file(session.client, version, folder)
        load_tensorflow()
        model = mlflow.pyfunc.load_model(str(folder), suppress_warnings=True)
    model.predict(model.input_example)
    return Served(version, model, folder)


def application(model: Any, folder: Path, max_bytes: int) -> FastAPI:
    """Return MLflow's scoring server for a model, with short error messages.

    `/ping`, `/health` and `/version` are MLflow's own. `/invocations` checks requests before MLflow
    answers them. `/example` returns a valid request.

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
    likeness = read_likeness(folder)
    # FastAPI's own pages would load scripts from other servers.
    app = FastAPI(openapi_url=None)
    # Not asyncio's own pool, whose threads the event loop would wait for at its end.
    pool = ThreadPoolExecutor(thread_name_prefix="answer")
    app.state.computing = computing = set[Future[Reply]]()

    async def invocations(request: Request) -> Response:
        kind = request.headers.get("content-type")
        try:
            body = await _body(request, max_bytes)
            future = pool.submit(answer, model, inputs, body, kind, likeness)
            computing.add(future)
            future.add_done_callback(computing.discard)
            reply = await asyncio.wrap_future(future)
        except Refusal as refusal:
            reply = refusal.reply
        except asyncio.CancelledError:
            reply = STOPPED.reply
        except ClientDisconnect:
            reply = Reply(400, "")  # nobody reads it
        return respond(reply)

    async def example() -> Response:
        return FileResponse(folder / EXAMPLE_REQUEST, media_type=JSON)

    def respond(reply: Reply) -> Response:
        return Response(reply.body, reply.status, media_type=JSON)

    # Annotations are strings here, which FastAPI would look up among the module's names.
    invocations.__annotations__["request"] = Request
    app.post("/invocations", response_model=None)(invocations)
    app.get("/example", response_model=None)(example)
    own = scoring_server.init(model).routes
    app.router.routes += [route for route in own if getattr(route, "path", "") in PAGES]
    return app


async def _body(request: Any, max_bytes: int) -> bytes:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _whole_body(request, max_bytes)
    except TimeoutError:
        raise Refusal(
            408,
            "REQUEST_TIMEOUT",
            f"A request must arrive within {BODY_SECONDS:g} s. Received: a part of it. Send fewer "
            "examples per request",
        ) from None


async def _whole_body(request: Any, max_bytes: int) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > max_bytes:
            raise Refusal(
                413,
                "PAYLOAD_TOO_LARGE",
                f"A request must have at most {max_bytes / 1e6:g} MB (`--max-mb` of the server). "
                "Received: more. Send fewer examples per request",
            )
    return bytes(body)


def bind(port: int) -> socket.socket:
    """Take a port of 127.0.0.1, before the model loads, and return its socket.

    Args:
        port: 0 for any free port.

    Raises:
        ConfigError: If it is in use, even by a server that is still loading.
    """
    # With the protocol by name: otherwise asyncio leaves Nagle's algorithm on, and every answer,
    # which is two writes, would wait 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        # Until a process listens, Linux lets several bind the same port.
        listener.listen()
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"Port {port} on {HOST} is taken. Choose another with --port. Received: {error}"
        ) from None
    return listener


def _protocol() -> type[asyncio.Protocol]:
    """Return uvicorn's protocol with a limit on the time in which the headers must arrive.

    uvicorn itself waits without limit, so a client could hold any number of connections open.
    """
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Protocol(H11Protocol):
        deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.deadline = self.loop.call_later(HEADER_SECONDS, transport.close)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:  # the headers are complete
                self._cancel()
            elif self.deadline is None:
                self.deadline = self.loop.call_later(HEADER_SECONDS, self.transport.close)

        def connection_lost(self, exc: Exception | None) -> None:
            self._cancel()
            super().connection_lost(exc)

        def _cancel(self) -> None:
            if self.deadline is not None:
                self.deadline.cancel()
                self.deadline = None

    return Protocol


def serve(
    served: Served,
    listener: socket.socket,
    max_bytes: int,
    tell: Callable[[str], None],
) -> bool:
    """Answer requests until SIGINT or SIGTERM, then finish the open ones.

    Args:
        listener: Socket returned by `bind`.
        max_bytes: Largest body of a request.
        tell: Called with the address, and with a command to try, when the server is ready.

    Returns:
        Whether all computations have ended: a client whose answer takes too long receives an error,
        but its thread cannot be stopped.
    """
    import psutil
    import uvicorn
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    address = f"http://{HOST}:{listener.getsockname()[1]}"
    invocations = f"{address}/invocations"

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            seconds = time.time() - psutil.Process().create_time()
            tell(
                f"{served.version} answers at {invocations}, {seconds:.1f} s after the start "
                "(Ctrl-C ends it). Try:"
            )
            tell(
                f"curl -s {address}/example | curl -s {invocations} -H 'Content-Type: {JSON}' -d @-"
            )

    def stop(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    app = application(served.model, served.folder, max_bytes)
    config = uvicorn.Config(
        TrustedHostMiddleware(app, allowed_hosts=HOST_NAMES),
        http=_protocol(),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    try:
        Server(config).run([listener])
    except KeyboardInterrupt:
        pass  # Ctrl-C is the usual end: uvicorn has shut down and raises the signal again
    finally:
        listener.close()
    return not app.state.computing
