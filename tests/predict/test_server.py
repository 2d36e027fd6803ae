"""The socket that the server listens on, and its end."""

import asyncio
import json
import re
import select
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from chapterflow.environment import Project
from chapterflow.errors import ConfigError
from chapterflow.predict import server
from chapterflow.predict.server import JSON, Reply, application, bind
from chapterflow.shipped.answers import DESCRIPTION
from tests.conftest import HUNG, begin


def test_connections_do_not_wait_for_acknowledgements() -> None:
    async def accepted() -> int:
        actual: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            own = writer.get_extra_info("socket")
            actual.set_result(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = bind(0)
        async with await asyncio.start_server(answer, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            flag = await actual
            writer.close()
        return flag

    assert asyncio.run(accepted())


def test_a_port_is_taken_from_the_start() -> None:
    with bind(0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match=f"Port {port} on 127.0.0.1 is taken"):
            bind(port)


@pytest.fixture
def app(tmp_path: Path) -> Any:
    """A server of no model in particular."""
    about = {"inputs": [], "lowest": None, "highest": None}
    (tmp_path / DESCRIPTION).write_text(json.dumps(about))
    model = SimpleNamespace(metadata=SimpleNamespace(get_input_schema=lambda: None))
    return application(model, tmp_path, 100)


#: A server whose model computes for an hour, and that does not wait as long for it as others do.
ENDLESS = """
import json, sys, time
from pathlib import Path
from types import SimpleNamespace
from chapterflow.cli.serve import serve
from chapterflow.predict import server
folder = Path.cwd()
(folder / "answers.json").write_text(json.dumps({"inputs": [], "lowest": None, "highest": None}))
model = SimpleNamespace(metadata=SimpleNamespace(get_input_schema=lambda: None))
version = "a model"
server.GRACE_SECONDS = server.HEADER_SECONDS = server.BODY_SECONDS = 1
server.load = lambda *_, **__: server.Served(version, model, folder)
def compute(*_):
    print("computing", flush=True)
    time.sleep(3600)
server.answer = compute
serve("model", port=0, max_mb=1)
"""


def check_slow_connections(address: httpx.URL) -> None:
    """Open connections that never send a whole request: the server closes them."""
    request = b"POST /invocations HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    slow = [socket.create_connection((address.host, address.port), HUNG) for _ in range(200)]
    for number, connection in enumerate(slow):
        if number % 2:  # the others send nothing at all
            connection.sendall(request)
    for connection in slow:
        assert connection.recv(100) == b""
        connection.close()


def check_slow_bodies(address: httpx.URL) -> None:
    """Send a byte of a body now and then: the server answers before the whole body is there."""
    head = b"POST /invocations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n"
    with socket.create_connection((address.host, address.port), HUNG) as connection:
        connection.sendall(head)
        while not select.select([connection], [], [], 0.2)[0]:
            connection.sendall(b" ")
        reply = b""
        while b"}" not in reply and (part := connection.recv(10_000)):
            reply += part
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert b"A request must arrive within 1 s. Received: a part of it." in reply


def check_hosts(address: httpx.URL) -> None:
    """Send requests that a page of another site would send after it has rebound its name."""
    for host, status in (
        ("evil.com", 400),
        ("127.0.0.1.evil.com", 400),
        ("", 400),
        (f"localhost:{address.port}", 200),
    ):
        assert httpx.get(address.join("/ping"), headers={"Host": host}).status_code == status, host


@pytest.mark.slow
@pytest.mark.fault(
    "200 connections that never send a whole request, a slow body, foreign Host headers",
    "Closed after 10 s; answered 408 after 120 s; refused with 400",
)
def test_slow_clients_foreign_hosts_and_a_computation_that_nobody_waits_for(
    project: Project, record_property: Any
) -> None:
    process = begin(project.root, sys.executable, "-c", ENDLESS)
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        address = next(
            actual[0]
            for line in process.stderr
            if (actual := re.search(r"http://127\.0\.0\.1:\d+/invocations", line))
        )
        check_slow_connections(httpx.URL(address))
        check_slow_bodies(httpx.URL(address))
        check_hosts(httpx.URL(address))
        with ThreadPoolExecutor(1) as pool:
            post = partial(httpx.post, content="{}", headers={"Content-Type": JSON}, timeout=HUNG)
            answer = pool.submit(post, address)
            assert process.stdout.readline() == "computing\n"
            process.send_signal(signal.SIGINT)
            assert answer.result().status_code == 503
        assert process.wait(timeout=HUNG) == 0
        record_property(
            "saw", "200 of 200 connections closed, slow body 408, 3 of 3 foreign hosts refused"
        )
    finally:
        process.kill()
        process.communicate()


def test_a_client_may_hang_up(app: Any) -> None:
    scope = {
        "type": "http", "method": "POST", "path": "/invocations", "query_string": b"",
        "headers": [(b"content-type", JSON.encode())],
    }  # fmt: skip
    messages = [
        {"type": "http.request", "body": b'{"inp', "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 400  # and no exception, which would be a traceback on the console


def test_a_request_that_outlasts_the_server_is_reported(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way, stopped = threading.Event(), threading.Event()

    def slow(*_: Any) -> Reply:
        under_way.set()
        stopped.wait(timeout=HUNG)
        return Reply(200, "{}")

    monkeypatch.setattr(server, "answer", slow)

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            request = asyncio.create_task(
                client.post("/invocations", content="{}", headers={"Content-Type": JSON})
            )
            await asyncio.to_thread(under_way.wait)
            request.cancel()  # as uvicorn does with what goes on for too long
            try:
                return await request
            finally:
                stopped.set()

    answer = asyncio.run(asked())
    assert answer.status_code == 503
    assert "waits 30 s at most" in answer.json()["message"]
