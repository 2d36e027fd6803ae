"""The tracking store: where it is, its schema and SQLite file, moved projects, experiments."""

import hashlib
import logging
import math
import os
import re
import shutil
import socket
import sqlite3
import struct
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import cache, wraps
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from chapterflow.environment import Project
from chapterflow.errors import (
    ChapterflowError,
    ConfigError,
    StoreError,
    StoreUnavailable,
    disk_full,
)
from chapterflow.tracking import reader

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Receives one line for each change to an existing store.
Note = Callable[[str], None]
#: Seconds to wait for a locked database; `CHAPTERFLOW_STORE_WAIT` replaces it.
WAIT = 20.0
#: Seconds in which a server must answer when a command starts.
ANSWER_SECONDS = 5.0
#: Seconds after an answer in which the server is not asked again.
ANSWERED_SECONDS = 2.0
#: Ports of databases whose address does not name one.
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
#: Variable with the address below which experiments of a shared database keep artifacts; it is
#: the one that `mlflow server` reads.
ARTIFACT_ROOT = "MLFLOW_DEFAULT_ARTIFACT_ROOT"
#: Creating or upgrading takes longer than the longest sane transaction.
PREPARATION = 6


def database(project: Project) -> Path:
    """Return the absolute path of the project's own SQLite store."""
    return project.mlruns.resolve() / "mlflow.db"


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


def check_intact(project: Project, wait: float) -> None:
    """Raise a `StoreError` if pages of the local store are damaged; reads all of it."""
    path = database(project)
    with store_errors(path), connect(path, wait) as db:
        ((verdict,),) = db.execute("PRAGMA quick_check(1)").fetchall()
        if verdict != "ok":
            raise sqlite3.DatabaseError(" ".join(str(verdict).split()))


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
    """Copy the database as last committed, even while this process holds its write lock."""
    kept = path.with_name(f"{path.name}.{suffix}")
    partial = partial_of(kept)
    # A plain copy would drop this process's locks on the file when it closes it.
    with connect(path, wait) as source, closing(sqlite3.connect(partial)) as target:
        source.backup(target)
    os.replace(partial, kept)
    return kept


def partial_of(path: Path) -> Path:
    """Return the temporary path of a new database, cleared of what a killed process left."""
    # Not `files.staged`: a database has journals next to it, which must go with it.
    partial = path.with_name(f"{path.name}.partial")
    discard(partial)
    return partial


def discard(path: Path) -> None:
    """Remove a database and its journals."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress what MLflow prints about migrations and locked databases."""
    logger = logging.getLogger("mlflow.store.db.utils")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def store_errors(place: Path | str) -> Iterator[None]:
    """Report errors of SQLite, the file system or MLflow in one line; a string is a remote URI."""
    try:
        yield
    except ChapterflowError:
        raise
    except Exception as error:
        if failure := store_failure(error, place):
            raise failure from error
        if cause := _caused_by(error, OSError):
            raise _store_error(place, cause) from error
        if type(error).__module__.startswith("mlflow."):
            raise StoreError(f"MLflow refused. Received: {error}") from error
        raise


def store_failure(error: BaseException, place: Path | str) -> ChapterflowError | None:
    """Return what the failure of a server, database or disk means; None for another error.

    Args:
        error: Any exception; its causes count too.
        place: The database file, or the address of a remote store.
    """
    if isinstance(error, StoreError):
        return error
    if failure := disk_full(error, place if isinstance(place, Path) else None):
        return failure
    cause = _caused_by(error, sqlite3.Error)
    # MLflow reports a name that exists as a violated constraint.
    if cause is not None and (cause is error or not isinstance(cause, sqlite3.IntegrityError)):
        return _store_error(place, cause)
    if isinstance(place, Path):
        return None
    # Not imported for a local store, which has no connection to lose.
    import requests
    import sqlalchemy.exc

    lost = (
        requests.RequestException,
        ConnectionError,
        TimeoutError,
        sqlalchemy.exc.OperationalError,
        sqlalchemy.exc.InterfaceError,
    )
    cause = _caused_by(error, *lost)
    return _refusal(error, place) or (unavailable(place, _reason(cause)) if cause else None)


