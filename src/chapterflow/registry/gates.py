"""The gates: pure functions of measurements. A missing measurement fails its gates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import le
from typing import Any

from numpy.typing import NDArray

from chapterflow.checks import Check, Value
from chapterflow.errors import ImplausibleMetric
from chapterflow.evaluation.scores import check_metrics
from chapterflow.evaluation.significance import paired_bootstrap, paired_error_ratio
from chapterflow.kinds.dataset import Task

#: Tag of a version that was rolled back; its value is the reason.
WITHDRAWN = "chapterflow.withdrawn"


@dataclass(frozen=True)
class Measured:
    """Measurements of one version; None or empty if unknown.

    Attributes:
        version: `cnn/3`.
        logged: Metrics of its run.
        now: Metrics measured now, on the current test split.
        right: `(n,)` whether each test example is classified correctly; None for curves.
        errors: `(n,)` sum of squared errors on each test example; None for classes.
        file_bytes: Size of its file in the store.
        test_digest: Hash over the test examples, from its run.
        provenance: Checks of its origin, by question (`tracking.provenance`).
        withdrawn: Why it was rolled back; empty if it was not, or was reinstated.
        reloaded: Largest difference between logged answers and answers in a fresh process.
        unscored: Why it was not scored.
        unloaded: Why it failed in a fresh process.
    """

    version: str
    logged: Mapping[str, float] = field(default_factory=dict)
    now: Mapping[str, float] = field(default_factory=dict)
    right: NDArray[Any] | None = None
    errors: NDArray[Any] | None = None
    file_bytes: int | None = None
    test_digest: str | None = None
    provenance: Mapping[str, Check] = field(default_factory=dict)
    withdrawn: str | None = None
    reloaded: float | None = None
    unscored: str = ""
    unloaded: str = ""


@dataclass(frozen=True)
class Trial:
    """Input of the gates.

    Attributes:
        champion: None if there is no champion, or it is ignored.
        thresholds: By name in `params.yaml`; None if the role has none.
        task: Task of the models, which determines the score and the interval.
        here: Hash over the test examples of the local dataset; None without one.
        without: Why there is no champion to compare with.
        allow_dirty: Whether uncommitted code and data are allowed.
        reinstate: Whether a rolled-back version may be promoted again.
    """

    challenger: Measured
    champion: Measured | None
    thresholds: Mapping[str, float | None]
    task: Task
    here: str | None
    role: str
    resamples: int = 2000
    seed: int = 0
    superiority: bool = False
    without: str = "there is no champion yet"
    allow_dirty: bool = False
    reinstate: bool = False


def judge(trial: Trial) -> list[Check]:
    """Return all gates, passed or failed."""
    gates: list[Callable[[Trial], Check]] = [_test_data, _floor, _non_inferiority]
    if trial.superiority:
        gates.append(_superiority)
    if trial.task.classes:
        gates += [_worst_class, _calibration]
    gates += [_latency, _file_size, _validation, _explanations, _plausible, _reload]
    gates += [_code, _data_version, _not_withdrawn]
    return [gate(trial) for gate in gates]


def gate(
    name: str,
    title: str,
    *,
    passed: bool,
    threshold: Value = None,
    champion: Value = None,
    challenger: Value = None,
    note: str = "",
) -> Check:
    """Return one gate as a check, with the champion's value among its details."""
    return Check(
        name=name,
        state="passed" if passed else "failed",
        title=title,
        expected=threshold,
        observed=challenger,
        reason=note,
        details={"champion": champion},
    )


def _test_data(trial: Trial) -> Check:
    challenger, champion = trial.challenger, trial.champion
    same = trial.here is not None and challenger.test_digest == trial.here
    note = "" if champion else trial.without
    if not same:
        note = challenger.unscored or "the challenger was scored on other test data"
    if champion and champion.test_digest != trial.here:
        same = False
        note = (
            "the champion was scored on other test data: train it again on the current data, or "
            "ignore it with --without-champion"
        )
    return gate(
        "test-data",
        "Both were scored on the current test examples (hash)",
        passed=same,
        threshold=_short(trial.here),
        champion=_short(champion.test_digest) if champion else None,
        challenger=_short(challenger.test_digest),
        note=note,
    )


def _short(digest: str | None) -> str | None:
    return digest[:12] if digest else None


