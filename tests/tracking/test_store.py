"""The local store survives races, kills, locks, moves and copies, and says so when it cannot."""

import os
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from chapterflow.environment import Project
from chapterflow.errors import StoreError, StoreUnavailable
from chapterflow.tracking import store
from chapterflow.tracking.store import Relocation, Schema, database, relocate, relocation, schema
from tests.conftest import FORKS

#: The last but one schema of MLflow 3.17.
OLDER = "75868b020152"


@pytest.fixture
def migrations(making_of_stores: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """New stores are made by MLflow's migrations; in tests without this, they are copies."""
    monkeypatch.setattr(store, "_initialise", making_of_stores)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new store's file."""
    project = Project(tmp_path_factory.mktemp("template"))
    store.open_store(project)
    return database(project)


@pytest.fixture
def ready(project: Project, template: Path) -> Project:
    """A project with a new store."""
    project.mlruns.mkdir()
    shutil.copy(template, project.mlruns)
    relocate(project)
    (project.mlruns / "mlflow.db.before-move").unlink()
    return project


@pytest.fixture
def notes() -> list[str]:
    return []


def sql(project: Project, statement: str, *values: object) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(database(project))) as db, db:
        return db.execute(statement, values).fetchall()


def log_run(project: Project, experiment: str = "chapterflow") -> str:
    """Log a run with an artifact, and return its id."""
    from mlflow import MlflowClient

    client = MlflowClient(store.open_store(project))
    run = client.create_run(store.ensure_experiment(project, experiment))
    client.log_text(run.info.run_id, "kept", "note.txt")
    return str(run.info.run_id)


def read_artifact(project: Project, run_id: str) -> str:
    from mlflow import MlflowClient

    client = MlflowClient(store.open_store(project))
    return Path(client.download_artifacts(run_id, "note.txt")).read_text()


