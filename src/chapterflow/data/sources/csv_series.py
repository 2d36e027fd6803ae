"""Sources of curves: generated ones, and a series from a CSV file."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice, pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from chapterflow.data.fetch import open_decompressed
from chapterflow.data.source import Fetch, Source, SourceData, UserData
from chapterflow.errors import DataError
from chapterflow.kinds.dataset import SPLITS
from chapterflow.types import PositiveInt, RemoteFile, Seed, SplitShare, Strict


class CsvSeries(Strict):
    """Windows of one or more series in the columns of a CSV file.

    Attributes:
        mirror: Folder of the file below `CHAPTERFLOW_MIRROR`; null for a file that no mirror
            holds, which comes from `upstream` always.
        upstream: Base addresses (`https://`, `file://`, `package://` or a path), tried in order.
        file: The CSV file; lines that start with `#` are comments.
        time: Column of times: ISO 8601 dates or times, or numbers.
        values: Columns of measured values.
        step: `regular`: all steps are equal; `month`: one calendar month each; `irregular`: any.
        blank_rows: `skip` passes over rows in which all the value columns are empty; `refuse`
            takes them for damage. A row in which some are empty is an error always.
        last: Last time that is read, as it is written in the file; null reads all.
        log: Whether to take logarithms, for values whose changes are relative to their size.
        window: Samples in a window.
        stride: Samples between the starts of train windows, which may overlap. Those of the other
            splits never do.
        parts: Each window is divided at random into so many parts, and is one example for each:
            there the part is hidden from the input and is what is scored.
        validation: Share of the time span, after the train share.
        test: Share of the time span at its end.
    """

    kind: Literal["csv-series"]
    seed: Seed
    mirror: str | None = None
    upstream: Annotated[list[str], Field(min_length=1)]
    file: RemoteFile
    time: str
    values: Annotated[list[str], Field(min_length=1)]
    step: Literal["regular", "month", "irregular"] = "regular"
    blank_rows: Literal["refuse", "skip"] = "refuse"
    last: str | None = None
    log: bool = False
    window: Annotated[int, Field(ge=8)] = 32
    stride: PositiveInt = 1
    parts: Annotated[int, Field(ge=2, le=50)] = 5
    validation: SplitShare
    test: SplitShare
    title: str = "Series from a CSV file"
    licence: str = "unknown"


DAY = 86_400.0
#: Steps may differ by this share of their median and still count as equal: rounded times.
EQUAL = 0.01


@dataclass(frozen=True)
class Series:
    """Measured values in the order of time.

    Attributes:
        times: float64 `(n,)`, strictly increasing.
        values: float64 `(n, columns)`, finite.
        unit: Unit of the times: `days` since 1970, `months` since the year 0, or `units` where the
            file has plain numbers.
    """

    times: NDArray[np.float64]
    values: NDArray[np.float64]
    unit: str


def read_series(path: Path, params: CsvSeries) -> Series:
    """Read the columns that `params` names.

    The first line that is no comment names the columns. Lines are counted as editors do, from 1.

    Raises:
        DataError: If the file is no CSV, a column is missing, a value is missing or no finite
            number, times do not increase, or a step is not what `params.step` claims.
    """
    rows = read_rows(path)
    _, header = next(rows, (0, []))
    columns = [_position(path.name, header, name) for name in (params.time, *params.values)]
    lines, texts, values = [], [], []
    for line, row in rows:
        if len(row) != len(header):
            raise DataError(
                f"{path.name}, line {line}: every row must have the {len(header)} fields of the "
                f"header. Received: {len(row)}"
            )
        text, *fields = (row[column].strip() for column in columns)
        if params.blank_rows == "skip" and not any(fields):
            continue
        lines.append(line)
        texts.append(text)
        values.append(
            [
                _number(f"{path.name}, line {line}, column {name!r}", field)
                for name, field in zip(params.values, fields, strict=True)
            ]
        )
        if text == params.last:
            break
    if params.last is not None and (not texts or texts[-1] != params.last):
        raise DataError(
            f"{path.name} must have a row at the last time that params.yaml names. "
            f"Received: no {params.last!r} in column {params.time!r}"
        )
    if len(texts) < 2:
        raise DataError(f"{path.name} is too short. Received: {len(texts)} rows of values")
    times, unit = _times(path.name, lines, texts, months=params.step == "month")
    _check_steps(path.name, lines, texts, times, params.step)
    found = np.array(values)
    if params.log:
        found = _logarithm(path.name, lines, found)
    return Series(times, found, unit)


def read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields of every row that is neither empty nor a comment.

    Raises:
        DataError: If the file is not UTF-8 text, or no CSV.
    """
    try:
        with open_decompressed(path) as raw:
            text = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
            reader = csv.reader(text, strict=True)
            for row in reader:
                if row and not row[0].startswith("#"):
                    yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path.name} must be a CSV file: UTF-8 text, fields separated by commas. "
            f"Received: {error}"
        ) from None


