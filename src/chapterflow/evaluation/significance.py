"""Statistical comparison of models scored on the same test examples."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.types import Strict

#: Adjusted p-value below which a difference is significant.
SIGNIFICANCE = 0.05


class Difference(Strict):
    """Comparison of two models, A and B, on the same test set.

    Attributes:
        examples: Size of the test set.
        only_a: Number of examples that only A classifies correctly.
        only_b: Number of examples that only B classifies correctly.
        accuracy_difference: Accuracy of B minus accuracy of A.
        low: Lower end of the 95 % paired bootstrap interval of the difference.
        high: Upper end of the interval.
        p_value: p-value of McNemar's exact test.
        p_adjusted: p-value adjusted for the number of pairs compared (Holm 1979).
        training_time_ratio: Training time of B divided by the training time of A.
        verdict: `b better`, `a better` or `no difference shown`.
    """

    a: str
    b: str
    dataset: str
    examples: int
    only_a: int
    only_b: int
    accuracy_difference: float
    low: float
    high: float
    p_value: float
    p_adjusted: float
    training_time_ratio: float
    verdict: str


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the exact two-sided p-value of McNemar's test (McNemar 1947).

    Under the null hypothesis, an example that only one model classifies correctly is equally
    likely for A and B: a binomial test on the discordant pairs.
    """
    # `scipy.stats.binomtest` gives the same; importing it takes a second.
    from scipy.special import bdtr

    discordant = only_a + only_b
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), discordant, 0.5))) if discordant else 1.0


def paired_bootstrap(
    right_a: NDArray[np.bool_], right_b: NDArray[np.bool_], *, resamples: int, seed: int
) -> tuple[float, float]:
    """Return the 95 % percentile interval of accuracy(B) - accuracy(A), by resampling pairs.

    Args:
        right_a: `(n,)` whether A classifies each example correctly.
        right_b: `(n,)` the same for B, in the same order.
        resamples: Number of bootstrap samples (Efron & Tibshirani 1993, chapter 13).
        seed: Seed of the resampling.
    """
    # Each example's difference is -1, 0 or 1, so a resample is a multinomial draw of three counts.
    count = len(right_a)
    worse = int(np.count_nonzero(right_a & ~right_b))
    better = int(np.count_nonzero(right_b & ~right_a))
    shares = np.array([worse, count - worse - better, better]) / count
    draws = np.random.default_rng(seed).multinomial(count, shares, size=resamples)
    low, high = np.percentile((draws[:, 2] - draws[:, 0]) / count, [2.5, 97.5])
    return float(low), float(high)


def paired_error_ratio(
    error_a: NDArray[Any], error_b: NDArray[Any], *, resamples: int, seed: int
) -> tuple[float, float]:
    """Return the 95 % percentile interval of RMSE(B) / RMSE(A), by resampling pairs.

    Args:
        error_a: `(n,)` sum of squared errors of A on each example.
        error_b: `(n,)` the same for B, in the same order.
        resamples: Number of bootstrap samples (Efron & Tibshirani 1993, chapter 13).
        seed: Seed of the resampling.
    """
    drawn = np.random.default_rng(seed).integers(len(error_a), size=(resamples, len(error_a)))
    ratios = np.sqrt(error_b[drawn].sum(axis=1) / error_a[drawn].sum(axis=1))
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)


def holm(p_values: list[float]) -> list[float]:
    """Return p-values adjusted for multiple comparisons by Holm's step-down method (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, position in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, (len(p_values) - rank) * p_values[position])
        adjusted[position] = min(1.0, running)
    return adjusted


def differences(
    dataset: str,
    labels: NDArray[Any],
    predicted: dict[str, NDArray[Any]],
    seconds: dict[str, float],
    *,
    resamples: int,
    seed: int,
) -> list[Difference]:
    """Compare every pair of models scored on the same test set.

    Args:
        dataset: Name of the dataset, recorded with each pair.
        labels: `(n,)` true classes.
        predicted: `(n,)` predicted classes by model; the first of a pair is A.
        seconds: Training time in seconds by model.
        resamples: Number of bootstrap samples.
        seed: Seed of the bootstrap.
    """
    names = list(predicted)
    pairs = [(a, b) for position, a in enumerate(names) for b in names[position + 1 :]]
    right = {name: predicted[name] == labels for name in names}
    discordant = {
        (a, b): (
            int(np.count_nonzero(right[a] & ~right[b])),
            int(np.count_nonzero(right[b] & ~right[a])),
        )
        for a, b in pairs
    }
    p_values = [mcnemar(*discordant[pair]) for pair in pairs]
    differences = []
    for (a, b), p_value, p_adjusted in zip(pairs, p_values, holm(p_values), strict=True):
        only_a, only_b = discordant[a, b]
        low, high = paired_bootstrap(right[a], right[b], resamples=resamples, seed=seed)
        better = "b better" if only_b > only_a else "a better"
        differences.append(
            Difference(
                a=a,
                b=b,
                dataset=dataset,
                examples=len(labels),
                only_a=only_a,
                only_b=only_b,
                accuracy_difference=(only_b - only_a) / len(labels),
                low=low,
                high=high,
                p_value=p_value,
                p_adjusted=p_adjusted,
                training_time_ratio=seconds[b] / seconds[a],
                verdict=better if p_adjusted < SIGNIFICANCE else "no difference shown",
            )
        )
    return differences