def start(
    code: str, *words: str | Path, python: str = sys.executable, **options: object
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [python, "-c", textwrap.dedent(code), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )


@contextmanager
def held(project: Project, mode: str) -> Iterator[None]:
    """Another process that has begun a transaction on the store."""
    code = """
        import sqlite3, sys
        db = sqlite3.connect(sys.argv[1], isolation_level=None)
        db.execute("BEGIN " + sys.argv[2])
        print("begun", flush=True)
        sys.stdin.read()
    """
    holder = start(code, database(project), mode, stdin=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "begun\n"
    try:
        yield
    finally:
        holder.communicate()


def everything_written(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def hot_journal(folder: Path) -> bytes:
    """Return a journal that SQLite plays back into the database that it finds beside it."""
    path = folder / "other.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("CREATE TABLE numbers AS SELECT 1 AS n")
        for _ in range(12):
            db.execute("INSERT INTO numbers SELECT n FROM numbers")
        db.execute("PRAGMA cache_size = 1")
        db.execute("BEGIN")
        db.execute("UPDATE numbers SET n = 2")  # more than fits into the cache
        return path.with_name("other.db-journal").read_bytes()


@pytest.mark.usefixtures("migrations")
def test_new_store_is_current_private_to_the_project_and_leaves_nothing_else(
    project: Project,
    tmp_path: Path,
    notes: list[str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert schema(project) is Schema.MISSING
    # Stale files of a killed creator, and the journal of a killed writer to a lost database.
    project.mlruns.mkdir()
    journal = hot_journal(tmp_path)
    for name in ("mlflow.db.partial", "mlflow.db.partial-journal", "mlflow.db-journal"):
        (project.mlruns / name).write_bytes(journal)
    (project.mlruns / "mlflow.db.lock").touch()

    uri = store.open_store(project, on_note=notes.append)

    assert uri == f"sqlite:///{project.root}/mlruns/mlflow.db"
    assert schema(project) is Schema.CURRENT
    assert relocation(project) is None
    assert {p.name for p in project.mlruns.iterdir()} == {"mlflow.db", "mlflow.db.lock"}
    assert sql(project, "SELECT artifact_location FROM experiments") == [
        (f"{project.root}/mlruns/artifacts/0",)
    ]
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert notes == []
    assert capfd.readouterr() == ("", "")


def test_ready_store_is_opened_without_a_lock_or_change(ready: Project) -> None:
    before = everything_written(ready.mlruns)
    store.open_store(ready)
    assert everything_written(ready.mlruns) == before


def test_looking_at_a_store_imports_neither_mlflow_nor_sqlalchemy(ready: Project) -> None:
    code = """
        import sys
        from pathlib import Path
        from chapterflow.environment import Project
        from chapterflow.tracking.store import relocation
        from chapterflow.tracking.store import schema
        project = Project(Path(sys.argv[1]))
        print(schema(project).name, relocation(project))
        print({"mlflow", "sqlalchemy", "alembic", "requests"} & set(sys.modules))
    """
    out, err = start(code, ready.root).communicate()
    assert (out, err) == ("CURRENT None\nset()\n", "")


OPEN_AND_LOG = """
    import sys
    from pathlib import Path
    from chapterflow.environment import Project, configure
    project = Project(Path(sys.argv[1]))
    configure(project)
    from chapterflow.tracking.store import ensure_experiment, open_store
    uri = open_store(project)
    from mlflow import MlflowClient
    client = MlflowClient(uri)
    run = client.create_run(ensure_experiment(project, "same", "note"))
    client.log_metric(run.info.run_id, "metric", 1.0)
"""


@pytest.mark.slow
def test_four_processes_may_make_the_store_at_once(project: Project) -> None:
    processes = [start(OPEN_AND_LOG, project.root, python=FORKS.python) for _ in range(4)]
    assert [p.communicate() for p in processes] == [("", "")] * 4
    assert [p.returncode for p in processes] == [0] * 4
    assert sql(project, "SELECT name FROM experiments") == [("Default",), ("same",)]
    assert sql(project, "SELECT count(*) FROM metrics") == [(4,)]


@pytest.mark.slow
def test_store_is_made_after_its_creator_was_killed(project: Project) -> None:
    process = start(OPEN_AND_LOG, project.root, python=FORKS.python)
    partial = project.mlruns / "mlflow.db.partial"
    while not (partial.exists() and partial.stat().st_size > 100_000):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert partial.exists()
    assert schema(project) is Schema.MISSING

    run_id = log_run(project)

    assert not partial.exists()
    assert read_artifact(project, run_id) == "kept"


def test_locked_store_is_unavailable_and_unchanged(ready: Project) -> None:
    before = everything_written(ready.mlruns)
    with held(ready, "EXCLUSIVE"):
        started = time.perf_counter()
        with pytest.raises(StoreUnavailable, match="is locked by another process"):
            store.open_store(ready, wait=0.2)
        assert time.perf_counter() - started >= 0.2
    assert everything_written(ready.mlruns) == before
    store.open_store(ready)


def test_writer_elsewhere_delays_nobody_who_only_opens_the_store(ready: Project) -> None:
    with held(ready, "IMMEDIATE"):
        store.open_store(ready, wait=0.1)


def test_preparation_elsewhere_is_waited_for_within_bounds(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    project.mlruns.mkdir()
    monkeypatch.setenv("CHAPTERFLOW_STORE_WAIT", "0.02")
    with (
        FileLock(project.mlruns / "mlflow.db.lock"),
        pytest.raises(StoreUnavailable, match=r"Another process has been preparing .* 0\.12 s"),
    ):
        store.open_store(project)
    monkeypatch.setenv("CHAPTERFLOW_STORE_WAIT", "long")
    with pytest.raises(StoreError, match=r"must be a number of seconds. Received: 'long'"):
        store.open_store(project)


def test_newer_schema_is_refused_and_unchanged(ready: Project) -> None:
    sql(ready, "UPDATE alembic_version SET version_num = 'ffffffffffff'")
    before = everything_written(ready.mlruns)
    with pytest.raises(
        StoreError, match=r"newer MLflow than the installed .* not changed. Install"
    ):
        store.open_store(ready)
    assert everything_written(ready.mlruns) == before


def make_older(project: Project) -> None:
    """Make a store as the MLflow before the installed one left it, with a run."""
    import sqlalchemy
    from alembic import command

    mlflow_db = import_module("mlflow.store.db.utils")
    initial = import_module("mlflow.store.tracking.dbmodels.initial_models").Base
    project.mlruns.mkdir()
    uri = f"sqlite:///{database(project)}"
    engine = sqlalchemy.create_engine(uri)
    initial.metadata.create_all(engine)
    config = mlflow_db._get_alembic_config(uri)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, OLDER)
    engine.dispose()
    where = f"{project.root}/mlruns/artifacts"
    sql(
        project,
        "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, "
        "workspace) VALUES (1, 'old', ?, 'active', 'default')",
        f"{where}/old",
    )
    sql(
        project,
        "INSERT INTO runs (run_uuid, experiment_id, status, lifecycle_stage, artifact_uri, "
        "source_type, start_time, user_id) "
        "VALUES ('abc', 1, 'FINISHED', 'active', ?, 'LOCAL', 1, 'me')",
        f"{where}/old/abc/artifacts",
    )


def test_older_schema_is_upgraded_with_its_runs(project: Project, notes: list[str]) -> None:
    make_older(project)
    before = database(project).read_bytes()
    assert schema(project) is Schema.OLDER

    with held(project, "IMMEDIATE"), pytest.raises(StoreUnavailable):
        store.open_store(project, wait=0.1)
    assert database(project).read_bytes() == before

    from mlflow import MlflowClient

    client = MlflowClient(store.open_store(project, on_note=notes.append))
    assert client.get_run("abc").info.status == "FINISHED"
    assert schema(project) is Schema.CURRENT
    kept = project.mlruns / "mlflow.db.before-upgrade"
    assert notes == [
        "Upgraded the tracking store to the schema of the installed MLflow. "
        f"The file as it was: {kept}"
    ]
    with closing(sqlite3.connect(kept)) as db:
        assert db.execute("SELECT version_num FROM alembic_version").fetchone() == (OLDER,)
    assert {p.name for p in project.mlruns.iterdir()} == {
        "mlflow.db",
        "mlflow.db.lock",
        "mlflow.db.before-upgrade",
    }


def test_half_made_store_without_a_run_is_made_again(ready: Project, notes: list[str]) -> None:
    # Tables of the last migration are there, its revision is not: the migration fails for ever.
    sql(ready, f"UPDATE alembic_version SET version_num = '{OLDER}'")
    store.open_store(ready, on_note=notes.append)
    assert schema(ready) is Schema.CURRENT
    assert "half made and without a run: made it again" in notes[0]
    assert read_artifact(ready, log_run(ready)) == "kept"


def test_half_made_store_with_a_run_is_left_alone(ready: Project) -> None:
    log_run(ready)
    sql(ready, f"UPDATE alembic_version SET version_num = '{OLDER}'")
    before = database(ready).read_bytes()
    with pytest.raises(StoreError, match=r"could not be upgraded .* was not changed. Received: "):
        store.open_store(ready)
    assert database(ready).read_bytes() == before
    assert not (ready.mlruns / "mlflow.db.partial").exists()


def test_file_that_is_no_store_is_named_and_left_alone(project: Project) -> None:
    project.mlruns.mkdir()
    path = database(project)
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(StoreError, match=r"mlflow\.db \(file is not a database\)\. Restore it"):
        store.open_store(project)
    assert path.read_bytes() == b"this is not a database" * 100

    path.unlink()
    sql(project, "CREATE TABLE recipes (name)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"must be an MLflow database. Received: "):
        store.open_store(project)
    assert path.read_bytes() == before


@pytest.mark.fault("Tracking database of 0 bytes", "Refused with remedies; never replaced")
def test_an_empty_file_is_not_replaced(ready: Project, record_property: Any) -> None:
    path = database(ready)
    os.truncate(path, 0)
    for kept in ("", " mlflow.db.before-move "):
        if kept:
            path.with_name(kept.strip()).touch()
        with pytest.raises(StoreError, match=r"0 bytes.*remove the file") as failure:
            store.open_store(ready)
        assert kept in str(failure.value)
        assert path.stat().st_size == 0
    path.unlink()
    store.open_store(ready)
    assert schema(ready) is Schema.CURRENT
    record_property("saw", "refused; a new store after the file was removed")


def test_damaged_store_is_reported_in_one_line(ready: Project) -> None:
    content = bytearray(database(ready).read_bytes())
    content[100:4096] = b"\xff" * 3996
    database(ready).write_bytes(content)
    with pytest.raises(StoreError, match="Restore it from a copy") as caught:
        store.open_store(ready)
    assert "\n" not in str(caught.value)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Act as a user without root's right to write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def open_up(folder: Path) -> None:
    """Let other users pass through the folders above."""
    for parent in folder.parents:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)


def test_folder_without_write_permission_is_named(ready: Project) -> None:
    import_module("mlflow.store.tracking.sqlalchemy_store")
    open_up(ready.mlruns)
    ready.mlruns.chmod(0o555)
    with unprivileged(), pytest.raises(StoreError, match=r"must be writable. Received: .*mlruns, "):
        store.open_store(ready)

    ready.mlruns.chmod(0o755)
    database(ready).unlink()
    ready.mlruns.chmod(0o555)
    with unprivileged(), pytest.raises(StoreError, match=r"Permission denied.*Check the folder's"):
        store.open_store(ready)
    ready.mlruns.chmod(0o755)


def test_full_disk_leaves_no_half_store(
    project: Project, making_of_stores: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    import_module("mlflow.store.tracking.sqlalchemy_store")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with monkeypatch.context() as patch:
            patch.setattr(store, "_initialise", making_of_stores)
            with pytest.raises(StoreError, match=r"Check .* the space on its disk") as caught:
                store.open_store(project)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert [p.name for p in project.mlruns.iterdir()] == ["mlflow.db.lock"]
    store.open_store(project)


def test_two_projects_in_one_process_keep_apart(ready: Project, tmp_path: Path) -> None:
    other = Project(tmp_path / "other")
    shutil.copytree(ready.root, other.root)
    first = log_run(ready)
    assert store.tracking_uri(other) == f"sqlite:///{other.root}/mlruns/mlflow.db"
    second = log_run(other)
    assert sql(ready, "SELECT run_uuid FROM runs") == [(first,)]
    assert sql(other, "SELECT run_uuid FROM runs") == [(second,)]


def test_other_stores(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    for same in ("sqlite:///mlruns/mlflow.db", f"sqlite:///{project.root}/mlruns/mlflow.db", " "):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", same)
        assert store.is_local(project)
        assert store.tracking_uri(project) == f"sqlite:///{project.root}/mlruns/mlflow.db"

    for folder in ("./mlruns", "file:///somewhere/mlruns"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", folder)
        with pytest.raises(StoreError, match=f"must be a server .* Received: '{folder}'"):
            store.open_store(project)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    with pytest.raises(StoreUnavailable, match=r"http://\*\*\*@127.0.0.1:9 does not answer"):
        store.open_store(project)
    assert not store.is_local(project)
    assert not project.mlruns.exists()

    # A database that accepts connections and says nothing, or something else.
    monkeypatch.setattr(store, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"postgresql://me:secret@127.0.0.1:{silent.getsockname()[1]}/mlflow"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(StoreUnavailable, match=r"does not answer \(no answer in time"):
            store.open_store(project)

    elsewhere = f"sqlite:///{project.root}/elsewhere.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", elsewhere)
    assert store.open_store(project) == elsewhere
    assert os.environ["MLFLOW_TRACKING_URI"] == elsewhere
    assert not project.mlruns.exists()


@pytest.mark.parametrize("name", ["50%41 off", "what?"])
def test_path_that_mlflow_misreads_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"path must not contain '(%41|\?)'"):
        store.open_store(Project(tmp_path / name))
    assert list(tmp_path.iterdir()) == []


def test_experiment_is_made_described_found_and_restored(ready: Project, notes: list[str]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(store.open_store(ready))
    made = store.ensure_experiment(ready, "lab", "what it is", on_note=notes.append)
    assert client.get_experiment(made).artifact_location == f"{ready.root}/mlruns/artifacts/lab"
    assert store.ensure_experiment(ready, "lab", "what it is now", on_note=notes.append) == made
    assert client.get_experiment(made).tags["mlflow.note.content"] == "what it is now"
    page = f"[runs](#/experiments/{store.EXPERIMENT_ID}/runs)"
    store.ensure_experiment(ready, "lab", page, on_note=notes.append)
    described = client.get_experiment(made).tags["mlflow.note.content"]
    assert described == f"[runs](#/experiments/{made}/runs)"
    assert notes == []

    client.delete_experiment(made)
    assert store.ensure_experiment(ready, "lab", on_note=notes.append) == made
    assert client.get_experiment(made).lifecycle_stage == "active"
    assert notes == ["Restored the deleted experiment 'lab'."]


def test_experiment_may_be_made_by_two_at_once(
    ready: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    store.open_store(ready)
    made = store.ensure_experiment(ready, "lab")
    find, answers = MlflowClient.get_experiment_by_name, iter([None])
    monkeypatch.setattr(
        MlflowClient,
        "get_experiment_by_name",
        lambda client, name: next(answers) if answers.__length_hint__() else find(client, name),
    )
    assert store.ensure_experiment(ready, "lab") == made
    assert answers.__length_hint__() == 0


def test_names_of_experiments_make_safe_and_separate_folders(ready: Project) -> None:
    names = ["../out", "a/b", "a b", "a-b", "..", "grüße"]
    for name in names:
        log_run(ready, name)
    folders = [p.name for p in (ready.mlruns / "artifacts").iterdir()]
    assert len(folders) == len(names)
    assert {"a-b", "grüße"} < set(folders)
    assert not (ready.root / "out").exists()


def test_locked_store_is_reported_also_by_experiments(
    ready: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import sqlalchemy

    store.open_store(ready)
    store.ensure_experiment(ready, "warm")

    @sqlalchemy.event.listens_for(sqlalchemy.Engine, "before_cursor_execute", retval=True)
    def impatient(_c: object, _k: object, statement: str, values: object, *_: object) -> object:
        return statement.replace("busy_timeout = 20000", "busy_timeout = 50"), values

    try:
        with held(ready, "EXCLUSIVE"), pytest.raises(StoreUnavailable, match="is locked"):
            store.ensure_experiment(ready, "lab")
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", impatient)
    assert caplog.text == ""


def test_moved_project_finds_its_artifacts(
    ready: Project, tmp_path: Path, notes: list[str]
) -> None:
    run_id = log_run(ready)
    moved = Project(tmp_path / "neuer Ort für 100% #1: it's")
    ready.root.rename(moved.root)
    assert relocation(moved) == Relocation(ready.root, moved.root)

    store.open_store(moved, on_note=notes.append)

    assert read_artifact(moved, run_id) == "kept"
    assert relocation(moved) is None
    assert len(notes) == 1
    assert f"from {ready.root} to {moved.root}. Artifact paths rewritten: 3." in notes[0]
    assert (moved.mlruns / "mlflow.db.before-move").is_file()
    store.open_store(moved, on_note=notes.append)
    assert len(notes) == 1
    assert not ready.root.exists()


def test_copied_project_leaves_the_original_alone(ready: Project, tmp_path: Path) -> None:
    run_id = log_run(ready)
    copied = Project(tmp_path / "zweite Kopie ä")
    shutil.copytree(ready.root, copied.root)
    before = everything_written(ready.root)

    second = log_run(copied)
    from mlflow import MlflowClient
    from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

    _artifact_repos_cache.clear()  # this process has written to the run in its old place
    MlflowClient(store.tracking_uri(copied)).log_text(run_id, "more", "more.txt")

    assert everything_written(ready.root) == before
    assert len(list(copied.root.rglob("note.txt"))) == 2
    assert read_artifact(copied, second) == "kept"
    assert read_artifact(ready, run_id) == "kept"


def test_relocation_touches_only_what_lay_in_the_old_project(
    ready: Project, tmp_path: Path
) -> None:
    run_id = log_run(ready)
    old = f"{ready.root}/mlruns"
    encoded = "file:///old%20home/mlruns/artifacts"
    sql(ready, "UPDATE experiments SET artifact_location = replace(artifact_location, ?, ?)",
        old, "/old home/mlruns")  # fmt: skip
    for name, location in {
        "chosen": "/data/shared/mlruns/artifacts/chosen",
        "longer": "/old home/mlruns2/artifacts/longer",
        "remote": "s3://bucket/old home/mlruns/artifacts/x",
        "address": f"{encoded}/address",
    }.items():
        sql(ready, "INSERT INTO experiments (name, artifact_location, lifecycle_stage, workspace) "
            "VALUES (?, ?, 'active', 'default')", name, location)  # fmt: skip
    sql(ready, "UPDATE runs SET artifact_uri = ?", f"{encoded}/x/{run_id}/artifacts")

    assert relocate(ready) == 4  # Default, chapterflow, address and the run

    rows = dict(sql(ready, "SELECT name, artifact_location FROM experiments"))
    here = f"{ready.root}/mlruns/artifacts"
    assert rows == {
        "Default": f"{here}/0",
        "chapterflow": f"{here}/chapterflow",
        "chosen": "/data/shared/mlruns/artifacts/chosen",
        "longer": "/old home/mlruns2/artifacts/longer",
        "remote": "s3://bucket/old home/mlruns/artifacts/x",
        "address": f"{Path(here).as_uri()}/address",
    }
    assert sql(ready, "SELECT artifact_uri FROM runs") == [
        (f"{Path(here).as_uri()}/x/{run_id}/artifacts",)
    ]
    assert relocate(ready) == 0


def test_relocation_is_whole_or_not_at_all(ready: Project, tmp_path: Path) -> None:
    log_run(ready)
    sql(ready, "CREATE TRIGGER fault BEFORE UPDATE OF artifact_uri ON runs "
        "BEGIN SELECT RAISE(ABORT, 'fault'); END")  # fmt: skip
    moved = Project(tmp_path / "moved")
    ready.root.rename(moved.root)
    rows = sql(moved, "SELECT artifact_location FROM experiments")
    with pytest.raises(StoreError, match="fault"):
        store.open_store(moved)
    assert sql(moved, "SELECT artifact_location FROM experiments") == rows


def test_symbolic_link_is_no_move(ready: Project, tmp_path: Path) -> None:
    log_run(ready)
    (tmp_path / "link").symlink_to(ready.root)
    assert relocation(Project(tmp_path / "link")) is None

    moved = Project(tmp_path / "moved")
    ready.root.rename(moved.root)
    ready.root.symlink_to(moved.root)
    assert relocation(moved) is None  # the recorded paths still lead there


@pytest.mark.parametrize(
    "message",
    [
        "(sqlite3.IntegrityError) UNIQUE constraint",
        "RestException: BAD_REQUEST: (psycopg2.errors.UniqueViolation) duplicate key value",
        "refused",
    ],
)
def test_a_row_that_another_process_has_just_inserted_is_updated(message: str) -> None:
    from mlflow.exceptions import MlflowException

    calls: list[str] = []

    def write(value: str) -> None:
        calls.append(value)
        if len(calls) == 1:
            raise MlflowException(message)

    if message == "refused":
        with pytest.raises(MlflowException, match="refused"):
            store.insert(write, "tag")
        assert calls == ["tag"]
    else:
        store.insert(write, "tag")
        assert calls == ["tag", "tag"]
