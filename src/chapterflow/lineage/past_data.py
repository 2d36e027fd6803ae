"""Earlier versions of the data: looked up in DVC's cache, brought into a temporary folder.

A DVC repository of its own in that folder names the version and reads the project's cache, so that
neither `data/` nor anything in `.dvc` of the project is written.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from chapterflow.environment import Project
from chapterflow.errors import ChapterflowError


def bring(project: Project, version: str, paths: Sequence[str], into: Path) -> Path:
    """Bring parts of a version of `data/` from DVC's cache, or else from its default remote.

    Args:
        project: The project.
        version: Hash of `data/`, as `data.dvc` records it.
        paths: Below `data/`: a dataset, or one of its files.
        into: An empty folder, which nobody else may read (a remote may need a password).

    Returns:
        The folder that stands for `data/`.

    Raises:
        ChapterflowError: If they cannot be had, with DVC's words.
    """
    if not (project.root / ".dvc").is_dir():
        raise ChapterflowError(
            "An earlier version of the data can be had from a DVC repository alone. "
            f"Received: {project.root}, which has no .dvc"
        )
    dvc = into / ".dvc"
    dvc.mkdir(parents=True)
    record = {"outs": [{"md5": version, "hash": "md5", "path": "data"}]}
    (into / "data.dvc").write_text(yaml.safe_dump(record), encoding="utf-8")
    targets = [f"data/{path}" for path in paths]
    remotes = remotes_of(project)
    _configure(dvc, cache_dir(project))
    refused = _dvc(into, "checkout", *targets)
    if refused and remotes:
        # Into a cache of its own: what a look back fetches is none of the project's business.
        _configure(dvc, into / "cache", remotes)
        refused = _dvc(into, "pull", "--force", *targets)
    if refused:
        where = "neither in DVC's cache nor in its remote" if remotes else "not in DVC's cache"
        raise ChapterflowError(
            f"Version {version} of {', '.join(targets)} is needed, whole. "
            f"Received: {where} ({refused})"
        )
    return into / "data"


def cache_dir(project: Project) -> Path:
    """Return the folder of the project's DVC cache."""
    named = _config(project)["cache"].get("dir")
    return Path(named) if named else project.root / ".dvc" / "cache"


def remotes_of(project: Project) -> dict[str, Any]:
    """Return DVC's settings of the project's remotes; none where there is no default one."""
    config = _config(project)
    default = config["core"].get("remote")
    return {"core": {"remote": default}, "remote": config["remote"]} if default else {}


def cached(project: Project, version: str, dataset: str) -> tuple[Path | None, list[str]]:
    """Return the card of a dataset as the cache has it, and what of the dataset it lacks.

    Args:
        project: The project.
        version: Hash of `data/`.
        dataset: Name of the dataset.

    Returns:
        The file of the card, None where it is not there; and paths below `data/`, or the version
        itself where its list of files is missing.
    """
    listed = _in_cache(project, version)
    try:
        entries = json.loads(listed.read_text(encoding="utf-8"))
        files = {entry["relpath"]: _in_cache(project, entry["md5"]) for entry in entries}
    except (OSError, ValueError, KeyError, TypeError):
        return None, [version]
    mine = {path: file for path, file in files.items() if path.startswith(f"{dataset}/")}
    card = mine.get(f"{dataset}/dataset.json")
    lacking = [path for path, file in mine.items() if not file.is_file()]
    if card is None:
        lacking.append(f"{dataset}/dataset.json")
    return (card if card and card.is_file() else None), lacking


def _in_cache(project: Project, md5: str) -> Path:
    return cache_dir(project) / "files" / "md5" / md5[:2] / md5[2:]


def _config(project: Project) -> dict[str, Any]:
    """Return DVC's settings in the project, paths made absolute."""
    from dvc.config import Config

    folder = project.root / ".dvc"
    found: dict[str, Any] = Config(str(folder) if folder.is_dir() else None).read()
    return found


def _configure(dvc: Path, cache: Path, more: dict[str, Any] | None = None) -> None:
    from dvc.config import Config

    with Config(str(dvc)).edit("local") as config:
        config["cache"] = {"dir": str(cache), "type": ["copy"]}
        config["core"] |= {"no_scm": True, "analytics": False, **(more or {}).get("core", {})}
        config["remote"] = (more or {}).get("remote", {})


def _dvc(root: Path, command: str, *words: str) -> str | None:
    """Run DVC and return None, or the last line that it says where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", command, "--quiet", *words],
        cwd=root,
        # Its index of what lies where is kept for all repositories of a user, by default.
        env=os.environ | {"DVC_SITE_CACHE_DIR": str(root / "site"), "DVC_NO_ANALYTICS": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    targets = [word for word in words if not word.startswith("-")]
    missing = [target for target in targets if not (root / target).exists()]
    if done.returncode == 0 and not missing:
        return None
    said = (done.stderr or done.stdout).strip().splitlines()
    return said[-1] if said else f"exit {done.returncode}"
