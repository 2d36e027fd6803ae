"""Curves cut from the columns of a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from chapterflow.data.fetch import open_decompressed
from chapterflow.data.source import Fetch, Source, SourceData, UserData
from chapterflow.errors import DataError
from chapterflow.kinds.dataset import SPLITS
from chapterflow.types import (
    DatasetBlock,
    NoiseLevels,
    PositiveInt,
    RemoteFile,
    Seed,
    SplitShare,
)

if TYPE_CHECKING:
    import pandas as pd


class CsvSeries(DatasetBlock):
    """Windows of one or more series in the columns of a CSV file.

    A window gives several examples. Without `noise`, a part of its samples is hidden from the input
    of each, and that part is the target: the clean curve is unknown. With `noise`, the measured
    values are the clean curve, and the input of each example is that curve under noise.

    Attributes:
        mirror: Folder of the file below `CHAPTERFLOW_MIRROR`; null for a file that no mirror has,
            which always comes from `upstream`.
        upstream: Base addresses (`https://`, `file://`, `package://` or a path), tried in order.
        file: The CSV file; lines that start with `#` are comments.
        time: Column of times: ISO 8601 dates, months or times; `1990.01`, `199001` or `19900101`
            in every row; or numbers.
        values: Columns of measured values. Commas may separate thousands (`"2,017"`).
        step: `regular`: all steps are equal; `month`: one calendar month each; `irregular`: any.
        blank_rows: `skip` ignores rows whose value columns are all empty; `refuse` treats them as
            damage. A row in which only some are empty is always an error.
        last: Last time to read, as written in the file; null reads all.
        log: Whether to take logarithms, for values whose changes are relative to their size.
        scale: `spread` subtracts a column's mean from its values and divides them by their standard
            deviation, both over the train span, after logarithms. For columns of different units:
            otherwise the column with the largest values dominates their joint score.
        window: Samples in a window.
        stride: Samples between the starts of train windows, which may overlap. Windows of the
            other splits never overlap.
        parts: Number of random parts of a window, each hidden in one example, in which only that
            part is scored; without effect with `noise`.
        noise: Standard deviations of noise that is added to the values, after logarithms and
            scaling: a window gives one example for each. Null hides parts instead.
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
    scale: Literal["spread"] | None = None
    window: Annotated[int, Field(ge=8)] = 32
    stride: PositiveInt = 1
    parts: Annotated[int, Field(ge=2, le=50)] = 5
    noise: NoiseLevels | None = None
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
        lines: Line of each row in the file, `(n,)`.
    """

    times: NDArray[np.float64]
    values: NDArray[np.float64]
    unit: str
    lines: NDArray[np.int64]


def read_series(path: Path, params: CsvSeries) -> Series:
    """Read the columns that `params` names.

    The first line that is no comment names the columns. Lines are counted as editors do, from 1.

    Raises:
        DataError: If the file is no CSV, a column is missing, a value is missing or no finite
            number, times do not increase, or a step is not what `params.step` claims.
    """
    return _series(path.name, *read_rows(path), params)


def _series(name: str, header: list[str], rows: dict[int, list[str]], params: CsvSeries) -> Series:
    """Return what `read_series` returns, of rows that were read before."""
    _need_once(name, header, (params.time, *params.values))
    if params.last is not None:
        time = header.index(params.time)
        ends = [line for line, row in rows.items() if row[time : time + 1] == [params.last]]
        if not ends:
            raise DataError(
                f"{name} must have a row at the last time that params.yaml names. "
                f"Received: no {params.last!r} in column {params.time!r}"
            )
        rows = {line: row for line, row in rows.items() if line <= ends[0]}
    table = _table(name, header, rows)
    if params.blank_rows == "skip":
        table = table[(table[params.values] != "").any(axis=1)]
    if len(table) < 2:
        raise DataError(f"{name} is too short. Received: {len(table)} rows of values")
    values = np.column_stack(
        [_numbers(name, table[column], log=params.log) for column in params.values]
    )
    times, unit = _times(name, table[params.time], months=params.step == "month")
    _check_steps(name, table[params.time], times, params.step)
    lines = table.index.to_numpy(np.int64)
    return Series(times, np.log(values) if params.log else values, unit, lines)


def read_rows(path: Path) -> tuple[list[str], dict[int, list[str]]]:
    """Return the header, and the fields of every other row by the number of its line.

    Empty lines and comments are left out. pandas' own reader keeps no line numbers and fills rows
    that are too short, so `csv` splits the rows and pandas converts the columns.

    Raises:
        DataError: If the file is not UTF-8 text, or no CSV.
    """
    rows = {}
    try:
        with open_decompressed(path) as raw:
            text = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
            reader = csv.reader(text, strict=True)
            for row in reader:
                if row and not row[0].startswith("#"):
                    rows[reader.line_num] = [field.strip() for field in row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path.name} must be a CSV file: UTF-8 text, fields separated by commas. "
            f"Received: {error}"
        ) from None
    return (rows.pop(next(iter(rows))) if rows else []), rows


def _need_once(name: str, header: list[str], columns: Iterable[str]) -> None:
    for column in columns:
        if header.count(column) != 1:
            raise DataError(
                f"{name}: the header must name the column {column!r} once. "
                f"Received: {', '.join(header[:20]) or 'an empty file'}"
            )


def _table(name: str, header: list[str], rows: dict[int, list[str]]) -> pd.DataFrame:
    """Return the fields as text, by line and column."""
    import pandas as pd

    for line, row in rows.items():
        if len(row) != len(header):
            raise DataError(
                f"{name}, line {line}: every row must have the {len(header)} fields of the "
                f"header. Received: {len(row)}"
            )
    return pd.DataFrame(list(rows.values()), list(rows), columns=header, dtype=object)


def _refuse(name: str, texts: pd.Series[str], wrong: Any, expected: str) -> None:
    """Refuse the first field that is wrong, if there is one."""
    for line, text in texts[np.asarray(wrong)].items():
        raise DataError(f"{name}, line {line}{expected}. Received: {text!r}")


def _is_number(texts: pd.Series[str]) -> pd.Series[bool]:
    import pandas as pd

    return pd.to_numeric(texts, errors="coerce").notna() | (texts.str.lower() == "nan")


#: Thousands with separators, as in `1,234` and `12,345.6`.
THOUSANDS = r"[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?"


def _without_separators(texts: pd.Series[str]) -> pd.Series[str]:
    """Return the fields without separators of thousands, if all their commas are such."""
    commas = texts.str.contains(",", regex=False)
    if commas.any() and texts[commas].str.fullmatch(THOUSANDS).all():
        return texts.str.replace(",", "", regex=False)
    return texts


def _numbers(name: str, texts: pd.Series[str], *, log: bool) -> NDArray[np.float64]:
    """Return a column of finite numbers, above 0 where their logarithms are taken."""
    column = f", column {texts.name!r}: "
    texts = _without_separators(texts)
    gap = "a value is missing. Choose columns or a time span without gaps, or `blank_rows: skip`"
    _refuse(name, texts, texts == "", f"{column}{gap} where a row has no value at all")
    _refuse(name, texts, ~_is_number(texts), f"{column}a value must be a number")
    # By Python's float, which rounds to the nearest; `to_numeric` may miss the last bit.
    values = texts.to_numpy(object).astype(np.float64)
    _refuse(name, texts, ~np.isfinite(values), f"{column}a value must be finite")
    if log:
        _refuse(name, texts, values <= 0, f"{column}`log: true` needs values above 0")
    return values


def _times(name: str, texts: pd.Series[str], *, months: bool) -> tuple[NDArray[np.float64], str]:
    """Return times as numbers, and their unit. The first one decides whether they are dates."""
    texts = _as_dates(name, texts)
    dates = not _is_number(texts[:1]).all()
    if months and not dates:
        _refuse(name, texts, np.full(len(texts), True), ": steps of a month need dates")
    if dates:
        times = _dates(texts, months=months)
        _refuse(name, texts, np.isnan(times), ": the time must be an ISO 8601 date or time")
        return times, "months" if months else "days"
    _refuse(name, texts, ~_is_number(texts), ": the time must be a number")
    return texts.to_numpy(object).astype(np.float64), "units"


#: Dates that look like numbers: what every row has to match, its format, and an example. A tenth
#: month may have lost its zero (`1990.1`), because spreadsheets take such months for numbers.
DATE_FORMS = (
    (r"\d{4}\.(?:0[1-9]|1[0-2]?)", "%Y.%m", "1990.01"),
    (r"(?:1[5-9]|2[01])\d\d(?:0[1-9]|1[0-2])", "%Y%m", "199001"),
    (r"(?:1[5-9]|2[01])\d{6}", "%Y%m%d", "19900101"),
)
#: If so large a share of the times has one of these forms, the others are mistakes.
NEARLY_ALL = 0.9


def _as_dates(name: str, texts: pd.Series[str]) -> pd.Series[str]:
    """Return times that have one of `DATE_FORMS` as ISO 8601 dates, and all others unchanged.

    Raises:
        DataError: If only a few times do not have the form of the others.
    """
    import pandas as pd

    for pattern, form, example in DATE_FORMS:
        alike = texts.str.fullmatch(pattern)
        if alike.mean() < NEARLY_ALL or not texts.str.len().max() >= len(example):
            continue
        whole = texts.where(alike, "").str.replace(r"\.1$", ".10", regex=True)
        moments = pd.to_datetime(whole, format=form, errors="coerce")
        if moments.notna().mean() >= NEARLY_ALL:
            says = f": the time must be a date like the others, in the form {example}"
            _refuse(name, texts, moments.isna(), says)
            return moments.dt.strftime("%Y-%m-%d")
    return texts


def _dates(texts: pd.Series[str], *, months: bool = False) -> NDArray[np.float64]:
    """Return days since 1970 or months since the year 0; NaN for other text."""
    import pandas as pd

    # pandas reads `now` and `today` as dates too.
    plain = texts.where(texts.str.match(r"\d{4}"), "")
    # Times without a zone are taken as UTC: what counts are steps, which no clock change may bend.
    moments = pd.to_datetime(plain, format="ISO8601", utc=True, errors="coerce")
    midnights = moments.dt.normalize()
    seconds = (moments - midnights).dt.total_seconds()
    if months:
        day = moments.dt.day - 1 + seconds / DAY
        return np.asarray(12 * moments.dt.year + moments.dt.month - 1 + day / 31)
    days = (midnights - pd.Timestamp("1970-01-01", tz="UTC")).dt.days
    return np.asarray((days * DAY + seconds) / DAY)


def _check_steps(name: str, texts: pd.Series[str], times: NDArray[np.float64], claim: str) -> None:
    """Refuse times that do not increase, and gaps where equal steps are claimed."""
    lines, fields, steps = texts.index, texts.tolist(), np.diff(times)
    # Written so that NaN is wrong too.
    for place in np.flatnonzero(~((steps > 0) & np.isfinite(steps)))[:1]:
        raise DataError(
            f"{name}, line {lines[place + 1]}: times must increase. "
            f"Received: {fields[place + 1]!r} after {fields[place]!r}"
        )
    if claim == "irregular":
        return
    usual = 1.0 if claim == "month" else float(np.median(steps))
    for place in np.flatnonzero(np.abs(steps - usual) > EQUAL * usual)[:1]:
        raise DataError(
            f"{name}, line {lines[place + 1]}: all steps must be equal (`step: {claim}`). "
            f"Received: {fields[place + 1]!r} after {fields[place]!r}, "
            f"{steps[place] / usual:.3g} times the usual step. `step: irregular` takes times as "
            "they are."
        )


def read(params: CsvSeries, fetch: Fetch) -> SourceData:
    """Fetch and read the file, divide its time span, and cut windows.

    Raises:
        DataError: If the file is damaged, or too short for a window in each split.
    """
    path = fetch(params.file)
    series = read_series(path, params)
    bounds = split_bounds(len(series.times), params, path.name)
    scales = {}
    if params.scale:
        train = series.values[: bounds[0][1]]
        centre, spread = train.mean(axis=0), train.std(axis=0)
        if constant := [c for c, s in zip(params.values, spread, strict=True) if not s]:
            raise DataError(
                f"{path.name}, column {constant[0]!r}: `scale: {params.scale}` needs values that "
                f"vary in the train span. Received: {train[0, params.values.index(constant[0])]:g} "
                "only. Leave the column out of `values:`."
            )
        series = replace(series, values=(series.values - centre) / spread)
        scales = {
            column: [float(c), float(s)]
            for column, c, s in zip(params.values, centre, spread, strict=True)
        }
    rng = np.random.default_rng(params.seed)
    inputs, targets, weights, noise, times, split = [], [], [], [], [], []
    for code, (first, end) in enumerate(bounds):
        stride = params.stride if SPLITS[code] == "train" else params.window
        for start in range(first, end - params.window + 1, stride):
            part = slice(start, start + params.window)
            for column in series.values.T:
                for given, scored, level in _examples(column[part], params, rng):
                    inputs.append(given)
                    targets.append(column[part])
                    weights.append(scored)
                    noise.append(level)
                    times.append(series.times[part])
                    split.append(code)
    curves = np.stack(targets).astype(np.float32)[..., np.newaxis]
    given_curves = np.stack(inputs).astype(np.float32)[..., np.newaxis]
    return SourceData(
        arrays={
            "inputs": given_curves,
            "targets": curves,
            "weights": np.stack(weights).astype(np.float32),
            "noise": np.array(noise, np.float32),
            "times": np.stack(times),
            "split": np.array(split, np.uint8),
        },
        shape=(params.window, 1),
        classes=[],
        value_max=float(np.ceil(max(np.abs(curves).max(), np.abs(given_curves).max()))) or 1.0,
        title=params.title,
        source=f"CSV file: {params.file.name}, columns {', '.join(params.values)}",
        licence=params.licence,
        facts={
            "truth": (
                "measured values, before noise was added"
                if params.noise
                else "measured value, hidden from the input"
            ),
            "noise_levels": sorted(set(params.noise or [0.0])),
            "time_unit": series.unit,
            "constant_step": params.step != "irregular",
            **({"mean_and_deviation_of_columns": scales} if scales else {}),
            "spans": {
                name: [float(series.times[first]), float(series.times[end - 1])]
                for name, (first, end) in zip(SPLITS, bounds, strict=True)
            },
        },
    )


def _examples(
    values: NDArray[np.float64], params: CsvSeries, rng: np.random.Generator
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.bool_], float]]:
    """Yield input, scored samples and noise level of each example of a window."""
    if params.noise:
        for level in params.noise:
            noisy = values + level * rng.standard_normal(len(values))
            yield noisy, np.ones(len(values), np.bool_), level
        return
    for hidden in divided(len(values), params.parts, rng):
        yield concealed(values, hidden), hidden, 0.0


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
    """Yield masks of the parts of a random division; each sample is in exactly one part."""
    turn = rng.permutation(length) % parts
    for part in range(parts):
        yield turn == part


def concealed(values: NDArray[np.float64], hidden: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return a window whose hidden samples are interpolated from the visible ones.

    A sample between two visible neighbours becomes their mean; where neighbours are hidden too, the
    straight line between the nearest visible samples continues (a mean of hidden neighbours would
    give away their values), and at an end the nearest visible sample is repeated.
    """
    position = np.arange(len(values))
    seen = ~hidden
    return np.where(hidden, np.interp(position, position[seen], values[seen]), values)


