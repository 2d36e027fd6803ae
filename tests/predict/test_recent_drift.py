"""Batches too small for a verdict add up to one."""

import numpy as np
from numpy.typing import NDArray

from chapterflow.predict.drift import Drift, Reference, Tally, pooled

REFERENCE = Reference("the test data", {"mean": np.random.default_rng(3).normal(size=2000)}, {})


def batches(number: int, size: int, mean: float = 0) -> list[list[Drift]]:
    random = np.random.default_rng(4)
    return [batch(random.normal(mean, size=size)) for _ in range(number)]


def batch(values: NDArray[np.float64]) -> list[Drift]:
    tally = Tally("mean", REFERENCE, [])
    tally.add(values)
    return [tally.result()]


def test_small_batches_of_one_shift_are_drift_together() -> None:
    small = batches(10, 20, mean=1)
    assert {drift.reading for (drift,) in small} == {"too few examples to tell"}
    (drift,) = pooled(small)
    assert (drift.reading, drift.examples) == ("strongly shifted", 200)


def test_small_batches_like_the_test_data_are_none() -> None:
    (drift,) = pooled(batches(10, 200))
    assert (drift.reading, drift.examples) == ("like the test data", 2000)


def test_batches_in_other_bins_or_without_counts_are_left_out() -> None:
    ((newest,),) = batches(1, 100)
    other = newest.model_copy(update={"bins": newest.bins[:-1]})
    old = Drift(name="mean", reading="shifted", bins=newest.bins, observed=newest.observed)
    (drift,) = pooled([[newest], [other], [old]])
    assert drift.examples == 100
