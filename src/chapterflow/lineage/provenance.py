"""The links from a run: fingerprint, data, validation and source code, each checked to hold.

A DVC repository of its own in that folder names the version and reads the project's cache, so that
neither `data/` nor anything in `.dvc` of the project is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from chapterflow.data.build import verify_dataset
from chapterflow.data.versioning import data_version
from chapterflow.environment import Project
from chapterflow.errors import ChapterflowError, DataError, StoreError
from chapterflow.files import sha256_file
from chapterflow.kinds.dataset import DatasetCard, read_card
from chapterflow.lineage.tree import Link, State
from chapterflow.tracking import runs
from chapterflow.tracking.fingerprint import fingerprint
from chapterflow.types import Tell
from chapterflow.validation.verdict import Verdict

if TYPE_CHECKING:
    from mlflow.entities import Run


def read_json(run_id: str, path: str) -> dict[str, Any]:
    """Return a JSON document among a run's artifacts.

    Raises:
        StoreError: If it is not there, or no JSON object.
    """
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    try:
        found = mlflow.artifacts.load_dict(f"runs:/{run_id}/{path}")
    except (MlflowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StoreError(f"{path} of run {run_id} must be there. Received: {reason}") from None
    if not isinstance(found, dict):
        raise StoreError(
            f"{path} of run {run_id} must be a JSON object. Received: {type(found).__name__}"
        )
    return found


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


def evidence(project: Project, run: Run, tell: Tell) -> list[Link]:
    """Return the links from a run."""
    run_id, tags = run.info.run_id, run.data.tags
    tell("why", "fingerprint")
    recorded, parts = _fingerprint(run)
    links = [recorded, _environment(tags, parts)]
    tell("why", "data")
    digests = {tags.get(runs.DATASET, ""): tags.get(runs.DIGEST, "")}
    digests |= parts.get("other_datasets", {})
    for dataset, digest in digests.items():
        below = [_data_version(project, tags.get(runs.DATA_VERSION, "none"), dataset, digest)]
        if dataset == tags.get(runs.DATASET):
            card = _card(run_id, digest, parts)
            links.append(card.model_copy(update={"below": [*below, _validation(run)]}))
        else:
            told = f"{dataset}, digest {digest[:12]}, read beside it"
            links.append(Link(name="dataset", told=told, below=below))
    tell("why", "source code")
    links.append(_commit(project, tags, parts))
    return links


def _fingerprint(run: Run) -> tuple[Link, dict[str, Any]]:
    name, key = "fingerprint", run.data.tags.get(runs.FINGERPRINT, "")
    try:
        parts = read_json(run.info.run_id, "fingerprint.json")
    except StoreError as error:
        return Link(name=name, told=str(error), state="broken"), {}
    if (received := fingerprint(parts)) != key:
        told = f"fingerprint.json hashes to {received[:12]}, the run's tag is {key[:12]}"
        return Link(name=name, told=told, state="broken"), parts
    logged, params = run.data.params, parts.get("params", {})
    other = [name for name, value in params.items() if logged.get(name) != str(value)]
    if other:
        told = f"logged parameters are others than those of the fingerprint: {', '.join(other)}"
        return Link(name=name, told=told, state="broken"), parts
    told = f"{key[:12]}, {len(params)} parameters, seed {parts.get('seed')}"
    return Link(name=name, told=told), parts


def _environment(tags: Mapping[str, str], parts: Mapping[str, Any]) -> Link:
    libraries = parts.get("libraries", {})
    shown = [f"{name} {libraries[name]}" for name in ("tensorflow", "keras") if name in libraries]
    python, machine = tags.get(runs.PYTHON), tags.get(runs.MACHINE)
    told = ", ".join([f"Python {python}" if python else "Python not recorded", *shown])
    told += f"; {machine or 'machine not recorded'}"
    known = bool(python and machine and libraries)
    return Link(name="environment", told=told, state="ok" if known else "warning")


def _card(run_id: str, digest: str, parts: Mapping[str, Any]) -> Link:
    """Check that the run's copy of the card is that of the data which it says that it learnt."""
    try:
        card = DatasetCard.model_validate(read_json(run_id, "dataset.json"))
    except StoreError as error:
        return Link(name="dataset", told=str(error), state="broken")
    except ValidationError as error:
        told = f"dataset.json is no dataset card: {error.errors()[0]['msg']}"
        return Link(name="dataset", told=told, state="broken")
    told = f"{card.name}, digest {digest[:12]}"
    said = {
        "the card's": card.digest,
        "the fingerprint's": parts.get("dataset", {}).get("digest", digest),
    }
    wrong = [f"{whose} is {other[:12]}" for whose, other in said.items() if other != digest]
    if wrong:
        return Link(name="dataset", told=f"{told}; but {' and '.join(wrong)}", state="broken")
    counts = ", ".join(f"{count} {split}" for split, count in card.counts.items())
    return Link(name="dataset", told=f"{told}: {counts}")


