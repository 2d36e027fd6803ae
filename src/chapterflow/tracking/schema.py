"""The schema of the local store: looked at, created, and brought to the installed MLflow's."""

import os
import re
import shutil
import sqlite3
from enum import Enum
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from chapterflow.environment import Project
from chapterflow.errors import StoreError
from chapterflow.tracking.sqlite import (
    Note,
    connect,
    database,
    discard,
    keep,
    partial_of,
    quiet,
    store_errors,
    wait_seconds,
)

#: A store without a row in any of these can be made again without loss.
CONTENT = ("runs", "logged_models", "registered_models", "trace_info")


class Schema(Enum):
    """What the database file of the local store is."""

    MISSING = "missing"
    OLDER = "half made, or made by an older MLflow"
    CURRENT = "current"
    NEWER = "made by a newer MLflow"


def schema(project: Project, *, wait: float | None = None) -> Schema:
    """Tell what the local store's file is, in a millisecond and without changing it.

    Raises:
        StoreUnavailable: If another process holds it locked for longer than `wait` seconds.
        StoreError: If it is no MLflow database or cannot be read.
    """
    path = database(project)
    if fault := re.search(r"\?|%[0-9A-Fa-f]{2}", str(path)):
        # SQLAlchemy takes what follows a "?" for options, and MLflow decodes "%41" in some places
        # and not in others: both would write elsewhere.
        raise StoreError(
            f"The project's path must not contain {fault[0]!r}, which MLflow misreads. "
            f"Received: {project.root}. Rename the folder or set MLFLOW_TRACKING_URI."
        )
    with store_errors(path):
        if not path.exists() or path.stat().st_size == 0:
            return Schema.MISSING
        with connect(path, wait_seconds(wait)) as db:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
            if not tables:
                return Schema.MISSING
            query = "SELECT version_num FROM alembic_version"
            row = db.execute(query).fetchone() if "alembic_version" in tables else None
    if row is None:
        if not {"experiments", "runs"} <= tables:
            raise StoreError(
                f"The tracking store must be an MLflow database. Received: {path} with other "
                "tables. Move it away; a new one is made on the next run."
            )
        return Schema.OLDER
    known, head = _revisions()
    if row[0] == head:
        return Schema.CURRENT
    return Schema.OLDER if row[0] in known else Schema.NEWER


def create(project: Project, on_note: Note, wait: float) -> None:
    """Make the local store, which appears in its place when it is whole."""
    path = database(project)
    with store_errors(path):
        partial = partial_of(path)
        _initialise(partial, project)
        # SQLite would play a journal that a lost database left behind into the new one.
        discard(path)
        os.replace(partial, path)


def upgrade(project: Project, on_note: Note, wait: float) -> None:
    """Bring the local store to the installed MLflow's schema; the file as it was is kept."""
    path = database(project)
    with store_errors(path), connect(path, wait) as held:
        # A write-ahead log would be played into the file that takes the old one's place.
        held.execute("PRAGMA journal_mode = DELETE")
        # No write may fall between the copy and the exchange.
        held.execute("BEGIN IMMEDIATE")
        kept = keep(path, "before-upgrade", wait)
        partial = partial_of(path)
        shutil.copyfile(kept, partial)
        try:
            _initialise(partial, project)
            done = "Upgraded the tracking store to the schema of the installed MLflow"
        except Exception as error:
            if _has_content(held):
                discard(partial)
                raise StoreError(
                    f"The tracking store {path} could not be upgraded to the installed MLflow; it "
                    f"was not changed. Received: {error}"
                ) from error
            _initialise(partial_of(path), project)
            done = "The tracking store was half made and without a run: made it again"
        os.replace(partial, path)
    on_note(f"{done}. The file as it was: {kept}")


def _initialise(path: Path, project: Project) -> None:
    """Bring a database that nobody else uses to the schema of the installed MLflow."""
    mlflow_db: Any = import_module("mlflow.store.db.utils")
    store_class: Any = import_module("mlflow.store.tracking.sqlalchemy_store").SqlAlchemyStore
    uri = f"sqlite:///{path.as_posix()}"
    engine = mlflow_db.create_sqlalchemy_engine(uri)
    try:
        with quiet():
            if not mlflow_db._is_empty_database(engine):
                mlflow_db._upgrade_db(engine)
            # It writes experiment 0 by string formatting: give it a path without surprises.
            store_class(uri, "file:///artifacts")
    except BaseException:
        discard(path)
        raise
    finally:
        engine.dispose()
        # The class keeps its connections for ever; those to a file that is replaced must go.
        for replaced in (uri, f"sqlite:///{database(project).as_posix()}"):
            if replaced in store_class._engine_map:
                store_class._engine_map.pop(replaced).dispose()
    default = str(database(project).parent / "artifacts" / "0")
    with connect(path, 1) as db:
        db.execute(
            "UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?",
            (default, "file:///artifacts/0"),
        )


def _has_content(db: sqlite3.Connection) -> bool:
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    rows = [f"SELECT 1 FROM {table}" for table in CONTENT if table in tables]  # noqa: S608
    if "experiments" in tables:
        rows.append("SELECT 1 FROM experiments WHERE experiment_id > 0")
    return any(db.execute(f"{query} LIMIT 1").fetchone() for query in rows)


@cache
def _revisions() -> tuple[frozenset[str], str]:
    """Return the schema revisions that the installed MLflow knows, and the last of them.

    Read from the migration scripts: asking MLflow for it imports all of them.
    """
    spec = find_spec("mlflow")
    package = Path(spec.origin).parent if spec and spec.origin else Path()
    known, previous = set(), set()
    for script in (package / "store" / "db_migrations" / "versions").glob("*.py"):
        text = script.read_text(encoding="utf-8")
        known |= set(re.findall(r'^revision = "(\w+)"', text, re.MULTILINE))
        previous |= set(re.findall(r'^down_revision = "(\w+)"', text, re.MULTILINE))
    if len(known - previous) != 1:
        raise StoreError("MLflow must be installed with its migrations. Run `make install` again.")
    (head,) = known - previous
    return frozenset(known), head
