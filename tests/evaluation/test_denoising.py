"""Errors of curves, against figures worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import savgol_filter

from chapterflow.errors import ImplausibleMetric
from chapterflow.evaluation import denoising
from chapterflow.evaluation.denoising import denoising_metrics, filter_baselines
from chapterflow.evaluation.scores import check_metrics


def curves(*rows: list[float]) -> NDArray[np.float32]:
    return np.array(rows, np.float32)[..., np.newaxis]


TARGETS = curves([0, 2, 4, 6], [1, 1, 3, 3])
PREDICTIONS = curves([1, 2, 4, 9], [1, 0, 3, 3])
INPUTS = curves([2, 2, 2, 6], [1, 1, 3, 5])
WEIGHTS = np.array([[1, 1, 0, 1], [1, 1, 1, 0]], np.float32)


def test_only_scored_samples_count() -> None:
    metrics = denoising_metrics(TARGETS, PREDICTIONS, WEIGHTS, inputs=INPUTS)
    # Errors 1, 0, 3 and 0, -1, 0; of the input 2, 0, 0 and 0, 0, 0.
    assert metrics["test/mse"] == pytest.approx(11 / 6)
    assert metrics["test/rmse"] == pytest.approx(math.sqrt(11 / 6))
    assert metrics["test/mae"] == pytest.approx(5 / 6)
    assert metrics["test/input_rmse"] == pytest.approx(math.sqrt(4 / 6))
    # About the means 8/3 and 5/3: 64/9 + 4/9 + 100/9 and 4/9 + 4/9 + 16/9.
    assert metrics["test/snr"] == pytest.approx((192 / 9) / 6 / (11 / 6))
    assert metrics["test/input_snr"] == pytest.approx((192 / 9) / 4)
    assert (metrics["test/examples"], metrics["test/samples"]) == (2, 6)
    check_metrics(metrics)


def test_the_interval_is_over_curves() -> None:
    metrics = denoising_metrics(TARGETS, PREDICTIONS, WEIGHTS, inputs=INPUTS)
    # Two curves: resamples hold the first twice, the second twice, or both.
    assert metrics["test/rmse_low"] == pytest.approx(math.sqrt(1 / 3))
    assert metrics["test/rmse_high"] == pytest.approx(math.sqrt(10 / 3))
    # Examples of one curve are drawn together, so that copies add no certainty.
    many = [np.repeat(array, 50, axis=0) for array in (TARGETS, PREDICTIONS, WEIGHTS, INPUTS)]
    again = denoising_metrics(*many[:3], inputs=many[3])
    assert again["test/rmse_low"] == pytest.approx(metrics["test/rmse_low"])
    assert again["test/rmse_high"] == pytest.approx(metrics["test/rmse_high"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predictions": PREDICTIONS[..., 0]}, "one shape"),
        ({"predictions": PREDICTIONS[:1]}, "one shape"),
        ({"inputs": INPUTS[:, :2]}, "one shape"),
        ({"predictions": PREDICTIONS * np.nan}, "must be finite"),
        ({"targets": TARGETS + np.inf}, "must be finite"),
        ({"weights": WEIGHTS * 0.5}, "must be 0 or 1"),
        ({"weights": WEIGHTS[0]}, "must be 0 or 1"),
        ({"weights": WEIGHTS * 0}, "At least one sample"),
        ({"predictions": TARGETS}, "cannot be exactly 0"),
    ],
)
def test_impossible_values_are_refused(changes: dict[str, Any], message: str) -> None:
    given = {"targets": TARGETS, "predictions": PREDICTIONS, "weights": WEIGHTS, "inputs": INPUTS}
    given |= changes
    with pytest.raises(ImplausibleMetric, match=message):
        denoising_metrics(**given)


def lines(count: int, noise: float, seed: int) -> tuple[NDArray[Any], ...]:
    rng = np.random.default_rng(seed)
    slope = rng.uniform(-1, 1, (count, 1))
    clean = (slope * np.arange(64))[..., np.newaxis]
    return clean + noise * rng.standard_normal(clean.shape), clean, np.ones(clean.shape[:2])


def test_straight_lines_select_the_widest_linear_filter() -> None:
    metrics = filter_baselines(*lines(40, 1.0, 1), *lines(40, 1.0, 2), rmse=0.1)
    assert metrics["baseline/savitzky_golay/window"] == 31
    assert metrics["baseline/savitzky_golay/order"] == 1
    golay = metrics["baseline/savitzky_golay/rmse"]
    # A mean of 31 samples has 1 / sqrt(31) of their noise; the ends have more.
    assert 1 / math.sqrt(31) < golay < 1.5 / math.sqrt(31)
    assert metrics["baseline/rmse_ratio"] == pytest.approx(0.1 / golay)
    # A moving average bends the line's ends, so it must stay narrower.
    assert metrics["baseline/moving_average/window"] < 31
    assert metrics["baseline/moving_average/rmse"] > golay
    check_metrics(metrics)


def test_the_input_is_unchanged_if_no_filter_helps() -> None:
    rng = np.random.default_rng(5)
    jumps = rng.choice([-5.0, 5.0], (40, 64, 1))
    noisy = jumps + 0.1 * rng.standard_normal(jumps.shape)
    metrics = filter_baselines(noisy, jumps, np.ones((40, 64)), noisy, jumps, np.ones((40, 64)))
    left = math.sqrt(((noisy - jumps) ** 2).mean())
    for name in ("savitzky_golay", "moving_average"):
        assert metrics[f"baseline/{name}/window"] == 1
        assert metrics[f"baseline/{name}/rmse"] == pytest.approx(left)


def test_filters_are_tuned_on_train_and_on_scored_samples_alone() -> None:
    train, test = lines(40, 1.0, 1), list(lines(40, 1.0, 2))
    expected = filter_baselines(*train, *test)
    # Spoilt where nothing is scored, which the filter sees but is not tuned to.
    spoilt = train[1].copy()
    spoilt[:, ::2] += 100
    half = np.tile([0.0, 1.0], (40, 32))
    actual = filter_baselines(train[0], spoilt, half, *test)
    assert actual["baseline/savitzky_golay/order"] == expected["baseline/savitzky_golay/order"]
    # Another test split changes scores, not choices.
    other = filter_baselines(*train, *lines(40, 3.0, 3))
    assert other["baseline/savitzky_golay/window"] == expected["baseline/savitzky_golay/window"]
    assert other["baseline/savitzky_golay/rmse"] > 2 * expected["baseline/savitzky_golay/rmse"]


def test_short_curves_get_short_filters() -> None:
    rng = np.random.default_rng(5)
    given = rng.standard_normal((20, 9, 1))
    flat = np.zeros_like(given)
    metrics = filter_baselines(given, flat, np.ones((20, 9)), given, flat, np.ones((20, 9)))
    assert metrics["baseline/savitzky_golay/window"] == 9


@pytest.mark.parametrize(("window", "order"), [(1, 0), (3, 1), (9, 5), (31, 5)])
def test_savitzky_golay_filters_as_scipy_does_also_at_the_ends(window: int, order: int) -> None:
    curves = np.random.default_rng(4).normal(size=(20, 40)).cumsum(axis=1)
    expected = savgol_filter(curves, window, order, axis=1)
    np.testing.assert_allclose(
        denoising._savitzky_golay(curves, window, order), expected, atol=1e-9
    )
