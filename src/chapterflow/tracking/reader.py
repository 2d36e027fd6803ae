"""Reads the project's own SQLite store without MLflow, whose import takes most of a command."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

#: Revision of MLflow's schema whose tables are read here. MLflow itself reads any other.
REVISION = "dc11669786a5"
#: Conditions and orders of runs that have an equivalent in SQL: all that commands use that read.
_CONDITION = re.compile(
    r"\s*(?:tags\.`(?P<tag>[^`]+)` (?P<sign>=|!=) '(?P<value>[^']*)'"
    r"|attributes\.status = '(?P<status>\w+)'"
    r"|attributes\.start_time > (?P<since>\d+)"
    r"|attributes\.run_id LIKE '(?P<prefix>[0-9a-f]+)%'"
    r"|attributes\.run_id IN \((?P<ids>'\w+'(?:, '\w+')*)\))\s*"
)
_ORDERS: dict[tuple[str, ...], str] = {
    ("attributes.start_time DESC",): "start_time DESC, run_uuid",
    ("attributes.start_time ASC",): "start_time ASC, run_uuid",
}
#: What searches of runs return at most.
MOST_RESULTS = 50_000
#: MLflow's `ViewType`: runs that are not deleted, and those that are.
ACTIVE, DELETED = 1, 2
#: Columns of a run, by the names of MLflow's `RunInfo`.
_RUN = {
    "run_id": "run_uuid",
    "run_name": "name",
    "experiment_id": "CAST(experiment_id AS TEXT)",
    "status": "status",
    "start_time": "start_time",
    "end_time": "end_time",
    "lifecycle_stage": "lifecycle_stage",
    "artifact_uri": "artifact_uri",
}
#: Tables with the data of a run, and their column of values.
_DATA = {
    "tags": ("tags", "value"),
    "params": ("params", "value"),
    # SQLite has no NaN.
    "metrics": ("latest_metrics", "CASE WHEN is_nan THEN 'nan' ELSE value END"),
}
#: Without workspaces, which only a server has, MLflow writes everything into this one.
_WORKSPACE = "workspace = 'default'"
#: Experiments and versions, by the names of MLflow's `Experiment` and `ModelVersion`.
_EXPERIMENT = (
    "SELECT CAST(experiment_id AS TEXT) AS experiment_id, name, artifact_location, lifecycle_stage "
    "FROM experiments"
)
_VERSION = (
    "SELECT name, version, creation_time AS creation_timestamp, run_id, source, status "
    "FROM model_versions WHERE current_stage != 'Deleted_Internal'"
)
_SAME = f"name = ? AND version = ? AND {_WORKSPACE}"
#: What MLflow calls a file while it writes it (`LocalArtifactRepository`).
_UNFINISHED = ".artifact.uploading."


class Missing(Exception):
    """The store does not have what was asked for; with the attributes of MLflow's exception."""

    error_code = "RESOURCE_DOES_NOT_EXIST"

    @property
    def message(self) -> str:
        """What is missing."""
        return str(self)


def refusals(*more: type[Exception]) -> tuple[Any, ...]:
    """Return the exceptions with which a client refuses, and others, for an `except` clause.

    MLflow's is among them once MLflow is imported; before that nobody can raise it.
    """
    module = sys.modules.get("mlflow.exceptions")
    return (Missing, *([module.MlflowException] if module else []), *more)


@contextmanager
def suppress_refusals(*more: type[Exception]) -> Iterator[None]:
    """Suppress `refusals()` and other exceptions; MLflow may be imported within the block."""
    try:
        yield
    except refusals(*more):
        pass


class Page(list[Any]):
    """What a search returns: all of it."""

    token = None


