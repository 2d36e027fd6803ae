"""Whether a source may have changed: noticed without reading it."""

import os
import threading
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from chapterflow.data.build import source_state
from chapterflow.errors import FetchError
from chapterflow.types import RemoteFile, Strict
from tests.conftest import free_port


class Block(Strict):
    path: str | None = None
    upstream: list[str] = Field(default_factory=list)
    file: RemoteFile | None = None


def test_generated_data_and_pinned_files_cannot_change(tmp_path: Path) -> None:
    assert source_state(Block()) is None
    pinned = RemoteFile(name="x.zip", sha256="ab" * 32)
    assert source_state(Block(upstream=[str(tmp_path)], file=pinned)) is None


def test_local_sources_change_with_their_files(tmp_path: Path) -> None:
    file = tmp_path / "photos" / "a" / "1.png"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"one")
    folder = Block(path=str(tmp_path / "photos"))
    first = source_state(folder)
    assert source_state(folder) == first
    stat = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as `cp -p` leaves it
    second = source_state(folder)
    assert second != first
    (file.parent / "2.png").write_bytes(b"more")
    assert source_state(folder) != second
    single = Block(upstream=[str(file.parent)], file=RemoteFile(name="1.png"))
    before = source_state(single)
    file.unlink()
    assert source_state(single) != before


def test_a_file_at_a_server_changes_with_its_time_and_size(tmp_path: Path) -> None:
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        upstream = [f"http://127.0.0.1:{server.server_port}"]
        block = Block(upstream=upstream, file=RemoteFile(name="x.npz"))
        (tmp_path / "x.npz").write_bytes(b"one")
        first = source_state(block)
        assert source_state(block) == first
        (tmp_path / "x.npz").write_bytes(b"more")
        assert source_state(block) != first
    finally:
        server.shutdown()
        server.server_close()


def test_a_server_that_does_not_answer_is_named() -> None:
    block = Block(upstream=[f"http://127.0.0.1:{free_port()}"], file=RemoteFile(name="x.npz"))
    with pytest.raises(FetchError, match="does not say whether it has changed"):
        source_state(block)
