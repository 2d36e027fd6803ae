"""Prefect's server or database fails: the models and the exit code do not depend on it."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import START_PREFECT, call

REPOSITORY_PATHS = os.pathsep.join(filter(None, sys.path))


@pytest.mark.slow
@pytest.mark.fault("Prefect's database damaged before run", "Set aside; a new one is made")
def test_a_damaged_database_is_set_aside(
    prefect_once: Path, tmp_path: Path, record_property: Any
) -> None:
    shutil.copy(prefect_once.parent / "params.yaml", tmp_path)
    shutil.copytree(prefect_once, tmp_path / ".prefect")
    database = tmp_path / ".prefect" / "prefect.db"
    for file in database.parent.glob("prefect.db-*"):  # SQLite would mend the database from it
        file.unlink()
    database.write_bytes(b"garbage" * 1000)
    done = call(tmp_path, sys.executable, "-c", START_PREFECT, PYTHONPATH=REPOSITORY_PATHS)
    assert done.returncode == 0, done.stderr
    assert "Prefect's database was damaged" in done.stdout
    kept = database.with_name("prefect.db.damaged")
    assert kept.read_bytes() == b"garbage" * 1000
    assert database.read_bytes().startswith(b"SQLite format 3")
    record_property("saw", "server started with a new database; the damaged one is kept")
