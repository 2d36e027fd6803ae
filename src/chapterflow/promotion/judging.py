"""Who challenges whom, and on what: the version, the champion, the data, the verdict."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from chapterflow import steps
from chapterflow.config import load_settings
from chapterflow.environment import Project, load_tensorflow
from chapterflow.errors import ChapterflowError, ConfigError
from chapterflow.lineage.artifacts import read_json
from chapterflow.promotion.gates import judge
from chapterflow.promotion.ledger import now, who
from chapterflow.promotion.measure import TestData, measure, test_data
from chapterflow.promotion.trial import Trial
from chapterflow.promotion.verdict import Candidate, Verdict
from chapterflow.records import Tell, silent
from chapterflow.settings import PROFILES, Settings
from chapterflow.tracking import runs
from chapterflow.tracking.elsewhere import answers_elsewhere
from chapterflow.tracking.registry import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS_CHAMPION,
    Version,
    find_version,
    holder,
    model_folder,
)
from chapterflow.tracking.session import Session

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Thresholds that depend on the role.
BY_ROLE = (
    "floor", "ceiling", "margin", "worst_class_margin", "calibration_error", "latency_ms_p95",
    "file_megabytes",
)  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What is asked of the gatekeeper.

    Attributes:
        model: `NAME` (its challenger), `NAME/VERSION`, `NAME@ALIAS`, or a role.
        alias: Alias that the version is to take.
        reason: Why, for the ledger.
        allow_dirty: Whether code and data that no commit has will do.
        reinstate: Whether a version that was rolled back may come back.
        without_champion: Whether to set a champion aside that was scored on other test data.
        dry_run: Whether to change nothing.
        overrides: `path=value` changes of `params.yaml`.
        profile: Profile whose models stand for a role; `params.yaml`'s by default.
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
    """A verdict, and what it takes to carry it out.

    Attributes:
        target: Registered model whose alias it is about.
        version: The version that was judged.
        champion: Number of the version that held the alias then.
    """

    verdict: Verdict
    target: str
    version: Version
    champion: str | None


class NothingToJudge(ChapterflowError):
    """No version challenges the one that holds the alias."""

    exit_code = 0


def judge_request(project: Project, request: Request, *, tell: Tell = silent) -> Judged:
    """Judge a version against the holder of the alias, on the data that are here now.

    Raises:
        ConfigError: If the model, the alias or a threshold's name is wrong.
        NothingToJudge: If the version holds the alias already, or there is no challenger.
    """
    if request.alias in (CHALLENGER, PREVIOUS_CHAMPION):
        raise ConfigError(
            f"--to takes an alias that versions are promoted to; {request.alias!r} is set by the "
            "pipeline itself."
        )
    if not re.fullmatch(r"(?!(latest|v\d+)$)[\w-]+", request.alias, re.ASCII):
        raise ConfigError(
            "--to takes an alias of letters, digits, - and _, which is neither latest nor a number "
            f"like v1. Received: {request.alias!r}"
        )
    settings = load_settings(
        project.params, profile=request.profile, overrides=list(request.overrides)
    )
    with Session(project, settings) as session:
        client = session.client
        of_role = request.model in settings.roles and request.model not in settings.models
        candidates: list[Candidate] = []
        if of_role:
            version, candidates = _best_of_role(project, settings, client, request.model)
            target = request.model
        else:
            version = _challenger(client, request)
            target = version.name
        champion = holder(client, target, request.alias)
        if champion is not None and champion.source == version.source:
            raise _held_already(client, version, target, request.alias)
        tags = client.get_run(version.run_id).data.tags
        profile = tags.get(runs.PROFILE, settings.profile)
        if request.profile not in (None, profile):
            raise ConfigError(
                f"{version.uri()} is held against the thresholds of the profile that it was "
                f"trained in: {profile}. Received: --profile {request.profile}"
            )
        if profile in PROFILES and profile != settings.profile:
            settings = load_settings(
                project.params, profile=profile, overrides=list(request.overrides)
            )
        verdict = _judge(project, settings, client, request, version, champion, tags, tell)
        verdict = verdict.model_copy(update={"model": target, "candidates": candidates})
    return Judged(verdict, target, version, champion.number if champion else None)


def _judge(
    project: Project,
    settings: Settings,
    client: MlflowClient,
    request: Request,
    version: Version,
    champion: Version | None,
    tags: Mapping[str, str],
    tell: Tell,
) -> Verdict:
    dataset, role = tags.get(runs.DATASET, ""), tags.get("chapterflow.role", "")
    tell("promote", f"checking {dataset}")
    data = _data(project, settings, dataset, tell)
    load_tensorflow()
    tell("promote", "loading it in a fresh process")
    # Before anything is timed: both would share the processor.
    largest, problem = _reloaded(version)
    tell("promote", f"scoring {version.uri()}")
    challenger = measure(project, settings, client, version, data)
    problems = dict(challenger.problems) | ({"reload": problem} if problem else {})
    held_against, without = None, f"no version is {request.alias} yet"
    if champion is not None:
        tell("promote", f"scoring {champion.told()}")
        held_against = measure(project, settings, client, champion, data)
        if request.without_champion and held_against.test_digest != data.digest:
            without = f"{champion.uri()} was set aside: it was scored on other test data"
            held_against = None
    params = settings.promotion
    trial = Trial(
        challenger=replace(challenger, reloaded=largest, problems=problems),
        champion=held_against,
        thresholds={
            **{name: params.threshold(name, role, settings.profile) for name in BY_ROLE},
            "explanations": params.explanations,
            "rescored_difference": params.rescored_difference,
            "reload_difference": params.reload_difference,
        },
        classes=data.dataset is None or bool(data.dataset.card.classes),
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
    return Verdict(
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


def _reloaded(version: Version) -> tuple[float | None, str]:
    """Return how far a fresh process's answers are from those logged; None, and why, without."""
    try:
        found = answers_elsewhere(model_folder(version))
    except Exception as error:  # A store has many ways of not having a file.
        return None, str(error).partition("\n")[0]
    if not found.same_classes or not found.examples:
        return math.inf, "it answers other classes than those logged with it"
    return found.largest_difference, ""


