"""Retrain a model from its run alone, and compare it with the recorded one."""

from __future__ import annotations

import json
import platform
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import PlainSerializer, ValidationError

from chapterflow.checks import Check, Keys, State
from chapterflow.config.settings import Settings
from chapterflow.data.build import verify_dataset
from chapterflow.environment import THREADS, Project, load_tensorflow, machine
from chapterflow.errors import ChapterflowError, ConfigError, DataError, StoreError
from chapterflow.files import sha256_file
from chapterflow.kinds.dataset import open_dataset, read_card
from chapterflow.lineage.agreement import Agreement, Outcome, compare_models
from chapterflow.models.base import ChapterModel, ModelParams
from chapterflow.models.catalog import get_model
from chapterflow.plugins import PACKAGE
from chapterflow.tracking import provenance as past_data
from chapterflow.tracking import runs
from chapterflow.tracking.artifacts import REPRODUCTION_DOCUMENT, Artifacts
from chapterflow.tracking.fingerprint import content_hash
from chapterflow.tracking.reader import refusals
from chapterflow.tracking.session import Session
from chapterflow.tracking.versions import OnVersion, Version, find_version, ignore, model_file
from chapterflow.training.history import MODEL_FILE, EpochRecord
from chapterflow.types import Strict, Tell, silent

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

NOT_RECORDED = "not recorded"


#: A fact about the environment in `verdict.json` of a reproduction. `decides`: whether the weights
#: depend on it. The commit does not decide, because the executed source files are compared.
FACT = Keys(
    {
        "name": "name",
        "recorded": "expected",
        "today": "observed",
        "same": "state",
        "decides": "decides",
    },
    {"passed": True, "warning": False, "unknown": False},
)


def facts(project: Project, tags: Mapping[str, str], parts: Mapping[str, Any]) -> list[Check]:
    """Compare the recorded environment of a run with the current one.

    Args:
        project: The project.
        tags: Tags of the run.
        parts: Its `fingerprint.json`.
    """
    recorded, _, recorded_threads = tags.get(runs.MACHINE, "").partition(THREADS)
    today, _, threads = machine().partition(THREADS)
    compared = [
        _fact("machine", recorded or None, today),
        _fact("threads", recorded_threads or None, threads),
        _fact("Python", tags.get(runs.PYTHON), platform.python_version()),
        *(_fact(name, then, _installed(name)) for name, then in parts["libraries"].items()),
        _commit(project, tags),
        _files("source files", parts["sources"], _sources_today(parts["sources"])),
    ]
    if named := parts.get("files"):
        hashes = {path: content_hash(Path(path)) for path in named}
        compared.append(_files("weight files", named, hashes))
    return compared


def changed_sources(parts: Mapping[str, Any]) -> list[str]:
    """Return the source files executed in training that have changed or are missing."""
    today = _sources_today(parts["sources"])
    return [path for path, key in parts["sources"].items() if today[path] != key]


def _fact(name: str, recorded: str | None, today: str, *, decides: bool = True) -> Check:
    state: State = "unknown" if recorded is None else "passed" if recorded == today else "warning"
    return Check(
        name=name,
        state=state,
        expected=recorded or NOT_RECORDED,
        observed=today,
        details={"decides": decides},
    )


