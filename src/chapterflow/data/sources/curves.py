"""Generated curves whose clean form is known: sinusoids, steps and spikes under noise."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from chapterflow.data.source import Fetch, Source, SourceData
from chapterflow.data.splits import stratified_split
from chapterflow.types import DatasetBlock, NoiseLevels, Seed, SplitShare


class Curves(DatasetBlock):
    """Generated curves under noise, whose clean form is the target.

    Attributes:
        seed: Seed of curves, noise and splits.
        count: Number of curves.
        length: Samples in a curve.
        noise: Standard deviations of the noise; curves take them in turn.
        validation: Share of all curves for early stopping.
        test: Share of all curves held out for evaluation.
    """

    kind: Literal["curves"]
    seed: Seed
    count: Annotated[int, Field(ge=10)]
    length: Annotated[int, Field(ge=16)]
    noise: NoiseLevels
    validation: SplitShare
    test: SplitShare


#: Values are multiples of it, as from a converter. Processors disagree about the last bit of a
#: sine; on a grid this coarse they agree, so the same seed gives the same bytes everywhere.
QUANTUM = 2.0**-12


def read(params: Curves, fetch: Fetch) -> SourceData:
    """Generate the curves; nothing is fetched.

    Every curve is drawn by itself: which of the three families it has (one, two or all of them),
    how many of each, where and how high. Noise levels take turns and are stratified over the
    splits.
    """
    rng = np.random.default_rng(params.seed)
    levels = np.asarray(params.noise)
    turn = (np.arange(params.count) % len(levels)).astype(np.uint8)
    clean = np.stack([_clean(params.length, rng) for _ in range(params.count)])
    noisy = clean + levels[turn, np.newaxis] * rng.standard_normal(clean.shape)
    split = stratified_split(turn, validation=params.validation, test=params.test, seed=params.seed)
    inputs, targets = _quantised(noisy), _quantised(clean)
    times = np.arange(params.length, dtype=np.float64)
    return SourceData(
        arrays={
            "inputs": inputs,
            "targets": targets,
            "weights": np.ones(clean.shape, np.float32),
            "noise": levels[turn].astype(np.float32),
            "times": np.tile(times, (params.count, 1)),
            "split": split,
        },
        shape=(params.length, 1),
        classes=[],
        value_max=float(np.ceil(max(np.abs(inputs).max(), np.abs(targets).max()))),
        title="Sinusoids, steps and spikes under noise of several levels",
        source="chapterflow, generated",
        licence="CC0 1.0",
        facts={
            "truth": "clean curve",
            "noise_levels": sorted(set(params.noise)),
            "time_unit": "samples",
            "constant_step": True,
        },
    )


def _clean(length: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return one clean curve `(length,)` that has at least one of the three families."""
    position = np.arange(length)
    curve = np.zeros(length)
    sinusoids, steps, spikes = _families(rng)
    if sinusoids:
        for _ in range(rng.integers(1, 4)):
            # From nearly three periods in a curve of 128 samples down to a third of one.
            period = np.exp(rng.uniform(np.log(48), np.log(384)))
            curve += rng.uniform(0.2, 1.0) * np.sin(
                2 * np.pi * (position / period + rng.uniform(0, 1))
            )
    if steps:
        for _ in range(rng.integers(1, 4)):
            height = rng.choice((-1, 1)) * rng.uniform(0.5, 2.0)
            curve += height * (position >= rng.integers(1, length))
    if spikes:
        for _ in range(rng.integers(1, 3)):
            start, width = rng.integers(0, length - 3), rng.integers(1, 4)
            curve[start : start + width] += rng.choice((-1, 1)) * rng.uniform(0.8, 1.6)
    return curve


def _families(rng: np.random.Generator) -> tuple[bool, bool, bool]:
    """Draw which families a curve has, all seven mixtures alike."""
    mixture = int(rng.integers(1, 8))
    return bool(mixture & 1), bool(mixture & 2), bool(mixture & 4)


def _quantised(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return float32 `(n, length, 1)` on the grid; every multiple in range is a float32."""
    return (np.rint(values / QUANTUM) * QUANTUM).astype(np.float32)[..., np.newaxis]


SOURCE = Source("curves", Curves, "curves", read)
