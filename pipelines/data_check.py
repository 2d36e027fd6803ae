"""The flow `data-check`: new data and drift, noticed, acted upon and reported.

Its steps are tasks and subflows, so each is in Prefect's UI. Automations of Prefect would need a
server that is always on.
"""

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.utilities.annotations import quote

from chapterflow.config.settings import Profile, Settings
from chapterflow.environment import find_project
from chapterflow.errors import ChapterflowError, DataError
from chapterflow.loop import incoming
from chapterflow.loop.incoming import Look
from chapterflow.loop.notify import LastNotification, notify, place
from chapterflow.predict.drift import RecentDrift, recent_drift
from chapterflow.tracking.comparison import models_of_other_data
from chapterflow.tracking.session import Session
from pipelines.chapter import ModelsFailed, chapter, error_of, open_flow, telling
from pipelines.housekeeping import AT_THE_END
from pipelines.prefect_server import outcome_of
from pipelines.promotion import JudgingFailed, promotion, with_roles

#: Verdicts, the worst first.
VERDICTS = ("bad data", "failed", "drift", "refused", "promoted", "trained", "unchanged")
#: Verdicts with which the flow fails.
FAILURES = ("bad data", "failed")


class DataCheckFailed(ChapterflowError):
    """Data are bad, or a step failed; champions are as they were.

    Attributes:
        results: The document that a flow without failures returns.
    """

    def __init__(self, results: dict[str, Any], exit_code: int) -> None:
        super().__init__(summary(results))
        self.results = results
        self.exit_code = exit_code


@task(task_run_name="bring the version of data.dvc", cache_policy=NO_CACHE)
def bring_version() -> str:
    """Bring the version of `data/` that `data.dvc` names."""
    return incoming.bring_version(find_project(), tell=telling("data"))


@task(task_run_name="check {dataset}", cache_policy=NO_CACHE)
def check(settings: Settings, dataset: str) -> Look:
    """Bring, compare with its source, and validate a dataset."""
    return incoming.look(find_project(), settings, dataset, tell=telling(dataset))


@task(task_run_name="look up models of other data", cache_policy=NO_CACHE)
def look_up(settings: Settings, models: list[str]) -> list[str]:
    """Return the models that learned another version of the data."""
    project = find_project()
    with Session(project, settings) as session:
        return models_of_other_data(project, settings, session, models)


@task(task_run_name="measure drift", cache_policy=NO_CACHE)
def measure_drift(settings: Settings, days: float) -> list[RecentDrift]:
    """Compare what was predicted lately with the data that the models were tested on."""
    return recent_drift(find_project(), settings, days=days)


@task(task_run_name="notify", cache_policy=NO_CACHE)
def send(settings: Settings, document: dict[str, Any]) -> list[str]:
    """Call the command and the webhook of `notify:`; return a line for each that failed."""
    return notify(settings.notify, document)


@flow(name="data-check", persist_result=False, **AT_THE_END)
def data_check(
    models: list[str] | None = None,
    profile: Profile | None = None,
    overrides: list[str] | None = None,
    drift_days: float = 7,
    allow_dirty: bool = False,
    without_champion: bool = False,
    workers: int | None = None,
) -> dict[str, Any]:
    """Look for new data and drift. Good data are trained on and their models judged.

    Bad data stop before training and leave every champion as it is. Whoever `notify:` of
    `params.yaml` names hears of each verdict once, except of `unchanged`.

    Args:
        models: Models to keep up to date; all of `params.yaml` by default.
        profile: Profile; by default the one in `params.yaml`.
        overrides: `path=value` changes of `params.yaml` for this run.
        drift_days: Days of predictions that are compared with the test data.
        allow_dirty: Promote also what was trained on code and data that no commit has.
        without_champion: Ignore a champion that was scored on other test data.
        workers: Models to train side by side; by default as many as cores and memory allow.

    Returns:
        `verdict`, `datasets`, `models`, `promotion`, `drift` and `notified`.

    Raises:
        DataCheckFailed: If data are bad or a step failed, with the same document.
        ConfigError: If parameters or names are wrong; nothing was started.
    """
    _, settings, names = open_flow(models, profile, overrides)
    common: dict[str, Any] = {"profile": settings.profile, "overrides": overrides}
    results: dict[str, Any] = {
        "verdict": "unchanged", "datasets": [], "models": [], "promotion": [], "drift": [],
        "faults": [], "notified": "",
    }  # fmt: skip
    looks = _look_at(settings, names, results)
    whole = {look.dataset for look in looks if look.state in ("unchanged", "new")}
    able = [name for name in names if whole.issuperset(settings.datasets_of(name))]
    behind = _step(look_up, quote(settings), able, results=results) or []
    fresh = {name for model in behind for name in settings.datasets_of(model)}
    results["datasets"] = [
        look.model_copy(update={"state": "new"} if look.dataset in fresh else {}).model_dump()
        for look in looks
    ]
    if behind:
        _train_and_judge(
            settings,
            behind,
            results,
            common,
            {"allow_dirty": allow_dirty, "without_champion": without_champion},
            workers,
        )
    drifts: list[RecentDrift] = (
        _step(measure_drift, quote(settings), drift_days, results=results) or []
    )
    results["drift"] = [drift.model_dump() | {"summary": drift.summary} for drift in drifts]
    results["verdict"] = _verdict(results)
    results["notified"] = _tell(settings, results)
    with contextlib.suppress(httpx.HTTPError):
        create_markdown_artifact(table(results), key="data-check", description=summary(results))
    get_run_logger().info("%s", summary(results))
    if results["verdict"] in FAILURES:
        codes = [look.exit_code for look in looks if look.state == "bad"]
        raise DataCheckFailed(results, max(codes, default=1))
    return results


