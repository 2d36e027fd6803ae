"""The gates: pure functions of what was measured. None is passed by a missing value."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from chapterflow.errors import ImplausibleMetric
from chapterflow.evaluation.compare import paired_bootstrap, paired_error_ratio
from chapterflow.evaluation.metrics import check_metrics
from chapterflow.promotion import origin
from chapterflow.promotion.trial import Measured, Trial
from chapterflow.promotion.verdict import Gate, Value


def judge(trial: Trial) -> list[Gate]:
    """Return every gate, passed or shut."""
    gates: list[Callable[[Trial], Gate]] = [origin.test_data, _floor, _non_inferiority]
    if trial.superiority:
        gates.append(_superiority)
    if trial.classes:
        gates += [_worst_class, _calibration]
    gates += [_latency, _file_size, origin.validation, _explanations, _plausible, _reload]
    gates += [origin.code, origin.data_version, origin.not_withdrawn]
    return [gate(trial) for gate in gates]


def _held(
    name: str,
    title: str,
    trial: Trial,
    threshold: float | None,
    value: Callable[[Measured], float | None],
    holds: Callable[[float, float], bool],
    *,
    setting: str,
) -> Gate:
    """Return a gate that holds one number against another; it is shut where either is missing."""
    found = _number(value(trial.challenger))
    beside = _number(value(trial.champion)) if trial.champion else None
    note = ""
    if threshold is None:
        note = f"params.yaml has no promotion.{setting} for {trial.role!r}"
    elif found is None:
        note = trial.challenger.problems.get(name, "not measured")
    passed = threshold is not None and found is not None and holds(found, threshold)
    return Gate(
        name=name,
        title=title,
        passed=passed,
        threshold=threshold,
        champion=beside,
        challenger=found,
        note=note,
    )


def _number(value: float | None) -> float | None:
    """Return a finite number, or None: what compares false with everything must pass no gate."""
    return None if value is None or not math.isfinite(value) else float(value)


def _floor(trial: Trial) -> Gate:
    if trial.classes:
        return _held(
            "floor",
            "Accuracy on the test split, at least",
            trial,
            trial.thresholds.get("floor"),
            lambda one: one.now.get("test/accuracy"),
            lambda found, least: found >= least,
            setting="floor",
        )
    return _held(
        "floor",
        "RMSE on the test split over that of the best classical filter, at most",
        trial,
        trial.thresholds.get("ceiling"),
        lambda one: one.now.get("baseline/rmse_ratio"),
        lambda found, most: found <= most,
        setting="ceiling",
    )


def _interval(trial: Trial) -> tuple[float, float, float] | None:
    """Return difference in accuracy (curves: ratio of RMSEs) and its interval; None if unknown."""
    a, b = trial.champion, trial.challenger
    if a is None:
        return None
    if trial.classes:
        if a.right is None or b.right is None or a.right.shape != b.right.shape:
            return None
        low, high = paired_bootstrap(a.right, b.right, resamples=trial.resamples, seed=trial.seed)
        return float(b.right.mean() - a.right.mean()), low, high
    if a.errors is None or b.errors is None or a.errors.shape != b.errors.shape:
        return None
    low, high = paired_error_ratio(a.errors, b.errors, resamples=trial.resamples, seed=trial.seed)
    return math.sqrt(float(b.errors.sum()) / float(a.errors.sum())), low, high


def _against_champion(
    trial: Trial, name: str, title: str, bound: float | None, holds: Callable[[Any, float], bool]
) -> Gate:
    """Return a gate on the interval of the difference from the champion."""
    score = "test/accuracy" if trial.classes else "test/rmse"
    shown = _number(trial.challenger.now.get(score))
    if trial.champion is None:
        # A fact, not a missing value: the registry was asked. The other gates stand.
        return Gate(
            name=name,
            title=title,
            passed=shown is not None,
            challenger=shown,
            note=f"{trial.without}: nothing to be held against"
            if shown is not None
            else "not measured",
        )
    found = _interval(trial)
    threshold: Value = None
    if bound is not None:
        threshold = f"> {bound:+.3g}" if trial.classes else f"< {bound:.3g}"
    if found is None:
        passed, note = False, "not measured on the same examples"
    elif bound is None:
        passed, note = False, f"params.yaml has no promotion.margin for {trial.role!r}"
    else:
        passed = all(map(math.isfinite, found)) and holds(found, bound)
        what = "difference" if trial.classes else "ratio"
        sign = "+" if trial.classes else ""
        middle, low, high = (f"{value:{sign}.4f}" for value in found)
        note = f"{what} {middle}, 95 % interval {low} to {high}"
    return Gate(
        name=name,
        title=title,
        passed=passed,
        threshold=threshold,
        champion=_number(trial.champion.now.get(score)),
        challenger=shown,
        note=note,
    )


def _non_inferiority(trial: Trial) -> Gate:
    margin = trial.thresholds.get("margin")
    if trial.classes:
        return _against_champion(
            trial,
            "non-inferiority",
            "Accuracy not worse than the champion's: the whole interval of the difference",
            None if margin is None else -margin,
            lambda found, bound: found[1] > bound,
        )
    return _against_champion(
        trial,
        "non-inferiority",
        "RMSE not worse than the champion's: the whole interval of the ratio",
        None if margin is None else 1 + margin,
        lambda found, bound: found[2] < bound,
    )


def _superiority(trial: Trial) -> Gate:
    if trial.classes:
        return _against_champion(
            trial,
            "superiority",
            "Accuracy better than the champion's: the whole interval of the difference",
            0.0,
            lambda found, bound: found[1] > bound,
        )
    return _against_champion(
        trial,
        "superiority",
        "RMSE better than the champion's: the whole interval of the ratio",
        1.0,
        lambda found, bound: found[2] < bound,
    )


def _worst_class(trial: Trial) -> Gate:
    name, key = "worst-class", "test/worst_class_recall"
    title = "Recall of the worst class, at least the champion's less the margin"
    margin = trial.thresholds.get("worst_class_margin")
    if trial.champion is None:
        found = _number(trial.challenger.now.get(key))
        return Gate(
            name=name,
            title=title,
            passed=found is not None,
            challenger=found,
            note=trial.without if found is not None else "not measured",
        )
    beside = _number(trial.champion.now.get(key))
    least = None if beside is None or margin is None else beside - margin
    gate = _held(
        name,
        title,
        trial,
        least,
        lambda one: one.now.get(key),
        lambda found, least: found >= least,
        setting="worst_class_margin",
    )
    if beside is None:
        return gate.model_copy(update={"note": "the champion's was not measured"})
    return gate


def _calibration(trial: Trial) -> Gate:
    return _held(
        "calibration",
        "Expected calibration error, at most",
        trial,
        trial.thresholds.get("calibration_error"),
        lambda one: one.now.get("test/ece"),
        lambda found, most: found <= most,
        setting="calibration_error",
    )


def _latency(trial: Trial) -> Gate:
    return _held(
        "latency",
        "95th percentile of the time for one example now, ms, at most",
        trial,
        trial.thresholds.get("latency_ms_p95"),
        lambda one: one.now.get("cost/latency_ms_p95"),
        lambda found, most: found <= most,
        setting="latency_ms_p95",
    )


def _file_size(trial: Trial) -> Gate:
    return _held(
        "file-size",
        "File of the model, MB, at most",
        trial,
        trial.thresholds.get("file_megabytes"),
        lambda one: None if one.file_bytes is None else one.file_bytes / 1e6,
        lambda found, most: 0 < found <= most,
        setting="file_megabytes",
    )


def _explanations(trial: Trial) -> Gate:
    def share(one: Measured) -> float | None:
        marks = [value for name, value in one.logged.items() if name.endswith("/depends_on_model")]
        return sum(marks) / len(marks) if marks else None

    return _held(
        "explanations",
        "Share of attribution methods whose maps depend on the weights, at least",
        trial,
        trial.thresholds.get("explanations"),
        share,
        lambda found, least: least <= found <= 1,
        setting="explanations",
    )


def _plausible(trial: Trial) -> Gate:
    one, most = trial.challenger, trial.thresholds.get("rescored_difference")
    key = "test/accuracy" if trial.classes else "test/rmse"
    now, logged = _number(one.now.get(key)), _number(one.logged.get(key))
    note, difference = "", None
    if now is None or logged is None:
        note = one.problems.get(
            "plausible", "the score that was logged, or that of now, is missing"
        )
    else:
        difference = abs(now - logged)
        note = f"logged {logged:.4f}, now {now:.4f}"
    passed = difference is not None and most is not None and difference <= most
    for metrics in (one.logged, one.now):
        try:
            check_metrics({name: value for name, value in metrics.items() if "/" in name})
        except ImplausibleMetric as implausible:
            passed, note = False, str(implausible)
    return Gate(
        name="plausible",
        title="Metrics can be true, and the score that was logged is found again, within",
        passed=passed,
        threshold=most,
        challenger=difference,
        note=note,
    )


def _reload(trial: Trial) -> Gate:
    return _held(
        "reload",
        "Loads in a fresh process and gives the answers logged with it, within",
        trial,
        trial.thresholds.get("reload_difference"),
        lambda one: one.reloaded,
        lambda found, most: found <= most,
        setting="reload_difference",
    )
