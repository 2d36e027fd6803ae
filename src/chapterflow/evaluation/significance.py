"""Statistical comparison of models: on the same test examples, and over seeds."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from chapterflow.kinds.dataset import TASKS, Task
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


class SeedScores(Strict):
    """Test scores of a model that was trained with several seeds.

    Attributes:
        score: Name of the score, without `test/`.
        values: The score of each seed, in the order of `seeds`.
        std: Standard deviation of the values (n - 1).
        low: Lower end of the 95 % t interval of the mean (Student 1908).
        high: Upper end of the interval.
    """

    model: str
    dataset: str
    score: Literal["accuracy", "rmse"]
    seeds: list[int]
    values: list[float]
    mean: float
    std: float
    low: float
    high: float


class SeedDifference(Strict):
    """Comparison of two models, A and B, over seeds: by Welch's t-test.

    Attributes:
        difference: Mean score of B minus mean score of A.
        low: Lower end of the 95 % interval of the difference.
        high: Upper end of the interval.
        p_value: p-value of Welch's test; 1 if the scores vary in neither model.
        p_adjusted: p-value adjusted for the number of pairs on the dataset (Holm 1979).
        verdict: `b better`, `a better` or `no difference shown`.
    """

    a: str
    b: str
    dataset: str
    score: Literal["accuracy", "rmse"]
    difference: float
    low: float
    high: float
    p_value: float
    p_adjusted: float
    verdict: str


def over_seeds(model: str, dataset: str, task: Task, scores: Mapping[int, float]) -> SeedScores:
    """Return what a model's scores over seeds have in common.

    Args:
        model: Name of the model.
        dataset: Name of the dataset.
        task: What the score belongs to.
        scores: Test score by seed, at least two.
    """
    from scipy import stats

    values = list(scores.values())
    low = mean = high = float(np.mean(values))
    std = 0.0
    if min(values) < max(values):  # Otherwise the interval is a point.
        std = float(np.std(values, ddof=1))
        low, high = map(
            float, stats.t.interval(0.95, len(values) - 1, mean, std / np.sqrt(len(values)))
        )
    return SeedScores(
        model=model,
        dataset=dataset,
        score=task.score,
        seeds=list(scores),
        values=values,
        mean=mean,
        std=std,
        low=low,
        high=high,
    )


def welch(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Return the p-value of Welch's t-test, and the 95 % interval of mean(B) - mean(A).

    Equal seeds do not pair models: what a seed draws depends on the shapes of a model's layers
    (Welch 1947; recommended for seeds by Colas, Sigaud & Oudeyer 2019).
    """
    from scipy import stats

    difference = float(np.mean(b)) - float(np.mean(a))
    if min(a) == max(a) and min(b) == max(b):
        return 1.0, difference, difference
    result = stats.ttest_ind(b, a, equal_var=False)
    interval = result.confidence_interval(0.95)
    return float(result.pvalue), float(interval.low), float(interval.high)


def seed_differences(models: Sequence[SeedScores]) -> list[SeedDifference]:
    """Compare every pair of models that have the same dataset and score."""
    compared = []
    for place in dict.fromkeys((scores.dataset, scores.score) for scores in models):
        same = [scores for scores in models if (scores.dataset, scores.score) == place]
        pairs = list(itertools.combinations(same, 2))
        tests = [welch(a.values, b.values) for a, b in pairs]
        higher_is_better = next(t.higher_is_better for t in TASKS if t.score == place[1])
        adjusted = holm([p_value for p_value, _, _ in tests])
        for (a, b), (p_value, low, high), p_adjusted in zip(pairs, tests, adjusted, strict=True):
            better = "b better" if (b.mean > a.mean) == higher_is_better else "a better"
            compared.append(
                SeedDifference(
                    a=a.model,
                    b=b.model,
                    dataset=a.dataset,
                    score=a.score,
                    difference=b.mean - a.mean,
                    low=low,
                    high=high,
                    p_value=p_value,
                    p_adjusted=p_adjusted,
                    verdict=better if p_adjusted < SIGNIFICANCE else "no difference shown",
                )
            )
    return compared