def _refusal(error: BaseException, uri: str) -> StoreError | None:
    """Return what it means that a server refuses user or password; None for another error."""
    import requests
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import read_mlflow_creds

    cause = _caused_by(error, MlflowException, requests.HTTPError)
    status: Any = getattr(cause, "error_code", None)
    if isinstance(cause, requests.HTTPError):  # of artifacts
        status = cause.response.status_code
    user = f"user {name!r}" if (name := read_mlflow_creds().username) else "no user"
    if status in ("UNAUTHENTICATED", requests.codes.unauthorized):
        return StoreError(
            f"The tracking server {uri} must accept user and password. Received: {user}"
            f"{' with a password that it refuses' if name else ''}. Set MLFLOW_TRACKING_USERNAME "
            "and MLFLOW_TRACKING_PASSWORD to those of an account there."
        )
    if status in ("PERMISSION_DENIED", requests.codes.forbidden):
        return StoreError(
            f"The tracking server {uri} must permit its users to read, write and delete. "
            f"Received: {user} without permission ({' '.join(str(cause).split())[:200]}). "
            "Let its administrator grant MANAGE for the experiment and its models, or set "
            "`default_permission = MANAGE`."
        )
    return None


def unavailable(uri: str, reason: str) -> StoreUnavailable:
    """Return the error for a remote store that does not answer."""
    return StoreUnavailable(
        f"The tracking server {uri} does not answer ({reason}). Start it, or "
        "unset MLFLOW_TRACKING_URI to use the project's own store."
    )


