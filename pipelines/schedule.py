"""The chapter flow on a schedule, served from one process."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import httpx
from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.schedules import Cron, Interval, Schedule

from chapterflow.errors import ChapterflowError, ConfigError
from pipelines.chapter import chapter
from pipelines.housekeeping import end_dead_flow_runs

NAME = "chapter-on-schedule"


#: Firings that are printed.
FIRINGS = 3


def next_firings(cron: str, timezone: str) -> list[datetime]:
    """Return the next times at which Prefect will run a flow, in the time zone.

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
        return list(asyncio.run(schedule.get_dates(FIRINGS)))
    except ValueError:
        raise ConfigError(
            "--cron must name a time that comes. Received: "
            f"{cron!r}, which never does: no such month has that day. Correct day and month"
        ) from None


def serve_chapter(
    *,
    cron: str,
    timezone: str,
    every: int | None,
    parameters: dict[str, Any],
    address: str,
    tell: Callable[[str], None],
) -> None:
    """Serve the chapter flow until interrupted.

    Args:
        cron: Cron expression of five fields.
        timezone: Its time zone.
        every: Seconds between runs, instead of `cron`.
        parameters: Parameters of each run.
        address: Address of Prefect's API.
        tell: Told where to look.

    Raises:
        ConfigError: If `cron` is not a cron expression, or never fires.
        ChapterflowError: If Prefect's server is lost.
    """
    when: Schedule
    if every:
        when, rhythm = Interval(timedelta(seconds=every)), f"every {every} s"
    else:
        when = Cron(cron, timezone=timezone)
        firings = ", ".join(f"{time:%a %Y-%m-%d %H:%M}" for time in next_firings(cron, timezone))
        rhythm = f"at {cron!r} in the time zone {timezone}, next on {firings}"
    # A flow run that a killed schedule left open holds the only place, and none would start.
    end_dead_flow_runs()
    deployment: Any = chapter.to_deployment(
        name=NAME,
        schedule=when,
        parameters=parameters,
        # A run that is due while one is under way is skipped: it would only wait and reuse.
        concurrency_limit=ConcurrencyLimitConfig(
            limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
        ),
    )
    tell(f"The chapter flow runs {rhythm}. Prefect's UI: {address.removesuffix('/api')}")
    tell("Ctrl-C ends it.")
    try:
        serve(deployment, pause_on_shutdown=True, print_starting_message=False)
    except httpx.HTTPError as error:
        raise ChapterflowError(
            "The schedule has ended, because Prefect's server does not answer. Received: "
            f"{address} ({error}). Start it again: `chapterflow schedule`"
        ) from error
