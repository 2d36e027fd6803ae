"""Retention: which runs, versions and work files are no longer needed, and their removal.

Kept whatever their age: versions that have an alias or were champions once, what these come from
and are judged by, open runs, and the newest runs of each model.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout

from chapterflow.config.load import load_settings
from chapterflow.environment import Project
from chapterflow.errors import ConfigError
from chapterflow.files import remove_sealed
from chapterflow.registry import ledger
from chapterflow.tracking import runs
from chapterflow.tracking.session import Session
from chapterflow.tracking.store import Note, is_local
from chapterflow.tracking.versions import (
    VERDICT_RUN,
    all_versions,
    check_registered,
    registered_models,
)
from chapterflow.types import Tell, silent

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_log = logging.getLogger(__name__)
#: What is younger may still be in use; Prefect keeps its history for more than an hour.
YOUNGEST = timedelta(hours=2)
_AGE = re.compile(r"(\d{1,5})([dh])")
#: Folders of the scratch folder with one entry for each piece of work, and what the names of their
#: locks begin with.
WORK = {"work": "run", "predict": "predict", "validation": "validation", "sweeps": "sweep"}
LOCKS = "locks"
#: Folders of the scratch folder with caches that are made again where they are missing; the time of
#: each is that of its last use. Features are bounded by their size.
CACHES = ("backbones", "hub")
#: Tags that are equal within a group of runs, of which the newest stay.
GROUP = (runs.RUN_TYPE, runs.MODEL, runs.PROFILE, runs.DATASET)


def age(text: str) -> timedelta:
    """Return the duration that a text such as `30d` or `12h` means.

    Raises:
        ConfigError: If the text is something else.
    """
    if match := _AGE.fullmatch(text.strip()):
        number = int(match[1])
        duration = timedelta(days=number) if match[2] == "d" else timedelta(hours=number)
        if duration >= YOUNGEST:
            return duration
    raise ConfigError(
        "--older takes a number of days or hours, such as 30d or 12h, and at least 2h. "
        f"Received: {text!r}"
    )


@dataclass
class Unneeded:
    """What is old and not needed.

    Attributes:
        runs: Runs by type: `model`, `seed`, `seeds`, `sweep`, `trial`, `flow`, `batch`,
            `reproduction` and `ledger`.
        versions: Name and number of the versions that the runs registered.
        models: Ids of the logged models of the runs, with the addresses of their files.
        deleted: Runs that were deleted earlier and still take space in the project's own store.
        deleted_models: The same for logged models.
        work: Entries of the scratch folder: interrupted work, caches, locks.
    """

    runs: dict[str, list[Run]] = field(default_factory=lambda: defaultdict(list))
    versions: list[tuple[str, str]] = field(default_factory=list)
    models: dict[str, str] = field(default_factory=dict)
    deleted: list[Run] = field(default_factory=list)
    deleted_models: dict[str, str] = field(default_factory=dict)
    work: list[Path] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Return how many there are of each, by their name for people; without zeros."""
        counts = {
            **{f"{kind} runs": len(self.runs[kind]) for kind in sorted(self.runs)},
            "registered versions": len(self.versions),
            "logged models": len(self.models),
            "runs deleted earlier": len(self.deleted),
            "logged models deleted earlier": len(self.deleted_models),
            "work folders, caches and locks": len(self.work),
        }
        return {name: count for name, count in counts.items() if count}

    def bytes(self) -> int:
        """Return what they take on this machine's disk; artifacts on a server do not count."""
        listed = [*self.deleted, *(run for members in self.runs.values() for run in members)]
        addresses = [
            *(run.info.artifact_uri for run in listed),
            *self.models.values(),
            *self.deleted_models.values(),
        ]
        places = [place for address in addresses if (place := _local(address))]
        return sum(_size(path) for path in (*places, *self.work))


def _local(address: str) -> Path | None:
    parts = urlsplit(address)
    return Path(unquote(parts.path)) if parts.scheme in ("", "file") else None