def _data_version(project: Project, version: str, dataset: str, digest: str) -> Link:
    """Check that a version is on record, and that the dataset of this digest can be had from it."""
    name = "data version"
    if version == "none":
        told = "not under DVC when it was trained"
        here = _here(project, dataset, digest)
        told += f"; data/{dataset} here is the same" if here else f"; data/{dataset} is not here"
        return Link(name=name, told=told, state="warning" if here else "broken")
    state: State = "ok"
    if commits := commits_of_data(project, version):
        told = f"{version}, in commit {commits[0]}"
    elif data_version(project) == version:
        told, state = f"{version}, in data.dvc, which is in no commit yet", "warning"
    else:
        told = f"{version}, which neither data.dvc nor a commit of it names"
        return Link(name=name, told=told, state="broken")
    card, lacking = cached(project, version, dataset)
    if lacking:
        reserve = _elsewhere(project, version, dataset, digest)
        told += f"; not whole in DVC's cache ({lacking[0]}"
        told += f" and {len(lacking) - 1} more)" if len(lacking) > 1 else ")"
        if reserve is None:
            return Link(name=name, told=f"{told}, nor anywhere else", state="broken")
        return Link(name=name, told=f"{told}, but {reserve}", state="warning")
    if card is not None and (other := sha256_file(card)) != digest:
        told += f"; it holds another {dataset}, of digest {other[:12]}"
        return Link(name=name, told=told, state="broken")
    return Link(name=name, told=f"{told}; in DVC's cache", state=state)


def _here(project: Project, dataset: str, digest: str) -> bool:
    """Tell whether the dataset in `data/` is that of a digest, byte for byte."""
    folder = project.data / dataset
    try:
        return read_card(folder).digest == digest and not verify_dataset(folder)
    except (DataError, OSError):
        return False


def _elsewhere(project: Project, version: str, dataset: str, digest: str) -> str | None:
    """Return where a dataset is that the cache has not whole."""
    if _here(project, dataset, digest):
        return f"data/{dataset} here is the same"
    if not remotes_of(project):
        return None
    path = f"{dataset}/dataset.json"
    with tempfile.TemporaryDirectory() as folder:
        try:
            card = bring(project, version, [path], Path(folder)) / path
        except ChapterflowError:
            return None
        return "its card came from DVC's remote" if sha256_file(card) == digest else None


def _validation(run: Run) -> Link:
    name, tags = "validation", run.data.tags
    try:
        verdict = Verdict.model_validate(read_json(run.info.run_id, "validation/verdict.json"))
    except StoreError as error:
        return Link(name=name, told=str(error), state="broken")
    except ValidationError as error:
        told = f"verdict.json is no verdict: {error.errors()[0]['msg']}"
        return Link(name=name, told=told, state="broken")
    count = len(verdict.results)
    told = f"{count - len(verdict.failures)} of {count} expectations of {verdict.dataset} hold"
    if verdict.dataset_digest != tags.get(runs.DIGEST):
        told += f", but of data with another digest, {verdict.dataset_digest[:12]}"
        return Link(name=name, told=told, state="broken")
    return Link(name=name, told=told, state="ok" if verdict.success else "broken")


def _commit(project: Project, tags: Mapping[str, str], parts: Mapping[str, Any]) -> Link:
    name, commit = "source commit", tags.get(runs.COMMIT)
    if commit is None:
        told = "none on record: it was not trained in a git checkout"
        return Link(name=name, told=told, state="broken")
    described = commit_told(project, commit)
    if described is None:
        return Link(name=name, told=f"{commit} is not in this repository", state="broken")
    clean = tags.get(runs.DIRTY) == "false"
    below = [_sources(project, commit, parts.get("sources", {}), clean=clean)]
    if not clean:
        described += "; with uncommitted changes"
    return Link(name=name, told=described, state="ok" if clean else "warning", below=below)


def _sources(project: Project, commit: str, sources: Mapping[str, str], *, clean: bool) -> Link:
    """Compare the files that training executed with those of the commit."""
    name = "source files"
    if not sources:
        return Link(name=name, told="none on record", state="broken")
    there = hashes_at(project, commit, list(sources))
    other = [path for path, key in sources.items() if there[path] != key]
    if not other:
        return Link(name=name, told=f"{len(sources)}, all as in the commit")
    told = f"{len(other)} of {len(sources)} are not as in the commit: {', '.join(other[:5])}"
    if len(other) > 5:
        told += f" and {len(other) - 5} more"
    # Of a checkout that was clean, they must be the same; of another, that is what changed.
    return Link(name=name, told=told, state="broken" if clean else "warning")
