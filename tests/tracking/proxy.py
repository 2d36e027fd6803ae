"""A proxy before a tracking server, whose faults a test switches on and off."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


class Proxy(ThreadingHTTPServer):
    """Passes requests on to `target`.

    Attributes:
        fault: What to do with a request: "" passes it on, "500" answers that, "silent" does not
            answer, "gone" closes the connection, "broken" answers 500 to all but `/health`, and
            "401" and "403" answer that.
        seen: Method and path of each request, with its Authorization header.
    """

    daemon_threads = True

    def __init__(self, target: str, fault: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.target = urlsplit(target).netloc
        self.fault = fault
        self.ended = threading.Event()
        self.seen: list[tuple[str, str, str | None]] = []

    @property
    def address(self) -> str:
        """The address of the proxy."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """Say nothing: clients that give up are expected."""


class Handler(BaseHTTPRequestHandler):
    """Takes requests of a proxy's clients."""

    server: Proxy
    protocol_version = "HTTP/1.1"

    def handle_request(self) -> None:
        """Pass a request on, or show the fault."""
        server = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server.seen.append((self.command, self.path, self.headers.get("Authorization")))
        if server.fault == "silent":
            server.ended.wait()
        if server.fault == "gone":
            self.close_connection = True
            return
        if server.fault in ("broken", "401", "403") and self.path == "/health":
            self.reply(200, b"OK", {})
            return
        if server.fault in ("401", "403"):
            self.reply(int(server.fault), b"Refused", {})
            return
        if server.fault in ("500", "broken"):
            self.reply(500, b"broken", {})
            return
        connection = http.client.HTTPConnection(server.target)
        try:
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            headers = {"Content-Type": answer.headers.get("Content-Type", "")}
            self.reply(answer.status, answer.read(), headers)
        finally:
            connection.close()

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send an answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
    setattr(Handler, f"do_{method}", Handler.handle_request)


@contextmanager
def proxy(target: str = "", fault: str = "") -> Iterator[Proxy]:
    """Run a proxy; one that never passes a request on needs no target."""
    server = Proxy(target, fault)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