#: Longest and shortest window: below, there is nothing to smooth.
LONGEST, SHORTEST = 32, 8
#: Enough train windows of one column; longer series get a larger stride.
ENOUGH = 2000


def series_options(
    path: Path, *, seed: int, shares: Mapping[str, float], say: Callable[[str], None]
) -> dict[str, Any]:
    """Return columns, step, window and stride for a CSV file, having read all of it.

    The first column holds the times. Columns of words, and columns that miss values where others
    have them, are left out, with a notice.

    Args:
        shares: Shares `validation` and `test` of the time span.
        say: Receives a notice for what is left out or assumed.

    Raises:
        DataError: If the file is no CSV with a header, has no whole column of numbers, a damaged
            value, times that do not increase, or fewer rows than three windows need.
    """
    header, rows = read_rows(path)
    options: dict[str, Any] = _columns(path.name, header, rows, say)

    def series(step: str) -> Series:
        params = CsvSeries.model_validate(
            {"kind": "csv-series", "seed": seed, "upstream": [str(path.parent)]}
            | {"file": {"name": path.name}, **options, **shares, "step": step}
        )
        return _series(path.name, header, rows, params)

    # Reading with any steps reveals every other fault; then try each claim.
    whole = series("irregular")
    times = whole.times
    options["step"] = "irregular"
    for step in ("regular", "month"):
        try:
            series(step)
        except DataError:
            continue
        options["step"] = step
        break
    else:
        steps = np.diff(times) / np.median(np.diff(times))
        say(
            f"{path.name}: the steps between times differ (from {steps.min():.3g} to "
            f"{steps.max():.3g} times the usual one, the largest before line "
            f"{whole.lines[int(steps.argmax()) + 1]}); they are kept as they are "
            "(`step: irregular`)."
        )
    if spreads := _different_units(whole.values, options["values"]):
        options["scale"] = "spread"
        say(
            f"{path.name}: the columns differ in scale ({spreads}). Each is centred and divided by "
            "its standard deviation (`scale: spread`), so that the score counts all alike; errors "
            "are in standard deviations."
        )
    windows = _windows(path.name, len(times), shares)
    say(
        f"{path.name}: cut into windows of {windows['window']} rows. In each, a part is hidden and "
        "predicted from the rest, because the clean curve is unknown. Training windows begin every "
        f"{windows['stride']} rows; validation and test windows do not overlap, so there are few."
    )
    return options | windows


