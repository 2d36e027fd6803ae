"""`chapterflow ui`, `schedule`, `gc`, `doctor`: MLflow's UI, scheduled runs, upkeep, diagnosis."""

from __future__ import annotations

import contextlib
import difflib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from chapterflow.cli.common import ModelsArgument, ProfileOption, SetOption, say, start
from chapterflow.environment import Project, configure, find_project
from chapterflow.errors import ConfigError, nearest, redacted

#: Address of the MLflow UI.
HOST = "127.0.0.1"
#: Port of Prefect's UI.
PREFECT_PORT = 4200


def ui(
    port: Annotated[
        int | None,
        typer.Option(help="Port on 127.0.0.1: 5000, or 4200 for Prefect.", min=1, max=65535),
    ] = None,
    prefect: Annotated[
        bool, typer.Option("--prefect", help="Prefect's UI, with the flows and schedules.")
    ] = False,
) -> None:
    """Open MLflow's UI with this project's runs, or Prefect's.

    Ctrl-C ends it.
    """
    project, settings = start(models=False)
    if prefect:
        _serve_prefect(project, port or PREFECT_PORT)
        return
    port = port or 5000
    from chapterflow.tracking.runs import ROLE
    from chapterflow.tracking.session import Session
    from chapterflow.tracking.versions import registered_models

    with Session(project, settings) as session:
        experiment = session.experiment_id
        tags = registered_models().values()
    # Links to roles without a model would open empty pages.
    roles = [role for role in settings.roles if any(own.get(ROLE) == role for own in tags)]
    _serve_ui(project, port, experiment, roles, tell=say)


def _serve_prefect(project: Project, port: int) -> None:
    """Serve Prefect's pages on 127.0.0.1 until interrupted.

    Raises:
        ConfigError: If the port is taken.
    """
    if configured := os.environ.get("PREFECT_API_URL"):
        page = redacted(configured.rstrip("/").removesuffix("/api"))
        say(f"PREFECT_API_URL is set; its server shows the flows: {page}")
        return
    if _port_answers(port):
        raise ConfigError(
            f"Port {port} on {HOST} is taken. Choose another with --port. While `chapterflow "
            f"schedule` runs, it serves the same pages, by default on port {PREFECT_PORT}."
        )
    from pipelines.prefect_server import prefect_server

    say("Starting Prefect's UI")
    with prefect_server(project.scratch, ui=True, port=port, tell=say) as address:
        say(f"Prefect UI: {address.removesuffix('/api')} (Ctrl-C ends it)")
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


