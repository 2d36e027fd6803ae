"""Looks into the real stores of a checkout, past the code under test."""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml


def set_param(root: Path, path: str, value: Any) -> None:
    """Change one value of a checkout's params.yaml."""
    file = root / "params.yaml"
    document = yaml.safe_load(file.read_text())
    target = document
    *parents, last = path.split(".")
    for key in parents:
        target = target[key]
    target[last] = value
    file.write_text(yaml.safe_dump(document, sort_keys=False))


def keep_models(root: Path, *names: str) -> None:
    """Leave a checkout's params.yaml with some models alone, and the roles that they need."""

    def of_roles(thresholds: Any) -> Any:
        if not isinstance(thresholds, dict):
            return thresholds
        return {role: value for role, value in thresholds.items() if role in needed}

    file = root / "params.yaml"
    document = yaml.safe_load(file.read_text())
    document["models"] = {name: document["models"][name] for name in names}
    needed = {block["role"] for block in document["models"].values()} | {"pretext"}
    document["roles"] = {role: document["roles"][role] for role in sorted(needed)}
    document["promotion"] = {key: of_roles(value) for key, value in document["promotion"].items()}
    file.write_text(yaml.safe_dump(document, sort_keys=False))


def query(database: Path, sql: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    with sqlite3.connect(database) as connection:
        return connection.execute(sql).fetchall()


def mlflow_runs(root: Path) -> list[dict[str, Any]]:
    """Return every MLflow run with its tags, oldest first."""
    store = root / "mlruns" / "mlflow.db"
    runs = [
        {"id": row[0], "name": row[1], "status": row[2], "tags": {}}
        for row in query(store, "SELECT run_uuid, name, status FROM runs ORDER BY start_time")
    ]
    for run in runs:
        rows = query(store, f"SELECT key, value FROM tags WHERE run_uuid = '{run['id']}'")
        run["tags"] = dict(rows)
    return runs


def model_runs(root: Path) -> list[dict[str, Any]]:
    """Return the MLflow runs of models."""
    return [run for run in mlflow_runs(root) if run["tags"].get("chapterflow.kind") == "model"]


def artifacts(root: Path, run_id: str, folder: str) -> list[str]:
    """Return the paths of what a run keeps in a folder of its artifacts."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{root}/mlruns/mlflow.db")
    return [item.path for item in client.list_artifacts(run_id, folder)]


def run_of(root: Path, model: str) -> dict[str, Any]:
    """Return the only MLflow run of a model."""
    (run,) = [run for run in model_runs(root) if run["tags"]["mlflow.runName"].split()[0] == model]
    return run


def model_file(root: Path, model: str, version: int = 1) -> Path:
    """Return the `.keras` file of a registered version."""
    ((source,),) = query(
        root / "mlruns" / "mlflow.db",
        f"SELECT source FROM model_versions WHERE name = '{model}' AND version = {version}",
    )
    logged = str(source).rpartition("/")[2]
    (file,) = (root / "mlruns" / "artifacts").glob(f"*/models/{logged}/**/*.keras")
    return file


def flow_states(root: Path) -> list[str]:
    """Return the states of Prefect's flow runs, oldest first."""
    rows = query(
        root / ".prefect" / "prefect.db", "SELECT state_type FROM flow_run ORDER BY created"
    )
    return [str(state) for (state,) in rows]


def task_states(root: Path) -> list[tuple[str, str]]:
    """Return name and state of Prefect's task runs."""
    return query(root / ".prefect" / "prefect.db", "SELECT name, state_type FROM task_run")  # type: ignore[return-value]


def newest_tasks(database: Path) -> list[tuple[Any, ...]]:
    """Return id, name and inputs of the task runs of Prefect's newest flow run."""
    newest = "SELECT id FROM flow_run ORDER BY created DESC LIMIT 1"
    return query(
        database, f"SELECT id, name, task_inputs FROM task_run WHERE flow_run_id = ({newest})"
    )


def task_edges(rows: list[tuple[Any, ...]]) -> set[tuple[str, str]]:
    """Return the edges between `newest_tasks`, by name: which result went into which task."""
    names = {str(identity).replace("-", ""): name for identity, name, _ in rows}
    edges = set()
    for _, name, inputs in rows:
        for sources in json.loads(inputs or "{}").values():
            for source in sources:
                key = str(source.get("id", "")).replace("-", "")
                if key in names:
                    edges.add((names[key], name))
    return edges


@contextmanager
def mlflow_at(root: Path) -> Iterator[None]:
    """Point MLflow at a checkout's store, and leave no trace of it in the environment."""
    import mlflow

    given = {key: os.environ.get(key) for key in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")}
    mlflow.set_tracking_uri(f"sqlite:///{root}/mlruns/mlflow.db")
    mlflow.set_registry_uri(f"sqlite:///{root}/mlruns/mlflow.db")
    try:
        yield
    finally:
        for key, value in given.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value


def processes_of(root: Path) -> dict[str, psutil.Process]:
    """Return the live processes that work in a checkout, by their command lines."""
    actual = {}
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == root:
                actual[" ".join(process.cmdline())] = process
        except (psutil.Error, OSError):
            continue
    return actual