def _caused_by(error: BaseException, *kinds: type[BaseException]) -> BaseException | None:
    """Return the first of an error and its causes that is of one of the kinds."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, kinds):
        cause = cause.__cause__ or cause.__context__
    return cause


def _reason(error: BaseException) -> str:
    """Return why a request or query failed, in a few words and without addresses."""
    import requests

    # requests wraps what urllib3 wraps: the last retry's own reason says most.
    inner = error.args[0] if error.args else error
    text = str(getattr(inner, "reason", None) or error)
    if isinstance(error, requests.Timeout) or "timed out" in text:
        return "no answer in time"
    if "refused" in text:
        return "connection refused"
    return re.sub(r".*\(.*?0x[0-9a-f]+>?\)?:|.*object at 0x[0-9a-f]+>:", "", text).strip()[:200]


def open_client(uri: str | None = None) -> "MlflowClient":
    """Return an MLflow client whose failures of server and database are a `StoreError`.

    MLflow raises one exception for "there is no such run" and "the server does not answer"; where
    the first is expected, the second must not be taken for it. A process has one client for each
    store; it remembers where the runs that it has read keep their artifacts. For a store that was
    opened for reading it is a `reader.StoreReader`.

    Args:
        uri: Address of the store; by default the one that was opened last.

    Raises:
        ConfigError: If MLflow has no store for the address, or lacks its driver.
    """
    for address, opened in _readers.items():
        if uri in (None, address):
            return opened
    import mlflow.exceptions

    # MLflow logs a traceback with the SQL of each error that it raises.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL + 1)
    # With a server, it logs that it waits for each version.
    logging.getLogger("mlflow.store.model_registry.abstract_store").setLevel(logging.WARNING)
    try:
        return _client(uri or mlflow.get_tracking_uri())
    except (mlflow.exceptions.MlflowException, ImportError) as error:
        remedy = ""
        if isinstance(error, ImportError):
            remedy = " Install the database's driver: `pip install 'chapterflow[postgres]'`, say."
        raise ConfigError(
            "MLflow cannot use the tracking store of MLFLOW_TRACKING_URI. "
            f"Received: {error}.{remedy}"
        ) from None


@cache
def _client(uri: str) -> Any:
    return _client_class()(uri)


@cache
def _client_class() -> Any:
    from mlflow import MlflowClient
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    class StoreClient(MlflowClient):  # type: ignore[misc]
        def __init__(self, uri: str) -> None:
            local = uri.startswith("sqlite:///")
            self._place = Path(uri.removeprefix("sqlite:///")) if local else uri
            self._locations: dict[str, str] = {}
            super().__init__(uri)

        # MLflow reads the run again for each artifact that is listed or downloaded, and searches
        # its logged models. It reads a logged or registered model before it writes to it.
        def log_artifact(self, run_id: str, path: str, artifact_path: str | None = None) -> None:
            self._repository(run_id).log_artifact(path, artifact_path)

        def log_artifacts(self, run_id: str, path: str, artifact_path: str | None = None) -> None:
            self._repository(run_id).log_artifacts(path, artifact_path)

        def list_artifacts(self, run_id: str, path: str | None = None) -> list[Any]:
            return list(self._repository(run_id).list_artifacts(path))

        def download_artifacts(self, run_id: str, path: str, dst_path: str | None = None) -> str:
            return str(self._repository(run_id).download_artifacts(path, dst_path))

        def delete_artifacts(self, run_id: str, path: str) -> None:
            self._repository(run_id).delete_artifacts(path)

        def create_logged_model(self, *args: Any, **options: Any) -> Any:
            logged = super().create_logged_model(*args, **options)
            self._locations[logged.model_id] = logged.artifact_location
            return logged

        def log_model_artifacts(
            self, model_id: str, local_dir: str, artifact_path: str | None = None
        ) -> None:
            if model_id not in self._locations:
                self._locations[model_id] = self.get_logged_model(model_id).artifact_location
            self._repository(model_id).log_artifacts(local_dir, artifact_path)

        def deleted_models(self, before: float) -> dict[str, str]:
            store = self._tracking_client.store
            age = int((time.time() - before) * 1000)
            ids = store._get_deleted_logged_models(older_than=age)
            models = [store.get_logged_model(model_id, allow_deleted=True) for model_id in ids]
            return {str(model.model_id): str(model.artifact_location) for model in models}

        def download_model(self, model_id: str) -> str:
            from mlflow.artifacts import download_artifacts

            return str(download_artifacts(f"models:/{model_id}", tracking_uri=self.tracking_uri))

        def set_logged_model_tags(self, model_id: str, tags: dict[str, Any]) -> None:
            self._tracking_client.set_logged_model_tags(model_id, tags)

        def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
            self._get_registry_client().set_registered_model_alias(name, alias, version)

        def get_run(self, run_id: str) -> Any:
            return self._located(super().get_run(run_id))

        def create_run(self, *args: Any, **options: Any) -> Any:
            return self._located(super().create_run(*args, **options))

        def search_runs(self, *args: Any, **options: Any) -> Any:
            runs = super().search_runs(*args, **options)
            for run in runs:
                self._located(run)
            return runs

        def _located(self, run: Any) -> Any:
            self._locations[run.info.run_id] = run.info.artifact_uri
            return run

        def _repository(self, owner: str) -> Any:
            """Return the artifacts of a run, or of a logged model whose location is known."""
            if owner not in self._locations:
                self.get_run(owner)
            return get_artifact_repository(self._locations[owner], tracking_uri=self.tracking_uri)

        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            if name.startswith("_") or not callable(value):
                return value

            @wraps(value)
            def method(*args: Any, **options: Any) -> Any:
                try:
                    answer = value(*args, **options)
                except Exception as error:
                    failure = store_failure(error, self._place)
                    if failure is None or failure is error:
                        raise
                    raise failure from error
                if isinstance(self._place, str):
                    _answered[self._place] = time.monotonic()
                return answer

            return method

    return StoreClient


def _store_error(place: Path | str, error: BaseException) -> StoreError:
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


#: A store without a row in any of these can be made again without loss.
CONTENT = ("runs", "logged_models", "registered_models", "trace_info")


class Schema(Enum):
    """State of the local store's database file."""

    MISSING = "missing"
    OLDER = "half made, or made by an older MLflow"
    CURRENT = "current"
    NEWER = "made by a newer MLflow"


