"""Where a run comes from: fingerprint, data, validation and source code, each checked.

`why` and the gates of a promotion ask the same functions. An earlier version of the data is read
through a temporary DVC repository, so that neither `data/` nor `.dvc` of the project is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from chapterflow.checks import Check, State
from chapterflow.data.build import verify_dataset
from chapterflow.data.versioning import data_version as current_version
from chapterflow.environment import Project
from chapterflow.errors import ChapterflowError, DataError, StoreError
from chapterflow.files import sha256_file
from chapterflow.kinds.dataset import CARD, read_card
from chapterflow.tracking import runs
from chapterflow.tracking.artifacts import Artifacts
from chapterflow.tracking.fingerprint import fingerprint
from chapterflow.types import Tell

if TYPE_CHECKING:
    from mlflow.entities import Run


#: Folder of the verdicts that `dvc repro` writes and git tracks (`dvc.yaml`).
VERDICTS = "results/validation"
UNLISTED = "its list of files is not in DVC's cache"
#: What brings the list of files of a version of `data/` into DVC's cache.
FETCH_ALL = "`chapterflow data fetch` builds all datasets"


def _git(project: Project, *words: str, stdin: bytes | None = None) -> bytes | None:
    """Return the output of git; None if it fails or is not installed."""
    try:
        process = subprocess.run(
            ["git", *words], cwd=project.root, input=stdin, capture_output=True, check=False
        )
    except FileNotFoundError:
        return None
    return process.stdout if process.returncode == 0 else None


def describe_commit(project: Project, commit: str) -> str | None:
    """Return a commit in a few words, `0cd908a of 2026-11-25: ...`; None if unknown."""
    form = "--format=%h of %cs: %s"
    output = _git(project, "log", "-1", form, "--end-of-options", f"{commit}^{{commit}}")
    return output.decode(errors="replace").strip() if output else None


def commits_of_data(project: Project, version: str) -> list[str]:
    """Return the commits of any branch that added or removed a data version, oldest first."""
    output = _git(
        project, "log", "--all", "--reverse", "--format=%h", f"-S{version}", "--", "data.dvc"
    )
    return output.decode().split() if output else []


def hashes_at(project: Project, commit: str, paths: Sequence[str]) -> dict[str, str | None]:
    """Return the SHA-256 of files as a commit has them; None for missing files.

    Args:
        project: The project.
        commit: Full hash.
        paths: Relative to the project's folder.
    """
    contents = _contents(project, [f"{commit}:./{path}" for path in paths])
    return {
        path: None if content is None else hashlib.sha256(content).hexdigest()
        for path, content in zip(paths, contents, strict=True)
    }


def _contents(project: Project, objects: Sequence[str]) -> list[bytes | None]:
    """Return the contents of files in git, `COMMIT:./PATH`; None for missing files."""
    words = "".join(f"{name}\n" for name in objects)
    output = _git(project, "cat-file", "--batch", stdin=words.encode()) or b""
    contents: list[bytes | None] = []
    for _ in objects:
        header, _, output = output.partition(b"\n")
        fields = header.split()
        content = None
        if len(fields) == 3 and fields[1] == b"blob":
            size = int(fields[2])
            content, output = output[:size], output[size + 1 :]
        contents.append(content)
    return contents


def bring(project: Project, version: str, paths: Sequence[str], into: Path) -> Path:
    """Bring parts of a version of `data/` from DVC's cache, or else from its default remote.

    Args:
        project: The project.
        version: Hash of `data/`, as `data.dvc` records it.
        paths: Below `data/`: a dataset, or one of its files.
        into: An empty folder, which nobody else may read (a remote may need a password).

    Returns:
        The folder that corresponds to `data/`.

    Raises:
        ChapterflowError: If they cannot be brought, with DVC's message.
    """
    if not (project.root / ".dvc").is_dir():
        raise ChapterflowError(
            "Only a DVC repository has earlier versions of the data. "
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
        # Into a cache of its own: the project's cache is left as it is.
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
    """Return DVC's settings of the project's remotes; empty without a default remote."""
    config = _config(project)
    default = config["core"].get("remote")
    return {"core": {"remote": default}, "remote": config["remote"]} if default else {}


def cached(project: Project, version: str, dataset: str) -> tuple[Path | None, list[str]]:
    """Return the card of a dataset in the cache, and which of its files the cache lacks.

    Args:
        project: The project.
        version: Hash of `data/`.
        dataset: Name of the dataset.

    Returns:
        The file of the card, None if it is missing; and paths below `data/`, or the version itself
        if its list of files is missing.
    """
    files = _manifest(project, version)
    if files is None:
        return None, [version]
    mine = {path: file for path, file in files.items() if path.startswith(f"{dataset}/")}
    card = mine.get(f"{dataset}/dataset.json")
    lacking = [path for path, file in mine.items() if not file.is_file()]
    if card is None:
        lacking.append(f"{dataset}/dataset.json")
    return (card if card and card.is_file() else None), lacking


def _manifest(project: Project, version: str) -> dict[str, Path] | None:
    """Return where the cache keeps each file of a version of `data/`; None without the list."""
    # Once: DVC takes 10 ms to read its configuration, and a version may have thousands of files.
    folder = cache_dir(project) / "files" / "md5"

    def place(md5: str) -> Path:
        return folder / md5[:2] / md5[2:]

    try:
        entries = json.loads(place(version).read_text(encoding="utf-8"))
        return {entry["relpath"]: place(entry["md5"]) for entry in entries}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _config(project: Project) -> dict[str, Any]:
    """Return DVC's settings in the project, paths made absolute."""
    from dvc.config import Config

    folder = project.root / ".dvc"
    config: dict[str, Any] = Config(str(folder) if folder.is_dir() else None).read()
    return config


