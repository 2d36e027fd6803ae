"""Whether a difference is real: tests and intervals against textbooks and SciPy."""

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chapterflow.evaluation.significance import (
    SeedScores,
    differences,
    holm,
    mcnemar,
    over_seeds,
    paired_bootstrap,
    seed_differences,
    welch,
)
from chapterflow.kinds.dataset import CLASSIFICATION, REGRESSION, Task


@pytest.mark.parametrize(
    ("only_a", "only_b", "p_value"),
    [
        (0, 0, 1.0),
        (3, 3, 1.0),
        (1, 0, 1.0),
        (1, 5, 2 * (1 + 6) / 2**6),
        (5, 1, 2 * (1 + 6) / 2**6),
        (0, 8, 2 / 2**8),
        (2, 10, 2 * (1 + 12 + 66) / 2**12),
    ],
)
def test_mcnemar_by_hand(only_a: int, only_b: int, p_value: float) -> None:
    assert mcnemar(only_a, only_b) == pytest.approx(p_value)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_twice_the_binomial_tail(only_a: int, only_b: int) -> None:
    total = only_a + only_b
    tail = sum(comb(total, k) for k in range(min(only_a, only_b) + 1)) / 2**total
    assert mcnemar(only_a, only_b) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(only_a, only_b) == mcnemar(only_b, only_a)


def test_bootstrap_without_any_doubt() -> None:
    yes, no = np.ones(50, bool), np.zeros(50, bool)
    assert paired_bootstrap(yes, yes, resamples=500, seed=5) == (0, 0)
    assert paired_bootstrap(no, yes, resamples=500, seed=5) == (1, 1)
    assert paired_bootstrap(yes, no, resamples=500, seed=5) == (-1, -1)


@pytest.mark.parametrize(
    ("only_a", "only_b", "both", "neither"), [(10, 40, 400, 50), (3, 5, 90, 2), (60, 20, 10, 10)]
)
def test_bootstrap_agrees_with_scipy_and_the_normal_approximation(
    only_a: int, only_b: int, both: int, neither: int
) -> None:
    from scipy.stats import bootstrap

    counts = [only_a, only_b, both, neither]
    right_a = np.repeat([True, False, True, False], counts)
    right_b = np.repeat([False, True, True, False], counts)
    count = len(right_a)
    low, high = paired_bootstrap(right_a, right_b, resamples=20_000, seed=5)

    gains = right_b.astype(float) - right_a
    reference = bootstrap(
        (gains,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(6)
    ).confidence_interval
    width = reference.high - reference.low
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=0.05 * width)

    middle, error = gains.mean(), gains.std() / np.sqrt(count)
    assert (low, high) == pytest.approx((middle - 1.96 * error, middle + 1.96 * error), abs=0.01)


def test_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    generator, covered = np.random.default_rng(5), 0
    for _ in range(300):
        # B is right where A is wrong with probability 0.15, the other way round 0.05.
        kind = generator.choice(3, size=400, p=[0.05, 0.15, 0.8])
        low, high = paired_bootstrap(kind != 1, kind != 0, resamples=400, seed=5)
        covered += low <= 0.1 <= high
    assert 0.91 <= covered / 300 <= 0.98


def test_bootstrap_repeats_with_its_seed_alone() -> None:
    generator = np.random.default_rng(5)
    a, b = generator.random(200) < 0.8, generator.random(200) < 0.9
    first = paired_bootstrap(a, b, resamples=200, seed=5)
    assert paired_bootstrap(a, b, resamples=200, seed=5) == first
    assert paired_bootstrap(a, b, resamples=200, seed=6) != first
    low, high = paired_bootstrap(b, a, resamples=20_000, seed=5)
    again = paired_bootstrap(a, b, resamples=20_000, seed=5)
    assert (-high, -low) == pytest.approx(again, abs=0.011)


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.01, 0.01, 0.01], [0.03, 0.03, 0.03]),
        ([0.02, 0.6, 0.7], [0.06, 1.0, 1.0]),
    ],
)
def test_holm_by_hand(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_lies_between_the_p_value_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1.0, p * len(p_values))
    by_p = [adjusted[i] for i in np.argsort(p_values, kind="stable")]
    assert by_p == sorted(by_p)


LABELS = np.zeros(100, int)


