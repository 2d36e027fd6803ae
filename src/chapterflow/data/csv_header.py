"""A CSV file of a user's own -> what `params.yaml` would say of its columns and its times."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from chapterflow.data.series import read_rows, read_series
from chapterflow.errors import DataError
from chapterflow.settings.datasets_curves import CsvSeries

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