def schema(project: Project, *, wait: float | None = None) -> Schema:
    """Return the state of the local store's file, in a millisecond and without changing it.

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
        if not path.exists():
            return Schema.MISSING
        if path.stat().st_size == 0:
            raise StoreError(_emptied(path))
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


def _emptied(path: Path) -> str:
    """Return what to do about a database file without any content, which no command leaves."""
    copies = [path.with_name(f"{path.name}.{kept}") for kept in ("before-upgrade", "before-move")]
    kept = " or ".join(copy.name for copy in copies if copy.is_file())
    return (
        f"The tracking store must be an MLflow database. Received: {path} with 0 bytes; its runs "
        "are lost unless there is a copy. "
        + (f"Copy {kept} over it, or restore" if kept else "Restore")
        + " it from a backup. To start with an empty store, remove the file."
    )


def create(project: Project, on_note: Note, wait: float) -> None:
    """Create the local store; its file appears only when it is complete."""
    path = database(project)
    with store_errors(path):
        partial = partial_of(path)
        _initialise(partial, project)
        # SQLite would apply the journal of a lost database to the new one.
        discard(path)
        os.replace(partial, path)


def upgrade(project: Project, on_note: Note, wait: float) -> None:
    """Upgrade the local store to the installed MLflow's schema; keep a copy of the old file."""
    path = database(project)
    with store_errors(path), connect(path, wait) as connection:
        # A write-ahead log would be applied to the new file.
        connection.execute("PRAGMA journal_mode = DELETE")
        # No write may fall between the copy and the exchange.
        connection.execute("BEGIN IMMEDIATE")
        kept = keep(path, "before-upgrade", wait)
        partial = partial_of(path)
        shutil.copyfile(kept, partial)
        try:
            _initialise(partial, project)
            done = "Upgraded the tracking store to the schema of the installed MLflow"
        except Exception as error:
            if _has_content(connection):
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
    """Upgrade a database that no other process uses to the installed MLflow's schema."""
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
        # The class never closes its connections; those to the replaced file must be closed.
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
        raise StoreError(
            "MLflow must be installed with its migrations. Run "
            "`make run` (or `pip install -r requirements.lock`) again."
        )
    (head,) = known - previous
    return frozenset(known), head


#: Columns of MLflow's schema that hold absolute artifact paths. Sources of data sets are not among
#: them: they record where the data were, which a move does not change.
PATHS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
    ("workspaces", "default_artifact_root"),
)


@dataclass(frozen=True)
class Relocation:
    """The recorded artifact paths lie under `old`; the project is at `new`."""

    old: Path
    new: Path


def relocation(project: Project, *, wait: float | None = None) -> Relocation | None:
    """Return the move that the store's artifact paths still need; None if there is none."""
    path = database(project)
    if not path.exists():
        return None
    query = "SELECT artifact_location FROM experiments ORDER BY experiment_id"
    with store_errors(path), connect(path, wait_seconds(wait)) as db:
        locations = [str(location) for (location,) in db.execute(query)]
    root = project.home.resolve()
    for location in locations:
        # Only this layout is ours: a path that a user chose stays as it is.
        if layout := re.fullmatch(r"(.*)/mlruns/artifacts/[^/]+", _local_path(location)):
            old = Path(layout[1] or "/")
            # The same folder under another name (a symbolic link) has not moved.
            same = old == root or (old.exists() and old.samefile(root))
            return None if same else Relocation(old, root)
    return None


def relocate(project: Project, *, wait: float | None = None) -> int:
    """Rewrite artifact paths of a moved or copied project; return how many were rewritten.

    The database as it was is kept in `mlruns/mlflow.db.before-move`.
    """
    seconds = wait_seconds(wait)
    if relocation(project, wait=seconds) is None:
        return 0
    with lock(project, seconds):
        return _relocate(project, seconds)


def move(project: Project, on_note: Note, wait: float) -> None:
    """Relocate the store for a caller that holds the lock, and report it."""
    moved = relocation(project, wait=wait)
    if moved and (count := _relocate(project, wait)):
        on_note(
            f"The project was moved or copied from {moved.old} to {moved.new}. Artifact paths "
            f"rewritten: {count}. The tracking store as it was: {database(project)}.before-move"
        )


def _relocate(project: Project, wait: float) -> int:
    path, moved, count = database(project), relocation(project, wait=wait), 0
    if moved is None:
        return 0
    with store_errors(path), connect(path, wait) as db:
        db.execute("BEGIN IMMEDIATE")
        keep(path, "before-move", wait)
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        for table, column in PATHS:
            for old, new in _prefixes(moved).items() if table in tables else ():
                count += db.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, length(?) + 1) "  # noqa: S608
                    f"WHERE substr({column}, 1, length(?)) = ?",
                    (new, old, old, old),
                ).rowcount
        db.execute("COMMIT")
    return count


