"""Prefect's database as its migrations leave it, without the seconds that they take.

`prefect-VERSION.sql` next to this file has the tables for one version of Prefect, written by
`python -m pipelines.prefect_tables`. With any other version, Prefect's migrations make them.
"""

import asyncio
import contextlib
import sqlite3
import tempfile
from importlib.metadata import version
from pathlib import Path

from chapterflow.files import staged


def script() -> Path:
    """Return the file for the installed version of Prefect; it may not exist."""
    return Path(__file__).parent / f"prefect-{version('prefect')}.sql"


def create_tables() -> None:
    """Create the SQLite database of Prefect's settings, unless it exists.

    Prefect migrates a database that has no tables or old ones when its server starts. So where
    nothing can be written, it says why.
    """
    import sqlalchemy
    from prefect.settings import get_current_settings

    address = get_current_settings().server.database.connection_url
    if address is None or not script().is_file():
        return
    url = sqlalchemy.make_url(address.get_secret_value())
    if url.get_backend_name() != "sqlite" or url.query or not url.database:
        return
    path = Path(url.database)
    if url.database == ":memory:" or path.exists():
        return
    with contextlib.suppress(OSError, sqlite3.Error):
        path.parent.mkdir(parents=True, exist_ok=True)
        with staged(path) as new, contextlib.closing(sqlite3.connect(new)) as database:
            database.executescript(script().read_text(encoding="utf-8"))


def dump(path: Path) -> str:
    """Return the SQL that makes a database."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        return "".join(f"{line}\n" for line in database.iterdump())


def migrated() -> str:
    """Return the SQL of a database that Prefect's migrations have made; takes seconds."""
    from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL, temporary_settings

    from pipelines.history import own_database

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prefect.db"
        url = {PREFECT_SERVER_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{path}"}
        with temporary_settings(url), own_database() as database:
            asyncio.run(database.create_db())
        return dump(path)


if __name__ == "__main__":
    script().write_text(migrated(), encoding="utf-8")
