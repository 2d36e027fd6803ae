"""`chapterflow schedule` runs when the user meant, or says what to write instead."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from chapterflow.cli.operate import check_fields, time_zone
from chapterflow.environment import Project
from chapterflow.errors import ConfigError
from tests.conftest import REPOSITORY, invoke, using_prefect

BERLIN = "Europe/Berlin"


@pytest.mark.fault("Cron expression with six fields", "Refused with what to write")
@pytest.mark.parametrize(
    ("cron", "says"),
    [
        ("0 0 2 * * *", "which has 6 fields. If the first field means seconds, write '0 2 * * *'"),
        ("@daily", "'@daily', which has 1 field. For every night at two, write '0 2 * * *'"),
        ("", "which has 0 fields"),
        ("0 2 * *", "which has 4 fields"),
    ],
)
def test_a_cron_expression_has_five_fields(cron: str, says: str, record_property: Any) -> None:
    with pytest.raises(ConfigError) as refused:
        check_fields(cron)
    assert says in str(refused.value)
    record_property("saw", f"exit {refused.value.exit_code}: {says}")


def test_time_zones(monkeypatch: pytest.MonkeyPatch) -> None:
    # tzlocal keeps what it read first.
    monkeypatch.setattr("tzlocal.unix._cache_tz_name", None)
    monkeypatch.setenv("TZ", "America/New_York")
    assert time_zone(None) == "America/New_York"
    assert time_zone("Asia/Seoul") == "Asia/Seoul"
    for name in ("Asia/Soul", "../etc/passwd", "", "KST"):
        with pytest.raises(ConfigError, match="takes the name of a time zone") as refused:
            time_zone(name)
        assert ("Did you mean 'Asia/Seoul'" in str(refused.value)) == (name == "Asia/Soul")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--cron", "0 0 2 * * *"), "write '0 2 * * *'"),
        (("--timezone", "Mars/Base"), "--timezone takes the name of a time zone"),
        (("--every", "60", "--timezone", "UTC"), "--timezone and --every exclude each other"),
    ],
)
def test_options_are_refused_before_a_server_starts(
    project: Project, words: tuple[str, ...], says: str
) -> None:
    result = invoke(project.root, "schedule", *words)
    assert (result.returncode, says in result.stderr) == (2, True), result.stderr
    # Importing Prefect makes the folder, a server the database.
    assert not (project.root / ".prefect" / "prefect.db").exists()


@pytest.mark.slow
def test_workers_get_the_deployments_that_schedule_serves() -> None:
    from pipelines.schedule import DEPLOYMENTS

    document = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
    for block, deployment in zip(document["deployments"], DEPLOYMENTS, strict=True):
        assert block["name"] == deployment.name
        assert block["description"] == deployment.description
        assert block["entrypoint"] == deployment.entrypoint
        limit = {"limit": 1, "collision_strategy": deployment.strategy.value}
        assert block["concurrency_limit"] == limit
        (schedule,) = block.get("schedules", [None])
        assert (schedule and schedule["cron"]) == deployment.cron
        assert schedule is None or schedule["active"] == deployment.active
        properties = deployment.flow.parameters.properties
        assert set(block["parameters"]) <= set(properties)
        assert [name for name, field in properties.items() if not field.get("description")] == []


@pytest.mark.slow
def test_deployments_are_chosen_by_name() -> None:
    from pipelines.schedule import choose_deployments

    assert len(choose_deployments([])) == 7
    assert [d.name for d in choose_deployments(["data-check", "model"])] == ["data-check", "model"]
    with pytest.raises(ConfigError, match=r"There are chapter-nightly, model"):
        choose_deployments(["nightly"])
    with pytest.raises(ConfigError, match=r"--cron and --every are for chapter-nightly"):
        choose_deployments(["data-check", "model"], retimed=True)


@pytest.mark.slow
@pytest.mark.fault(
    "Daylight saving skips or repeats the hour of a schedule", "It fires once on each day"
)
def test_each_day_of_a_change_of_the_clock_has_one_firing(record_property: Any) -> None:
    from pipelines.schedule import firings_after

    def firings(cron: str, begin: datetime) -> list[str]:
        """Return the firings of a night in UTC, looked up again and again as a server does."""
        looks = (begin + timedelta(minutes=20 * look) for look in range(18))
        seen = {time.astimezone(UTC) for at in looks for time in firings_after(cron, BERLIN, at)}
        return [f"{time:%H:%M}" for time in sorted(seen) if time < begin + timedelta(hours=6)]

    # Berlin has no 02:30 in the first night, and two in the second.
    spring, autumn = (datetime(2026, *day, 22, tzinfo=UTC) for day in ((3, 28), (10, 24)))
    # 01:30 instead of 02:30; the first of two.
    assert firings("30 2 * * *", spring) == ["00:30"]
    assert firings("30 2 * * *", autumn) == ["00:30"]
    assert firings("0 2 * * *", spring) == firings("0 2 * * *", autumn) == ["00:00"]
    hourly = ["22:00", "23:00", "00:00", "01:00", "02:00", "03:00"]
    assert firings("0 * * * *", spring) == hourly
    # Two hours pass where 02:00 is repeated.
    assert firings("0 * * * *", autumn) == [time for time in hourly if time != "01:00"]
    record_property("saw", "02:30 in Berlin: at 01:30 where it is skipped; once where it is two")


@pytest.mark.slow
@pytest.mark.fault(
    "Deployment due, or started from the UI, while a run of it is under way",
    "Those with a time are cancelled; those on demand wait, and run when the place is free",
)
def test_a_second_run_is_cancelled_or_waits(
    prefect_api: dict[str, str], record_property: Any
) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.states import Completed, Pending, Running

    from pipelines.schedule import choose_deployments

    seen = {}
    with using_prefect(prefect_api), get_client(sync_client=True) as client:
        for deployment in choose_deployments(["chapter-nightly", "model"]):
            limit = ConcurrencyLimitConfig(limit=1, collision_strategy=deployment.strategy)
            name = f"overlap-{deployment.name}"
            made = flow(lambda: None, name=name).to_deployment(name, concurrency_limit=limit)
            first, second = (
                client.create_flow_run_from_deployment(made.apply()).id for _ in range(2)
            )
            client.set_flow_run_state(first, Pending())
            client.set_flow_run_state(first, Running())
            client.set_flow_run_state(second, Pending())
            seen[deployment.name] = client.read_flow_run(second).state.name
            if deployment.waits:
                client.set_flow_run_state(first, Completed())
                client.set_flow_run_state(second, Pending())
                assert client.read_flow_run(second).state.name == "Pending"
            for run in (first, second):
                client.delete_flow_run(run)
    assert seen == {"chapter-nightly": "Cancelled", "model": "AwaitingConcurrencySlot"}
    record_property("saw", ", ".join(f"{name}: {state}" for name, state in seen.items()))


@pytest.mark.slow
@pytest.mark.fault("Cron expression that never fires", "Refused with what is wrong")
def test_the_next_firings_are_those_of_prefect(record_property: Any) -> None:
    from pipelines.schedule import next_firings

    first, second, third = next_firings("30 2 * * *", "Asia/Seoul")
    assert [(time.hour, time.minute) for time in (first, second, third)] == [(2, 30)] * 3
    assert first > datetime.now(first.tzinfo)
    assert (second - first).days == (third - second).days == 1
    assert str(first.utcoffset()) == "9:00:00"
    assert [time.day for time in next_firings("0 2 29 2 *", "UTC")] == [29] * 3
    for never in ("0 2 30 2 *", "0 2 31 4,6 *"):
        with pytest.raises(ConfigError, match=r"which never does: no such month") as refused:
            next_firings(never, "UTC")
    record_property("saw", str(refused.value))
    for wrong in ("61 * * * *", "0 2 * * day", "R R * * *"):
        with pytest.raises(ConfigError, match="each a number, a range"):
            next_firings(wrong, "UTC")