def _prefixes(moved: Relocation) -> Mapping[str, str]:
    """Map each spelling of the old folder that MLflow may have written to the new folder's."""
    old, new = moved.old / "mlruns", moved.new / "mlruns"
    return {
        f"{old}/": f"{new}/",
        f"{old.as_uri()}/": f"{new.as_uri()}/",
        f"file://{old}/": f"file://{new}/",
    }


def _local_path(location: str) -> str:
    return unquote(urlsplit(location).path) if location.startswith("file:") else location


_log = logging.getLogger(__name__)


def tracking_uri(project: Project) -> str:
    """Return `MLFLOW_TRACKING_URI`, or the project's own SQLite store."""
    given = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    default = f"sqlite:///{database(project).as_posix()}"
    # The project's own file, also when it is named by a relative path, is the local store.
    if given.startswith("sqlite:///"):
        return default if Path(given[10:]).resolve() == database(project).resolve() else given
    return given or default


def is_local(project: Project) -> bool:
    """Tell whether runs go to the project's own SQLite store."""
    return tracking_uri(project) == f"sqlite:///{database(project).as_posix()}"


#: The reader of the store that was opened last, by its address, if that was for reading.
_readers: dict[str, reader.StoreReader] = {}


def open_store(
    project: Project,
    *,
    reading: bool = False,
    on_note: Note = _log.warning,
    wait: float | None = None,
) -> str:
    """Make the tracking store ready, point MLflow at it and return its URI.

    The local store is created, upgraded or relocated if necessary, once for all processes. A
    ready store costs a few milliseconds beyond `import mlflow`.

    Args:
        reading: Whether the caller mostly reads, with the methods of clients alone: functions of
            MLflow itself are pointed nowhere. In a process without MLflow, the local store is then
            read by `reader`, and MLflow imported with the first write.
        on_note: Receives one line for each thing that was done to an existing store.
        wait: Seconds to wait for a database that another process has locked.

    Raises:
        StoreUnavailable: If the store is locked or out of reach.
        StoreError: If it cannot be used as it is; it was not changed.
    """
    uri = tracking_uri(project)
    # MLflow, too, is pointed at one store at a time.
    _readers.clear()
    if is_local(project):
        _prepare(project, on_note, wait_seconds(wait))
        # Once MLflow is imported, there is nothing to save.
        saves = "mlflow" not in sys.modules and not os.environ.get("MLFLOW_REGISTRY_URI")
        if reading and saves:
            _readers.update(_reader_of(project, wait_seconds(wait)))
        if _readers:
            return uri
    check_reachable(project)
    import mlflow

    # MLflow writes both into the environment. Left there, they would send other projects that this
    # process or its children open to this store.
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
    given = {name: os.environ.get(name) for name in names}
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(given["MLFLOW_REGISTRY_URI"] or uri)
    for name, value in given.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    return uri


def _reader_of(project: Project, wait: float) -> dict[str, reader.StoreReader]:
    """Return a reader of the local store by its address; {} if it does not know the tables."""
    path = database(project)

    @contextmanager
    def connected() -> Iterator[sqlite3.Connection]:
        with store_errors(path), connect(path, wait) as db:
            yield db

    with connected() as db:
        ((revision,),) = db.execute("SELECT version_num FROM alembic_version").fetchall()
    if revision != reader.REVISION:
        return {}
    uri = tracking_uri(project)
    opened = reader.StoreReader(uri, connected, lambda: open_client(open_store(project)))
    return {uri: opened}


#: Ids of experiments on servers, by address and name: a command opens the store several times.
_experiments: dict[tuple[str, str], str] = {}


#: In the description of an experiment: its id, for links.
EXPERIMENT_ID = "@experiment-id@"


