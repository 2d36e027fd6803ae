"""`chapterflow schedule` runs when the user meant, or says what to write instead."""

from datetime import datetime
from typing import Any

import pytest

from chapterflow.cli.operate import check_fields, time_zone
from chapterflow.environment import Project
from chapterflow.errors import ConfigError
from tests.conftest import invoke


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
