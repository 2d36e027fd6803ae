"""Judge a challenger: select it, score it and the champion on the same data, apply the gates."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chapterflow.config.load import load_settings
from chapterflow.config.settings import PROFILES, Settings
from chapterflow.data.build import prepare, verify_dataset
from chapterflow.environment import QUIET_AND_PRIVATE, Project, load_tensorflow
from chapterflow.errors import ChapterflowError, ConfigError, StoreError, StoreUnavailable
from chapterflow.kinds.dataset import CLASSIFICATION, Dataset, open_dataset
from chapterflow.models.catalog import get_model, model_names
from chapterflow.registry.decision import Candidate, Decision
from chapterflow.registry.gates import WITHDRAWN, Measured, Trial, judge
from chapterflow.registry.ledger import Ledger, now, who
from chapterflow.shipped import check
from chapterflow.shipped.answers import EXAMPLE_ANSWERS
from chapterflow.tracking import runs
from chapterflow.tracking.artifacts import Artifacts
from chapterflow.tracking.provenance import provenance
from chapterflow.tracking.reader import refusals
from chapterflow.tracking.session import Session
from chapterflow.tracking.store import Note
from chapterflow.tracking.versions import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS_CHAMPION,
    OnVersion,
    Version,
    challenger_alias,
    challengers,
    find_version,
    holder,
    ignore,
    is_challenger,
    model_file,
    model_folder,
)
from chapterflow.types import Tell, silent

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from chapterflow.config.settings import Settings

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TestData:
    """The dataset that versions are scored on.

    Attributes:
        dataset: None if it is missing, or differs from its card.
        problem: Why there is no dataset.
    """

    dataset: Dataset | None
    problem: str = ""

    @property
    def digest(self) -> str | None:
        """Hash over its test examples."""
        return self.dataset.card.test_digest if self.dataset else None


def test_data(project: Project, name: str) -> TestData:
    """Open a dataset of `data/` after checking all files against its card."""
    folder = project.data / name
    try:
        damage = verify_dataset(folder)
        if damage:
            return TestData(None, damage[0])
        return TestData(open_dataset(folder))
    except ChapterflowError as error:
        return TestData(None, str(error))


def measure(
    project: Project,
    settings: Settings,
    client: MlflowClient,
    version: Version,
    data: TestData,
) -> Measured:
    """Return all measurements of a version; those that fail are missing, with the reason."""
    try:
        run = client.get_run(version.run_id)
        tags = client.get_model_version(version.name, version.number).tags
    except refusals() as error:
        return Measured(version.uri(), unscored=f"its run cannot be read: {error.message}")
    recorded = Measured(
        version.uri(),
        logged=dict(run.data.metrics),
        test_digest=run.data.tags.get(runs.TEST_DIGEST),
        provenance=provenance(project, run),
        withdrawn=tags.get(WITHDRAWN, ""),
    )
    if data.dataset is None:
        return replace(recorded, unscored=data.problem)
    if recorded.test_digest != data.digest:
        return recorded
    try:
        return _scored(settings, client, version, run, data.dataset, recorded)
    except Exception as error:  # Whatever the cause, a missing measurement fails its gates.
        return replace(recorded, unscored=f"{type(error).__name__}: {error}".partition("\n")[0])


def _scored(
    settings: Settings,
    client: MlflowClient,
    version: Version,
    run: Run,
    dataset: Dataset,
    recorded: Measured,
) -> Measured:
    load_tensorflow()
    from chapterflow.evaluation.evaluate import score
    from chapterflow.training.batches import load_model, sized_for

    file = model_file(client, version)
    size, model = file.stat().st_size, load_model(file)
    if version.model in model_names():
        entry = get_model(version.model)
        params = Artifacts(run.info.run_id).fingerprint()["params"]
        chosen = entry.params.model_validate_json(json.dumps(params))
        dataset = sized_for(entry, chosen, dataset)
    scored = score(model, dataset, settings.evaluation, file_bytes=size)
    return replace(
        recorded,
        now=scored.metrics,
        file_bytes=size,
        **_by_example(dataset, scored.predictions),
    )


def _by_example(dataset: Dataset, answers: dict[str, Any]) -> dict[str, Any]:
    """Return the values per test example for a paired comparison."""
    if dataset.card.task.classes:
        return {"right": answers["probability"].argmax(axis=1) == answers["label"]}
    test = dataset.indices("test")
    squared = (answers["prediction"] - dataset.targets(test)).squeeze(-1) ** 2
    weights = dataset.weights(test)
    return {"errors": (squared if weights is None else squared * weights).sum(axis=1)}


#: Seconds for a process that starts TensorFlow and answers a few examples.
PATIENCE = 300


@dataclass(frozen=True)
class FreshAnswers:
    """A model's answers to its own example in a fresh process.

    Attributes:
        examples: Number of answers.
        largest_difference: Largest difference between a probability (or a value of a curve) and the
            one logged with the model.
        same_classes: Whether the predicted classes are the same.
    """

    examples: int
    largest_difference: float
    same_classes: bool


def answer_in_fresh_process(folder: Path) -> FreshAnswers:
    """Load a logged model in a fresh process without this package, and let it answer its example.

    Args:
        folder: Files of the model, as returned by `mlflow.artifacts.download_artifacts`.

    Raises:
        StoreError: If loading or answering fails; the message ends with the last line of stderr.
    """
    if not (folder / EXAMPLE_ANSWERS).is_file():
        raise StoreError(
            f"A model must be logged with the answers to its example. Received: {folder} without "
            f"{EXAMPLE_ANSWERS}, from an older version. `chapterflow run MODEL --force` trains and "
            "logs it again"
        )
    try:
        process = subprocess.run(
            [sys.executable, check.__file__, str(folder)],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
            env={**QUIET_AND_PRIVATE, **os.environ, "PYTHONWARNINGS": "ignore"},
        )
    except subprocess.TimeoutExpired:
        raise StoreError(
            f"The model must answer in a fresh process within {PATIENCE} s. Received: nothing"
        ) from None
    if process.returncode:
        lines = process.stderr.strip().splitlines() or [f"exit status {process.returncode}"]
        raise StoreError(f"The model must answer in a fresh process. Received: {lines[-1][:500]}")
    return FreshAnswers(**json.loads(process.stdout.strip().splitlines()[-1]))


@dataclass(frozen=True)
class Request:
    """A request to judge a version for an alias.

    Attributes:
        model: A registered model, whose challenger is judged; one version (`NAME/VERSION` or
            `NAME@ALIAS`); or a role.
        alias: Alias that the version should receive.
        reason: Reason for the ledger.
        allow_dirty: Whether uncommitted code and data are allowed.
        reinstate: Whether a rolled-back version may be promoted again.
        without_champion: Whether to ignore a champion that was scored on other test data.
        dry_run: Whether to judge without changing anything.
        overrides: `path=value` changes to `params.yaml`.
        profile: Profile whose models compete for a role; by default the profile of `params.yaml`.
    """

    model: str
    alias: str = CHAMPION
    reason: str = ""
    allow_dirty: bool = False
    reinstate: bool = False
    without_champion: bool = False
    dry_run: bool = False
    overrides: Sequence[str] = ()
    profile: str | None = None


@dataclass(frozen=True)
class Judged:
    """A decision, and the facts needed to carry it out.

    Attributes:
        target: Registered model with the alias.
        version: The judged version.
        champion: Number of the version that held the alias at the time of the decision.
    """

    decision: Decision
    target: str
    version: Version
    champion: str | None


class NothingToJudge(ChapterflowError):
    """No version challenges the one that holds the alias."""

    exit_code = 0


def judge_request(
    project: Project,
    request: Request,
    *,
    on_version: OnVersion = ignore,
    on_note: Note = _log.warning,
    tell: Tell = silent,
) -> Judged:
    """Judge a version against the holder of the alias, on the current data.

    Args:
        on_version: Called with the version to judge.
        on_note: Receives a sentence for each open entry of the ledger that was settled first.

    Raises:
        ConfigError: If the model, the alias or the name of a threshold is wrong.
        NothingToJudge: If the version already holds the alias, or there is no challenger.
    """
    if request.alias == PREVIOUS_CHAMPION or is_challenger(request.alias):
        raise ConfigError(
            f"--to must be an alias that versions are promoted to. Received: {request.alias!r}, "
            "which is set by the pipeline itself."
        )
    if not re.fullmatch(r"(?!(latest|v\d+)$)[\w-]+", request.alias, re.ASCII):
        raise ConfigError(
            "--to must be an alias of letters, digits, - and _, but neither latest nor a number "
            f"such as v1. Received: {request.alias!r}"
        )
    settings = load_settings(
        project.params, profile=request.profile, overrides=list(request.overrides)
    )
    with Session(project, settings) as session:
        client = session.client
        ledger = Ledger(project, client, settings.tracking.experiment, on_note)
        ledger.settle(re.split("[/@]", request.model, maxsplit=1)[0])
        of_role = request.model in settings.roles and request.model not in settings.models
        candidates: list[Candidate] = []
        if of_role:
            version, candidates = _best_of_role(project, settings, client, request.model)
            target = request.model
        else:
            version = _challenger(project, settings, client, request)
            target = version.name
        on_version(version)
        champion = holder(client, target, request.alias)
        if champion is not None and champion.source == version.source:
            raise _already_holds(client, version, target, request.alias)
        tags = client.get_run(version.run_id).data.tags
        usual = _usual_data(settings, version.model)
        if usual and (learnt := tags.get(runs.DATASET, usual)) != usual:
            on_note(
                f"{version.uri()} is a model of {learnt} and is judged on it; the profile "
                f"{settings.profile!r} has {usual}."
            )
        profile = tags.get(runs.PROFILE, settings.profile)
        if request.profile not in (None, profile):
            raise ConfigError(
                f"{version.uri()} is judged by the thresholds of its training profile, {profile}. "
                f"Received: --profile {request.profile}"
            )
        if profile in PROFILES and profile != settings.profile:
            settings = load_settings(
                project.params, profile=profile, overrides=list(request.overrides)
            )
        decision = _judge(project, settings, client, request, version, champion, tags, tell)
        decision = decision.model_copy(update={"model": target, "candidates": candidates})
    return Judged(decision, target, version, champion.number if champion else None)


def _judge(
    project: Project,
    settings: Settings,
    client: MlflowClient,
    request: Request,
    version: Version,
    champion: Version | None,
    tags: Mapping[str, str],
    tell: Tell,
) -> Decision:
    dataset, role = tags.get(runs.DATASET, ""), tags.get(runs.ROLE, "")
    tell("promote", f"checking {dataset}")
    data = _data(project, settings, dataset, tell)
    load_tensorflow()
    tell("promote", "loading it in a fresh process")
    # Before latency is measured, because both would share the processor.
    largest, problem = _reloaded(client, version)
    tell("promote", f"scoring {version.uri()}")
    challenger = measure(project, settings, client, version, data)
    rival, without = None, f"no version is {request.alias} yet"
    if champion is not None:
        tell("promote", f"scoring {champion}")
        rival = measure(project, settings, client, champion, data)
        if request.without_champion and rival.test_digest != data.digest:
            without = f"{champion.uri()} was ignored, because it was scored on other test data"
            rival = None
    params = settings.promotion
    trial = Trial(
        challenger=replace(challenger, reloaded=largest, unloaded=problem),
        champion=rival,
        thresholds={
            name: params.threshold(name, role, settings.profile)
            for name in type(params).model_fields
        },
        task=data.dataset.card.task if data.dataset else CLASSIFICATION,
        here=data.digest,
        role=role,
        resamples=settings.comparison.bootstrap_resamples,
        seed=settings.seed,
        superiority=params.superiority,
        without=without,
        allow_dirty=request.allow_dirty,
        reinstate=request.reinstate,
    )
    gates = judge(trial)
    return Decision(
        model=version.name,
        alias=request.alias,
        challenger=version.uri(),
        challenger_run=version.run_id,
        champion=champion.uri() if champion else None,
        champion_run=champion.run_id if champion else None,
        dataset=dataset,
        profile=settings.profile,
        test_digest=data.digest,
        when=now(),
        who=who(project),
        reason=request.reason,
        commit=runs.git_tags(project).get(runs.COMMIT),
        dry_run=request.dry_run,
        verdict="promoted" if all(gate.passed for gate in gates) else "refused",
        gates=gates,
    )


def _reloaded(client: MlflowClient, version: Version) -> tuple[float | None, str]:
    """Return the largest difference between fresh and logged answers, or None and the reason."""
    try:
        reloaded = answer_in_fresh_process(model_folder(client, version))
    except Exception as error:  # Stores raise many kinds of errors for a missing file.
        return None, str(error).partition("\n")[0]
    if not reloaded.same_classes or not reloaded.examples:
        return math.inf, "its predicted classes differ from the logged ones"
    return reloaded.largest_difference, ""


def _data(project: Project, settings: Settings, dataset: str, tell: Tell) -> TestData:
    if dataset in settings.datasets:
        try:
            params, profile = settings.datasets[dataset], settings.profile_datasets()
            prepare(project, dataset, params, profile=profile, tell=tell)
        except ChapterflowError as error:
            return TestData(None, str(error))
    return test_data(project, dataset)


def _usual_data(settings: Settings, model: str) -> str | None:
    """Return the dataset that a model learns in the active profile; None if it has no block."""
    return settings.dataset_of(model) if model in settings.models else None


def _challenger(
    project: Project, settings: Settings, client: MlflowClient, request: Request
) -> Version:
    if any(mark in request.model for mark in "/@"):
        return find_version(client, request.model)
    present = challengers(client, request.model)
    usual, alias = _usual_data(settings, request.model), CHALLENGER
    if usual:
        alias = challenger_alias(project, settings.params(request.model).role, usual)
    version = holder(client, request.model, alias)
    if version is not None:
        learnt = client.get_run(version.run_id).data.tags.get(runs.DATASET, usual)
        if learnt == usual:
            return version
        raise NothingToJudge(
            f"{request.model} has no challenger on {usual}: {version} is a model of {learnt}. "
            f"`chapterflow promote {version.uri()}` judges it."
        )
    champion = holder(client, request.model, request.alias)
    if present and champion is None:
        others = ", ".join(f"{request.model}@{other}" for other in sorted(present))
        raise NothingToJudge(
            f"{request.model} has no challenger on {usual}. On other data: {others}. "
            f"`chapterflow promote {others.partition(',')[0]}` judges it."
        )
    if champion is None:
        newest = find_version(client, request.model)
        raise ConfigError(
            f"{request.model} has no challenger. Train one with `chapterflow run {request.model}`, "
            f"or name a version: `chapterflow promote {newest.uri()}`."
        )
    raise _already_holds(client, champion, request.model, request.alias)


def _already_holds(
    client: MlflowClient, version: Version, target: str, alias: str
) -> NothingToJudge:
    message = f"{version.uri()} is already {target}@{alias}"
    try:
        model_folder(client, version)
    except StoreUnavailable:
        raise
    except StoreError as error:
        return NothingToJudge(f"{message}, but it cannot be used. {error}")
    for challenger in challengers(client, target):
        waiting = holder(client, target, challenger)
        if waiting is not None and waiting.source != version.source:
            name = target if challenger == CHALLENGER else f"{target}@{challenger}"
            return NothingToJudge(
                f"{message}. `chapterflow promote {name}` judges its challenger, {waiting.uri()}."
            )
    return NothingToJudge(
        f"{message}, and there is no challenger. `chapterflow run` trains challengers."
    )


def _best_of_role(
    project: Project, settings: Settings, client: MlflowClient, role: str
) -> tuple[Version, list[Candidate]]:
    """Return the best version for a role, and all candidates.

    The candidates are the champion, or else the challenger, of each model of the role that was
    trained on the data of the profile. They are ranked on the validation split, because a choice
    on the test split would bias the gates.
    """
    dataset = settings.roles[role][settings.profile]
    data = _data(project, settings, dataset, silent)
    if data.dataset is None:
        raise ConfigError(data.problem)
    ranked: list[tuple[Candidate, Version]] = []
    for model in settings.models:
        if settings.params(model).role != role:
            continue
        for alias in (CHAMPION, challenger_alias(project, role, dataset)):
            version = holder(client, model, alias)
            if version is None:
                continue
            run = client.get_run(version.run_id)
            score = _validation_score(version)
            if run.data.tags.get(runs.TEST_DIGEST) == data.digest and score is not None:
                candidate = Candidate(version=version.uri(), alias=alias, validation=score)
                ranked.append((candidate, version))
                break
    if not ranked:
        raise ConfigError(
            f"No model of the role {role!r} has a champion or challenger trained on {dataset!r}. "
            "`chapterflow run` trains challengers."
        )
    # The best first; ties keep the order of params.yaml.
    lower = not data.dataset.card.task.higher_is_better
    ranked.sort(key=lambda pair: pair[0].validation if lower else -pair[0].validation)
    return ranked[0][1], [candidate for candidate, _ in ranked]


def _validation_score(version: Version) -> float | None:
    """Return the validation accuracy (curves: loss) of a version's chosen epoch."""
    try:
        training = Artifacts(version.run_id).training()
        epoch = next(row for row in training.history if row.epoch == training.chosen_epoch)
        score = epoch.validation_accuracy
        return epoch.validation_loss if score is None else score
    except Exception:
        return None
