"""The gates: pure functions of what was measured. None is passed by a missing value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from chapterflow.errors import ImplausibleMetric
from chapterflow.evaluation.compare import paired_bootstrap, paired_error_ratio
from chapterflow.evaluation.scores import check_metrics
from chapterflow.registry.verdict import Gate, Value

#: A version with this tag was rolled back; its value says why.
WITHDRAWN = "chapterflow.withdrawn"


@dataclass(frozen=True)
class Measured:
    """What is known of one version; None and empty where it could not be found out.

    Attributes:
        version: `cnn/3`.
        logged: Metrics of its run.
        now: Metrics measured now, on the test split as it is here.
        right: `(n,)` whether each test example is classified rightly; for curves `errors`.
        errors: `(n,)` sum of squared errors on each test example.
        file_bytes: Size of its file in the store.
        test_digest: Hash over the test examples, as its run has it.
        data_digest: Digest of the data that it learnt.
        validated: Digest of the data whose validation its run holds, where it was passed.
        commit: Commit that it was trained at.
        dirty: Whether there were uncommitted changes.
        commit_known: Whether the checkout has the commit.
        data_version: Version of `data/` that it was trained with.
        data_known: Whether a commit records that version.
        withdrawn: Why it was rolled back; empty where it is not, or no longer.
        reloaded: Largest difference between answers logged and answers of a fresh process.
        problems: Why something could not be measured, by gate.
    """

    version: str
    logged: Mapping[str, float] = field(default_factory=dict)
    now: Mapping[str, float] = field(default_factory=dict)
    right: NDArray[Any] | None = None
    errors: NDArray[Any] | None = None
    file_bytes: int | None = None
    test_digest: str | None = None
    data_digest: str | None = None
    validated: str | None = None
    commit: str | None = None
    dirty: bool | None = None
    commit_known: bool | None = None
    data_version: str | None = None
    data_known: bool | None = None
    withdrawn: str | None = None
    reloaded: float | None = None
    problems: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """What the gates judge.

    Attributes:
        champion: None where there is no champion, or it was set aside.
        thresholds: By name in `params.yaml`; None where the role has none.
        classes: Whether the target is a class; curves have errors instead.
        here: Hash over the test examples of the dataset on this machine; None without one.
        without: Why there is no champion to be held against.
        allow_dirty: Whether code and data that no commit has will do.
        reinstate: Whether a version that was rolled back may come back.
    """

    challenger: Measured
    champion: Measured | None
    thresholds: Mapping[str, float | None]
    classes: bool
    here: str | None
    role: str
    resamples: int = 2000
    seed: int = 0
    superiority: bool = False
    without: str = "no version is champion yet"
    allow_dirty: bool = False
    reinstate: bool = False


def test_data(trial: Trial) -> Gate:
    """Return whether both were scored on the test examples that are here."""
    challenger, champion = trial.challenger, trial.champion
    same = trial.here is not None and challenger.test_digest == trial.here
    note = "" if same else challenger.problems.get("test-data", "")
    if not same and not note:
        note = "the challenger was scored on other test data than those here"
    if champion and champion.test_digest != trial.here:
        same = False
        note = (
            "the champion was scored on other test data: train it on these to compare, or set it "
            "aside with --without-champion"
        )
    return Gate(
        name="test-data",
        title="Both are scored on the test examples that are here now (hash)",
        passed=same,
        threshold=_short(trial.here),
        champion=_short(champion.test_digest) if champion else None,
        challenger=_short(challenger.test_digest),
        note=note or ("" if champion else trial.without),
    )


def validation(trial: Trial) -> Gate:
    """Return whether validation was passed for the data that it learnt."""
    one = trial.challenger
    note = ""
    if one.validated is None:
        note = one.problems.get("validation", "its run holds no validation that was passed")
    elif one.validated != one.data_digest:
        note = "the validation is about other data than those that it learnt"
    return Gate(
        name="validation",
        title="Validation was passed for the data that it learnt (hash)",
        passed=one.validated is not None and one.validated == one.data_digest,
        threshold=_short(one.data_digest),
        champion=_short(trial.champion.validated) if trial.champion else None,
        challenger=_short(one.validated),
        note=note,
    )


def code(trial: Trial) -> Gate:
    """Return whether it was trained at a commit that is here."""
    one = trial.challenger
    if one.commit is None or one.dirty is None:
        note = "its run names no commit"
    elif one.dirty:
        note = "trained with uncommitted changes: commit them, then `chapterflow run` once more"
    elif not one.commit_known:
        note = "this checkout does not have the commit"
    else:
        note = ""
    return _allowed(
        trial, "code", "Trained at a commit, without uncommitted changes", one.commit, note
    )


def data_version(trial: Trial) -> Gate:
    """Return whether a commit records the data that it was trained with."""
    one = trial.challenger
    if one.data_version is None:
        note = "its run names no version of data/"
    elif not one.data_known:
        note = "no commit has a data.dvc with this version: commit data.dvc"
    else:
        note = ""
    title = "Version of data/ that a commit records"
    return _allowed(trial, "data-version", title, one.data_version, note)


def _allowed(trial: Trial, name: str, title: str, value: str | None, fault: str) -> Gate:
    """Return a gate that `--allow-dirty` opens."""
    return Gate(
        name=name,
        title=title,
        passed=not fault or trial.allow_dirty,
        threshold="--allow-dirty" if trial.allow_dirty else "known",
        challenger=_short(value),
        note=f"{fault}; allowed by --allow-dirty" if fault and trial.allow_dirty else fault,
    )


def not_withdrawn(trial: Trial) -> Gate:
    """Return whether it is not rolled back: a version that was reinstated no longer is."""
    why = trial.challenger.withdrawn
    note = ""
    if why is None:
        note = "not known"
    elif why:
        note = f"rolled back: {why}; --reinstate lets it come back"
    return Gate(
        name="not-withdrawn",
        title="Is not rolled back",
        passed=why == "" or (bool(why) and trial.reinstate),
        threshold="--reinstate" if trial.reinstate else "not",
        challenger=None if why is None else ("rolled back" if why else "not"),
        note=note,
    )


def _short(digest: str | None) -> str | None:
    return digest[:12] if digest else None


def judge(trial: Trial) -> list[Gate]:
    """Return every gate, passed or shut."""
    gates: list[Callable[[Trial], Gate]] = [test_data, _floor, _non_inferiority]
    if trial.superiority:
        gates.append(_superiority)
    if trial.classes:
        gates += [_worst_class, _calibration]
    gates += [_latency, _file_size, validation, _explanations, _plausible, _reload]
    gates += [code, data_version, not_withdrawn]
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
