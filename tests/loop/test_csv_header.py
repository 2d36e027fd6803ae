"""What is found out about a user's CSV file, and what of it is refused."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from chapterflow.data.sources.csv_series import read_rows, series_options
from chapterflow.errors import DataError

SHARES = {"validation": 0.1, "test": 0.2}


def options(
    folder: Path, content: bytes, message: list[str] | None = None, **shares: float
) -> dict[str, Any]:
    path = folder / "a.csv"
    path.write_bytes(content)
    note = (message if message is not None else []).append
    return series_options(path, seed=5, shares=SHARES | shares, say=note)


def table(times: Any, header: str = "t,x", rest: str = "1.5") -> bytes:
    return "\n".join([header, *(f"{time},{rest}" for time in times)]).encode()


def days(count: int) -> list[date]:
    return [date(2020, 1, 1) + timedelta(days=number) for number in range(count)]


def months(count: int) -> list[date]:
    return [date(2000 + number // 12, 1 + number % 12, 1) for number in range(count)]


def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []

    def counted(path: Path) -> Any:
        reads.append(path)
        return read_rows(path)

    monkeypatch.setattr("chapterflow.data.sources.csv_series.read_rows", counted)
    assert options(tmp_path, table([*days(50), *days(110)[60:]]))["step"] == "irregular"
    assert reads == [tmp_path / "a.csv"]


@pytest.mark.parametrize(
    ("times", "step"),
    [
        (days(100), "regular"),
        (months(100), "month"),
        ([0.5 * number for number in range(100)], "regular"),
        ([*days(50), *days(110)[60:]], "irregular"),
    ],
)
def test_the_step_is_found_in_the_times(tmp_path: Path, times: Any, step: str) -> None:
    message: list[str] = []
    actual = options(tmp_path, table(times), message)
    assert (actual["time"], actual["values"], actual["step"]) == ("t", ["x"], step)
    assert len(message) == 1 + (step == "irregular")
    assert "windows of" in message[-1]


def test_a_gap_is_reported_by_its_length(tmp_path: Path) -> None:
    message: list[str] = []
    options(tmp_path, table([*days(50), *days(110)[59:]]), message)
    assert "(from 1 to 10 times the usual one, the largest before line 52)" in message[0]


@pytest.mark.fault(
    "Months or days in a CSV file look like numbers",
    "Read as dates; a gap is reported with its line",
)
@pytest.mark.parametrize("gap", [False, True])
@pytest.mark.parametrize(
    ("times", "form", "step"),
    [
        (months, "%Y.%m", "month"),
        (lambda count: [str(float(f"{day:%Y.%m}")) for day in months(count)], "", "month"),
        (months, "%Y%m", "month"),
        (months, "%Y-%m", "month"),
        (days, "%Y%m%d", "regular"),
    ],
    ids=["1990.01", "1990.1", "199001", "1990-01", "19900101"],
)
def test_dates_that_look_like_numbers_are_dates(
    tmp_path: Path, times: Any, form: str, step: str, gap: bool
) -> None:
    message: list[str] = []
    written = [time if isinstance(time, str) else f"{time:{form}}" for time in times(100)]
    if gap:
        del written[69]
    assert options(tmp_path, table(written), message)["step"] == ("irregular" if gap else step)
    assert ("the largest before line 71)" in message[0]) == gap


@pytest.mark.parametrize(
    ("times", "step"),
    [
        # Numbers that only begin like dates.
        ([200_001 + number for number in range(100)], "regular"),
        ([20_230_101 + number for number in range(100)], "regular"),
        ([1990 + number for number in range(100)], "regular"),
        ([f"{1990 + number}.1" for number in range(100)], "regular"),
        ([round(1990 + number / 12, 2) for number in range(100)], "irregular"),
    ],
)
def test_numbers_stay_numbers(tmp_path: Path, times: Any, step: str) -> None:
    assert options(tmp_path, table(times))["step"] == step


@pytest.mark.parametrize("wrong", ["1993.13", "1993-03", "1993.3"])
def test_a_time_unlike_the_other_dates_is_refused(tmp_path: Path, wrong: str) -> None:
    written = [f"{day:%Y.%m}" for day in months(100)]
    written[40] = wrong
    with pytest.raises(DataError, match=rf"line 42: .* in the form 1990\.01\. Received: '{wrong}'"):
        options(tmp_path, table(written))


def test_separators_of_thousands_are_left_out_and_that_is_said(tmp_path: Path) -> None:
    message: list[str] = []
    rows = [f'{number},"{999 + number:,}",{number}' for number in range(90)]
    actual = options(tmp_path, "\n".join(["t,visitors,x", *rows]).encode(), message)
    assert actual["values"] == ["visitors", "x"]
    assert message[0] == (
        "a.csv: commas in numbers are read as separators of thousands in visitors: '1,000' is 1000."
    )
    assert len(message) == 2


@pytest.mark.parametrize("text", ["0,125", "12,5", "1,23,456", "1234,567"])
def test_other_commas_are_not(tmp_path: Path, text: str) -> None:
    content = table(range(90), rest='"2,017"') + f'\n90,"{text}"\n'.encode()
    with pytest.raises(DataError, match="numbers must have a decimal point"):
        options(tmp_path, content)


def test_columns_of_different_units_are_scaled_and_that_is_said(tmp_path: Path) -> None:
    def columns(factor: float) -> bytes:
        rows = [f"{number},{number % 7},{number % 5 * factor}" for number in range(90)]
        return "\n".join(["t,degrees,visitors", *rows]).encode()

    message: list[str] = []
    assert options(tmp_path, columns(1e5), message)["scale"] == "spread"
    assert "standard deviation 1.99 in degrees, 1.41e+05 in visitors" in message[0]
    assert "scale" not in options(tmp_path, columns(4.0))


@pytest.mark.parametrize(
    ("count", "window", "stride"), [(79, 8, 1), (1000, 32, 4), (20_000, 32, 10), (10**5, 32, 32)]
)
def test_windows_fit_into_every_split_and_are_not_too_many(
    tmp_path: Path, count: int, window: int, stride: int
) -> None:
    actual = options(tmp_path, table(range(count)))
    assert (actual["window"], actual["stride"]) == (window, stride)


def test_columns_of_words_are_left_out_and_that_is_said(tmp_path: Path) -> None:
    message: list[str] = []
    content = table(range(90), "\ufeff# a comment\n\nt, town ,hot,cold", "Bonn,1,2")
    assert options(tmp_path, content, message)["values"] == ["hot", "cold"]
    assert message[:-1] == ["a.csv: left out, because they hold no numbers: town."]


def test_columns_with_gaps_are_left_out_and_that_is_said(tmp_path: Path) -> None:
    message: list[str] = []
    content = table(range(90), "t,hot,cold", "1,2") + b"\n90,3,\n91,,\n92,3,4"
    assert options(tmp_path, content, message)["values"] == ["hot"]
    assert message[0].startswith(
        "a.csv: left out, because values are missing: cold (1 missing, the first in line 92)."
    )
    assert message[1] == "a.csv: rows without any value are ignored: 1."


def test_blank_rows_are_passed_over_and_that_is_said(tmp_path: Path) -> None:
    message: list[str] = []
    content = table(range(90)) + b"\n90,\n91,\n"
    assert options(tmp_path, content, message)["blank_rows"] == "skip"
    assert message[:-1] == ["a.csv: rows without any value are ignored: 2."]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "must begin with a row of column names"),
        (b"date\n1\n", "must begin with a row of column names"),
        (b"date,,x\n", "must begin with a row of column names"),
        (b"2020-01-01,100.126,49.3\n2020-01-02,1,2\n", "a row of values, '2020-01-01,100.126"),
        (b"0,1\n1,2\n", "Add a row of names"),
        (b"\xff\xfe\x00", "must be a CSV file"),
        (b"Datum;Wert\n2020-01-01;1,5\n", "separated by semicolons"),
        (b'Datum,Wert\n2020-01-01,"1.234,5"\n', r"line 2, column 'Wert': .*decimal point"),
        (b"t,x\n0,1\n1,2\n0.5,3\n", "line 4: times must increase"),
        (b"t,x\n9999-12-31,1\n9999-12-31T23:59-14:00,2\n2020-01-01,3\n", "line 4: times must"),
        (b"t,x\n2020-01-01,1\nnow,2\n", "line 3: the time must be an ISO 8601 date"),
        (b"t,x\n0,1\n1,oops\n", "line 3, column 'x': a value must be a number"),
        (b"t,x,y\n0,1,1\n1,,2\n2,1,\n", "line 3, column 'x': a value is missing"),
        (b"t,x\n0,1\n1,2,3\n", "line 3: every row must have the 2 fields"),
        (b"t,x,x\n0,1,1\n", "name the column 'x' once"),
        (b"t,town\n0,Bonn\n", "must have a column of numbers besides the times"),
        (b"01.02.2020,x\n", "must have a column of numbers"),
        (table(range(60)), "too short.*60 rows, of which the smallest split gets 6"),
    ],
)
def test_what_is_wrong_with_a_file_is_reported(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        options(tmp_path, content)
