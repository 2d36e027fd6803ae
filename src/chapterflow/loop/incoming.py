"""New versions of the data: brought from DVC or their source, and validated before they count."""

from __future__ import annotations

import json
import shutil
from typing import Any, Literal

from filelock import FileLock

from chapterflow.config.settings import Settings
from chapterflow.data.build import (
    ensure_dataset,
    record_version,
    source_state,
)
from chapterflow.data.versioning import can_version, data_version, is_current, pull
from chapterflow.environment import Project, project_lock
from chapterflow.errors import ChapterflowError, DataError, ValidationFailed
from chapterflow.files import publish, staged
from chapterflow.kinds.dataset import CARD, read_card
from chapterflow.loop import steps
from chapterflow.loop.own_data import build_and_check
from chapterflow.types import Strict, Tell, silent

#: What the last checks on this machine saw.
MEMORY = "data-check.json"


class Look(Strict):
    """What a check says of one dataset.

    Attributes:
        state: `new` if its content has changed since the last run of a model, or in this check;
            `bad` if it, or what its source has now, must not be trained on; `unreachable` if its
            source does not answer.
        digest: Digest of its card; None if there is none.
        reason: What is bad.
        exit_code: Of the error, if there is one.
    """

    dataset: str
    state: Literal["unchanged", "new", "bad", "unreachable"]
    digest: str | None = None
    reason: str = ""
    exit_code: int = 0


class Memory:
    """What the last checks on this machine saw; to lose it costs a second look."""

    def __init__(self, project: Project) -> None:
        self._path = project.scratch / MEMORY
        self._lock = project.scratch / "locks" / f"{MEMORY}.lock"

    def get(self, key: str) -> Any:
        """Return what is remembered, or None."""
        return self._read().get(key)

    def set(self, key: str, value: Any) -> None:
        """Remember a JSON value."""
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._lock):
            kept = self._read() | {key: value}
            with staged(self._path) as new:
                new.write_text(json.dumps(kept, indent=2), encoding="utf-8")

    def _read(self) -> dict[str, Any]:
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return kept if isinstance(kept, dict) else {}


def bring_version(project: Project, *, tell: Tell = silent) -> str:
    """Bring the version of `data/` that `data.dvc` names, where it has changed since the last look.

    Returns:
        What was done, in a few words.

    Raises:
        DataError: If `data.dvc` names another version than before, and DVC cannot bring it.
    """
    version = data_version(project)
    if version is None or not can_version(project):
        return "no version of data/ on record"
    memory = Memory(project)
    known = memory.get("version")
    if known == version and project.data.is_dir():
        return f"version {version}, as before"
    tell("data", f"version {version}")
    with project_lock(project, "bring-data", lambda: tell("waiting", "another process fetches")):
        here = is_current(project)
        if not here and not pull(project):
            if known is None or not project.data.is_dir():
                # A clone without a remote: the sources bring the data.
                return f"version {version} cannot be brought; its sources are used"
            raise DataError(
                f"data.dvc names another version of data/ than before, and DVC cannot bring it. "
                f"Received: {version}, before {known}. `dvc pull` says why"
            )
    memory.set("version", version)
    return f"version {version}{', here already' if here else ', brought'}"


def look(project: Project, settings: Settings, name: str, *, tell: Tell = silent) -> Look:
    """Bring a dataset onto this machine, take over what has changed in its source, and validate it.

    Data from a changed source are built and validated next to `data/`; they replace the dataset
    only if they are good. Nothing is raised for bad data.
    """
    before = _digest(project, name)
    try:
        prepared = steps.prepare(project, settings, name, tell=tell)
        steps.validate(project, settings, prepared, tell=tell)
        _take_over(project, settings, name, tell)
    except (DataError, ValidationFailed) as error:
        return _failed(name, "bad", _digest(project, name), error)
    except ChapterflowError as error:
        return _failed(name, "unreachable", _digest(project, name), error)
    digest = _digest(project, name)
    changed = before is not None and digest != before
    return Look(dataset=name, state="new" if changed else "unchanged", digest=digest)


def _failed(
    name: str, state: Literal["bad", "unreachable"], digest: str | None, error: ChapterflowError
) -> Look:
    return Look(
        dataset=name, state=state, digest=digest, reason=str(error), exit_code=error.exit_code
    )


def _digest(project: Project, name: str) -> str | None:
    folder = project.data / name
    return read_card(folder).digest if (folder / CARD).is_file() else None


def _take_over(project: Project, settings: Settings, name: str, tell: Tell) -> None:
    """Replace a dataset by what its source has now, if that is different and good.

    Raises:
        DataError: If the source is damaged.
        ValidationFailed: If it breaks an expectation.
    """
    state = source_state(settings.datasets[name])
    if state is None:
        return
    memory, key = Memory(project), f"source of {name}"
    if memory.get(key) == state:
        return
    tell("data", f"{name}: reading its source")
    trial = Project(project.scratch / "incoming" / name)
    with project_lock(project, f"incoming-{name}", lambda: tell("waiting", "another check")):
        shutil.rmtree(trial.root, ignore_errors=True)
        try:
            card, _ = ensure_dataset(
                trial,
                name,
                settings.datasets[name],
                on_progress=lambda file, *_: tell("fetch", file),
            )
            if card.digest != _digest(project, name):
                build_and_check(project, trial, settings, name, (), tell)
                with FileLock(project.scratch / "locks" / f"data-{name}.lock"):
                    publish(trial.data / name, project.data / name)
                if can_version(project) and data_version(project) is not None:
                    tell("data", "versioning data/ with DVC")
                    memory.set("version", record_version(project))
        finally:
            shutil.rmtree(trial.root, ignore_errors=True)
    memory.set(key, state)
