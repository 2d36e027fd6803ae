"""Notifications: what arrives, and that a failing recipient changes nothing."""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from chapterflow.config.settings import NotifyParams
from chapterflow.loop.notify import notify
from tests.conftest import free_port

DOCUMENT = {"what": "data-check", "where": {"project": "x"}, "verdict": "bad data"}


def test_a_command_reads_the_document_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE_PASSWORD", "canary-4711")
    out = tmp_path / "out.json"
    copy = f"import sys; open({str(out)!r}, 'w').write(sys.stdin.read())"
    document = DOCUMENT | {"details": ["http://me:hunter22@host/ and canary-4711"]}
    assert notify(NotifyParams(command=[sys.executable, "-c", copy]), document) == []
    text = out.read_text()
    assert json.loads(text)["verdict"] == "bad data"
    assert "canary-4711" not in text
    assert "hunter22" not in text


@pytest.mark.fault(
    "Recipient of a notification that fails or hangs", "It is reported; the verdict stays"
)
def test_failing_recipients_are_named(
    monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    monkeypatch.setenv("HOOK", f"http://127.0.0.1:{free_port()}/services/T0/secret")
    params = NotifyParams(command=["no-such-program"], webhook="$HOOK")
    command, webhook = notify(params, DOCUMENT)
    assert command == "notify.command failed. Received: no-such-program: No such file or directory"
    assert webhook == "notify.webhook failed. Received: ConnectionError"
    (failed,) = notify(NotifyParams(command=["sh", "-c", "echo why >&2; exit 3"]), DOCUMENT)
    assert "exit 3: why" in failed
    (slow,) = notify(NotifyParams(command=["sleep", "60"], timeout=0.2), DOCUMENT)
    assert "no end within 0.2 s" in slow
    record_property("saw", f"{command}; {slow}")


def test_a_refusing_webhook_is_named() -> None:
    class Refuses(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_error(403)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Refuses)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/"
        assert notify(NotifyParams(webhook=address), DOCUMENT) == [
            "notify.webhook failed. Received: status 403"
        ]
    finally:
        server.shutdown()
        server.server_close()
