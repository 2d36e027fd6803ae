"""Old flow runs in the project's own Prefect database; Prefect is imported where some may go."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect.server.database import PrefectDBInterface

#: Prefect's `TERMINAL_STATES`.
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")


def own_history() -> Path | None:
    """Return the database of this project's flow runs; None if a server of the user's has them."""
    if "PREFECT_API_URL" in os.environ:
        return None
    path = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser() / "prefect.db"
    return path if path.is_file() else None


@contextmanager
def own_database() -> Iterator[PrefectDBInterface]:
    """Open the database of the current settings; Prefect would keep the first of the process."""
    from prefect.server.database import provide_database_interface
    from prefect.server.database.dependencies import temporary_database_config

    with temporary_database_config(None):
        yield provide_database_interface()


def count_old_flow_runs(history: Path, older: timedelta) -> int:
    """Return how many flow runs of a database ended before a duration ago."""
    # Importing Prefect would take most of a command that has nothing to remove.
    limit = (datetime.now(UTC) - older).strftime("%Y-%m-%d %H:%M:%S.%f")
    query = (
        "SELECT count(*) FROM flow_run WHERE parent_task_run_id IS NULL "
        "AND state_type IN (?, ?, ?, ?) AND end_time < ?"
    )
    try:
        with closing(sqlite3.connect(f"{history.absolute().as_uri()}?mode=ro", uri=True)) as db:
            return int(db.execute(query, (*ENDED, limit)).fetchone()[0])
    except sqlite3.DatabaseError:  # damaged, or without tables: the next server makes another
        return 0


def delete_old_flow_runs(older: timedelta) -> None:
    """Delete the flow runs of the project's own database that ended before a duration ago.

    Their task runs, logs and events go with them.

    Args:
        older: More than an hour, as Prefect demands.
    """
    from prefect.server.services import db_vacuum
    from prefect.settings import (
        PREFECT_SERVER_EVENTS_RETENTION_PERIOD,
        PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD,
        temporary_settings,
    )

    async def delete(database: PrefectDBInterface) -> None:
        await db_vacuum.vacuum_old_flow_runs(db=database)
        await db_vacuum.vacuum_old_events(db=database)

    settings = {
        PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD: older,
        PREFECT_SERVER_EVENTS_RETENTION_PERIOD: older,
    }
    with temporary_settings(settings), own_database() as database:
        asyncio.run(delete(database))