def _position(name: str, header: list[str], column: str) -> int:
    names = [field.strip() for field in header]
    if names.count(column) != 1:
        found = ", ".join(names[:20]) or "an empty file"
        raise DataError(
            f"{name}: the header must name the column {column!r} once. Received: {found}"
        )
    return names.index(column)


def _number(where: str, field: str) -> float:
    if not field:
        raise DataError(
            f"{where}: a value is missing. Choose columns or a time span without gaps, or "
            "`blank_rows: skip` where a row has no value at all."
        )
    try:
        number = float(field)
    except ValueError:
        raise DataError(f"{where}: a value must be a number. Received: {field!r}") from None
    if not math.isfinite(number):
        raise DataError(f"{where}: a value must be finite. Received: {field!r}")
    return number


def _times(
    name: str, lines: list[int], texts: list[str], *, months: bool
) -> tuple[NDArray[np.float64], str]:
    """Return times as numbers, and their unit. The first one decides whether they are dates."""
    try:
        float(texts[0])
        dates = False
    except ValueError:
        dates = True
    if months and not dates:
        raise DataError(
            f"{name}, line {lines[0]}: steps of a month need dates. Received: {texts[0]!r}"
        )
    times = np.empty(len(texts))
    for position, (line, text) in enumerate(zip(lines, texts, strict=True)):
        try:
            times[position] = _date(text, months=months) if dates else float(text)
        except ValueError:
            expected = "an ISO 8601 date or time" if dates else "a number"
            raise DataError(
                f"{name}, line {line}: the time must be {expected}. Received: {text!r}"
            ) from None
    return times, "months" if months else "days" if dates else "units"


def _date(text: str, *, months: bool) -> float:
    moment = datetime.fromisoformat(text)
    # Times without a zone are taken as UTC: what counts are steps, which no clock change may bend.
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    if not months:
        return moment.timestamp() / DAY
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    day = moment.day - 1 + (moment - midnight).total_seconds() / DAY
    return 12 * moment.year + moment.month - 1 + day / 31


def _check_steps(
    name: str, lines: list[int], texts: list[str], times: NDArray[np.float64], claim: str
) -> None:
    """Refuse times that do not increase, and gaps where equal steps are claimed."""
    steps = np.diff(times)
    # Written so that NaN is found too.
    if len(wrong := np.flatnonzero(~((steps > 0) & np.isfinite(steps)))):
        at = int(wrong[0]) + 1
        raise DataError(
            f"{name}, line {lines[at]}: times must increase. "
            f"Received: {texts[at]!r} after {texts[at - 1]!r}"
        )
    if claim == "irregular":
        return
    usual = 1.0 if claim == "month" else float(np.median(steps))
    if len(wrong := np.flatnonzero(np.abs(steps - usual) > EQUAL * usual)):
        at = int(wrong[0]) + 1
        raise DataError(
            f"{name}, line {lines[at]}: all steps must be equal (`step: {claim}`). Received: "
            f"{texts[at]!r} after {texts[at - 1]!r}, {steps[at - 1] / usual:.3g} times the usual "
            "step. `step: irregular` takes times as they are."
        )


def _logarithm(name: str, lines: list[int], values: NDArray[np.float64]) -> NDArray[np.float64]:
    rows, columns = np.nonzero(values <= 0)
    if len(rows):
        raise DataError(
            f"{name}, line {lines[rows[0]]}: `log: true` needs values above 0. "
            f"Received: {values[rows[0], columns[0]]:g}"
        )
    return np.asarray(np.log(values))