class StoreReader:
    """The methods of an MLflow client that read; MLflow's own client is made for all others.

    What they return has those attributes of MLflow's entities that this package uses.

    Args:
        uri: Address of the store.
        connect: Opens its database, and reports its errors.
        open_client: Imports MLflow, and returns its client.
    """

    def __init__(
        self,
        uri: str,
        connect: Callable[[], AbstractContextManager[sqlite3.Connection]],
        open_client: Callable[[], Any],
    ) -> None:
        self.tracking_uri = uri
        self._connect = connect
        self._open_client = open_client

    def __getattr__(self, name: str) -> Any:
        """Return what is not defined here from MLflow's client, above all what writes."""
        return getattr(self._open_client(), name)

    def get_experiment(self, experiment_id: str) -> Any:
        """Return an experiment by its id."""
        return self._experiment("experiment_id", experiment_id) or _miss(
            f"No Experiment with id={experiment_id} exists"
        )

    def get_experiment_by_name(self, name: str) -> Any:
        """Return an experiment, or None."""
        return self._experiment("name", name)

    def _experiment(self, column: str, value: str) -> Any:
        with self._connect() as db:
            experiment = _first(db, f"{_EXPERIMENT} WHERE {column} = ? AND {_WORKSPACE}", value)
            if experiment is not None:
                experiment.tags = _pairs(
                    db,
                    "SELECT key, value FROM experiment_tags WHERE experiment_id = ?",
                    experiment.experiment_id,
                )
        return experiment

    def get_run(self, run_id: str) -> Any:
        """Return a run, deleted or not."""
        with self._connect() as db:
            return _runs(db, [run_id]).get(run_id) or _miss(f"Run with id={run_id} not found")

    def search_runs(
        self, experiment_ids: Sequence[str], filter_string: str = "", **options: Any
    ) -> Any:
        """Return the runs that meet conditions, in order."""
        query = _query(experiment_ids, filter_string, **options)
        if query is None:
            return self._open_client().search_runs(experiment_ids, filter_string, **options)
        with self._connect() as db:
            run_ids = [run_id for (run_id,) in db.execute(*query)]
            runs = _runs(db, run_ids)
        return Page(runs[run_id] for run_id in run_ids)

    def get_registered_model(self, name: str) -> Any:
        """Return a registered model, with its tags and aliases."""
        with self._connect() as db:
            model = _first(
                db,
                f"SELECT name, description FROM registered_models WHERE name = ? AND {_WORKSPACE}",  # noqa: S608
                name,
            ) or _miss(f"Registered Model with name={name} not found")
            for attribute, columns in {"tags": "key, value", "aliases": "alias, version"}.items():
                table = f"registered_model_{attribute}"
                query = f"SELECT {columns} FROM {table} WHERE name = ? AND {_WORKSPACE}"  # noqa: S608
                setattr(model, attribute, _pairs(db, query, name))
        return model

    def search_registered_models(self) -> Page:
        """Return all registered models."""
        with self._connect() as db:
            query = f"SELECT name, name FROM registered_models WHERE {_WORKSPACE} ORDER BY name"  # noqa: S608
            names = _pairs(db, query)
        return Page(self.get_registered_model(name) for name in names)

    def search_model_versions(self, filter_string: str = "", **options: Any) -> Any:
        """Return all versions, or those of a model, by name and number."""
        one = re.fullmatch("name = '([^']*)'", filter_string)
        if options or (filter_string and not one):
            return self._open_client().search_model_versions(filter_string, **options)
        with self._connect() as db:
            versions = db.execute(
                f"{_VERSION} AND {_WORKSPACE} AND name = coalesce(?, name) ORDER BY name, version",
                (one and one[1],),
            ).fetchall()
        return Page(self.get_model_version(name, number) for name, number, *_ in versions)

    def get_model_version(self, name: str, version: str) -> Any:
        """Return a version of a registered model, with its aliases."""
        with self._connect() as db:
            missing = f"Model Version (name={name}, version={version}) not found"
            record = _first(db, f"{_VERSION} AND {_SAME}", name, version) or _miss(missing)
            query = f"SELECT key, value FROM model_version_tags WHERE {_SAME}"  # noqa: S608
            record.tags = _pairs(db, query, name, version)
            query = f"SELECT alias, version FROM registered_model_aliases WHERE {_SAME}"  # noqa: S608
            record.aliases = list(_pairs(db, query, name, version))
        return record

    def get_model_version_by_alias(self, name: str, alias: str) -> Any:
        """Return the version that has an alias."""
        version = self.get_registered_model(name).aliases.get(alias)
        if version is None:
            _miss(f"Registered model alias {alias} not found.")
        return self.get_model_version(name, version)

    def get_logged_model(self, model_id: str) -> Any:
        """Return a logged model."""
        with self._connect() as db:
            model = _first(
                db,
                "SELECT model_id, source_run_id, artifact_location FROM logged_models "
                "WHERE model_id = ? AND lifecycle_stage != 'deleted'",
                model_id,
            ) or _miss(f"Logged model with ID '{model_id}' not found.")
            model.tags = _pairs(
                db, "SELECT tag_key, tag_value FROM logged_model_tags WHERE model_id = ?", model_id
            )
        return model

    def deleted_models(self, before: float) -> dict[str, str]:
        """Return where logged models that were deleted before a time keep their files, by id."""
        query = (
            "SELECT model_id, artifact_location FROM logged_models "
            "WHERE lifecycle_stage = 'deleted' AND last_updated_timestamp_ms <= ?"
        )
        with self._connect() as db:
            return _pairs(db, query, before * 1000)

    def list_artifacts(self, run_id: str, path: str | None = None) -> list[Any]:
        """Return the files and folders of a run, or in one of its folders."""
        folder = _local(self.get_run(run_id).info.artifact_uri)
        if folder is None:
            return list(self._open_client().list_artifacts(run_id, path))
        return _listed(folder, path)

    def list_logged_model_artifacts(self, model_id: str, path: str | None = None) -> list[Any]:
        """Return the files and folders of a logged model, or in one of its folders."""
        folder = _local(self.get_logged_model(model_id).artifact_location)
        if folder is None:
            return list(self._open_client().list_logged_model_artifacts(model_id, path))
        return _listed(folder, path)

    def download_artifacts(self, run_id: str, path: str, dst_path: str | None = None) -> str:
        """Return the path of a file or folder of a run, copied into `dst_path` if that is given."""
        folder = _local(self.get_run(run_id).info.artifact_uri)
        if folder is None:
            return str(self._open_client().download_artifacts(run_id, path, dst_path))
        source = folder / path
        if not source.exists():
            _miss(f"No such artifact: '{path}'")
        if dst_path is None:
            return str(source)
        target = Path(dst_path, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)
        return str(target)

    def download_model(self, model_id: str) -> str:
        """Return the folder of a logged model's files."""
        folder = _local(self.get_logged_model(model_id).artifact_location)
        if folder is None:
            return str(self._open_client().download_model(model_id))
        if not folder.exists():
            _miss(f"No such artifact: '{folder}'")
        return str(folder)


