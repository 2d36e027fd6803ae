"""The tracking store: where it is, made ready for use, and its experiments."""

import hashlib
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from chapterflow.environment import Project
from chapterflow.errors import StoreError, StoreUnavailable
from chapterflow.tracking.relocation import move, relocation
from chapterflow.tracking.schema import Schema, create, schema, upgrade
from chapterflow.tracking.sqlite import (
    Note,
    check_writable,
    database,
    lock,
    quiet,
    store_errors,
    wait_seconds,
    without_password,
)

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


def open_store(project: Project, *, on_note: Note = _log.warning, wait: float | None = None) -> str:
    """Make the tracking store ready, point MLflow at it and return its URI.

    The local store is created, upgraded or relocated where that is needed: once, however many
    processes ask. A ready store costs a few milliseconds beyond `import mlflow`.

    Args:
        on_note: Receives one line for each thing that was done to an existing store.
        wait: Seconds to wait for a database that another process has locked.

    Raises:
        StoreUnavailable: If the store is locked or out of reach.
        StoreError: If it cannot be used as it is; it was not changed.
    """
    uri = tracking_uri(project)
    if is_local(project):
        _prepare(project, on_note, wait_seconds(wait))
    else:
        check_remote(uri)
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


def ensure_experiment(
    project: Project, name: str, description: str | None = None, *, on_note: Note = _log.warning
) -> str:
    """Return the id of an experiment, which is created or restored if need be.

    Call `open_store` first. In the local store its artifacts go to `mlruns/artifacts/<name>`.

    Raises:
        StoreUnavailable: If the store is locked.
        StoreError: If MLflow refuses the name.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri(project))
    place = database(project) if is_local(project) else tracking_uri(project)
    with store_errors(place), quiet():
        found = client.get_experiment_by_name(name)
        if found is None:
            folder = database(project).parent / "artifacts" / _folder_name(name)
            try:
                client.create_experiment(name, str(folder) if is_local(project) else None)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = client.get_experiment_by_name(name)
        if found is None:
            raise StoreError(
                f"The experiment {name!r} was deleted while it was created. Run again."
            )
        if found.lifecycle_stage == "deleted":
            try:
                client.restore_experiment(found.experiment_id)
                on_note(f"Restored the deleted experiment {name!r}.")
            except MlflowException:
                if client.get_experiment(found.experiment_id).lifecycle_stage == "deleted":
                    raise
        if description and found.tags.get("mlflow.note.content") != description:
            client.set_experiment_tag(found.experiment_id, "mlflow.note.content", description)
        return str(found.experiment_id)


def check_remote(uri: str) -> None:
    """Raise if a store outside the project cannot be one, or does not answer within seconds.

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
        import requests

        # MLflow itself would retry for minutes.
        try:
            requests.get(f"{uri.rstrip('/')}/health", timeout=5)
        except requests.exceptions.SSLError:
            pass  # It answers; MLflow has its own certificate settings.
        except requests.RequestException as error:
            raise StoreUnavailable(
                f"The tracking server {without_password(uri)} does not answer "
                f"({type(error).__name__}). Start it, or unset MLFLOW_TRACKING_URI to use the "
                "project's own store."
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
    """Return what has to be done before the local store can be used, in order."""
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