def right_on(*examples: range) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Return predictions that are right on these examples alone."""
    predicted = np.ones(100, int)
    for part in examples:
        predicted[part.start : part.stop] = 0
    return predicted


def test_every_pair_is_compared_in_the_order_of_the_models() -> None:
    predicted = {
        "poor": right_on(range(60)),
        "good": right_on(range(80)),
        "fair": right_on(range(78)),
    }
    seconds = {"poor": 2.0, "good": 6.0, "fair": 3.0}
    actual = differences("digits", LABELS, predicted, seconds, resamples=500, seed=5)
    assert [(pair.a, pair.b) for pair in actual] == [
        ("poor", "good"),
        ("poor", "fair"),
        ("good", "fair"),
    ]
    assert [(pair.only_a, pair.only_b) for pair in actual] == [(0, 20), (0, 18), (2, 0)]
    assert [pair.accuracy_difference for pair in actual] == pytest.approx([0.2, 0.18, -0.02])
    assert [pair.training_time_ratio for pair in actual] == pytest.approx([3, 1.5, 0.5])
    assert [pair.p_value for pair in actual] == pytest.approx([2 / 2**20, 2 / 2**18, 0.5])
    assert [pair.p_adjusted for pair in actual] == pytest.approx([6 / 2**20, 4 / 2**18, 0.5])
    assert [pair.verdict for pair in actual] == ["b better", "b better", "no difference shown"]
    assert all(pair.low <= pair.accuracy_difference <= pair.high for pair in actual)
    assert {(pair.dataset, pair.examples) for pair in actual} == {("digits", 100)}
    # The other way round everything changes sides.
    turned = differences(
        "digits", LABELS, dict(reversed(predicted.items())), seconds, resamples=500, seed=5
    )
    assert (turned[2].a, turned[2].b, turned[2].verdict) == ("good", "poor", "a better")
    assert turned[2].accuracy_difference == pytest.approx(-0.2)


def test_many_comparisons_need_a_larger_difference() -> None:
    # Six to nothing among discordant pairs: p = 0.031 alone, 0.094 as one of three.
    predicted = {"a": right_on(range(50)), "b": right_on(range(56))}
    seconds = dict.fromkeys("abc", 1.0)
    (alone,) = differences("d", LABELS, predicted, seconds, resamples=100, seed=5)
    assert alone.verdict == "b better"
    among = differences(
        "d", LABELS, predicted | {"c": right_on(range(53))}, seconds, resamples=100, seed=5
    )
    assert among[0].p_value == alone.p_value
    assert among[0].p_adjusted == pytest.approx(3 * alone.p_value)
    assert among[0].verdict == "no difference shown"


def test_right_means_equal_to_the_label() -> None:
    labels = np.array([0, 1, 2, 2])
    predicted = {"a": np.array([0, 1, 2, 0]), "b": np.array([0, 0, 0, 2])}
    (pair,) = differences("d", labels, predicted, {"a": 1.0, "b": 1.0}, resamples=100, seed=5)
    assert (pair.only_a, pair.only_b) == (2, 1)


def test_fewer_than_two_models_have_no_pairs() -> None:
    assert differences("d", LABELS, {}, {}, resamples=10, seed=5) == []
    assert differences("d", LABELS, {"a": LABELS}, {"a": 1.0}, resamples=10, seed=5) == []


def test_over_seeds_with_the_t_interval_of_a_textbook() -> None:
    # t(0.975, 3) = 3.182446: 0.95 +- 3.182446 * 0.0147196 / 2
    scores = over_seeds("dnn", "digits", CLASSIFICATION, {5: 0.94, 6: 0.96, 7: 0.965, 8: 0.935})
    assert scores.seeds == [5, 6, 7, 8]
    assert (scores.mean, scores.std) == pytest.approx((0.95, 0.0147196), abs=1e-6)
    assert (scores.low, scores.high) == pytest.approx((0.926578, 0.973422), abs=1e-5)
    constant = over_seeds("dnn", "digits", CLASSIFICATION, dict.fromkeys((5, 6, 7), 0.7))
    assert (constant.std, constant.low, constant.high) == (0, constant.mean, constant.mean)


def test_models_over_seeds_by_welch_with_holm() -> None:
    rng = np.random.default_rng(1)

    def model(name: str, mean: float, task: Task = CLASSIFICATION) -> SeedScores:
        values = rng.normal(mean, 0.005, size=10)
        return over_seeds(name, "data", task, dict(enumerate(map(float, values))))

    models = [model("dnn", 0.95), model("cnn", 0.98), model("lenet5", 0.98)]
    pairs = seed_differences([*models, model("conv1d", 0.1, REGRESSION)])
    assert [(p.a, p.b, p.verdict) for p in pairs] == [
        ("dnn", "cnn", "b better"),
        ("dnn", "lenet5", "b better"),
        ("cnn", "lenet5", "no difference shown"),
    ]
    assert all(p.low < p.difference < p.high for p in pairs)
    assert [p.p_adjusted for p in pairs] == holm([p.p_value for p in pairs])
    worse, better = model("a", 0.2, REGRESSION), model("b", 0.1, REGRESSION)
    assert seed_differences([worse, better])[0].verdict == "b better"


def test_scores_that_do_not_vary_show_no_difference() -> None:
    assert welch([0.5, 0.5], [0.75, 0.75]) == (1.0, 0.25, 0.25)