def _serve_ui(
    project: Project,
    port: int,
    experiment_id: str,
    roles: Sequence[str],
    *,
    tell: Callable[[str], None],
) -> None:
    """Serve MLflow's pages on 127.0.0.1 until interrupted.

    Raises:
        ConfigError: If the port is taken.
    """
    from chapterflow.tracking.session import charts_of
    from chapterflow.tracking.store import is_local, tracking_uri

    if not is_local(project):
        tell(f"MLFLOW_TRACKING_URI is set; its server shows the runs: {tracking_uri(project)}")
        return
    if _port_answers(port):
        raise ConfigError(f"Port {port} on {HOST} is taken. Choose another with --port.")
    tell("Starting the MLflow UI")
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server"),
            *("--backend-store-uri", tracking_uri(project)),
            *("--registry-store-uri", tracking_uri(project)),
            *("--uvicorn-opts", "--log-level=warning"),
            *("--host", HOST, "--port", str(port), "--workers", "1"),
        ],
        cwd=project.root,
        env={**os.environ, "MLFLOW_LOGGING_LEVEL": "WARNING", "PYTHONWARNINGS": "ignore"},
        start_new_session=True,
    )

    def stop(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        while server.poll() is None and not _port_answers(port):
            time.sleep(0.2)
        if server.poll() is None:
            page = f"http://{HOST}:{port}/#/experiments/{experiment_id}/runs"
            tell(f"MLflow UI: {page} (Ctrl-C ends it)")
            for role in roles:
                tell(f"Charts of {role}: {charts_of(page, role)}")
        server.wait()
    except KeyboardInterrupt:
        pass
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _port_answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def check_fields(cron: str) -> None:
    """Refuse a cron expression that does not have five fields.

    Prefect reads a sixth field as seconds, where other programs have them first.

    Raises:
        ConfigError: If it has more or fewer.
    """
    fields = cron.split()
    if len(fields) == 5:
        return
    count = f"{len(fields)} field{'' if len(fields) == 1 else 's'}"
    advice = "For every night at two, write '0 2 * * *'."
    if len(fields) == 6:
        advice = f"If the first field means seconds, write '{' '.join(fields[1:])}'."
    raise ConfigError(
        "--cron takes five fields: minute, hour, day of the month, month, and day of the week. "
        f"Received: {cron!r}, which has {count}. {advice}"
    )


def time_zone(name: str | None) -> str:
    """Return the name of a time zone; of this machine's by default.

    Raises:
        ConfigError: If there is no such zone.
    """
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

    import tzlocal

    try:
        return ZoneInfo(name if name is not None else tzlocal.get_localzone_name()).key
    except (ZoneInfoNotFoundError, ValueError, OSError):
        zones = {zone for zone in available_timezones() if "/" in zone or zone == "UTC"}
        hint = nearest(name, zones) if name and difflib.get_close_matches(name, zones) else ""
        raise ConfigError(
            "--timezone takes the name of a time zone, such as Asia/Seoul or UTC. "
            f"Received: {name!r}.{hint}"
        ) from None


def schedule(
    models: ModelsArgument = None,
    deployment: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Serve this deployment only; repeatable. By default all of them.",
        ),
    ] = None,
    cron: Annotated[
        str | None,
        typer.Option(help='Five fields: minute, hour, day, month, weekday; such as "0 2 * * *".'),
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option(help="Time zone of cron expressions, such as Asia/Seoul; this machine's."),
    ] = None,
    every: Annotated[int | None, typer.Option(help="Seconds between runs.", min=5)] = None,
    profile: ProfileOption = None,
    set_: SetOption = None,
    port: Annotated[
        int, typer.Option(help="Port of Prefect's UI on 127.0.0.1.", min=1, max=65535)
    ] = PREFECT_PORT,
) -> None:
    """Run the flows on a schedule, from this process.

    The chapter every night at 02:00, and a check for new data and drift every hour; --cron and
    --every are for the chapter, or for the one deployment that is named. Ctrl-C ends it.
    """
    for option, given in (("--cron", cron), ("--timezone", timezone)):
        if given and every:
            raise ConfigError(f"{option} and --every exclude each other. Received: both")
    # Before a server starts.
    if cron is not None:
        check_fields(cron)
    zone = time_zone(timezone)
    project, settings = start(profile, set_)
    settings.check_names(models or [], settings.models, "model")
    for override in set_ or []:
        if (clean := redacted(override)) != override:
            # It runs in processes of its own, which read the parameters from there.
            raise ConfigError(
                "Prefect keeps the --set of a schedule in its database, so it may not hold a "
                f"password. Received: {clean}. Write the address into {project.params.name}"
            )
    from pipelines.schedule import choose_deployments, serve_deployments

    deployments = choose_deployments(deployment or [], retimed=bool(cron or every))
    from pipelines.prefect_server import prefect_server

    with prefect_server(project.scratch, ui=True, port=port, tell=say) as address:
        os.chdir(project.root)
        serve_deployments(
            deployments,
            cron=cron,
            every=every,
            timezone=zone,
            named=bool(deployment),
            parameters={"models": models, "profile": settings.profile, "overrides": set_},
            address=address,
            tell=say,
        )


def gc(
    older: Annotated[
        str, typer.Option(metavar="AGE", help="Age from which on something may go: 30d, 12h.")
    ] = "30d",
    keep: Annotated[
        int,
        typer.Option(help="Newest finished runs to keep of each model on each dataset.", min=0),
    ] = 3,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be removed; remove nothing.")
    ] = False,
) -> None:
    """Remove old runs, versions, interrupted work and flow history.

    Champions, challengers, earlier champions and what they come from always stay.
    """
    project = find_project()
    configure(project)
    from chapterflow.registry.retention import age, find_unneeded, remove

    duration = age(older)
    unneeded = find_unneeded(project, older=duration, keep=keep, on_note=say)
    counts, size = unneeded.counts(), unneeded.bytes()
    from pipelines.history import count_old_flow_runs, delete_old_flow_runs, own_history

    history = own_history()
    flows = count_old_flow_runs(history, duration) if history else 0
    if flows:
        counts["flow runs in Prefect"] = flows
    if not counts:
        say(f"Nothing to remove: nothing that is older than {older} may go.")
        return
    table = Table("to remove" if dry_run else "removed", Column("number", justify="right"))
    for name, count in counts.items():
        table.add_row(name, f"{count:,}")
    if not dry_run:
        remove(project, unneeded, on_note=say)
        if flows:
            delete_old_flow_runs(duration)
    console = Console()
    console.print(table)
    freed = f"{'Would free' if dry_run else 'Freed'} {size / 1e6:,.1f} MB on this machine."
    console.print(Text(freed), soft_wrap=True)


def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Repair the tracking store.")] = False,
) -> None:
    """Check this machine and project.

    Prints what to do about each check that fails.
    """
    project = find_project()
    configure(project)
    from chapterflow.checks import failures, print_checks
    from chapterflow.cli.doctor import diagnose, mend

    console = Console()
    if fix:
        for line in mend(project):
            console.print(Text(f"mended: {line}"), soft_wrap=True)
    checks = diagnose(project)
    print_checks(console, checks, {"name": "check", "observed": "result"})
    sys.exit(1 if failures(checks) else 0)
