"""What git knows of commits and of files at them."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence

from chapterflow.environment import Project


def _git(project: Project, *words: str, given: bytes | None = None) -> bytes | None:
    """Return what git says; None where it fails or is not there."""
    try:
        done = subprocess.run(
            ["git", *words], cwd=project.root, input=given, capture_output=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def commit_told(project: Project, commit: str) -> str | None:
    """Return a commit in a few words, `0cd908a of 2026-11-25: ...`; None where it is not there."""
    form = "--format=%h of %cs: %s"
    said = _git(project, "log", "-1", form, "--end-of-options", f"{commit}^{{commit}}")
    return said.decode(errors="replace").strip() if said else None


def commits_of_data(project: Project, version: str) -> list[str]:
    """Return the commits of any branch that brought or took a version of the data, oldest first."""
    said = _git(
        project, "log", "--all", "--reverse", "--format=%h", f"-S{version}", "--", "data.dvc"
    )
    return said.decode().split() if said else []


def hashes_at(project: Project, commit: str, paths: Sequence[str]) -> dict[str, str | None]:
    """Return the SHA-256 of files as a commit has them; None for those that it has not.

    Args:
        project: The project.
        commit: Full hash.
        paths: Relative to the project's folder.
    """
    wanted = "".join(f"{commit}:./{path}\n" for path in paths)
    said = _git(project, "cat-file", "--batch", given=wanted.encode()) or b""
    found: dict[str, str | None] = dict.fromkeys(paths)
    for path in paths:
        header, _, said = said.partition(b"\n")
        words = header.split()
        if len(words) == 3 and words[1] == b"blob":
            size = int(words[2])
            found[path] = hashlib.sha256(said[:size]).hexdigest()
            said = said[size + 1 :]
    return found