def _size(path: Path) -> int:
    total = 0
    for file in (path, *path.rglob("*")):
        with suppress(OSError):  # removed meanwhile
            total += file.lstat().st_size if not file.is_dir() else 0
    return total


@contextmanager
def _opened(
    project: Project, on_note: Note, *, reading: bool = False
) -> Iterator[tuple[MlflowClient, list[str]]]:
    """Open the store; yields its client and the ids of the project's experiments."""
    settings = load_settings(project.params, models=False)
    with Session(project, settings, reading=reading) as session:
        book = ledger.Ledger(project, session.client, settings.tracking.experiment, on_note)
        yield session.client, [session.experiment_id, book.experiment_id]


def find_unneeded(
    project: Project, *, older: timedelta, keep: int, on_note: Note = _log.warning
) -> Unneeded:
    """Return what is not needed and older than a duration; removes nothing.

    Args:
        project: The project.
        older: Age from which on a run or work folder is not needed.
        keep: Newest finished runs to keep of each type, for each model, profile and dataset.
        on_note: Receives a sentence for each thing that had to be done to open the store.
    """
    limit = datetime.now(UTC) - older
    with _opened(project, on_note, reading=True) as (client, experiments):
        active = runs.search_all(client, experiments, order="DESC")
        needed = _needed(client, active, keep)
        unneeded = Unneeded()
        for run in active:
            if run.info.run_id not in needed and _is_older(run, limit):
                unneeded.runs[run.data.tags.get(runs.RUN_TYPE, "other")].append(run)
        going = {run.info.run_id for members in unneeded.runs.values() for run in members}
        for version in all_versions(client):
            if version.run_id in going:
                unneeded.versions.append((str(version.name), str(version.version)))
        for run in unneeded.runs.get("model", ()):
            for model in runs.models_of(client, run):
                unneeded.models[str(model.model_id)] = str(model.artifact_location)
        if is_local(project):
            deleted = runs.search_all(client, experiments, order="DESC", deleted=True)
            unneeded.deleted = [run for run in deleted if _is_older(run, limit)]
            unneeded.deleted_models = client.deleted_models(limit.timestamp())
        busy = any(run.info.status == "RUNNING" for run in active)
        unneeded.work = [] if busy else list(_old_work(project, limit))
    return unneeded


def _is_older(run: Run, limit: datetime) -> bool:
    return bool(run.info.start_time < limit.timestamp() * 1000)


def _with_alias(client: MlflowClient) -> set[tuple[str, str]]:
    """Return name and number of each version that has an alias."""
    # Search results carry no aliases in MLflow 3.
    return {
        (name, number)
        for name in registered_models()
        for number in check_registered(client, name).values()
    }


def _needed(client: MlflowClient, active: Sequence[Run], keep: int) -> set[str]:
    """Return the ids of runs that stay whatever their age.

    Args:
        client: MLflow client.
        active: All runs that are not deleted, newest first.
        keep: Newest finished runs of a group that stay.
    """
    needed = {run.info.run_id for run in active if run.info.status in ("RUNNING", "SCHEDULED")}
    kept_versions = _with_alias(client)
    group_sizes: Counter[tuple[str, ...]] = Counter()
    for run in active:
        tags = run.data.tags
        if tags.get(runs.RUN_TYPE) == ledger.KIND:
            # A rollback can go back to each champion that there was.
            if tags[ledger.ACTION] != "refused":
                needed.add(run.info.run_id)
                name, _, number = tags[ledger.AFTER].rpartition("/")
                kept_versions.add((name, number))
        elif run.info.status == "FINISHED" and tags.get(runs.RUN_TYPE) not in runs.PARTS:
            predicts = tags.get(runs.MODEL_URI, "").removeprefix("models:/").partition("/")[0]
            group = (*(tags.get(name, "") for name in GROUP), predicts)
            group_sizes[group] += 1
            if group_sizes[group] <= keep:
                needed.add(run.info.run_id)
    for version in all_versions(client):
        if (str(version.name), str(version.version)) in kept_versions:
            needed.add(str(version.run_id))
        if version.run_id in needed and VERDICT_RUN in version.tags:
            needed.add(version.tags[VERDICT_RUN])
    needed |= {run.info.run_id for run in active if run.data.tags.get(runs.REPRODUCES) in needed}
    # Seeds and trials stay with the run that they are nested in.
    needed |= {
        run.info.run_id
        for run in active
        if run.data.tags.get(runs.RUN_TYPE) in runs.PARTS
        and run.data.tags.get(runs.PARENT) in needed
    }
    # A run of a flow stays with the runs in it.
    needed |= {
        run.data.tags[runs.PARENT]
        for run in active
        if run.info.run_id in needed and runs.PARENT in run.data.tags
    }
    return needed