def _provenance(trial: Trial, question: str, name: str, title: str, *, allowable: bool) -> Check:
    """Return a gate on a check of provenance; `--allow-dirty` opens it if `allowable`."""
    check = trial.challenger.provenance.get(question)
    fault, note = "unknown", ""
    if check is not None:
        fault = "" if check.passed else "; ".join(filter(None, [str(check.observed), check.reason]))
        note = check.reason if check.passed else ""
    allowed = bool(fault) and allowable and trial.allow_dirty
    threshold = check.expected if check else None
    if allowable:
        threshold = "--allow-dirty" if trial.allow_dirty else "in a commit"
    champion = trial.champion.provenance.get(question) if trial.champion else None
    return gate(
        name,
        title,
        passed=not fault or allowed,
        threshold=threshold,
        champion=_value(champion),
        challenger=_value(check),
        note=f"{fault}; allowed by --allow-dirty" if allowed else fault or note,
    )


def _value(check: Check | None) -> Value:
    value = check.details.get("value") if check else None
    return None if value is None else str(value)


def _validation(trial: Trial) -> Check:
    title = "Its training data passed validation (hash)"
    return _provenance(trial, "validation", "validation", title, allowable=False)


def _code(trial: Trial) -> Check:
    title = "Its source files are in a commit"
    return _provenance(trial, "source commit", "code", title, allowable=True)


def _data_version(trial: Trial) -> Check:
    title = "Its datasets are in a committed version of data/"
    return _provenance(trial, "data version", "data-version", title, allowable=True)


def _not_withdrawn(trial: Trial) -> Check:
    """Return the gate that refuses rolled-back versions unless they are reinstated."""
    why = trial.challenger.withdrawn
    note = ""
    if why is None:
        note = "unknown"
    elif why:
        note = f"rolled back: {why}; --reinstate allows it again"
    return gate(
        "not-withdrawn",
        "Was not rolled back, or is reinstated",
        passed=why == "" or (bool(why) and trial.reinstate),
        threshold="--reinstate" if trial.reinstate else "not rolled back",
        challenger=None if why is None else ("rolled back" if why else "not rolled back"),
        note=note,
    )


def _bounded(
    name: str,
    title: str,
    trial: Trial,
    setting: str,
    value: Callable[[Measured], float | None],
    holds: Callable[[float, float], bool],
    missing: str = "",
) -> Check:
    """Return a gate that compares a number with a setting; it fails if either is missing."""
    threshold = trial.thresholds.get(setting)
    challenger = _number(value(trial.challenger))
    champion = _number(value(trial.champion)) if trial.champion else None
    note = ""
    if threshold is None:
        note = f"params.yaml has no promotion.{setting} for {trial.role!r}"
    elif challenger is None:
        note = missing or trial.challenger.unscored or "not measured"
    return gate(
        name,
        title,
        passed=threshold is not None and challenger is not None and holds(challenger, threshold),
        threshold=threshold,
        champion=champion,
        challenger=challenger,
        note=note,
    )


def _at_most(name: str, title: str, trial: Trial, setting: str, metric: str) -> Check:
    """Return a gate on a metric measured now that must not exceed a setting."""
    return _bounded(name, title, trial, setting, lambda version: version.now.get(metric), le)


def _number(value: float | None) -> float | None:
    """Return a finite number, or None: NaN and infinity count as missing."""
    return None if value is None or not math.isfinite(value) else float(value)


def _floor(trial: Trial) -> Check:
    if trial.task.classes:
        return _bounded(
            "floor",
            "Accuracy on the test split, at least",
            trial,
            "floor",
            lambda version: version.now.get("test/accuracy"),
            lambda accuracy, least: accuracy >= least,
        )
    title = "RMSE on the test split divided by the RMSE of the best classical filter, at most"
    return _at_most("floor", title, trial, "ceiling", "baseline/rmse_ratio")


def _interval(trial: Trial) -> tuple[float, float, float] | None:
    """Return the difference in accuracy (curves: the ratio of RMSEs) and its interval, or None."""
    a, b = trial.champion, trial.challenger
    if a is None:
        return None
    if trial.task.classes:
        if a.right is None or b.right is None or a.right.shape != b.right.shape:
            return None
        low, high = paired_bootstrap(a.right, b.right, resamples=trial.resamples, seed=trial.seed)
        return float(b.right.mean() - a.right.mean()), low, high
    if a.errors is None or b.errors is None or a.errors.shape != b.errors.shape:
        return None
    low, high = paired_error_ratio(a.errors, b.errors, resamples=trial.resamples, seed=trial.seed)
    return math.sqrt(float(b.errors.sum()) / float(a.errors.sum())), low, high