def _installed(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"


def _commit(project: Project, tags: Mapping[str, str]) -> Check:
    def clean(tags: Mapping[str, str]) -> bool:
        return tags.get(runs.DIRTY) == "false"

    def name(tags: Mapping[str, str]) -> str | None:
        if runs.COMMIT not in tags:
            return None
        return tags[runs.COMMIT][:10] + ("" if clean(tags) else " with changes")

    now = runs.git_tags(project)
    fact = _fact("commit", name(tags), name(now) or "none", decides=False)
    if fact.passed and not (clean(tags) and clean(now)):
        # Uncommitted changes are not recorded, so they may differ.
        changed = {"state": "warning", "observed": f"{fact.observed}, possibly different ones"}
        return fact.model_copy(update=changed)
    return fact


def _sources_today(sources: Mapping[str, str]) -> dict[str, str | None]:
    root = PACKAGE.parent.parent
    return {path: sha256_file(root / path) if (root / path).is_file() else None for path in sources}


def _files(name: str, then: Mapping[str, str], now: Mapping[str, str | None]) -> Check:
    changed = [path for path, key in then.items() if now[path] != key]
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    today = f"{len(changed)} differ: {', '.join(changed[:3])}{more}" if changed else f"{len(then)}"
    return _fact(name, f"{len(then)}", today)


@dataclass(frozen=True)
class Recorded:
    """Inputs of a training, as recorded in its run.

    Attributes:
        digests: Digests of the datasets that it read, by name.
        data_version: Hash of `data/`; None if it was not versioned.
        commit: Commit of the sources; None if unknown.
    """

    model: str
    entry: ChapterModel[Any]
    params: ModelParams
    seed: int
    dataset: str
    digests: Mapping[str, str]
    data_version: str | None
    commit: str | None


def recorded_model(version: Version, run: Run, parts: Mapping[str, Any]) -> Recorded:
    """Return the inputs of a training from its run, checked against the current code.

    Args:
        version: The version that the run trained.
        run: The run.
        parts: Its `fingerprint.json`.

    Raises:
        ConfigError: If the current code has no such model, or its parameters differ.
        StoreError: If the record is incomplete.
    """
    tags = run.data.tags
    commit = tags.get(runs.COMMIT)
    hint = (
        f"`git worktree add ../{version.model}-{commit[:10]} {commit}` checks out the recorded code"
        if commit
        else "the run recorded no commit"
    )
    if tags.get(runs.DIRTY) == "true":
        hint = f"it was trained with uncommitted changes on {str(commit)[:10]}"
    try:
        model, dataset = parts["model"], parts["dataset"]
        digests = {dataset["name"]: dataset["digest"], **parts["other_datasets"]}
        seed, given = parts["seed"], json.dumps(parts["params"])
        for needed in ("libraries", "sources"):
            parts[needed]
    except (KeyError, TypeError) as error:
        raise StoreError(
            f"fingerprint.json of run {run.info.run_id} must describe the training. "
            f"Received: no {error}"
        ) from None
    try:
        entry = get_model(model)
        params = entry.params.model_validate_json(given)
    except KeyError:
        raise ConfigError(
            f"The checkout must contain {model!r}, the model of {version.uri()}. Received: no such "
            f"model; {hint}"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"The code must accept the recorded parameters of {version.uri()}. Received: "
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}; {hint}"
        ) from None
    data_version = tags.get(runs.DATA_VERSION, "none")
    return Recorded(
        model=model,
        entry=entry,
        params=params,
        seed=seed,
        dataset=dataset["name"],
        digests=digests,
        data_version=None if data_version == "none" else data_version,
        commit=commit,
    )


def data_of(project: Project, recorded: Recorded, into: Path, tell: Tell) -> tuple[Path, str]:
    """Return a folder with exactly the data that a run was trained on, and their origin.

    It is `data/` if the data there are the same; otherwise DVC fetches them.

    Args:
        project: The project.
        recorded: Inputs of the training.
        into: Folder to fetch to.
        tell: Called with the stage and its progress.

    Raises:
        ChapterflowError: If the data are not available.
    """
    tell("data", ", ".join(recorded.digests))
    differing = {
        name: fault
        for name, digest in recorded.digests.items()
        if (fault := _fault(project.data / name, digest))
    }
    if not differing:
        return project.data, "data/, which is unchanged"
    faults = "; ".join(differing.values())
    if recorded.data_version is None:
        raise ChapterflowError(
            f"The data of the run must be in data/, or under DVC. Received: {faults}, and no "
            "version of data/ in the run"
        )
    tell("data", f"version {recorded.data_version[:10]} from DVC")
    try:
        data = past_data.bring(project, recorded.data_version, list(recorded.digests), into)
    except ChapterflowError as error:
        raise ChapterflowError(f"{faults}. {error}") from None
    for name, digest in recorded.digests.items():
        if fault := _fault(data / name, digest):
            raise ChapterflowError(
                f"Version {recorded.data_version} of the data must contain the data of the run. "
                f"Received: {fault}"
            )
    return data, f"version {recorded.data_version} from DVC ({faults})"


def _fault(folder: Path, digest: str) -> str | None:
    """Return what is wrong with a dataset that should have a digest; None if nothing is."""
    name = f"{folder.parent.name}/{folder.name}"
    try:
        card = read_card(folder)
        damage = verify_dataset(folder)
    except (DataError, OSError):
        return f"{name} is missing"
    if card.digest != digest:
        return f"{name} has digest {card.digest[:12]}, not {digest[:12]} as in the run"
    return f"{name} differs from its card" if damage else None


