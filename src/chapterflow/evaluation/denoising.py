"""Errors of smoothed curves and of the classical filters that serve as baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.errors import ImplausibleMetric

Metrics = dict[str, float]
Floats = NDArray[np.float64]
#: Window lengths of a filter, in samples.
WINDOWS = range(3, 32, 2)
#: Polynomial degrees of a Savitzky-Golay filter.
ORDERS = range(6)


def denoising_metrics(
    targets: NDArray[Any],
    predictions: NDArray[Any],
    weights: NDArray[Any],
    *,
    inputs: NDArray[Any],
    resamples: int = 2000,
    seed: int = 0,
) -> Metrics:
    """Return the errors of a test split over its scored samples.

    Args:
        targets: `(n, length, 1)`: clean curves, or measured values hidden from the inputs.
        predictions: `(n, length, 1)`.
        weights: `(n, length)`: 1 for scored samples, 0 for others.
        inputs: `(n, length, 1)`, for the error without smoothing.
        resamples: Number of bootstrap samples.
        seed: Seed of the bootstrap.

    Returns:
        `test/examples`, `test/samples` (scored), `test/rmse`, `test/mse`, `test/mae`,
        `test/input_rmse` (error of the inputs), `test/rmse_low` and `test/rmse_high` (95 %
        percentile interval over curves; examples of the same curve are drawn together), and
        `test/snr` and `test/input_snr`: power of the targets about each curve's mean divided by
        the power of the error, as a ratio (decibels are 10 times its base-10 logarithm).

    Raises:
        ImplausibleMetric: If shapes differ, a value is not finite, a weight is not 0 or 1, no
            sample is scored, or the error is exactly 0.
    """
    truth, smoothed, mask, noisy = _checked(targets, predictions, weights, inputs)
    error, count = smoothed - truth, mask.sum()
    mse = float((error**2 * mask).sum() / count)
    if mse == 0:
        raise ImplausibleMetric(
            "The error of a smoothed curve cannot be exactly 0. Received: predictions equal to the "
            "targets. Check that the inputs do not contain the targets"
        )
    input_mse = float(((noisy - truth) ** 2 * mask).sum() / count)
    mean = (truth * mask).sum(axis=1, keepdims=True) / np.maximum(mask.sum(axis=1), 1)[:, None]
    power = float(((truth - mean) ** 2 * mask).sum() / count)
    low, high = _interval(truth, error**2 * mask, mask, resamples, seed)
    metrics: Metrics = {
        "test/examples": float(len(truth)),
        "test/samples": float(count),
        "test/rmse": math.sqrt(mse),
        "test/mse": mse,
        "test/mae": float((np.abs(error) * mask).sum() / count),
        "test/rmse_low": low,
        "test/rmse_high": high,
        "test/input_rmse": math.sqrt(input_mse),
        "test/snr": power / mse,
    }
    if input_mse > 0:
        metrics["test/input_snr"] = power / input_mse
    return metrics


def filter_baselines(
    train_inputs: NDArray[Any],
    train_targets: NDArray[Any],
    train_weights: NDArray[Any],
    test_inputs: NDArray[Any],
    test_targets: NDArray[Any],
    test_weights: NDArray[Any],
    *,
    rmse: float | None = None,
) -> Metrics:
    """Return the test errors of classical filters, tuned on the training split by weighted MSE.

    They read the same inputs as the model and are scored on the same samples. The candidates
    include a window of one sample, which returns the input unchanged.

    Args:
        train_inputs: `(n, length, 1)`.
        train_targets: `(n, length, 1)`, the curves that the filters are tuned to.
        train_weights: `(n, length)`.
        test_inputs: `(m, length, 1)`.
        test_targets: `(m, length, 1)`.
        test_weights: `(m, length)`.
        rmse: Test RMSE of the model.

    Returns:
        `baseline/savitzky_golay/rmse`, `/window` and `/order` (Savitzky & Golay 1964),
        `baseline/moving_average/rmse` and `/window`, and, given `rmse`, `baseline/rmse_ratio`:
        the RMSE of the model divided by the RMSE of the Savitzky-Golay filter.

    Raises:
        ImplausibleMetric: Under the conditions of `denoising_metrics`.
    """
    train = _checked(train_targets, train_inputs, train_weights)
    test = _checked(test_targets, test_inputs, test_weights)
    longest = min(train[0].shape[1], test[0].shape[1])
    windows = [window for window in WINDOWS if window <= longest]
    # A polynomial of degree w - 1 fits all w samples exactly, so it returns the input.
    polynomials = [(w, o) for w in windows for o in ORDERS if o < w - 1]
    golay, (window, order) = _tuned(_savitzky_golay, [(1, 0), *polynomials], train, test)
    average, (width,) = _tuned(_moving_average, [(w,) for w in (1, *windows)], train, test)
    metrics: Metrics = {
        "baseline/savitzky_golay/rmse": golay,
        "baseline/savitzky_golay/window": float(window),
        "baseline/savitzky_golay/order": float(order),
        "baseline/moving_average/rmse": average,
        "baseline/moving_average/window": float(width),
    }
    if rmse is not None:
        if golay == 0:
            raise ImplausibleMetric(
                "The error of a filter cannot be exactly 0. Received: filtered inputs equal to the "
                "targets. Check that the inputs do not contain the targets"
            )
        metrics["baseline/rmse_ratio"] = rmse / golay
    return metrics


def _tuned(
    smooth: Callable[..., Floats],
    candidates: Iterable[tuple[int, ...]],
    train: tuple[Floats, ...],
    test: tuple[Floats, ...],
) -> tuple[float, tuple[int, ...]]:
    """Return the test RMSE of the candidate with the lowest training error, and the candidate."""

    def error(candidate: tuple[int, ...], split: tuple[Floats, ...]) -> float:
        truth, noisy, mask, *_ = split
        return float(((smooth(noisy, *candidate) - truth) ** 2 * mask).sum() / mask.sum())

    # Ties go to the first candidate: the narrower window, the lower order.
    best = min(candidates, key=lambda candidate: error(candidate, train))
    return math.sqrt(error(best, test)), best


def _savitzky_golay(curves: Floats, window: int, order: int) -> Floats:
    from scipy.signal import savgol_filter

    smooth = np.asarray(savgol_filter(curves, window, order, axis=1, mode="nearest"), np.float64)
    half = window // 2
    if half:
        # SciPy's ends (mode="interp") are a least-squares fit for each curve and window, nearly
        # all of the time. The fit is linear: one projection does the same for all curves.
        basis, _ = np.linalg.qr(np.vander(np.arange(-half, half + 1) / half, order + 1))
        fit = basis @ basis.T
        smooth[:, :half] = curves[:, :window] @ fit[:, :half]
        smooth[:, -half:] = curves[:, -window:] @ fit[:, -half:]
    return smooth


def _moving_average(curves: Floats, window: int) -> Floats:
    from scipy.ndimage import uniform_filter1d

    return np.asarray(uniform_filter1d(curves, window, axis=1, mode="nearest"), np.float64)


def _interval(
    truth: Floats, squares: Floats, mask: Floats, resamples: int, seed: int
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the RMSE over curves (Efron & Tibshirani 1993)."""
    # Windows that differ only in their hidden samples are one curve, so they are not independent.
    _, curve = np.unique(truth, axis=0, return_inverse=True)
    sums = np.bincount(curve.ravel(), weights=squares.sum(axis=1))
    counts = np.bincount(curve.ravel(), weights=mask.sum(axis=1))
    scored = counts > 0
    sums, counts = sums[scored], counts[scored]
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=resamples)
    low, high = np.quantile(np.sqrt(draws @ sums / (draws @ counts)), (0.025, 0.975))
    return float(low), float(high)


