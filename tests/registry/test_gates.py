"""The gates as a truth table: met requirements pass, violated or missing ones fail."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chapterflow.checks import Check, State
from chapterflow.kinds.dataset import CLASSIFICATION, REGRESSION
from chapterflow.registry.gates import Measured, Trial, judge

THRESHOLDS = {
    "floor": 0.9,
    "ceiling": 0.6,
    "margin": 0.02,
    "worst_class_margin": 0.1,
    "calibration_error": 0.05,
    "latency_ms_p95": 50.0,
    "file_megabytes": 1.0,
    "explanations": 0.5,
    "rescored_difference": 0.005,
    "reload_difference": 0.001,
}
EXAMPLES = 1000


def scores(accuracy: float, **more: float) -> dict[str, float]:
    return {
        "test/examples": float(EXAMPLES),
        "test/correct": accuracy * EXAMPLES,
        "test/accuracy": accuracy,
        "test/worst_class_recall": 0.9,
        "test/ece": 0.02,
        "cost/latency_ms_p95": 2.0,
        **more,
    }


def origin(question: str = "", state: State = "passed") -> dict[str, Check]:
    """Return a provenance in which one question has another answer."""
    return {
        name: Check(
            name=name,
            state=state if name == question else "passed",
            expected="d" * 12,
            observed=f"what is known of the {name}",
            details={"value": "d" * 12},
        )
        for name in ("validation", "source commit", "data version")
    }


def measured(version: str, accuracy: float = 0.95, **changes: Any) -> Measured:
    right = np.arange(EXAMPLES) < round(accuracy * EXAMPLES)
    one = Measured(
        version,
        logged=scores(accuracy, **{"explain/occlusion/depends_on_model": 1.0}),
        now=scores(accuracy),
        right=right,
        file_bytes=500_000,
        test_digest="t" * 64,
        provenance=origin(),
        withdrawn="",
        reloaded=0.0,
    )
    return replace(one, **changes)


def trial(**changes: Any) -> Trial:
    base = Trial(
        challenger=measured("cnn/2"),
        champion=measured("cnn/1"),
        thresholds=THRESHOLDS,
        task=CLASSIFICATION,
        here="t" * 64,
        role="digits",
    )
    return replace(base, **changes)


def gate(actual: list[Check], name: str) -> Check:
    return next(one for one in actual if one.name == name)


def shut(one: Trial) -> set[str]:
    return {gate.name for gate in judge(one) if not gate.passed}


def without(metric: str) -> dict[str, float]:
    return {name: value for name, value in scores(0.95).items() if name != metric}


def now(**changes: float) -> Measured:
    """A challenger whose figures of now differ."""
    return measured("cnn/2", now=scores(0.95) | changes)


def curve_trial(**changes: Any) -> Trial:
    actual = {"test/rmse": 0.05, "baseline/rmse_ratio": 0.4, "cost/latency_ms_p95": 2.0}
    logged = actual | {"explain/occlusion/depends_on_model": 1.0}
    errors = np.full(EXAMPLES, 0.0025)
    given = {"now": actual, "logged": logged, "right": None, "errors": errors}
    base = trial(
        challenger=measured("conv1d/2", **given),
        champion=measured("conv1d/1", **given),
        task=REGRESSION,
        role="curves",
    )
    return replace(base, **changes)


def test_an_equal_challenger_passes_every_gate() -> None:
    assert shut(trial()) == set()
    assert [one.name for one in judge(trial())] == [
        "test-data", "floor", "non-inferiority", "worst-class", "calibration", "latency",
        "file-size", "validation", "explanations", "plausible", "reload", "code", "data-version",
        "not-withdrawn",
    ]  # fmt: skip
    # The whole table has what it was held against and what was seen.
    for one in judge(trial()):
        assert one.title
        assert one.expected is not None
        assert one.observed is not None


def test_the_first_version_needs_everything_but_a_champion() -> None:
    assert shut(trial(champion=None)) == set()
    first = gate(judge(trial(champion=None)), "non-inferiority")
    assert (first.details["champion"], first.observed) == (None, 0.95)
    assert "there is no champion yet" in first.reason
    assert shut(trial(champion=None, challenger=Measured("cnn/2"))) == {
        one.name for one in judge(trial(champion=None))
    }


#: The question of provenance that each gate asks.
QUESTIONS = {
    "validation": "validation",
    "code": "source commit",
    "data-version": "data version",
}
STATES: tuple[State, ...] = get_args(State)
#: What fails which gate: a value that is too bad, and every way for a value to be missing.
TABLE: list[tuple[str, Callable[[], Trial]]] = [
    ("test-data", lambda: trial(here=None)),
    ("test-data", lambda: trial(here="x" * 64)),
    ("test-data", lambda: trial(challenger=measured("cnn/2", test_digest=None))),
    ("test-data", lambda: trial(challenger=measured("cnn/2", test_digest="x" * 64))),
    ("test-data", lambda: trial(champion=measured("cnn/1", test_digest="x" * 64))),
    ("test-data", lambda: trial(champion=measured("cnn/1", test_digest=None))),
    ("floor", lambda: trial(thresholds=THRESHOLDS | {"floor": 0.96})),
    ("floor", lambda: trial(thresholds=THRESHOLDS | {"floor": None})),
    ("floor", lambda: trial(challenger=measured("cnn/2", now=without("test/accuracy")))),
    ("floor", lambda: trial(challenger=now(**{"test/accuracy": math.nan}))),
    ("floor", lambda: curve_trial(thresholds=THRESHOLDS | {"ceiling": 0.39})),
    ("floor", lambda: curve_trial(thresholds=THRESHOLDS | {"ceiling": None})),
    ("floor", lambda: curve_trial(challenger=replace(curve_trial().challenger, now={}))),
    ("non-inferiority", lambda: trial(champion=measured("cnn/1", 0.99))),
    ("non-inferiority", lambda: trial(thresholds=THRESHOLDS | {"margin": None})),
    ("non-inferiority", lambda: trial(challenger=measured("cnn/2", right=None))),
    ("non-inferiority", lambda: trial(champion=measured("cnn/1", right=None))),
    ("non-inferiority", lambda: trial(champion=measured("cnn/1", right=np.ones(9, bool)))),
    ("non-inferiority", lambda: curve_trial(challenger=measured("c/2", errors=None))),
    (
        "non-inferiority",
        lambda: curve_trial(
            champion=replace(curve_trial().champion, errors=np.full(EXAMPLES, 0.002))
        ),
    ),
    (
        "non-inferiority",
        lambda: curve_trial(
            challenger=replace(curve_trial().challenger, errors=np.full(EXAMPLES, math.nan))
        ),
    ),
    ("superiority", lambda: trial(superiority=True)),
    ("superiority", lambda: curve_trial(superiority=True)),
    ("superiority", lambda: trial(superiority=True, challenger=measured("cnn/2", right=None))),
    ("worst-class", lambda: trial(challenger=now(**{"test/worst_class_recall": 0.79}))),
    ("worst-class", lambda: trial(thresholds=THRESHOLDS | {"worst_class_margin": None})),
    (
        "worst-class",
        lambda: trial(challenger=measured("cnn/2", now=without("test/worst_class_recall"))),
    ),
    (
        "worst-class",
        lambda: trial(champion=measured("cnn/1", now=without("test/worst_class_recall"))),
    ),
    (
        "worst-class",
        lambda: trial(
            champion=None, challenger=measured("cnn/2", now=without("test/worst_class_recall"))
        ),
    ),
    ("calibration", lambda: trial(challenger=now(**{"test/ece": 0.06}))),
    ("calibration", lambda: trial(challenger=measured("cnn/2", now=without("test/ece")))),
    ("calibration", lambda: trial(thresholds=THRESHOLDS | {"calibration_error": None})),
    ("latency", lambda: trial(challenger=now(**{"cost/latency_ms_p95": 51.0}))),
    ("latency", lambda: trial(challenger=measured("cnn/2", now=without("cost/latency_ms_p95")))),
    ("latency", lambda: trial(thresholds=THRESHOLDS | {"latency_ms_p95": None})),
    ("file-size", lambda: trial(challenger=measured("cnn/2", file_bytes=1_000_001))),
    ("file-size", lambda: trial(challenger=measured("cnn/2", file_bytes=None))),
    ("file-size", lambda: trial(challenger=measured("cnn/2", file_bytes=0))),
    ("file-size", lambda: trial(thresholds=THRESHOLDS | {"file_megabytes": None})),
    ("explanations", lambda: trial(challenger=measured("cnn/2", logged=scores(0.95)))),
    (
        "explanations",
        lambda: trial(
            challenger=measured(
                "cnn/2", logged=scores(0.95, **{"explain/occlusion/depends_on_model": 0.0})
            )
        ),
    ),
    ("explanations", lambda: trial(thresholds=THRESHOLDS | {"explanations": None})),
    ("plausible", lambda: trial(challenger=measured("cnn/2", now=scores(0.96)))),
    ("plausible", lambda: trial(challenger=measured("cnn/2", now=scores(1.2)))),
    ("plausible", lambda: trial(challenger=now(**{"test/ece": math.inf}))),
    ("plausible", lambda: trial(challenger=now(**{"test/correct": 900.0}))),
    ("plausible", lambda: trial(challenger=measured("cnn/2", logged={}))),
    ("plausible", lambda: trial(challenger=measured("cnn/2", now={}))),
    ("plausible", lambda: trial(thresholds=THRESHOLDS | {"rescored_difference": None})),
    ("reload", lambda: trial(challenger=measured("cnn/2", reloaded=None))),
    ("reload", lambda: trial(challenger=measured("cnn/2", reloaded=0.002))),
    ("reload", lambda: trial(challenger=measured("cnn/2", reloaded=math.nan))),
    ("reload", lambda: trial(challenger=measured("cnn/2", reloaded=math.inf))),
    ("reload", lambda: trial(thresholds=THRESHOLDS | {"reload_difference": None})),
    ("not-withdrawn", lambda: trial(challenger=measured("cnn/2", withdrawn=None))),
    ("not-withdrawn", lambda: trial(challenger=measured("cnn/2", withdrawn="it hallucinates"))),
    ("not-withdrawn", lambda: trial(reinstate=True, challenger=Measured("cnn/2"))),
    *(
        (name, lambda given=given: trial(challenger=measured("cnn/2", provenance=given)))
        for name, question in QUESTIONS.items()
        for given in (
            {},
            {other: check for other, check in origin().items() if other != question},
            *(origin(question, state) for state in STATES if state != "passed"),
        )
    ),
]


@pytest.mark.parametrize(("name", "made"), TABLE)
def test_each_gate_fails_for_bad_or_missing_values(name: str, made: Callable[[], Trial]) -> None:
    actual = gate(judge(made()), name)
    assert not actual.passed
    if name != "floor" or actual.observed is None:
        assert actual.reason or actual.observed != actual.expected
    if actual.observed is None:
        assert actual.reason, "a missing value must say why"


def test_every_gate_is_in_the_table() -> None:
    assert {name for name, _ in TABLE} == {one.name for one in judge(trial(superiority=True))}


@given(st.sets(st.sampled_from([one.name for one in fields(Measured) if one.name[:2] != "un"])))
def test_a_challenger_with_a_missing_value_is_refused(missing: set[str]) -> None:
    empty = {one.name: one for one in fields(Measured)}
    changes = {
        name: {} if name in ("logged", "now", "provenance") else None
        for name in missing - {"version", "errors"}
        if name in empty
    }
    assert bool(shut(trial(challenger=measured("cnn/2", **changes)))) == bool(changes)


def test_margins_include_their_bound() -> None:
    at = THRESHOLDS | {"floor": 0.95, "calibration_error": 0.02, "latency_ms_p95": 2.0}
    assert shut(trial(thresholds=at | {"file_megabytes": 0.5, "explanations": 1.0})) == set()
    assert shut(trial(challenger=now(**{"test/worst_class_recall": 0.8}))) == set()


def test_a_better_challenger_passes_superiority() -> None:
    better = trial(superiority=True, challenger=measured("cnn/2", 0.99))
    assert shut(better) == set()
    assert gate(judge(better), "superiority").reason.startswith("difference +0.0400")
    errors = replace(curve_trial().challenger, errors=np.full(EXAMPLES, 0.0016))
    assert shut(curve_trial(superiority=True, challenger=errors)) == set()


def test_curves_have_errors_instead_of_classes() -> None:
    names = {one.name for one in judge(curve_trial())}
    assert shut(curve_trial()) == set()
    assert not names & {"worst-class", "calibration"}


def test_allow_dirty_opens_two_gates_and_no_other() -> None:
    dirty = measured(
        "cnn/2",
        provenance=origin("source commit", "warning")
        | {"data version": origin("data version", "failed")["data version"]},
    )
    assert shut(trial(challenger=dirty)) == {"code", "data-version"}
    opened = judge(trial(challenger=dirty, allow_dirty=True))
    assert all(one.passed for one in opened)
    assert "allowed by --allow-dirty" in gate(opened, "code").reason
    nothing = Measured("cnn/2")
    assert shut(trial(challenger=nothing, allow_dirty=True)) == {
        one.name for one in opened if one.name not in ("code", "data-version")
    }


def test_reinstated_versions_may_be_promoted() -> None:
    back = measured("cnn/2", withdrawn="it was slow")
    assert shut(trial(challenger=back, reinstate=True)) == set()
    assert "it was slow" in gate(judge(trial(challenger=back)), "not-withdrawn").reason


def test_a_missing_measurement_has_a_reason() -> None:
    lost = Measured("cnn/2", unscored="StoreError: its files are gone")
    assert gate(judge(trial(challenger=lost)), "floor").reason == "StoreError: its files are gone"
