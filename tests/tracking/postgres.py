"""A PostgreSQL server of the tests' own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.conftest import HUNG, free_port


def _programs() -> Path:
    """Return the folder of PostgreSQL's programs; Debian does not put them on the path."""
    if named := shutil.which("initdb"):
        return Path(named).parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not installed:
        pytest.skip("PostgreSQL is not installed on this machine")
    return installed[-1].parent


@contextmanager
def postgres(password: str = "") -> Iterator[str]:
    """Run a server on 127.0.0.1; yields `postgresql://...` of an empty database.

    Args:
        password: Asked for, if there is one.
    """
    programs, port = _programs(), free_port()
    # The server refuses to run as root, and as another user it may not enter pytest's folders.
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory() as root:
        if user:
            shutil.chown(root, "postgres")
        folder, log = Path(root) / "data", Path(root) / "log"

        def execute(program: str, *words: str) -> None:
            command = [*user, str(programs / program), *words]
            done = subprocess.run(
                command, cwd=root, capture_output=True, text=True, timeout=HUNG, check=False
            )
            assert done.returncode == 0, done.stderr

        options = f"-p {port} -h 127.0.0.1 -k {root} -c fsync=off"
        (file := Path(root) / "password").write_text(f"{password or 'none'}\n")
        login = (
            "-U",
            "team",
            "--pwfile",
            str(file),
            "-A",
            "scram-sha-256" if password else "trust",
        )
        execute("initdb", "-D", str(folder), *login)
        execute("pg_ctl", "-D", str(folder), "-w", "-l", str(log), "-o", options, "start")
        try:
            secret = f":{quote(password, safe='')}" if password else ""
            yield f"postgresql://team{secret}@127.0.0.1:{port}/postgres"
        finally:
            execute("pg_ctl", "-D", str(folder), "-w", "-m", "immediate", "stop")
