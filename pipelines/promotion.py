"""The promotion flow: every challenger judged, every good one promoted."""

from collections.abc import Iterable
from typing import Any

from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.utilities.annotations import quote

from chapterflow.config.load import load_settings
from chapterflow.config.settings import Profile, Settings
from chapterflow.environment import configure, find_project
from chapterflow.errors import ChapterflowError
from chapterflow.registry.decision import Decision
from chapterflow.registry.judge import Judged, NothingToJudge, Request, judge_request
from chapterflow.registry.promote import carry_out
from pipelines.chapter import error_of, telling
from pipelines.housekeeping import AT_THE_END, end_dead_flow_runs, sign_flow_run


class JudgingFailed(ChapterflowError):
    """Some models could not be judged; the others were.

    Attributes:
        results: The document that a flow without failures returns.
    """

    def __init__(self, results: dict[str, Any]) -> None:
        failed = [result["model"] for result in results["models"] if result["verdict"] == "failed"]
        super().__init__(f"{len(failed)} could not be judged: {', '.join(failed)}")
        self.results = results


@task(task_run_name="judge {name}", cache_policy=NO_CACHE)
def judge(name: str, request: Request) -> Judged | str:
    """Judge a challenger; a sentence where there is nothing to judge."""
    try:
        return judge_request(find_project(), request, tell=telling(name))
    except NothingToJudge as nothing:
        return str(nothing)


@task(task_run_name="decide {name}", cache_policy=NO_CACHE)
def decide(name: str, judged: Judged) -> Decision:
    """Write a verdict down, and move the aliases where it is good."""
    return carry_out(find_project(), judged, tell=telling(name))


@flow(name="promotion", persist_result=False, **AT_THE_END)
def promotion(
    models: list[str] | None = None,
    profile: Profile | None = None,
    overrides: list[str] | None = None,
    alias: str = "champion",
    allow_dirty: bool = False,
    dry_run: bool = False,
    reason: str = "",
    without_champion: bool = False,
) -> dict[str, Any]:
    """Judge challengers one after the other. A refusal is a result, not a failure.

    Args:
        models: Registered models and roles; by default every model of `params.yaml` that has a
            challenger, then every role that several models share.
        profile: Profile; by default the one in `params.yaml`.
        overrides: `path=value` changes of `params.yaml` for this run.
        alias: Alias that they are to take.
        allow_dirty: Whether code and data that no commit has will do.
        dry_run: Judge only; change nothing.
        reason: Why, for the ledger.
        without_champion: Ignore a champion that was scored on other test data.

    Returns:
        For each model its verdict: `promoted`, `refused`, `nothing to judge` or `failed`.

    Raises:
        JudgingFailed: If a model could not be judged, with the same document.
    """
    project = find_project()
    configure(project)
    settings = load_settings(project.params, profile=profile, overrides=overrides or [])
    sign_flow_run()
    end_dead_flow_runs()
    logger = get_run_logger()
    results = []
    for name in models or with_roles(settings, settings.models):
        request: Any = quote(
            Request(
                model=name,
                alias=alias,
                reason=reason or f"flow run {runtime.flow_run.name}",
                allow_dirty=allow_dirty,
                without_champion=without_champion,
                dry_run=dry_run,
                overrides=tuple(overrides or ()),
                profile=profile,
            )
        )
        result = _result(name, request, dry_run)
        logger.info("%s: %s: %s", name, result["verdict"], result["told"])
        results.append(result)
    document = {"models": results}
    rows = [f"| {result['model']} | {result['verdict']} | {result['told']} |" for result in results]
    create_markdown_artifact(
        "\n".join(["| model | verdict | |", "| --- | --- | --- |", *rows]),
        key="promotion",
        description="Verdicts of the promotion flow",
    )
    if any(result["verdict"] == "failed" for result in results):
        raise JudgingFailed(document)
    return document


def with_roles(settings: Settings, models: Iterable[str]) -> list[str]:
    """Return models, then those of their roles that several models of `params.yaml` share."""
    roles = [settings.params(model).role for model in settings.models]
    names = list(models)
    own = {settings.params(model).role for model in names}
    return [*names, *sorted(role for role in own if roles.count(role) > 1)]


def _result(name: str, request: Any, dry_run: bool) -> dict[str, Any]:
    state: Any = judge(name, request, return_state=True)
    judged = None if (error := error_of(state)) else state.result()
    if isinstance(judged, str):
        return {"model": name, "verdict": "nothing to judge", "told": judged}
    if judged is not None and dry_run:
        return {"model": name, "verdict": judged.decision.verdict, "told": judged.decision.summary}
    if judged is not None:
        state = decide(name, state, return_state=True)
        error = error_of(state)
    if error is not None:
        return {"model": name, "verdict": "failed", "told": str(error).partition("\n")[0]}
    decision: Decision = state.result()
    return {"model": name, "verdict": decision.verdict, "told": decision.summary}