def _step(step: Any, *arguments: Any, results: dict[str, Any]) -> Any:
    """Take a step whose failure is a fault of the check, and ends nothing else."""
    state = step(*arguments, return_state=True)
    if error := error_of(state):
        results["faults"].append(str(error))
        return None
    return state.result()


def _look_at(settings: Settings, names: Sequence[str], results: dict[str, Any]) -> list[Look]:
    """Check every dataset of the models; all are bad where DVC cannot bring a new version."""
    datasets = list(dict.fromkeys(d for name in names for d in settings.datasets_of(name)))
    state: Any = bring_version(return_state=True)
    error = error_of(state)
    if isinstance(error, DataError):
        return [
            Look(dataset=name, state="bad", reason=str(error), exit_code=error.exit_code)
            for name in datasets
        ]
    if error:
        results["faults"].append(str(error))
    quoted: Any = quote(settings)
    looks = [_step(check, quoted, name, results=results) for name in datasets]
    return [look for look in looks if look is not None]


def _train_and_judge(
    settings: Settings,
    behind: list[str],
    results: dict[str, Any],
    common: dict[str, Any],
    promoting: dict[str, Any],
    workers: int | None,
) -> None:
    """Run the flows `chapter` and `promotion` as subflows, whose parameters have no logins."""
    done = outcome_of(chapter, models=behind, workers=workers, **common)
    if isinstance(done, ModelsFailed):
        done = done.results
    if isinstance(done, BaseException):
        results["faults"].append(f"chapter: {done}")
        return
    results["models"] = [
        {key: model[key] for key in ("model", "dataset", "status", "model_version", "error")}
        for model in done["models"]
    ]
    trained = [model["model"] for model in results["models"] if model["status"] != "failed"]
    if not trained:
        return
    names = with_roles(settings, trained)
    judged = outcome_of(promotion, models=names, reason="new data", **promoting, **common)
    if isinstance(judged, JudgingFailed):
        judged = judged.results
    if isinstance(judged, BaseException):
        results["faults"].append(f"promotion: {judged}")
        return
    results["promotion"] = judged["models"]


def _verdict(results: dict[str, Any]) -> str:
    """Return the worst of all that happened."""
    said = {judged["verdict"] for judged in results["promotion"]}
    said |= {"trained" for model in results["models"] if model["status"] == "trained"}
    said |= {"failed" for model in results["models"] if model["status"] == "failed"}
    said |= {"bad data" for look in results["datasets"] if look["state"] == "bad"}
    said |= {"failed" for look in results["datasets"] if look["state"] == "unreachable"}
    said |= {"failed"} if results["faults"] else set()
    said |= {"drift" for drift in results["drift"] if "shifted" in drift["reading"]}
    return next((verdict for verdict in VERDICTS if verdict in said), "unchanged")


def _tell(settings: Settings, results: dict[str, Any]) -> str:
    """Notify of a verdict that was not sent before; return what was done."""
    last = LastNotification(find_project(), settings)
    if results["verdict"] == "unchanged":
        last.set(None)
        return "nothing to say"
    if not (settings.notify.command or settings.notify.webhook):
        return "nobody: params.yaml has no `notify:`"
    said = _events(results)
    if last.is_about(said):
        return "said before"
    document = {
        "what": f"data-check: {summary(results)}",
        "where": place(find_project(), settings.profile, str(runtime.flow_run.name)),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "verdict": results["verdict"],
        "details": lines_of(results),
    }
    state: Any = send(quote(settings), quote(document), return_state=True)
    error = error_of(state)
    failures = [str(error)] if error else state.result()
    if failures:
        return "; ".join(failures)
    last.set(said)
    return "sent"


def _events(results: dict[str, Any]) -> list[Any]:
    """Return what makes a verdict another one; counts that grow with each batch do not."""
    return [
        results["verdict"],
        [[look["dataset"], look["state"], look["digest"]] for look in results["datasets"]],
        [[model["model"], model["status"]] for model in results["models"]],
        [[judged["model"], judged["verdict"]] for judged in results["promotion"]],
        [[drift["model"], drift["reading"]] for drift in results["drift"]],
    ]


def lines_of(results: dict[str, Any]) -> list[str]:
    """Return a line for all that is not as it was."""
    lines = [
        f"{look['dataset']}: {look['state']}{': ' if look['reason'] else ''}{look['reason']}"
        for look in results["datasets"]
        if look["state"] != "unchanged"
    ]
    lines += [
        f"{model['model']}: {model['status']}"
        + (f": {model['error']}" if model["error"] else f", version {model['model_version']}")
        for model in results["models"]
    ]
    lines += [f"{judged['model']}: {judged['told']}" for judged in results["promotion"]]
    lines += [
        f"{drift['model']}: {drift['summary']}"
        for drift in results["drift"]
        if "shifted" in drift["reading"]
    ]
    return [*lines, *results["faults"]]


def summary(results: dict[str, Any]) -> str:
    """Return a check of the data in one line."""
    lines = lines_of(results)
    first = lines[0].partition("\n")[0] if lines else "no new data, no drift"
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    return f"{results['verdict']}: {first}{more}" if lines else f"{results['verdict']}: {first}"


def table(results: dict[str, Any]) -> str:
    """Return a check of the data in Markdown."""
    rows = [f"| {look['dataset']} | {look['state']} | |" for look in results["datasets"]]
    rows += [f"| {drift['model']} | {drift['reading']} | drift |" for drift in results["drift"]]
    lines = [f"- {line}".replace("\n", "\n  ") for line in lines_of(results)]
    head = f"**{results['verdict']}**; notified: {results['notified']}"
    return "\n".join([head, "", *lines, "", "| | | |", "| --- | --- | --- |", *rows])
