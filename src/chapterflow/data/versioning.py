"""DVC: `data.dvc` names the version of `data/`."""

import subprocess
import sys

import yaml
from filelock import FileLock

from chapterflow.environment import Project
from chapterflow.errors import ChapterflowError


def data_version(project: Project) -> str | None:
    """Return the content hash that `data.dvc` records, or None if there is no record."""
    try:
        record = yaml.safe_load(project.data_dvc.read_text(encoding="utf-8"))
        return str(record["outs"][0]["md5"])
    except (OSError, yaml.YAMLError, KeyError, IndexError, TypeError):
        return None


def can_version(project: Project) -> bool:
    """Return whether this project is a DVC repository (a git checkout with a `.dvc` folder)."""
    return (project.root / ".dvc").is_dir() and (project.root / ".git").exists()


def record_version(project: Project) -> str:
    """Put `data/` under DVC (`dvc add data`): its content into the cache, its hash into `data.dvc`.

    Returns:
        The new version.

    Raises:
        ChapterflowError: If DVC refuses, with its message.
    """
    locks = project.scratch / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / "dvc.lock"):
        done = subprocess.run(
            [sys.executable, "-m", "dvc", "add", "--quiet", "data"],
            cwd=project.root,
            capture_output=True,
            text=True,
            check=False,
        )
    version = data_version(project)
    if done.returncode != 0 or version is None:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ChapterflowError(
            f"DVC could not version data/: {said[-1] if said else f'exit {done.returncode}'}. "
            "Run `dvc add data` for details."
        )
    return version
