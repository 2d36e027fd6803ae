"""The deployments, and a process that serves them; `prefect.yaml` has the same for workers."""

import asyncio
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.schedules import Cron, Interval, Schedule

from chapterflow.errors import ChapterflowError, ConfigError
from pipelines.housekeeping import end_dead_flow_runs


@dataclass(frozen=True)
class Deployment:
    """A flow with a name, and when it runs.

    Attributes:
        entrypoint: File and function of the flow.
        cron: Cron expression of five fields; None if it runs on demand only.
        active: Whether it fires unless it is named.
        waits: Whether a run that is due while one is under way waits; otherwise it is cancelled.
    """

    name: str
    entrypoint: str
    description: str
    cron: str | None = None
    active: bool = True
    waits: bool = False

    @property
    def flow(self) -> Any:
        """The flow."""
        path, _, function = self.entrypoint.partition(":")
        module = path.removesuffix(".py").replace("/", ".")
        return getattr(importlib.import_module(module), function)

    @property
    def strategy(self) -> ConcurrencyLimitStrategy:
        """What becomes of a run that is due while one is under way."""
        strategies = ConcurrencyLimitStrategy
        return strategies.ENQUEUE if self.waits else strategies.CANCEL_NEW


NIGHTLY = "chapter-nightly"
DEPLOYMENTS = (
    Deployment(
        NIGHTLY,
        "pipelines/chapter.py:chapter",
        "Every model of the chapter, each night. What has not changed is reused.",
        cron="0 2 * * *",
    ),
    Deployment(
        "model",
        "pipelines/chapter.py:chapter",
        "The models that the parameter `models` names, on demand.",
        waits=True,
    ),
    Deployment(
        "promotion",
        "pipelines/promotion.py:promotion",
        "Judges every challenger by the gates of params.yaml, and promotes the good ones.",
        cron="0 3 * * *",
        active=False,
    ),
    Deployment(
        "data-check",
        "pipelines/data_check.py:data_check",
        "Looks for new data and drift; trains on good new data, judges the models, and notifies.",
        cron="0 * * * *",
    ),
    Deployment(
        "batch-predict",
        "pipelines/batch.py:batch",
        "Predicts files or datasets with a registered model, on demand.",
        waits=True,
    ),
    Deployment(
        "sweep",
        "pipelines/sweep.py:sweep",
        "Searches for better parameters of a model, judged on validation; changes no file.",
    ),
    Deployment(
        "gc",
        "pipelines/housekeeping.py:gc",
        "Removes what is older than 90 days and not needed; champions and challengers stay.",
        cron="0 4 * * *",
    ),
)


def choose_deployments(names: Sequence[str], *, retimed: bool = False) -> list[Deployment]:
    """Return the deployments of these names; all by default.

    Args:
        retimed: Whether --cron or --every is given, which is for one deployment.

    Raises:
        ConfigError: If there is no such deployment, or it is open which one is retimed.
    """
    by_name = {deployment.name: deployment for deployment in DEPLOYMENTS}
    for name in names:
        if name not in by_name:
            raise ConfigError(
                f"--deployment takes the name of a deployment. Received: {name!r}. There are "
                f"{', '.join(by_name)}"
            )
    chosen = [by_name[name] for name in dict.fromkeys(names)] or list(DEPLOYMENTS)
    if retimed and len(chosen) > 1 and by_name[NIGHTLY] not in chosen:
        raise ConfigError(
            "--cron and --every are for chapter-nightly, or for the only --deployment. Received: "
            f"{' '.join(names)}. Name one of them"
        )
    return chosen


#: Firings that are printed.
FIRINGS = 3


def next_firings(cron: str, timezone: str) -> list[datetime]:
    """Return the next times at which Prefect will run a flow, in the time zone.

    Raises:
        ConfigError: If `cron` is not a cron expression, or never fires.
    """
    return firings_after(cron, timezone, None)


