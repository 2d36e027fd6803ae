"""The local store's SQLite file: reached, locked and copied, and its faults told in one line."""

import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from chapterflow.environment import Project
from chapterflow.errors import StoreError, StoreUnavailable

#: Receives one line for each thing that was done to an existing store.
Note = Callable[[str], None]

#: Seconds that a locked database is waited for; `CHAPTERFLOW_STORE_WAIT` replaces it.
WAIT = 20.0
#: Creating or upgrading takes longer than the longest sane transaction.
PREPARATION = 6


def database(project: Project) -> Path:
    """Return the absolute path of the project's own SQLite store."""
    return project.root.resolve() / "mlruns" / "mlflow.db"


def wait_seconds(wait: float | None) -> float:
    """Return `wait`, or else `CHAPTERFLOW_STORE_WAIT`, or else 20 seconds."""
    given = os.environ.get("CHAPTERFLOW_STORE_WAIT", "")
    try:
        return wait if wait is not None else float(given or WAIT)
    except ValueError:
        raise StoreError(
            f"CHAPTERFLOW_STORE_WAIT must be a number of seconds. Received: {given!r}"
        ) from None


def check_writable(project: Project) -> None:
    """Raise a `StoreError` if this user may not write to the local store."""
    path = database(project)
    for place in (path.parent, path):
        if not os.access(place, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            raise StoreError(
                f"The tracking store must be writable. Received: {place}, which this user may only "
                "read. Change its permissions or set MLFLOW_TRACKING_URI to another store."
            )


@contextmanager
def connect(path: Path, wait: float) -> Iterator[sqlite3.Connection]:
    """Open a database, wait for its locks, and close it in the end."""
    # mode=rw: a plain connection would make a missing file.
    uri = f"{path.as_uri()}?mode=rw" if path.exists() else str(path)
    with closing(
        sqlite3.connect(uri, timeout=wait, uri=uri != str(path), isolation_level=None)
    ) as db:
        yield db


@contextmanager
def lock(project: Project, wait: float) -> Iterator[None]:
    """Keep other processes from preparing the local store at the same time."""
    from filelock import FileLock, Timeout

    path = database(project)
    file_lock = FileLock(f"{path}.lock")
    with store_errors(path):
        try:
            file_lock.acquire(timeout=PREPARATION * wait)
        except Timeout:
            raise StoreUnavailable(
                f"Another process has been preparing the tracking store {path} for more than "
                f"{PREPARATION * wait:g} s. Run again when it has finished."
            ) from None
    try:
        yield
    finally:
        file_lock.release()


def keep(path: Path, suffix: str, wait: float) -> Path:
    """Copy the database as last committed, also while this process holds its write lock."""
    kept = path.with_name(f"{path.name}.{suffix}")
    partial = partial_of(kept)
    # A plain copy would drop this process's locks on the file when it closes it.
    with connect(path, wait) as source, closing(sqlite3.connect(partial)) as target:
        source.backup(target)
    os.replace(partial, kept)
    return kept


def partial_of(path: Path) -> Path:
    """Return the path under which a database is made, without what a killed process left there."""
    partial = path.with_name(f"{path.name}.partial")
    discard(partial)
    return partial


def discard(path: Path) -> None:
    """Remove a database and the journals beside it."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep MLflow's own account of a migration or of a locked database off the console."""
    logger = logging.getLogger("mlflow.store.db.utils")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def store_errors(place: Path | str) -> Iterator[None]:
    """Tell what SQLite, the file system or MLflow reports in one line; a string is a remote URI."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, sqlite3.Error | OSError):
            cause = cause.__cause__ or cause.__context__
        if isinstance(place, str) and isinstance(cause, OSError):
            raise StoreUnavailable(f"{without_password(place)} does not answer: {cause}") from error
        if cause is not None:
            raise _told(place, cause) from error
        if type(error).__module__.startswith("mlflow."):
            raise StoreError(f"MLflow refused. Received: {error}") from error
        raise


def _told(place: Path | str, error: BaseException) -> StoreError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreUnavailable(
            f"The tracking store {place} is locked by another process. Wait until that has "
            "finished and run again."
        )
    remedy = "Check the folder's permissions and the space on its disk."
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        remedy = "Restore it from a copy, or move it away: a new one is made on the next run."
    return StoreError(
        f"The tracking store must be a readable and writable SQLite database. Received: {place} "
        f"({error}). {remedy}"
    )


def without_password(uri: str) -> str:
    """Return an address without its password."""
    return re.sub(r"//[^@/]*@", "//***@", uri)
