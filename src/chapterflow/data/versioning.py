"""DVC: `data.dvc` names the version of `data/`."""

import subprocess
import sys

import yaml

from chapterflow.environment import Project


def data_version(project: Project) -> str | None:
    """Return the content hash that `data.dvc` records, or None if there is no record."""
    try:
        record = yaml.safe_load(project.data_dvc.read_text(encoding="utf-8"))
        return str(record["outs"][0]["md5"])
    # ValueError: bytes that are no UTF-8, or a number or date that is none.
    except (OSError, ValueError, yaml.YAMLError, KeyError, IndexError, TypeError):
        return None


#: As `dvc pull`, in one process, but the folder stays where the cache lacks part of the version in
#: the end: `dvc fetch` without a remote succeeds, and `dvc checkout` then deletes the folder.
_PULL = """
import contextlib, sys
from dvc.repo import Repo
repo = Repo()
with contextlib.suppress(Exception):
    repo.fetch([sys.argv[1]])
(out,) = repo.find_outs_by_path(sys.argv[2])
if out.changed_cache():
    sys.exit(1)
repo.checkout([sys.argv[1]])
"""


def pull(project: Project) -> bool:
    """Bring the version of `data/` that `data.dvc` names; return whether DVC could.

    It needs a cache or remote that has the version, and no changes in `data/` that are not
    recorded; otherwise nothing is changed.
    """
    if not can_version(project) or data_version(project) is None:
        return False
    return _call(project, [sys.executable, "-c", _PULL, str(project.data_dvc), str(project.data)])


def _call(project: Project, words: list[str]) -> bool:
    """Run a command in the project, and return whether it succeeded."""
    done = subprocess.run(words, cwd=project.root, capture_output=True, check=False)
    return done.returncode == 0


def is_current(project: Project) -> bool:
    """Return whether `data/` is the version that `data.dvc` names, byte for byte."""
    return _call(project, [sys.executable, "-m", "dvc", "status", "-q", str(project.data_dvc)])


def can_version(project: Project) -> bool:
    """Return whether this project is a DVC repository (a git checkout with a `.dvc` folder)."""
    return (project.root / ".dvc").is_dir() and (project.root / ".git").exists()
