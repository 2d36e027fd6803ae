"""The chapter flow on a schedule, served from one process."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.schedules import Cron, Interval, Schedule

from chapterflow.errors import ConfigError
from pipelines.chapter import chapter

NAME = "chapter-on-schedule"


def serve_chapter(
    *,
    cron: str | None,
    every: int | None,
    parameters: dict[str, Any],
    address: str,
    tell: Callable[[str], None],
) -> None:
    """Serve the chapter flow until interrupted.

    Args:
        cron: Cron expression in UTC, or None for `every`.
        every: Seconds between runs.
        parameters: Parameters of each run.
        address: Address of Prefect's API.
        tell: Told where to look.

    Raises:
        ConfigError: If `cron` is not a cron expression.
    """
    try:
        when: Schedule = (
            Interval(timedelta(seconds=every)) if every else Cron(cron or "", timezone="UTC")
        )
        deployment: Any = chapter.to_deployment(
            name=NAME,
            schedule=when,
            parameters=parameters,
            # A run that is due while one is under way is skipped: it would only wait and reuse.
            concurrency_limit=ConcurrencyLimitConfig(
                limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
            ),
        )
    except ValueError as error:
        reason = str(error).splitlines()[-1]
        raise ConfigError(f"--cron takes five fields, such as '0 2 * * *': {reason}") from None
    rhythm = f"every {every} s" if every else f"at {cron} (UTC)"
    tell(f"The chapter flow runs {rhythm}. Prefect's UI: {address.removesuffix('/api')}")
    tell("Ctrl-C ends it.")
    serve(deployment, pause_on_shutdown=True, print_starting_message=False)