def _old_work(project: Project, limit: datetime) -> Iterator[Path]:
    paths = [
        *(path for folder in (*WORK, LOCKS) for path in (project.scratch / folder).glob("*")),
        *(
            seal.with_suffix("")
            for name in CACHES
            for seal in (project.scratch / name).glob("*.sha256")
        ),
    ]
    for path in paths:
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < limit.timestamp():
                yield path


def remove(
    project: Project, unneeded: Unneeded, *, on_note: Note = _log.warning, tell: Tell = silent
) -> None:
    """Remove what `find_unneeded` returned. Killed and repeated, it removes the rest.

    From the project's own store, rows and files go for good. On a server or in a shared database,
    runs and models go to MLflow's trash, which its administrator empties with `mlflow gc`.

    Args:
        project: The project.
        unneeded: What to remove; versions that have received an alias since stay with their runs.
        on_note: Receives a sentence for each thing that had to be done to open the store.
        tell: Receives what is being removed.
    """
    with _opened(project, on_note) as (client, _):
        now_needed = _with_alias(client)
        for name, number in unneeded.versions:
            if (name, number) not in now_needed:
                tell("gc", f"{name}/{number}")
                client.delete_model_version(name, number)
        for run in (run for members in unneeded.runs.values() for run in members):
            tags = run.data.tags
            if (tags.get(runs.MODEL), tags.get(runs.MODEL_VERSION)) in now_needed:
                continue
            tell("gc", f"run {run.info.run_id[:8]}")
            for model in runs.models_of(client, run):
                client.delete_logged_model(model.model_id)
                unneeded.deleted_models[str(model.model_id)] = str(model.artifact_location)
            client.delete_run(run.info.run_id)
            unneeded.deleted.append(run)
        if is_local(project):
            _erase(client, unneeded)
    for path in unneeded.work:
        _remove_work(project, path)


def _store(client: MlflowClient) -> Any:
    """Return MLflow's interface to the tables of the project's own store."""
    return client._tracking_client.store


def _erase(client: MlflowClient, unneeded: Unneeded) -> None:
    """Delete rows and files of deleted runs and models.

    `mlflow gc` does the same, but also deletes experiments that are in the trash.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    store = _store(client)
    for model_id, address in unneeded.deleted_models.items():
        get_artifact_repository(address).delete_artifacts()
        store._hard_delete_logged_model(model_id)
    for run in unneeded.deleted:
        get_artifact_repository(run.info.artifact_uri).delete_artifacts()
        store._hard_delete_run(run.info.run_id)


def _remove_work(project: Project, path: Path) -> None:
    """Remove an entry of the scratch folder, unless a process works on it."""
    folder, is_cache = path.parent.name, path.parent.name in CACHES
    if folder == LOCKS:
        lock = path
    elif is_cache:
        lock = path.with_name(f"{path.name}.lock")
    else:
        lock = project.scratch / LOCKS / f"{WORK[folder]}-{path.name}.lock"
    # A process that waits for a lock file notices that it was removed, and makes a new one.
    with suppress(Timeout, FileNotFoundError), FileLock(lock, timeout=0):
        if is_cache:
            remove_sealed(path)
            shutil.rmtree(path.with_name(f"{path.name}.part"), ignore_errors=True)
            lock.unlink()
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