def _configure(dvc: Path, cache: Path, more: dict[str, Any] | None = None) -> None:
    from dvc.config import Config

    with Config(str(dvc)).edit("local") as config:
        config["cache"] = {"dir": str(cache), "type": ["copy"]}
        config["core"] |= {"no_scm": True, "analytics": False, **(more or {}).get("core", {})}
        config["remote"] = (more or {}).get("remote", {})


def _dvc(root: Path, command: str, *words: str) -> str | None:
    """Run DVC and return None, or the last line of its message if it fails."""
    process = subprocess.run(
        [sys.executable, "-m", "dvc", command, "--quiet", *words],
        cwd=root,
        # By default its index is shared by all repositories of a user.
        env=os.environ | {"DVC_SITE_CACHE_DIR": str(root / "site"), "DVC_NO_ANALYTICS": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    targets = [word for word in words if not word.startswith("-")]
    missing = [target for target in targets if not (root / target).exists()]
    if process.returncode == 0 and not missing:
        return None
    lines = (process.stderr or process.stdout).strip().splitlines()
    return lines[-1] if lines else f"exit {process.returncode}"


def provenance(project: Project, run: Run) -> dict[str, Check]:
    """Return what the gates ask of a run's origin, by question."""
    tags = run.data.tags
    try:
        parts = Artifacts(run.info.run_id).fingerprint()
    except StoreError:
        parts = {}
    checks = [
        validation(run),
        source_commit(project, tags, parts.get("sources", {})),
        data_version(project, tags, datasets_of(tags, parts)),
    ]
    return {check.name: check for check in checks}


def validation(run: Run) -> Check:
    """Return whether validation passed for the data that a run learnt."""
    name, digest = "validation", run.data.tags.get(runs.DIGEST, "")
    expected = digest[:12] or None
    try:
        verdict = Artifacts(run.info.run_id).verdict()
    except StoreError as error:
        return Check(name=name, state="failed", expected=expected, observed=str(error))
    observed = verdict.summary
    if verdict.dataset_digest != digest:
        observed += f", but of data with another digest, {verdict.dataset_digest[:12]}"
    good = verdict.success and verdict.results and digest and verdict.dataset_digest == digest
    return Check(
        name=name,
        state="passed" if good else "failed",
        expected=expected,
        observed=observed,
        reason=verdict.accepted if good else "",
        details={"value": verdict.dataset_digest[:12]},
    )


def datasets_of(tags: Mapping[str, str], parts: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests of the datasets that a run read, by name.

    Args:
        tags: Tags of the run.
        parts: Parts of its fingerprint.
    """
    own = {tags[runs.DATASET]: tags.get(runs.DIGEST, "")} if runs.DATASET in tags else {}
    return own | dict(parts.get("other_datasets", {}))


def has_sources(project: Project, commit: str, sources: Mapping[str, str]) -> bool:
    """Tell whether a commit has the source files of a run; False if none is in the repository.

    Files of other packages are in no commit and do not count.

    Args:
        project: The project.
        commit: Full hash.
        sources: SHA-256 by path.
    """
    committed = hashes_at(project, commit, list(sources))
    own = {
        path: key
        for path, key in sources.items()
        if committed[path] is not None or (project.root / path).exists()
    }
    return bool(own) and all(committed[path] == key for path, key in own.items())


def source_commit(
    project: Project, tags: Mapping[str, str], sources: Mapping[str, str] | None = None
) -> Check:
    """Return whether a commit of this repository has the sources that a run was trained with.

    Only the sources of its fingerprint count: parameters and data have records of their own.

    Args:
        project: The project.
        tags: Tags of the run.
        sources: SHA-256 of its sources by path; without any, uncommitted changes of any file count.
    """
    name, commit, dirty = "source commit", tags.get(runs.COMMIT), tags.get(runs.DIRTY)
    if commit is None:
        observed = "its run names no commit: it was not trained in a git checkout"
        return Check(name=name, state="failed", observed=observed)
    described = describe_commit(project, commit)
    details = {"value": commit[:12], "commit": commit}
    if described is None:
        observed = f"{commit} is not in this repository"
        return Check(name=name, state="failed", observed=observed, details=details)
    if dirty == "false":
        return Check(name=name, state="passed", observed=described, details=details)
    head = (_git(project, "rev-parse", "HEAD") or b"").decode().strip()
    for candidate in dict.fromkeys(filter(None, [commit, head])):
        if has_sources(project, candidate, sources or {}):
            observed = str(describe_commit(project, candidate))
            if candidate != commit:
                observed += f"; trained at {commit[:12]}, with the same sources uncommitted"
            details = {"value": candidate[:12], "commit": candidate}
            return Check(name=name, state="passed", observed=observed, details=details)
    changes = "with uncommitted changes" if dirty == "true" else "with or without changes"
    return Check(
        name=name,
        state="warning",
        observed=f"{described}; {changes}",
        reason="commit the changes, then run `chapterflow run` again",
        details=details,
    )


def data_version(
    project: Project, tags: Mapping[str, str], datasets: Mapping[str, str] | None = None
) -> Check:
    """Return whether a commit records the bytes of a run's datasets in a version of `data/`.

    A version covers all of `data/`, so the datasets are looked up in the lists of files of the
    committed versions: another dataset that was added since does not matter. A clone has the list
    of a version only if it has built or pulled all of it. Without the list, the verdicts that were
    committed with the version decide.

    Args:
        project: The project.
        tags: Tags of the run.
        datasets: Digests of its datasets by name.
    """
    name, version = "data version", tags.get(runs.DATA_VERSION, "none")
    details = {"value": version[:12], "version": version}
    committed = _committed_versions(project)
    fault = ""
    state: State = "failed"
    unlisted = [other for other in committed if _manifest(project, other) is None]
    for candidate in sorted(committed, key=lambda other: other != version):
        faults = [_lacks(project, candidate, *dataset) for dataset in (datasets or {}).items()]
        observed = f"{candidate}, in commit {committed[candidate]}"
        if candidate in unlisted and "" in faults:
            observed += f", as {VERDICTS} says: {UNLISTED}"
        if candidate == version and not faults:
            return Check(name=name, state="passed", observed=observed, details=details)
        if faults and not any(fault is None or fault for fault in faults):
            if candidate != version:
                observed += f"; {', '.join(datasets or {})} as trained with {version[:12]}"
            details = {"value": candidate[:12], "version": candidate}
            return Check(name=name, state="passed", observed=observed, details=details)
        if candidate == version:
            lacking = [lack for lack in faults if lack]
            if not lacking:
                state = "unknown"
                lacking = [UNLISTED if version in unlisted else "a card is not in DVC's cache"]
            fault = f"{observed}, but {'; '.join(lacking)}"
    if fault:
        needed = version in unlisted or state == "unknown"
        reason = f"{FETCH_ALL}; commit data.dvc if that changes it" if needed else ""
        return Check(name=name, state=state, observed=fault, reason=reason, details=details)
    if version == "none":
        observed = "its run names no version of data/: data/ was not under DVC"
        return Check(name=name, state="unknown", observed=observed)
    if current_version(project) == version:
        return Check(
            name=name,
            state="warning",
            observed=f"{version}, in data.dvc, which no commit has yet",
            # Datasets of the committed version may be missing here.
            reason=f"{FETCH_ALL}, then commit data.dvc" if unlisted else "commit data.dvc",
            details=details,
        )
    observed = f"{version}, which neither data.dvc nor a commit of it names"
    return Check(name=name, state="failed", observed=observed, details=details)


def _committed_versions(project: Project) -> dict[str, str]:
    """Return every version of `data/` that a commit of any branch records, newest first.

    Each has the first commit that records it.
    """
    listed = _git(project, "log", "--all", "--format=%h", "--", "data.dvc")
    versions: dict[str, str] = {}
    for commit in (listed or b"").decode().split():
        record = _git(project, "show", f"{commit}:./data.dvc") or b""
        if match := re.search(rb"md5: ([0-9a-f]{32}\.dir)", record):
            versions[match[1].decode()] = commit
    return versions


def _lacks(project: Project, version: str, dataset: str, digest: str) -> str | None:
    """Return what of a dataset a version of `data/` lacks; empty if nothing, None if unknown."""
    listed = _manifest(project, version)
    if listed is None:
        return _not_validated(project, version, dataset, digest)
    mine = {path: file for path, file in listed.items() if path.startswith(f"{dataset}/")}
    card = mine.get(f"{dataset}/{CARD}")
    if card is None:
        return f"it has no {dataset}"
    if not card.is_file():
        return None
    if sha256_file(card) != digest:
        return f"it holds another {dataset}"
    # Not as a `DatasetCard`: an older version of this package may have written it.
    files = json.loads(card.read_text(encoding="utf-8"))["files"]
    for path, record in files.items():
        file = mine.get(f"{dataset}/{path}")
        if file is None or (file.is_file() and sha256_file(file) != record["sha256"]):
            return f"its {dataset}/{path} is not the file of the card"
    return ""


def _not_validated(project: Project, version: str, dataset: str, digest: str) -> str | None:
    """Return what `_lacks` does, as far as the verdicts that are committed with a version say."""
    recorded = _validated(project, version, dataset)
    if not recorded:
        return None
    if digest in recorded:
        return ""
    return f"{UNLISTED}, and {_verdict(dataset)} of its commit is about another {dataset}"


def _validated(project: Project, version: str, dataset: str) -> set[str]:
    """Return the digests of a dataset in the verdicts that are committed with a version."""
    listed = _git(project, "log", "--all", "--format=%H", "--", "data.dvc", VERDICTS) or b""
    commits = listed.decode().split()
    contents = _contents(
        project,
        [f"{commit}:./{path}" for commit in commits for path in ("data.dvc", _verdict(dataset))],
    )
    digests = set()
    for record, verdict in zip(contents[::2], contents[1::2], strict=True):
        if verdict and version.encode() in (record or b""):
            with suppress(ValueError, KeyError, TypeError):
                digests.add(str(json.loads(verdict)["dataset_digest"]))
    return digests


def _verdict(dataset: str) -> str:
    """Return the path of the verdict that `dvc repro` writes."""
    return f"{VERDICTS}/{dataset}.json"


def links(project: Project, run: Run, tell: Tell) -> list[Check]:
    """Return the links from a run to what made it."""
    run_id, tags = run.info.run_id, run.data.tags
    tell("why", "fingerprint")
    recorded, parts = _fingerprint(run)
    checks = [recorded, _environment(tags, parts)]
    tell("why", "data")
    for dataset, digest in datasets_of(tags, parts).items():
        below = [_data(project, tags, dataset, digest)]
        if dataset == tags.get(runs.DATASET):
            card = _card(run_id, digest, parts)
            checks.append(card.model_copy(update={"checks": [*below, validation(run)]}))
        else:
            observed = f"{dataset}, digest {digest[:12]}, also read"
            checks.append(Check(name="dataset", state="passed", observed=observed, checks=below))
    tell("why", "source code")
    commit = source_commit(project, tags, parts.get("sources", {}))
    if commit.state != "failed":
        at = str(commit.details["commit"])
        files = _sources(project, at, parts.get("sources", {}), commit.state)
        commit = commit.model_copy(update={"checks": [files]})
    return [*checks, commit]


def _fingerprint(run: Run) -> tuple[Check, dict[str, Any]]:
    name, key = "fingerprint", run.data.tags.get(runs.FINGERPRINT, "")
    try:
        parts = Artifacts(run.info.run_id).fingerprint()
    except StoreError as error:
        return Check(name=name, state="failed", observed=str(error)), {}
    if (received := fingerprint(parts)) != key:
        observed = f"fingerprint.json hashes to {received[:12]}, the run's tag is {key[:12]}"
        return Check(name=name, state="failed", observed=observed), parts
    logged, params = run.data.params, parts.get("params", {})
    changed = [name for name, value in params.items() if logged.get(name) != str(value)]
    if changed:
        observed = f"logged parameters differ from those of the fingerprint: {', '.join(changed)}"
        return Check(name=name, state="failed", observed=observed), parts
    observed = f"{key[:12]}, {len(params)} parameters, seed {parts.get('seed')}"
    return Check(name=name, state="passed", observed=observed), parts


def _environment(tags: Mapping[str, str], parts: Mapping[str, Any]) -> Check:
    libraries = parts.get("libraries", {})
    versions = [
        f"{name} {libraries[name]}" for name in ("tensorflow", "keras") if name in libraries
    ]
    python, machine = tags.get(runs.PYTHON), tags.get(runs.MACHINE)
    observed = ", ".join([f"Python {python}" if python else "Python not recorded", *versions])
    observed += f"; {machine or 'machine not recorded'}"
    known = bool(python and machine and libraries)
    return Check(name="environment", state="passed" if known else "warning", observed=observed)


def _card(run_id: str, digest: str, parts: Mapping[str, Any]) -> Check:
    """Check that the run's copy of the card is of the data that the run says it learnt."""
    name = "dataset"
    try:
        card = Artifacts(run_id).card()
    except StoreError as error:
        return Check(name=name, state="failed", observed=str(error))
    observed = f"{card.name}, digest {digest[:12]}"
    digests = {
        "the card's": card.digest,
        "the fingerprint's": parts.get("dataset", {}).get("digest", digest),
    }
    wrong = [f"{whose} is {other[:12]}" for whose, other in digests.items() if other != digest]
    if wrong:
        observed += f"; but {' and '.join(wrong)}"
        return Check(name=name, state="failed", observed=observed)
    counts = ", ".join(f"{count} {split}" for split, count in card.counts.items())
    return Check(name=name, state="passed", observed=f"{observed}: {counts}")


def _data(project: Project, tags: Mapping[str, str], dataset: str, digest: str) -> Check:
    """Check that a commit records the data, and that the dataset can be had from that version."""
    recorded = data_version(project, tags, {dataset: digest})
    if recorded.state == "failed":
        return recorded

    def link(state: State, addition: str) -> Check:
        worst = recorded.state if state == "passed" else state
        return recorded.model_copy(
            update={"state": worst, "observed": f"{recorded.observed}; {addition}"}
        )

    if recorded.state == "unknown":
        same = _here(project, dataset, digest)
        return (
            link("warning", f"data/{dataset} here is the same")
            if same
            else link("failed", f"data/{dataset} here is not the same")
        )
    version = str(recorded.details["version"])
    card, missing = cached(project, version, dataset)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        addition = f"not whole in DVC's cache ({missing[0]}{more})"
        reserve = _elsewhere(project, version, dataset, digest)
        if reserve is None:
            return link("failed", f"{addition}, nor anywhere else")
        return link("warning", f"{addition}, but {reserve}")
    if card is not None and (other := sha256_file(card)) != digest:
        return link("failed", f"it holds another {dataset}, of digest {other[:12]}")
    return link("passed", "in DVC's cache")


def _here(project: Project, dataset: str, digest: str) -> bool:
    """Return whether the dataset in `data/` has a digest, byte for byte."""
    folder = project.data / dataset
    try:
        return read_card(folder).digest == digest and not verify_dataset(folder)
    except (DataError, OSError):
        return False


def _elsewhere(project: Project, version: str, dataset: str, digest: str) -> str | None:
    """Return where a dataset is that the cache lacks in part."""
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


def _sources(project: Project, commit: str, sources: Mapping[str, str], state: State) -> Check:
    """Compare the files that training executed with those of the commit.

    Args:
        project: The project.
        commit: Full hash.
        sources: SHA-256 by path.
        state: Of the commit: files of a clean checkout must be the same; of another, the files
            that differ are what changed.
    """
    name = "source files"
    if not sources:
        return Check(name=name, state="failed", observed="none on record")
    committed = hashes_at(project, commit, list(sources))
    changed = [path for path, key in sources.items() if committed[path] != key]
    if not changed:
        observed = f"{len(sources)}, all as in the commit"
        return Check(name=name, state="passed", observed=observed)
    observed = f"{len(changed)} of {len(sources)} are not as in the commit: "
    observed += ", ".join(changed[:5])
    if len(changed) > 5:
        observed += f" and {len(changed) - 5} more"
    return Check(name=name, state="failed" if state == "passed" else "warning", observed=observed)
