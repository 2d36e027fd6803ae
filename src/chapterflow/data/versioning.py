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


def pull(project: Project) -> bool:
    """Fetch the version of `data/` that `data.dvc` names; return whether DVC could.

    It needs a remote that has the version, and no changes in `data/` that are not recorded.
    """
    if not can_version(project) or data_version(project) is None:
        return False
    command = [sys.executable, "-m", "dvc", "pull", "-q", str(project.data_dvc)]
    return (
        subprocess.run(command, cwd=project.root, capture_output=True, check=False).returncode == 0
    )


def can_version(project: Project) -> bool:
    """Return whether this project is a DVC repository (a git checkout with a `.dvc` folder)."""
    return (project.root / ".dvc").is_dir() and (project.root / ".git").exists()