def read(params: CsvSeries, fetch: Fetch) -> SourceData:
    """Fetch and read the file, divide its time span, and cut windows.

    Raises:
        DataError: If the file is damaged, or too short for a window in each split.
    """
    path = fetch(params.file)
    series = read_series(path, params)
    bounds = split_bounds(len(series.times), params, path.name)
    rng = np.random.default_rng(params.seed)
    inputs, targets, weights, times, split = [], [], [], [], []
    for code, (first, end) in enumerate(bounds):
        stride = params.stride if SPLITS[code] == "train" else params.window
        for start in range(first, end - params.window + 1, stride):
            part = slice(start, start + params.window)
            for column in series.values.T:
                for hidden in divided(params.window, params.parts, rng):
                    inputs.append(concealed(column[part], hidden))
                    targets.append(column[part])
                    weights.append(hidden)
                    times.append(series.times[part])
                    split.append(code)
    found = np.stack(targets).astype(np.float32)[..., np.newaxis]
    return SourceData(
        arrays={
            "inputs": np.stack(inputs).astype(np.float32)[..., np.newaxis],
            "targets": found,
            "weights": np.stack(weights).astype(np.float32),
            "noise": np.zeros(len(found), np.float32),
            "times": np.stack(times),
            "split": np.array(split, np.uint8),
        },
        shape=(params.window, 1),
        classes=[],
        value_max=float(np.ceil(np.abs(found).max())) or 1.0,
        title=params.title,
        source=f"CSV file: {params.file.name}, columns {', '.join(params.values)}",
        licence=params.licence,
        facts={
            "truth": "measured value, hidden from the input",
            "noise_levels": [0.0],
            "time_unit": series.unit,
            "constant_step": params.step != "irregular",
            "spans": {
                name: [float(series.times[first]), float(series.times[end - 1])]
                for name, (first, end) in zip(SPLITS, bounds, strict=True)
            },
        },
    )


def split_bounds(count: int, params: CsvSeries, name: str) -> list[tuple[int, int]]:
    """Return first sample and end of each split, in the order of time: they share no sample.

    Raises:
        DataError: If a split is shorter than a window.
    """
    test, validation = round(params.test * count), round(params.validation * count)
    starts = [0, count - test - validation, count - test, count]
    bounds = list(pairwise(starts))
    for split, (first, end) in zip(SPLITS, bounds, strict=True):
        if end - first < params.window:
            raise DataError(
                f"{name} is too short: every split needs a window of {params.window} samples. "
                f"Received: {max(0, end - first)} of {count} for {split}. Choose a shorter window "
                "or other shares."
            )
    return bounds


def divided(length: int, parts: int, rng: np.random.Generator) -> Iterator[NDArray[np.bool_]]:
    """Yield which samples each part of a random division holds; together they hold all, once."""
    turn = rng.permutation(length) % parts
    for part in range(parts):
        yield turn == part