def ensure_experiment(
    project: Project, name: str, description: str | None = None, *, on_note: Note = _log.warning
) -> str:
    """Return the id of an experiment, created or restored if necessary.

    Call `open_store` first. In the local store its artifacts go to `mlruns/artifacts/<name>`.
    `EXPERIMENT_ID` in the description becomes its id.

    Raises:
        StoreUnavailable: If the store is locked.
        StoreError: If MLflow refuses the name, or other machines could not reach the artifacts.
    """
    uri = tracking_uri(project)
    if (uri, name) in _experiments:
        return _experiments[uri, name]
    client = open_client(uri)
    place = database(project) if is_local(project) else tracking_uri(project)
    with store_errors(place), quiet():
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            try:
                client.create_experiment(name, _artifact_location(project, uri, name))
            except reader.refusals() as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise StoreError(
                f"The experiment {name!r} was deleted while it was created. Run again."
            )
        if experiment.lifecycle_stage == "deleted":
            try:
                client.restore_experiment(experiment.experiment_id)
                on_note(f"Restored the deleted experiment {name!r}.")
            except reader.refusals():
                if client.get_experiment(experiment.experiment_id).lifecycle_stage == "deleted":
                    raise
        note = (description or "").replace(EXPERIMENT_ID, experiment.experiment_id)
        if note and experiment.tags.get("mlflow.note.content") != note:
            insert(
                client.set_experiment_tag,
                *(experiment.experiment_id, "mlflow.note.content", note),
            )
        if not is_local(project):
            _check_location(uri, experiment.artifact_location)
        experiment_id = str(experiment.experiment_id)
    if not is_local(project):
        _experiments[uri, name] = experiment_id
    return experiment_id


def insert(write: Callable[..., Any], *arguments: Any) -> None:
    """Write to the store what another process may write at the same time: the second one updates.

    Args:
        write: Method of a client.
        arguments: Its arguments.
    """
    try:
        write(*arguments)
    except reader.refusals() as error:
        # Of SQLite and MySQL, and of PostgreSQL; a server passes on the text alone.
        if not re.search("IntegrityError|UniqueViolation", str(error)):
            raise
        write(*arguments)


def _artifact_location(project: Project, uri: str, name: str) -> str | None:
    """Return where a new experiment keeps its artifacts; None leaves it to the server."""
    if is_local(project):
        return str(database(project).parent / "artifacts" / _folder_name(name))
    if not _is_shared_database(uri):
        return None
    root = os.environ.get(ARTIFACT_ROOT, "").strip()
    if not root:
        # MLflow would take a folder of this machine.
        raise _unshared(uri, "no place for artifacts")
    return f"{root.rstrip('/')}/{_folder_name(name)}"


def _is_shared_database(uri: str) -> bool:
    return urlsplit(uri).scheme.partition("+")[0] in PORTS


def _check_location(uri: str, location: str) -> None:
    """Raise a `StoreError` if an experiment keeps its artifacts in a folder of another machine."""
    if urlsplit(location).scheme in ("", "file"):
        folder = Path(_local_path(location))
        # MLflow would create the folder here, and write what no other machine sees.
        if not folder.is_dir() and not folder.parent.is_dir():
            raise _unshared(uri, f"artifacts in {folder}, a folder that this machine does not have")


def _unshared(uri: str, received: str) -> StoreError:
    return StoreError(
        "The artifacts of a shared tracking store must be in a place that every machine reaches. "
        f"Received: {uri} with {received}. Start an MLflow server for the store (`mlflow server "
        "--backend-store-uri ... --artifacts-destination ...`) and set MLFLOW_TRACKING_URI to its "
        f"address; or, with a new experiment (`tracking.experiment`), set {ARTIFACT_ROOT} to an "
        "address such as s3://bucket/folder or to a folder that all machines mount."
    )