def _miss(what: str) -> NoReturn:
    raise Missing(what)


def _first(db: sqlite3.Connection, query: str, *values: str) -> Any:
    """Return the first row as an object with the columns as attributes; None without a row."""
    rows = db.execute(query, values)
    names = [column[0] for column in rows.description]
    return next((SimpleNamespace(**dict(zip(names, row, strict=True))) for row in rows), None)


def _pairs(db: sqlite3.Connection, query: str, *values: str | float) -> dict[str, Any]:
    return dict(db.execute(query, values).fetchall())


def _query(
    experiment_ids: Sequence[str],
    filter_string: str,
    *,
    run_view_type: int = ACTIVE,
    max_results: int = MOST_RESULTS,
    order_by: Sequence[str] = ("attributes.start_time DESC",),
    **other: Any,
) -> tuple[str, list[Any]] | None:
    """Return a search of runs in SQL, with its values; None if only MLflow can translate it."""
    conditions = re.split(r"\band\b", filter_string) if filter_string else []
    parsed = [_CONDITION.fullmatch(condition) for condition in conditions]
    order = _ORDERS.get(tuple(order_by))
    stage = {ACTIVE: "active", DELETED: "deleted"}.get(run_view_type)
    if order is None or stage is None or other or None in parsed:
        return None
    query = (
        "SELECT run_uuid FROM runs WHERE lifecycle_stage = ? "
        "AND CAST(experiment_id AS TEXT) IN (SELECT value FROM json_each(?))"
    )
    values: list[Any] = [stage, json.dumps(list(experiment_ids))]
    for condition in filter(None, parsed):
        if condition["tag"]:
            of_run = "SELECT 1 FROM tags WHERE tags.run_uuid = runs.run_uuid AND key = ?"
            query += f" AND EXISTS ({of_run} AND value {condition['sign']} ?)"
            values += [condition["tag"], condition["value"]]
        elif condition["status"]:
            query += " AND status = ?"
            values.append(condition["status"])
        elif condition["since"]:
            query += " AND start_time > ?"
            values.append(int(condition["since"]))
        elif condition["prefix"]:
            query += " AND run_uuid GLOB ?"
            values.append(f"{condition['prefix']}*")
        else:
            query += " AND run_uuid IN (SELECT value FROM json_each(?))"
            values.append(json.dumps(re.findall(r"\w+", condition["ids"])))
    return f"{query} ORDER BY {order} LIMIT ?", [*values, max_results]


def _runs(db: sqlite3.Connection, run_ids: Sequence[str]) -> dict[str, Any]:
    """Return runs with their tags, parameters and newest metrics, by id."""
    chosen = "WHERE run_uuid IN (SELECT value FROM json_each(?))"
    values = (json.dumps(list(run_ids)),)
    runs = {}
    columns = ", ".join(_RUN.values())
    for row in db.execute(f"SELECT {columns} FROM runs {chosen}", values):  # noqa: S608
        info = SimpleNamespace(**dict(zip(_RUN, row, strict=True)))
        runs[info.run_id] = SimpleNamespace(
            info=info, data=SimpleNamespace(**{part: {} for part in _DATA})
        )
    for part, (table, column) in _DATA.items():
        for run_id, key, value in db.execute(
            f"SELECT run_uuid, key, {column} FROM {table} {chosen}",  # noqa: S608
            values,
        ):
            of_run = getattr(runs[run_id].data, part)
            of_run[key] = float(value) if part == "metrics" else value
    return runs


def _local(address: str) -> Path | None:
    """Return the folder of artifacts; None if they are on another machine."""
    parts = urlsplit(address)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(address) if parts.scheme == "" else None


def _listed(folder: Path, path: str | None) -> list[Any]:
    """Return what a folder of artifacts contains, with paths from its root, in order."""
    place = folder / (path or "")
    if not place.is_dir():
        return []
    listed = (item for item in place.iterdir() if not item.name.startswith(_UNFINISHED))
    return [
        SimpleNamespace(path=item.relative_to(folder).as_posix(), is_dir=item.is_dir())
        for item in sorted(listed, key=os.fspath)
    ]