def firings_after(cron: str, timezone: str, start: datetime | None) -> list[datetime]:
    """Return the times at which Prefect runs a flow after a time; now by default.

    Raises:
        ConfigError: If `cron` is not a cron expression, or never fires.
    """
    # Prefect's own schedule, so that what is printed is what will happen.
    from prefect.server.schemas.schedules import CronSchedule

    try:
        schedule = CronSchedule(cron=cron, timezone=timezone)
    except ValueError:
        raise ConfigError(
            "--cron takes five fields: minute (0-59), hour (0-23), day of the month (1-31), month "
            "(1-12) and day of the week (0-6, from Sunday), each a number, a range, a list or *, "
            f"such as '0 2 * * *'. Received: {cron!r}"
        ) from None
    try:
        return list(asyncio.run(schedule.get_dates(FIRINGS, start)))
    except ValueError:
        raise ConfigError(
            "--cron must name a time that comes. Received: "
            f"{cron!r}, which never does: no such month has that day. Correct day and month"
        ) from None


def serve_deployments(
    deployments: Sequence[Deployment],
    *,
    cron: str | None,
    every: int | None,
    timezone: str,
    named: bool,
    parameters: dict[str, Any],
    address: str,
    tell: Callable[[str], None],
) -> None:
    """Serve deployments until interrupted.

    Args:
        deployments: What to serve. `cron` and `every` are for the only one, or for
            `chapter-nightly`.
        cron: Cron expression of five fields, instead of the deployment's.
        every: Seconds between runs, instead of a cron expression.
        timezone: Time zone of cron expressions.
        named: Whether the user has named the deployments: then all of them fire.
        parameters: Parameters of each run, for those flows that have them.
        address: Address of Prefect's API.
        tell: Called with lines about what runs when, and where to look.

    Raises:
        ConfigError: If `cron` is not a cron expression, or never fires.
        ChapterflowError: If Prefect's server is lost.
    """
    # A flow run that a killed schedule left open holds the only place, and none would start.
    end_dead_flow_runs()
    served: list[Any] = []
    for deployment in deployments:
        own = len(deployments) == 1 or deployment.name == NIGHTLY
        when, rhythm = _when(
            deployment,
            cron if own and cron else deployment.cron,
            every if own else None,
            timezone,
            active=named or deployment.active,
        )
        flow = deployment.flow
        served.append(
            flow.to_deployment(
                name=deployment.name,
                description=deployment.description,
                schedule=when,
                parameters={
                    name: value
                    for name, value in parameters.items()
                    if name in flow.parameters.properties and value is not None
                },
                concurrency_limit=ConcurrencyLimitConfig(
                    limit=1, collision_strategy=deployment.strategy
                ),
            )
        )
        tell(f"{deployment.name}: {rhythm}")
    tell(f"Prefect's UI: {address.removesuffix('/api')}. Ctrl-C ends the schedule.")
    try:
        serve(*served, pause_on_shutdown=True, print_starting_message=False)
    except httpx.HTTPError as error:
        raise ChapterflowError(
            "The schedule has ended, because Prefect's server does not answer. Received: "
            f"{address} ({error}). Start it again: `chapterflow schedule`"
        ) from error


def _when(
    deployment: Deployment, cron: str | None, every: int | None, timezone: str, *, active: bool
) -> tuple[Schedule | None, str]:
    """Return when a deployment runs, and in words."""
    if every:
        return Interval(timedelta(seconds=every), active=active), f"every {every} s"
    if cron is None:
        return None, "on demand"
    if not active:
        schedule = Cron(cron, timezone=timezone, active=False)
        return schedule, f"inactive; `--deployment {deployment.name}` lets it run at {cron!r}"
    firings = ", ".join(f"{time:%a %Y-%m-%d %H:%M}" for time in next_firings(cron, timezone))
    words = f"at {cron!r} in the time zone {timezone}, next on {firings}"
    return Cron(cron, timezone=timezone, active=True), words


def use_clone(directory: str) -> dict[str, str]:
    """Run the code of a clone in this process; the last step of `pull:` in `prefect.yaml`.

    Without it, a worker would run the pipelines of the clone with the package of its environment.
    The version of `data/` that the clone names is brought, where DVC has it; otherwise flows build
    what they need from its source.

    Args:
        directory: The clone.
    """
    root = Path(directory).resolve()
    sys.path[:0] = [str(root / "src"), str(root)]
    for name in list(sys.modules):
        if name.partition(".")[0] in ("chapterflow", "pipelines"):
            del sys.modules[name]
    from chapterflow.data.versioning import pull
    from chapterflow.environment import Project

    project = Project(root)
    if not project.data.is_dir():
        pull(project)
    return {"directory": str(root)}
