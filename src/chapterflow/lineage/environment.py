"""The environment that a run was trained in, beside today's."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from chapterflow.data.card import sha256_file
from chapterflow.environment import Project, machine
from chapterflow.models.parts.base import Strict
from chapterflow.tracking import runs
from chapterflow.tracking.fingerprint import PACKAGE, content_hash

NOT_RECORDED = "not recorded"


class Fact(Strict):
    """One fact, then and now.

    Attributes:
        recorded: As the run has it.
        today: As it is now.
        same: Whether both are known and equal.
        decides: Whether the weights depend on it. Of the commit they do not: the source files that
            training executes are compared one by one.
    """

    name: str
    recorded: str
    today: str
    same: bool
    decides: bool = True

    @property
    def known(self) -> bool:
        """Whether the run recorded it."""
        return self.recorded != NOT_RECORDED

    def told(self) -> str:
        """Return the change in a few words, `keras 3.15.0 -> 3.15.1`."""
        return f"{self.name} {self.recorded} -> {self.today}"


def facts(project: Project, tags: Mapping[str, str], parts: Mapping[str, Any]) -> list[Fact]:
    """Return the facts of a run beside those of today.

    Args:
        project: The project.
        tags: Tags of the run.
        parts: Its `fingerprint.json`.
    """
    found = [
        _fact("machine", tags.get(runs.MACHINE), machine()),
        _fact("Python", tags.get(runs.PYTHON), platform.python_version()),
    ]
    found += [_fact(name, then, _installed(name)) for name, then in parts["libraries"].items()]
    found.append(_commit(project, tags))
    found.append(_files("source files", parts["sources"], _sources_today(parts["sources"])))
    if named := parts.get("files"):
        today = {path: content_hash(Path(path)) for path in named}
        found.append(_files("files of weights", named, today))
    return found


def changed_sources(parts: Mapping[str, Any]) -> list[str]:
    """Return the source files that training executed and that are others now, or gone."""
    today = _sources_today(parts["sources"])
    return [path for path, key in parts["sources"].items() if today[path] != key]


def _fact(name: str, recorded: str | None, today: str) -> Fact:
    return Fact(
        name=name,
        recorded=recorded or NOT_RECORDED,
        today=today,
        same=recorded is not None and recorded == today,
    )


def _installed(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"


def _commit(project: Project, tags: Mapping[str, str]) -> Fact:
    def clean(found: Mapping[str, str]) -> bool:
        return found.get(runs.DIRTY) == "false"

    def told(found: Mapping[str, str]) -> str | None:
        if runs.COMMIT not in found:
            return None
        return found[runs.COMMIT][:10] + ("" if clean(found) else " with changes")

    now = runs.git_tags(project)
    fact = _fact("commit", told(tags), told(now) or "none")
    same = fact.same and clean(tags) and clean(now)
    if fact.same and not same:
        # Changes that were never committed may have been any.
        fact = fact.model_copy(update={"today": f"{fact.today}, maybe others"})
    return fact.model_copy(update={"decides": False, "same": same})


def _sources_today(sources: Mapping[str, str]) -> dict[str, str | None]:
    root = PACKAGE.parent.parent
    return {path: sha256_file(root / path) if (root / path).is_file() else None for path in sources}


def _files(name: str, then: Mapping[str, str], now: Mapping[str, str | None]) -> Fact:
    other = [path for path, key in then.items() if now[path] != key]
    shown = ", ".join(other[:3]) + (f" and {len(other) - 3} more" if len(other) > 3 else "")
    today = f"{len(other)} differ: {shown}" if other else f"{len(then)}"
    return Fact(name=name, recorded=f"{len(then)}", today=today, same=not other)