#: Value of `chapterflow.kind`.
REPRODUCTION = "reproduction"
#: Tag: the outcome.
OUTCOME = "chapterflow.reproduction"


def log_reproduction(
    project: Project, session: Session, run: Run, document: Mapping[str, Any]
) -> str:
    """Log a finished reproduction, and return the id of its run.

    The run has no fingerprint, so it is never reused like the original training.

    Args:
        project: The project.
        session: Session of the tracking store.
        run: The reproduced run.
        document: Content of `verdict.json`.
    """
    client, tags = session.client, run.data.tags
    run_id = runs.open_run(
        client,
        session.experiment_id,
        name=f"reproduce {document['version']}",
        tags={
            runs.RUN_TYPE: REPRODUCTION,
            runs.REPRODUCES: run.info.run_id,
            OUTCOME: document["verdict"],
            **{key: tags[key] for key in (runs.MODEL, runs.DATASET, runs.DIGEST) if key in tags},
            runs.MACHINE: machine(),
            runs.PYTHON: platform.python_version(),
            **runs.git_tags(project),
            "mlflow.note.content": document["told"],
        },
    )
    with session.ending_on_error(run_id):
        client.log_dict(run_id, dict(document), REPRODUCTION_DOCUMENT)
        comparison = document["comparison"]
        figures = {
            "reproduction/identical": float(comparison["identical"]),
            "reproduction/agreement": comparison["agreement"],
            "reproduction/answers_rmse": comparison["answers_rmse"],
            f"reproduction/{comparison['metric']}_difference": comparison["difference"],
            "reproduction/largest_weight_difference": comparison["largest_difference"],
            "reproduction/seconds": document["seconds"],
        }
        metrics = {name: value for name, value in figures.items() if value is not None}
        runs.log_metrics(client, run_id, metrics, 0)
        runs.close_run(client, run_id, "FINISHED")
    return run_id


def reproductions(client: MlflowClient, experiment_id: str, run_id: str) -> list[Run]:
    """Return the reproductions of a run, newest first."""
    matches: list[Run] = client.search_runs(
        [experiment_id],
        f"tags.`{runs.RUN_TYPE}` = '{REPRODUCTION}' and tags.`{runs.REPRODUCES}` = '{run_id}'",
        order_by=["attributes.start_time DESC"],
    )
    return matches


class Reproduction(Strict):
    """The result of retraining a recorded model.

    Attributes:
        asked: Reference that the user gave.
        note: Which version was chosen, if the reference does not say.
        version: The reproduced version, `cnn/3`.
        reproduces: Run that trained the version.
        run_id: Run that this result is logged in.
        told: The outcome in one line.
        environment: Recorded and current facts about the environment.
        data: Origin of the data.
        changed_sources: Source files of the training that have changed.
        get_sources: Command that checks out the recorded sources, if any changed.
        seconds: Duration of the training.
    """

    asked: str
    note: str | None
    version: str
    model: str
    reproduces: str
    run_id: str
    verdict: Outcome
    told: str
    environment: list[Annotated[Check, PlainSerializer(FACT.write)]]
    data: str
    changed_sources: list[str]
    get_sources: str | None
    comparison: Agreement
    seconds: float