def _data(project: Project, settings: Settings, dataset: str, tell: Tell) -> TestData:
    if dataset in settings.datasets:
        try:
            steps.prepare(project, settings, dataset, tell=tell)
        except ChapterflowError as error:
            return TestData(None, str(error))
    return test_data(project, dataset)


def _challenger(client: MlflowClient, request: Request) -> Version:
    named = find_version(client, request.model)  # A wrong name is told in the registry's words.
    if any(mark in request.model for mark in "/@"):
        return named
    version = holder(client, request.model, CHALLENGER)
    if version is not None:
        return version
    champion = holder(client, request.model, request.alias)
    if champion is None:
        raise ConfigError(
            f"{request.model} has no challenger. `chapterflow run {request.model}` makes one, or "
            f"name a version: `chapterflow promote {named.uri()}`."
        )
    raise _held_already(client, champion, request.model, request.alias)


def _held_already(
    client: MlflowClient, version: Version, target: str, alias: str
) -> NothingToJudge:
    told = f"{version.uri()} is {target}@{alias} already"
    waiting = holder(client, target, CHALLENGER)
    if waiting is not None and waiting.source != version.source:
        return NothingToJudge(
            f"{told}. {waiting.uri()} challenges it: `chapterflow promote {target}` judges that."
        )
    return NothingToJudge(
        f"{told}, and nothing challenges it. `chapterflow run` makes challengers."
    )


def _best_of_role(
    project: Project, settings: Settings, client: MlflowClient, role: str
) -> tuple[Version, list[Candidate]]:
    """Return the version that stands for a role, and all that could.

    Each model of the role enters its champion, or its challenger where it has none, if it learnt
    the data of the profile. The best on the validation split stands for the role: choosing on the
    test split would make the gates' own figures too good.
    """
    dataset = settings.roles[role][settings.profile]
    data = _data(project, settings, dataset, silent)
    if data.dataset is None:
        raise ConfigError(data.problem)
    found: list[tuple[Candidate, Version]] = []
    for model in settings.models:
        if settings.params(model).role != role:
            continue
        version = holder(client, model, CHAMPION) or holder(client, model, CHALLENGER)
        if version is None:
            continue
        run = client.get_run(version.run_id)
        score = _validation_score(version)
        if run.data.tags.get(runs.TEST_DIGEST) == data.digest and score is not None:
            candidate = Candidate(
                version=version.uri(), alias=version.alias or "", validation=score
            )
            found.append((candidate, version))
    if not found:
        raise ConfigError(
            f"No model of the role {role!r} has a champion or challenger that learnt {dataset!r}. "
            "`chapterflow run` makes challengers."
        )
    # The best first; of equals, the one that params.yaml names first.
    lower = not data.dataset.card.classes
    found.sort(key=lambda one: one[0].validation if lower else -one[0].validation)
    return found[0][1], [candidate for candidate, _ in found]


def _validation_score(version: Version) -> float | None:
    """Return validation accuracy (curves: loss) of the epoch whose weights a version has."""
    try:
        training = read_json(version.run_id, "training.json")
        epoch = next(row for row in training["history"] if row["epoch"] == training["chosen_epoch"])
        score = epoch["validation_accuracy"]
        return float(epoch["validation_loss"] if score is None else score)
    except Exception:
        return None
