"""Windows of a measured series, scored where its samples were hidden.

A measured series has no clean form to learn from. Noise2Self (Batson & Royer 2019) does without:
hide some samples, predict them from the others, and compare with what was measured. Noise that is
independent from sample to sample cannot be predicted, so who predicts well has found the signal.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from chapterflow.data.card import SPLITS
from chapterflow.data.series import read_series
from chapterflow.data.source import Fetch, SourceData
from chapterflow.errors import DataError
from chapterflow.settings.datasets_curves import CsvSeries


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
        kind="curves",
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