#: Columns whose standard deviations differ by this factor are scaled.
DIFFERENT = 5.0


def _different_units(values: NDArray[np.float64], columns: Sequence[str]) -> str:
    """Return smallest and largest deviation as text if they differ much; empty otherwise."""
    spreads = values.std(axis=0)
    low, high = int(spreads.argmin()), int(spreads.argmax())
    if not spreads[low] or spreads[high] < DIFFERENT * spreads[low]:
        return ""
    return (
        f"standard deviation {spreads[low]:.3g} in {columns[low]}, {spreads[high]:.3g} in "
        f"{columns[high]}"
    )


def _columns(
    name: str, header: list[str], rows: dict[int, list[str]], say: Callable[[str], None]
) -> dict[str, Any]:
    """Return the columns of times and of values, and what to do with rows that have no value."""
    import pandas as pd

    begin = f"{name} must begin with a row of column names, the time column first"
    if len(header) < 2 or not all(header):
        text = ",".join(header)
        advice = " Its fields seem to be separated by semicolons." if ";" in text else ""
        raise DataError(f"{begin}, separated by commas. Received: {text!r}.{advice}")
    first = pd.Series(header)
    numeric = _is_number(first)
    if numeric[1:].all() and (numeric[0] or not np.isnan(_dates(first[:1])[0])):
        raise DataError(
            f"{begin}. Received: a row of values, {','.join(header)!r}. Add a row of names."
        )
    _need_once(name, header, header)
    table = _table(name, header, rows)
    fields = table[header[1:]]
    plain = fields.apply(_without_separators)
    values = [column for column in header[1:] if _is_number(plain[column]).any()]
    words = [column for column in header[1:] if column not in values]
    for column in words:
        texts = fields[column][fields[column] != ""][:1]
        point = texts.str.replace(".", "", regex=False).str.replace(",", ".", regex=False)
        comma = f", column {column!r}: numbers must have a decimal point"
        _refuse(name, texts, _is_number(point), comma)
    if not values:
        raise DataError(
            f"{name} must have a column of numbers besides the times ({header[0]!r}). "
            f"Received: {', '.join(words)}"
        )
    if separated := [column for column in values if not plain[column].equals(fields[column])]:
        column = separated[0]
        text = fields[column][plain[column] != fields[column]].iloc[0]
        say(
            f"{name}: commas in numbers are read as separators of thousands in "
            f"{', '.join(separated)}: {text!r} is {text.replace(',', '')}."
        )
    if words:
        say(f"{name}: left out, because they hold no numbers: {', '.join(words)}.")
    missing = fields[values] == ""
    blank = missing.all(axis=1)
    gaps = missing[~blank]
    whole = [column for column in values if not gaps[column].any()]
    # Where no column is whole, reading the series names the first missing value.
    if whole and len(whole) < len(values):
        places = ", ".join(
            f"{column} ({gaps[column].sum()} missing, the first in line {gaps[column].idxmax()})"
            for column in values
            if column not in whole
        )
        say(
            f"{name}: left out, because values are missing: {places}. Fill them or delete "
            "the rows to keep these columns."
        )
    if blank.any():
        say(f"{name}: rows without any value are ignored: {blank.sum():,}.")
    return {
        "time": header[0],
        "values": whole or values,
        "blank_rows": "skip" if blank.any() else "refuse",
    }


def _windows(name: str, count: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Return the longest window that fits into every split, and the stride of windows."""
    held_out = [round(share * count) for share in shares.values()]
    shortest = min(*held_out, count - sum(held_out))
    if shortest < SHORTEST:
        raise DataError(
            f"{name} is too short: train, validation and test each need {SHORTEST} rows or more. "
            f"Received: {count} rows, of which the smallest split gets {max(0, shortest)}. "
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