def check_artifacts(uri: str, location: str) -> None:
    """Write, read and delete a file where an experiment keeps its artifacts.

    Args:
        uri: Address of the store.
        location: The experiment's place for artifacts.

    Raises:
        StoreError: If a step fails or the file comes back with other content.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    _check_location(uri, location)
    content = uuid.uuid4().hex
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "check.txt"
        file.write_text(content, encoding="utf-8")
        try:
            place = get_artifact_repository(f"{location}/check-{content}", tracking_uri=uri)
            place.log_artifact(str(file))
            back = Path(place.download_artifacts(file.name)).read_text(encoding="utf-8")
            place.delete_artifacts()
        except Exception as error:  # each kind of place has its own errors
            if failure := _refusal(error, uri):
                raise failure from None
            raise StoreError(
                f"Artifacts must be writable and readable. Received: {location} of {uri} ("
                f"{type(error).__name__}: {' '.join(str(error).split())[:300]}). Check its "
                "credentials and, for S3 or another cloud, its package (`pip install boto3`)."
            ) from None
    if back != content:
        raise StoreError(
            f"Artifacts must come back as written. Received: other content from {location}"
        )


#: When servers answered last, by address.
_answered: dict[str, float] = {}


def check_reachable(project: Project) -> None:
    """Raise if a remote store is unusable or does not answer within seconds (`check_remote`)."""
    if not is_local(project):
        check_remote(tracking_uri(project))


def check_remote(uri: str) -> None:
    """Raise if a remote store is unusable or does not answer within seconds.

    Raises:
        StoreUnavailable: If the server does not answer.
        StoreError: If MLflow has no store of this kind.
    """
    scheme = urlsplit(uri).scheme
    if scheme in ("", "file") and uri != "databricks":
        raise StoreError(
            "MLFLOW_TRACKING_URI must be a server (http://...) or a database (sqlite:///..., "
            f"postgresql://...); MLflow no longer writes plain folders. Received: {uri!r}"
        )
    if scheme in ("http", "https"):
        if time.monotonic() - _answered.get(uri, -math.inf) < ANSWERED_SECONDS:
            return
        import requests

        # MLflow itself would retry for longer.
        try:
            answer = requests.get(f"{uri.rstrip('/')}/health", timeout=ANSWER_SECONDS)
        except requests.exceptions.SSLError:
            return  # It answers; MLflow has its own certificate settings.
        except requests.RequestException as error:
            raise unavailable(uri, _reason(error)) from None
        if answer.status_code >= requests.codes.server_error:
            raise unavailable(uri, f"status {answer.status_code}")
        _answered[uri] = time.monotonic()
    elif (address := urlsplit(uri)).hostname and (
        port := address.port or PORTS.get(scheme.partition("+")[0])
    ):
        # MLflow would try to connect to a database for half an hour, and a driver waits for ever
        # for a server that accepts the connection and says nothing.
        try:
            with socket.create_connection((address.hostname, port), ANSWER_SECONDS) as connection:
                if scheme.partition("+")[0] == "postgresql":
                    _check_greeting(connection)
        except OSError as error:
            raise unavailable(uri, _reason(error)) from None
        _check_login(uri)


def _check_greeting(connection: socket.socket) -> None:
    """Raise an `OSError` unless a PostgreSQL server answers within the time-out.

    Source: PostgreSQL 15, chapter 55.2.10, "SSL Session Encryption": a client may first ask whether
    the server encrypts, which it answers with one letter.
    """
    connection.sendall(struct.pack("!ii", 8, 80877103))
    if connection.recv(1) not in (b"S", b"N"):
        raise OSError("it is no PostgreSQL server")


def _check_login(uri: str) -> None:
    """Raise a `StoreError` unless a database lets this user in.

    MLflow would ask it fifteen times, in half an hour, before it reports a wrong password.
    """
    import sqlalchemy.exc

    try:
        with sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool).connect():
            pass
    except (ImportError, sqlalchemy.exc.ArgumentError):
        return  # MLflow names the driver or dialect.
    except sqlalchemy.exc.OperationalError as error:
        raise StoreError(
            f"The database of MLFLOW_TRACKING_URI must let its user in. Received: {uri} ("
            f"{' '.join(str(error.orig).split())[:300]}). Correct user, password or database."
        ) from None


def _prepare(project: Project, on_note: Note, wait: float) -> None:
    path = database(project)
    if _needs(project, wait):
        with store_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with lock(project, wait):
            # Another process may have done it while this one waited for the lock.
            for action in _needs(project, wait):
                action(project, on_note, wait)
    check_writable(project)


def _needs(project: Project, wait: float) -> list[Callable[[Project, Note, float], None]]:
    """Return what the local store needs before it can be used, in order."""
    state = schema(project, wait=wait)
    if state is Schema.NEWER:
        from importlib.metadata import version

        raise StoreError(
            f"The tracking store {database(project)} was made by a newer MLflow than the installed "
            f"{version('mlflow')}; it was not changed. Install that MLflow again, or set "
            "MLFLOW_TRACKING_URI to another store."
        )
    if state is Schema.MISSING:
        return [create]
    if state is Schema.OLDER:
        return [upgrade, move]
    return [move] if relocation(project, wait=wait) else []


def _folder_name(experiment: str) -> str:
    name = re.sub(r"[^\w.-]+", "-", experiment).strip(".-")
    if name == experiment:
        return name
    return f"{name}-{hashlib.sha256(experiment.encode()).hexdigest()[:8]}".lstrip("-")
