"""Artifact paths of a project that was moved or copied: noticed, and rewritten."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from chapterflow.environment import Project
from chapterflow.tracking.sqlite import (
    Note,
    connect,
    database,
    keep,
    lock,
    store_errors,
    wait_seconds,
)

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
    """Tell whether the local store's artifact paths stem from another folder than the project's."""
    path = database(project)
    if not path.exists():
        return None
    query = "SELECT artifact_location FROM experiments ORDER BY experiment_id"
    with store_errors(path), connect(path, wait_seconds(wait)) as db:
        locations = [str(location) for (location,) in db.execute(query)]
    root = project.root.resolve()
    for location in locations:
        # Only this layout is ours: a path that somebody chose on purpose stays as it is.
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
    """Do what `relocate` does, for a caller that holds the lock, and tell of it."""
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
    """Map each way in which MLflow may have written the old folder to the same for the new one."""
    old, new = moved.old / "mlruns", moved.new / "mlruns"
    return {
        f"{old}/": f"{new}/",
        f"{old.as_uri()}/": f"{new.as_uri()}/",
        f"file://{old}/": f"file://{new}/",
    }


def _local_path(location: str) -> str:
    return unquote(urlsplit(location).path) if location.startswith("file:") else location