def _against_champion(trial: Trial, name: str, claim: str, margin: float | None) -> Check:
    """Return a gate on the interval of the difference from the champion."""
    classes, score = trial.task.classes, trial.task.metric
    what = "difference" if classes else "ratio"
    measure = "Accuracy" if classes else "RMSE"
    title = f"{measure} {claim} than the champion's: the whole interval of the {what}"
    challenger = _number(trial.challenger.now.get(score))
    if trial.champion is None:
        # The absence of a champion is known, not missing, so the gate passes.
        note = f"{trial.without}: nothing to compare with"
        if challenger is None:
            note = trial.challenger.unscored or "not measured"
        return gate(name, title, passed=challenger is not None, challenger=challenger, note=note)
    interval = _interval(trial)
    threshold: Value = None
    if margin is not None:
        bound = 0 - margin if classes else 1 + margin  # 0 - 0.0 is not -0.0
        threshold = f"> {bound:+.3g}" if classes else f"< {bound:.3g}"
    if interval is None:
        passed, note = False, "not measured on the same examples"
    elif margin is None:
        passed, note = False, f"params.yaml has no promotion.margin for {trial.role!r}"
    else:
        within = interval[1] > bound if classes else interval[2] < bound
        passed = within and all(map(math.isfinite, interval))
        sign = "+" if classes else ""
        middle, low, high = (f"{value:{sign}.4f}" for value in interval)
        note = f"{what} {middle}, 95 % interval {low} to {high}"
    return gate(
        name,
        title,
        passed=passed,
        threshold=threshold,
        champion=_number(trial.champion.now.get(score)),
        challenger=challenger,
        note=note,
    )


def _non_inferiority(trial: Trial) -> Check:
    return _against_champion(trial, "non-inferiority", "not worse", trial.thresholds.get("margin"))


def _superiority(trial: Trial) -> Check:
    return _against_champion(trial, "superiority", "better", 0.0)


def _worst_class(trial: Trial) -> Check:
    """Return the gate on the recall of the worst class: the champion's minus the margin."""
    key, setting = "test/worst_class_recall", "worst_class_margin"
    margin = trial.thresholds.get(setting)
    challenger = _number(trial.challenger.now.get(key))
    champion = _number(trial.champion.now.get(key)) if trial.champion else None
    least = None if champion is None or margin is None else champion - margin
    passed = least is not None and challenger is not None and challenger >= least
    note = ""
    if challenger is None:
        note = trial.challenger.unscored or "not measured"
    elif trial.champion is None:
        passed, note = True, trial.without
    elif champion is None:
        note = "not measured for the champion"
    elif margin is None:
        note = f"params.yaml has no promotion.{setting} for {trial.role!r}"
    return gate(
        "worst-class",
        "Recall of the worst class, at least the champion's minus the margin",
        passed=passed,
        threshold=least,
        champion=champion,
        challenger=challenger,
        note=note,
    )


def _calibration(trial: Trial) -> Check:
    title = "Expected calibration error, at most"
    return _at_most("calibration", title, trial, "calibration_error", "test/ece")


def _latency(trial: Trial) -> Check:
    title = "95th percentile of the time for one example, ms, at most"
    return _at_most("latency", title, trial, "latency_ms_p95", "cost/latency_ms_p95")


def _file_size(trial: Trial) -> Check:
    return _bounded(
        "file-size",
        "Size of the model file, MB, at most",
        trial,
        "file_megabytes",
        lambda version: None if version.file_bytes is None else version.file_bytes / 1e6,
        lambda size, most: 0 < size <= most,
    )


def _explanations(trial: Trial) -> Check:
    def share(version: Measured) -> float | None:
        marks = [v for name, v in version.logged.items() if name.endswith("/depends_on_model")]
        return sum(marks) / len(marks) if marks else None

    return _bounded(
        "explanations",
        "Share of attribution methods whose maps depend on the weights, at least",
        trial,
        "explanations",
        share,
        lambda depending, least: least <= depending <= 1,
        missing="its run has no metrics of explanations",
    )


def _plausible(trial: Trial) -> Check:
    challenger, most = trial.challenger, trial.thresholds.get("rescored_difference")
    key = trial.task.metric
    now, logged = _number(challenger.now.get(key)), _number(challenger.logged.get(key))
    difference = None
    if now is None or logged is None:
        note = challenger.unscored or "the logged or the current score is missing"
    else:
        difference = abs(now - logged)
        note = f"logged {logged:.4f}, now {now:.4f}"
    passed = difference is not None and most is not None and difference <= most
    for metrics in (challenger.logged, challenger.now):
        try:
            check_metrics({name: value for name, value in metrics.items() if "/" in name})
        except ImplausibleMetric as implausible:
            passed, note = False, str(implausible)
    return gate(
        "plausible",
        "Metrics are plausible, and the current score equals the logged one, within",
        passed=passed,
        threshold=most,
        challenger=difference,
        note=note,
    )


def _reload(trial: Trial) -> Check:
    return _bounded(
        "reload",
        "Loads in a fresh process and reproduces its logged answers, within",
        trial,
        "reload_difference",
        lambda version: version.reloaded,
        lambda difference, most: difference <= most,
        missing=trial.challenger.unloaded,
    )