def _checked(
    targets: NDArray[Any], predictions: NDArray[Any], weights: NDArray[Any], *more: NDArray[Any]
) -> tuple[Floats, ...]:
    """Return targets, predictions, weights and more as float64 `(n, length)`."""
    shape = np.shape(targets)
    for name, array in (
        ("targets", targets),
        ("predictions or inputs", predictions),
        *(("inputs", array) for array in more),
    ):
        if np.shape(array) != shape or len(shape) != 3 or shape[2] != 1 or 0 in shape:
            raise ImplausibleMetric(
                f"Curves must have one shape (n, length, 1). Received: {name} {np.shape(array)} "
                f"with targets {shape}"
            )
        if not np.isfinite(array).all():
            raise ImplausibleMetric(f"Curves must be finite. Received: {name} with NaN or infinity")
    if np.shape(weights) != shape[:2] or not np.isin(weights, (0, 1)).all():
        raise ImplausibleMetric(
            f"Weights must be 0 or 1, of shape {shape[:2]}. Received: shape {np.shape(weights)}, "
            f"values {np.unique(weights)[:5].tolist()}"
        )
    if not np.any(weights):
        raise ImplausibleMetric("At least one sample must be scored. Received: weights of 0 only")
    truth, smoothed, *rest = (
        np.asarray(array, np.float64)[..., 0] for array in (targets, predictions, *more)
    )
    return truth, smoothed, np.asarray(weights, np.float64), *rest