def reproduce(
    project: Project,
    settings: Settings,
    reference: str,
    *,
    on_version: OnVersion = ignore,
    tell: Tell = silent,
) -> Reproduction:
    """Retrain a recorded model with its parameters, seed and data, and compare both.

    All work is done in a temporary folder: `data/`, `.dvc`, caches and sources do not change, and
    no result of an earlier run is reused. The outcome is logged as a run of kind `reproduction`.

    Args:
        project: The project.
        settings: Its settings; only those of the comparison are used.
        reference: `NAME`, `NAME/VERSION`, `NAME@ALIAS`, or the id of a run or its beginning.
        on_version: Called with the version that the reference names.
        tell: Called with the stage and its progress.

    Raises:
        ConfigError: If there is no such model or run, or the current code lacks the model.
        StoreError: If artifacts of the run are missing from the store.
        ChapterflowError: If the data are not available.
    """
    with Session(project, settings) as session, tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder)
        client = session.client
        version = find_version(client, reference, experiment_id=session.experiment_id)
        on_version(version)
        run = _run_of(client, version)
        tell("look up", f"{version}, run {run.info.run_id}")
        parts = Artifacts(run.info.run_id).fingerprint()
        recorded = recorded_model(version, run, parts)
        recorded_file = model_file(session.client, version)
        environment = facts(project, run.data.tags, parts)
        data, origin = data_of(project, recorded, temporary / "dvc", tell)
        retrained_file, seconds = _retrain(recorded, data, temporary, tell)
        tell("compare", "weights and answers")
        comparison = _compare(settings, recorded, recorded_file, retrained_file, data)
        same = all(fact.passed for fact in environment if fact.details["decides"])
        verdict = comparison.verdict(same_environment=same)
        result = Reproduction(
            asked=reference,
            note=version.notice() if version.fallback else None,
            version=version.uri(),
            model=recorded.model,
            reproduces=run.info.run_id,
            run_id="",
            verdict=verdict,
            told=_summary(verdict, comparison, environment),
            environment=environment,
            data=origin,
            changed_sources=changed_sources(parts),
            get_sources=_get_sources(recorded, environment),
            comparison=comparison,
            seconds=seconds,
        )
        tell("log", "the outcome")
        run_id = log_reproduction(project, session, run, result.model_dump(exclude={"run_id"}))
    return result.model_copy(update={"run_id": run_id})


def _run_of(client: MlflowClient, version: Version) -> Run:
    try:
        run = client.get_run(version.run_id)
    except refusals():
        run = None
    if run is None or run.info.lifecycle_stage != "active":
        raise StoreError(
            f"The run that trained {version} must be in the tracking store. "
            f"Received: no run {version.run_id}"
        )
    return run


def _retrain(recorded: Recorded, data: Path, temporary: Path, tell: Tell) -> tuple[Path, float]:
    tell("train", "starting TensorFlow")
    load_tensorflow()
    from chapterflow.training.fit import fit

    def on_epoch(record: EpochRecord) -> None:
        tell(
            "train",
            f"epoch {record.epoch}/{recorded.params.all_epochs()}, validation {record.summary}",
        )

    started = time.monotonic()
    work = temporary / "work" / "reproduction"
    fit(
        recorded.entry,
        recorded.params,
        open_dataset(data / recorded.dataset),
        seed=recorded.seed,
        work=work,
        on_epoch=on_epoch,
        # An empty folder, so that features and backbones are computed again.
        scratch=temporary / "scratch",
    )
    return work / MODEL_FILE, round(time.monotonic() - started, 3)


def _compare(
    settings: Settings, recorded: Recorded, recorded_file: Path, retrained_file: Path, data: Path
) -> Agreement:
    from chapterflow.training.batches import load_model, sized_for

    dataset = sized_for(recorded.entry, recorded.params, open_dataset(data / recorded.dataset))
    try:
        model = load_model(recorded_file)
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StoreError(
            f"The recorded model must be loadable. Received: {recorded_file.name}: {reason}"
        ) from None
    return compare_models(
        model,
        load_model(retrained_file),
        dataset,
        resamples=settings.comparison.bootstrap_resamples,
        seed=settings.seed,
    )


def _summary(verdict: Outcome, comparison: Agreement, environment: Sequence[Check]) -> str:
    """Return the outcome in one line: the agreement of both models, and what has changed."""
    line = f"{verdict}: {comparison.summary()}."
    if verdict == "differs" and all(fact.passed for fact in environment if fact.details["decides"]):
        line += " Machine, libraries and source files are the same, so the weights should be, too."
    other = [f"{f.name} {f.expected} -> {f.observed}" for f in environment if f.state == "warning"]
    unknown = [fact.name for fact in environment if fact.state == "unknown"]
    line += f" Changed: {'; '.join(other)}." if other else ""
    return line + (f" Not recorded: {', '.join(unknown)}." if unknown else "")


def _get_sources(recorded: Recorded, environment: Sequence[Check]) -> str | None:
    """Return the command that checks out the recorded sources, if they have changed."""
    if recorded.commit is None or all(
        fact.passed for fact in environment if fact.name == "source files"
    ):
        return None
    return f"git worktree add ../{recorded.model}-{recorded.commit[:10]} {recorded.commit}"
