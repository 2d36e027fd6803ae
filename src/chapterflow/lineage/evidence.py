"""The links from a run: fingerprint, data, validation and source code, each checked to hold."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from chapterflow.data.build import verify_dataset
from chapterflow.data.card import DatasetCard, read_card, sha256_file
from chapterflow.data.versioning import data_version
from chapterflow.environment import Project
from chapterflow.errors import ChapterflowError, DataError, StoreError
from chapterflow.lineage import git, past_data
from chapterflow.lineage.artifacts import read_json
from chapterflow.lineage.tree import Link, State
from chapterflow.records import Tell
from chapterflow.tracking import runs
from chapterflow.tracking.fingerprint import fingerprint
from chapterflow.validation.verdict import Verdict

if TYPE_CHECKING:
    from mlflow.entities import Run


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
    if commits := git.commits_of_data(project, version):
        told = f"{version}, in commit {commits[0]}"
    elif data_version(project) == version:
        told, state = f"{version}, in data.dvc, which is in no commit yet", "warning"
    else:
        told = f"{version}, which neither data.dvc nor a commit of it names"
        return Link(name=name, told=told, state="broken")
    card, lacking = past_data.cached(project, version, dataset)
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
    if not past_data.remotes_of(project):
        return None
    path = f"{dataset}/dataset.json"
    with tempfile.TemporaryDirectory() as folder:
        try:
            card = past_data.bring(project, version, [path], Path(folder)) / path
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
    described = git.commit_told(project, commit)
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
    there = git.hashes_at(project, commit, list(sources))
    other = [path for path, key in sources.items() if there[path] != key]
    if not other:
        return Link(name=name, told=f"{len(sources)}, all as in the commit")
    told = f"{len(other)} of {len(sources)} are not as in the commit: {', '.join(other[:5])}"
    if len(other) > 5:
        told += f" and {len(other) - 5} more"
    # Of a checkout that was clean, they must be the same; of another, that is what changed.
    return Link(name=name, told=told, state="broken" if clean else "warning")