def concealed(values: NDArray[np.float64], hidden: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return a window in which hidden samples are made up from those around them.

    One between two visible neighbours becomes their mean; where neighbours are hidden too, the
    straight line between the nearest visible samples goes on (a mean of hidden neighbours would
    give away their values), and at an end the nearest visible sample is repeated.
    """
    position = np.arange(len(values))
    seen = ~hidden
    return np.where(hidden, np.interp(position, position[seen], values[seen]), values)


#: Most samples in a window, and fewest: below, there is nothing to smooth.
LONGEST, SHORTEST = 32, 8
#: Train windows of one column that are enough; longer series have theirs further apart.
ENOUGH = 2000


def series_options(
    path: Path, *, seed: int, shares: Mapping[str, float], say: Callable[[str], None]
) -> dict[str, Any]:
    """Return columns, step, window and stride for a CSV file, having read all of it.

    The first column holds the times. Columns of words, and columns that miss values where others
    have them, are left out, which is said.

    Args:
        shares: Shares `validation` and `test` of the time span.
        say: Told of what is left out or taken for granted.

    Raises:
        DataError: If the file is no CSV with a header, has no whole column of numbers, a damaged
            value, times that do not increase, or fewer rows than three windows need.
    """
    found: dict[str, Any] = _columns(path, say)

    def series(step: str) -> Any:
        return CsvSeries.model_validate(
            {"kind": "csv-series", "seed": seed, "upstream": [str(path.parent)]}
            | {"file": {"name": path.name}, **found, **shares, "step": step}
        )

    # Reading without a claim tells every other fault; then each claim is tried.
    times = read_series(path, series("irregular")).times
    found["step"] = "irregular"
    for step in ("regular", "month"):
        try:
            read_series(path, series(step))
        except DataError:
            continue
        found["step"] = step
        break
    else:
        steps = np.diff(times) / np.median(np.diff(times))
        say(
            f"{path.name}: the times are not equally far apart (steps of {steps.min():.3g} to "
            f"{steps.max():.3g} times the usual one); they are taken as they are "
            "(`step: irregular`)."
        )
    windows = _windows(path.name, len(times), shares)
    say(
        f"{path.name}: cut into windows of {windows['window']} rows. In each a part is hidden and "
        "predicted from the rest, for the clean curve is not known. Windows to train on begin "
        f"every {windows['stride']} rows; those that validate and test do not overlap, so they are "
        "few."
    )
    return found | windows


def _columns(path: Path, say: Callable[[str], None]) -> dict[str, Any]:
    rows = read_rows(path)
    _, header = next(rows, (0, []))
    names = [name.strip() for name in header]
    if len(names) < 2 or not all(names):
        advice = " Its fields seem to be separated by semicolons." if ";" in "".join(names) else ""
        raise DataError(
            f"{path.name} must begin with the names of its columns, first that of the time, with "
            f"commas between them. Received: {','.join(header)!r}.{advice}"
        )
    if all(_is_number(name) for name in names[1:]) and (_is_number(names[0]) or _is_date(names[0])):
        raise DataError(
            f"{path.name} must begin with the names of its columns, first that of the time. "
            f"Received: a row of values, {','.join(header)!r}. Write a row of names above it."
        )
    # Rows of a wrong length are told, with their line, when the series is read.
    body = [(line, row) for line, row in rows if len(row) == len(names)]
    values, left_out = [], []
    for position, name in enumerate(names[1:], start=1):
        texts = [(line, row[position].strip()) for line, row in body if row[position].strip()]
        if any(_is_number(text) for _, text in texts):
            values.append(name)
            continue
        for line, text in islice(texts, 1):
            if _is_number(text.replace(".", "").replace(",", ".")):
                raise DataError(
                    f"{path.name}, line {line}, column {name!r}: numbers must have a decimal "
                    f"point. Received: {text!r}"
                )
        left_out.append(name)
    if not values:
        raise DataError(
            f"{path.name} must have a column of numbers beside that of the time ({names[0]!r}). "
            f"Received: {', '.join(left_out)}"
        )
    if left_out:
        say(f"{path.name}: left out, as no numbers are in them: {', '.join(left_out)}.")
    kept = {name: names.index(name) for name in values}
    blank = {line for line, row in body if not any(row[column].strip() for column in kept.values())}
    gaps = {
        name: [line for line, row in body if line not in blank and not row[column].strip()]
        for name, column in kept.items()
    }
    # Where no column is whole, the first missing value is told when the series is read.
    if any(gaps.values()) and not all(gaps.values()):
        places = ", ".join(
            f"{name} ({len(lines)} missing, the first in line {lines[0]})"
            for name, lines in gaps.items()
            if lines
        )
        say(
            f"{path.name}: left out, as values are missing in them: {places}. Fill them, or delete "
            "the rows, to have them too."
        )
        values = [name for name in values if not gaps[name]]
    if blank:
        say(f"{path.name}: {len(blank):,} rows without any value are passed over.")
    return {
        "time": names[0],
        "values": values,
        "blank_rows": "skip" if blank else "refuse",
    }


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _windows(name: str, count: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Return the longest window that fits into every split, and how far apart windows begin."""
    held_out = [round(share * count) for share in shares.values()]
    shortest = min(*held_out, count - sum(held_out))
    if shortest < SHORTEST:
        raise DataError(
            f"{name} is too short: train, validation and test each need {SHORTEST} rows or more. "
            f"Received: {count} rows, of which the smallest of them gets {max(0, shortest)}. "
            "Give more rows, or larger --validation and --test."
        )
    window = min(LONGEST, shortest)
    stride = max(window // 8, -(-count // ENOUGH))
    return {"window": window, "stride": min(window, stride)}


def own(data: UserData) -> dict[str, Any]:
    """Return the block for a CSV file, having read all of it."""
    place, shares = data.file(".csv"), data.shares()
    options = series_options(data.path, seed=data.seed, shares=shares, say=data.say)
    return {"kind": "csv-series", "seed": data.seed} | place | options | shares | data.titled()


SOURCE = Source("csv-series", CsvSeries, "curves", read, own, option="csv")
