"""HTTP servers on 127.0.0.1 that behave, or misbehave, as the servers of datasets do."""

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Site:
    """What a server holds, how it answers, and what it was asked.

    Attributes:
        body: The one file, whatever path is asked for.
        script: Answers to the first requests, in order; later ones are answered plainly.
        ranges: Whether Range is honoured.
        if_range: Whether If-Range is honoured.
        requests: Headers of every request.
        paths: Path of every request.
        sent: Bytes of bodies sent, by request.
    """

    body: bytes
    script: list[Callable[["Handler"], None]] = field(default_factory=list)
    etag: str | None = '"v1"'
    last_modified: str | None = None
    ranges: bool = True
    if_range: bool = True
    requests: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    """Answers GET as its site says."""

    site: Site

    def do_GET(self) -> None:
        site = self.site
        self.number = len(site.requests)
        site.requests.append(dict(self.headers.items()))
        site.paths.append(self.path)
        site.sent.append(0)
        answer = site.script[self.number] if self.number < len(site.script) else plain
        self.close_connection = True
        answer(self)

    def begin(self) -> bytes:
        """Send the status and the headers; return the body that must follow."""
        site = self.site
        start = self.wanted_start()
        if start is None:
            self.send_response(200)
            body = site.body
        elif start >= len(site.body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(site.body)}")
            body = b""
        else:
            self.send_response(206)
            whole = len(site.body)
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
            body = site.body[start:]
        self.send_validators()
        return body

    def send_validators(self) -> None:
        if self.site.etag:
            self.send_header("ETag", self.site.etag)
        if self.site.last_modified:
            self.send_header("Last-Modified", self.site.last_modified)

    def wanted_start(self) -> int | None:
        """Return the first byte asked for; None asks for the whole file."""
        actual = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not actual or not self.site.ranges:
            return None
        condition = self.headers.get("If-Range")
        valid = (None, self.site.etag, self.site.last_modified)
        if self.site.if_range and condition not in valid:
            return None
        return int(actual[1])

    def end(self, length: int) -> None:
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def send(self, data: bytes) -> None:
        self.wfile.write(data)
        self.site.sent[self.number] += len(data)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


def plain(handler: Handler) -> None:
    """Answer as a good server does."""
    body = handler.begin()
    handler.end(len(body))
    handler.send(body)


def status(code: int) -> Callable[[Handler], None]:
    """Answer a status and nothing else."""

    def answer(handler: Handler) -> None:
        handler.send_response(code)
        handler.end(0)

    return answer


def drop_after(count: int) -> Callable[[Handler], None]:
    """Promise the whole body and close the connection after `count` bytes of it."""

    def answer(handler: Handler) -> None:
        body = handler.begin()
        handler.end(len(body))
        handler.send(body[:count])

    return answer


def reset(handler: Handler) -> None:
    """Close the connection without an answer."""
    handler.connection.shutdown(socket.SHUT_RDWR)


def claim(length: int) -> Callable[[Handler], None]:
    """Give a false Content-Length, then the whole body."""

    def answer(handler: Handler) -> None:
        body = handler.begin()
        handler.end(length)
        handler.send(body)

    return answer


def chunked(length: int | None) -> Callable[[Handler], None]:
    """Send the body in chunks, its length untold, or told wrongly (RFC 9112: to be ignored)."""

    def answer(handler: Handler) -> None:
        handler.protocol_version = "HTTP/1.1"
        body = handler.begin()
        handler.send_header("Transfer-Encoding", "chunked")
        handler.send_header("Connection", "close")
        if length is not None:
            handler.send_header("Content-Length", str(length))
        handler.end_headers()
        for start in range(0, len(body), 10_000):
            piece = body[start : start + 10_000]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            handler.site.sent[handler.number] += len(piece)
        handler.wfile.write(b"0\r\n\r\n")

    return answer


def encoded(handler: Handler) -> None:
    """Call the file's own compression a Content-Encoding, as many servers do with `.gz`."""
    body = handler.begin()
    handler.send_header("Content-Encoding", "gzip")
    handler.end(len(body))
    handler.send(body)


def slow(piece: int, pause: float) -> Callable[[Handler], None]:
    """Send the body in pieces with pauses between them."""

    def answer(handler: Handler) -> None:
        body = handler.begin()
        handler.end(len(body))
        try:
            for start in range(0, len(body), piece):
                handler.send(body[start : start + piece])
                time.sleep(pause)
        except OSError:
            pass  # The client was killed.

    return answer


def stall(handler: Handler) -> None:
    """Promise a body and stay silent until the client goes."""
    body = handler.begin()
    handler.end(len(body))
    with suppress(OSError):
        handler.rfile.read(1)


def wrong_range(handler: Handler) -> None:
    """Answer a request for a range with other bytes than those asked for."""
    body = handler.site.body
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes 0-{len(body) - 1}/{len(body)}")
    handler.send_validators()
    handler.end(len(body))
    handler.send(body)


def short_range(count: int) -> Callable[[Handler], None]:
    """Answer a range with its first `count` bytes only, which HTTP allows."""

    def answer(handler: Handler) -> None:
        start, whole = handler.wanted_start(), len(handler.site.body)
        assert start is not None
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {start}-{start + count - 1}/{whole}")
        handler.send_validators()
        handler.end(count)
        handler.send(handler.site.body[start : start + count])

    return answer


@contextmanager
def serve(site: Site) -> Iterator[str]:
    """Serve a site; yields its base address."""
    with _running(type("SiteHandler", (Handler,), {"site": site})) as address:
        yield address


@contextmanager
def serve_folder(folder: Path) -> Iterator[str]:
    """Serve a folder as `python -m http.server` does; yields its base address."""
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with _running(partial(quiet, directory=str(folder))) as address:
        yield address


@contextmanager
def _running(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    # A client that gives up in mid-file is what some tests want; it needs no traceback.
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
