"""Metrics against scikit-learn, figures worked out by hand, and impossible values."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from chapterflow.errors import ImplausibleMetric
from chapterflow.evaluation.scores import (
    accuracy_interval,
    balanced_accuracy,
    check_metrics,
    classification_metrics,
    expected_calibration_error,
)

#: Five examples of three classes. Predicted: 0, 0, 1, 2, 0.
LABELS = np.array([0, 1, 1, 2, 2])
PROBABILITIES = np.array(
    [[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.0, 0.1, 0.9], [0.6, 0.1, 0.3]]
)
NAMES = ["a", "b", "c"]


def test_a_worked_example() -> None:
    metrics, scores, confusion = classification_metrics(LABELS, PROBABILITIES, NAMES, bins=10)
    assert confusion.tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 1]]
    assert metrics["test/examples"] == 5
    assert metrics["test/correct"] == 3
    assert metrics["test/errors"] == 2
    assert metrics["test/accuracy"] == 0.6
    assert metrics["test/log_loss"] == pytest.approx(
        -math.log(0.7 * 0.3 * 0.8 * 0.9 * 0.3) / 5, rel=1e-9
    )
    # (0.3²+0.2²+0.1²) + (0.5²+0.7²+0.2²) + (0.1²+0.2²+0.1²) + (0.1²+0.1²) + (0.6²+0.1²+0.7²)
    assert metrics["test/brier"] == pytest.approx((0.14 + 0.78 + 0.06 + 0.02 + 0.86) / 5)
    assert metrics["test/macro_f1"] == pytest.approx((2 / 4 + 2 / 3 + 2 / 3) / 3)
    assert metrics["test/worst_class_recall"] == 0.5
    assert metrics["test/balanced_accuracy"] == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert [(s.name, s.precision, s.recall, s.examples) for s in scores] == [
        ("a", pytest.approx(1 / 3), 1.0, 1),
        ("b", 1.0, 0.5, 2),
        ("c", 1.0, 0.5, 2),
    ]


def test_balanced_accuracy_leaves_out_classes_without_examples() -> None:
    # Class 2 has no example, and is predicted once.
    assert balanced_accuracy(np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 2, 1])) == 0.875


@st.composite
def scored(draw: st.DrawFn) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels of three to five classes, and probabilities for them."""
    count, classes = draw(st.integers(2, 40)), draw(st.integers(3, 5))
    labels = draw(arrays(np.int64, count, elements=st.integers(0, classes - 1)))
    weights = draw(arrays(np.float64, (count, classes), elements=st.floats(0.001, 1)))
    return labels, weights / weights.sum(axis=1, keepdims=True)


@given(scored(), st.integers(1, 20))
def test_metrics_agree_with_scikit_learn_and_stay_in_bounds(
    example: tuple[NDArray[np.int64], NDArray[np.float64]], bins: int
) -> None:
    labels, probabilities = example
    every = list(range(probabilities.shape[1]))
    metrics, scores, confusion = classification_metrics(
        labels, probabilities, [str(number) for number in every], bins=bins
    )
    predicted = probabilities.argmax(axis=1)
    assert metrics["test/accuracy"] == pytest.approx(
        sklearn_metrics.accuracy_score(labels, predicted)
    )
    assert metrics["test/log_loss"] == pytest.approx(
        sklearn_metrics.log_loss(labels, probabilities, labels=every)
    )
    assert metrics["test/macro_f1"] == pytest.approx(
        sklearn_metrics.f1_score(labels, predicted, labels=every, average="macro", zero_division=0)
    )
    one_hot = np.eye(len(every))[labels]
    assert metrics["test/brier"] == pytest.approx(
        np.mean([((p - t) ** 2).sum() for p, t in zip(probabilities, one_hot, strict=True)])
    )
    np.testing.assert_array_equal(
        confusion, sklearn_metrics.confusion_matrix(labels, predicted, labels=every)
    )
    assert metrics["test/accuracy_low"] <= metrics["test/accuracy"]
    assert metrics["test/accuracy"] <= metrics["test/accuracy_high"]
    assert 0 <= metrics["test/ece"] <= 1
    assert 0 <= metrics["test/brier"] <= 2
    recalls = [(predicted[labels == n] == n).mean() for n in every if (labels == n).any()]
    assert metrics["test/worst_class_recall"] == pytest.approx(min(recalls))
    assert [score.examples for score in scores] == np.bincount(
        labels, minlength=len(every)
    ).tolist()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(1, 20))
def test_perfect_predictions(labels: list[int], bins: int) -> None:
    metrics, _, confusion = classification_metrics(
        np.array(labels), np.eye(5)[labels], list("abcde"), bins=bins
    )
    assert metrics["test/accuracy"] == metrics["test/worst_class_recall"] == 1
    assert metrics["test/brier"] == metrics["test/ece"] == 0
    assert metrics["test/log_loss"] == pytest.approx(0, abs=1e-9)
    assert metrics["test/accuracy_high"] == 1
    assert (confusion == np.diag(np.bincount(labels, minlength=5))).all()


def test_certain_and_wrong_is_the_worst() -> None:
    metrics, *_ = classification_metrics(np.array([0, 1, 2]), np.eye(3)[[1, 2, 0]], NAMES, bins=15)
    assert metrics["test/accuracy"] == metrics["test/accuracy_low"] == 0
    assert metrics["test/brier"] == 2
    assert metrics["test/ece"] == 1


def test_the_order_of_examples_does_not_matter() -> None:
    order = [3, 1, 4, 0, 2]
    straight, *_ = classification_metrics(LABELS, PROBABILITIES, NAMES, bins=10)
    shuffled, *_ = classification_metrics(LABELS[order], PROBABILITIES[order], NAMES, bins=10)
    assert shuffled == pytest.approx(straight)


def test_single_precision_sums_are_accepted_and_evened_out() -> None:
    probabilities = np.full((3, 3), 1 / 3, np.float32) * np.float32(1.00002)
    metrics, *_ = classification_metrics(np.array([0, 1, 2]), probabilities, NAMES, bins=10)
    assert metrics["test/log_loss"] == pytest.approx(math.log(3))


def calibration(confidence: list[float], right: list[int], bins: int) -> float:
    """Return the calibration error of two-class predictions, all for class 0."""
    probabilities = np.array([[c, 1 - c] for c in confidence])
    return expected_calibration_error(1 - np.array(right), probabilities, bins)


def test_calibration_error_by_hand() -> None:
    # Bin (0.9, 1]: mean confidence 0.935, accuracy 1/2. Bin (0.6, 0.7]: 0.635, accuracy 1.
    error = calibration([0.95, 0.92, 0.65, 0.62], [1, 0, 1, 1], bins=10)
    assert error == pytest.approx(0.5 * 0.435 + 0.5 * 0.365)
    # In one bin: accuracy 3/4, mean confidence 0.785.
    error = calibration([0.95, 0.92, 0.65, 0.62], [1, 0, 1, 1], bins=1)
    assert error == pytest.approx(0.035)
    # Bins of unequal size are weighted by it.
    error = calibration([0.95, 0.95, 0.95, 0.65], [1, 1, 0, 0], bins=10)
    assert error == pytest.approx(0.75 * abs(0.95 - 2 / 3) + 0.25 * 0.65)


def test_a_bin_includes_its_upper_end() -> None:
    # 0.5 lies in (0, 0.5], 1.0 in (0.5, 1]; in one bin the two gaps would cancel out.
    assert calibration([0.5, 1.0], [1, 0], bins=2) == pytest.approx(0.75)
    assert calibration([0.5, 0.75], [1, 0], bins=4) == pytest.approx((0.5 + 0.75) / 2)


def test_calibrated_predictions_have_no_error() -> None:
    assert calibration([0.75] * 4, [1, 1, 1, 0], bins=15) == pytest.approx(0)


@pytest.mark.parametrize(
    ("correct", "count", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_as_published(correct: int, count: int, low: float, high: float) -> None:
    assert accuracy_interval(correct, count) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_by_its_formula(counts: tuple[int, int]) -> None:
    correct, count = counts
    p, z = correct / count, 1.959963984540054
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / (4 * count**2))
    low, high = accuracy_interval(correct, count)
    assert (low, high) == pytest.approx((middle - half, middle + half), abs=1e-9)
    assert 0 <= low <= p <= high <= 1
    wider = accuracy_interval(correct, count, confidence=0.99)
    assert wider[0] <= low
    assert wider[1] >= high


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        ({"test/accuracy": 1.01}, "test/accuracy must be a share between 0 and 1. Received: 1.01"),
        ({"test/accuracy": -0.01}, "share between 0 and 1"),
        ({"validation/accuracy": 101.0}, "share between 0 and 1"),
        ({"test/accuracy_low": 1.5}, "share"),
        ({"test/accuracy_high": 1.5}, "share"),
        ({"test/macro_f1": 1.5}, "share"),
        ({"test/ece": 1.5}, "share"),
        ({"test/worst_class_recall": 1.5}, "share"),
        ({"test/log_loss": math.nan}, "test/log_loss must be finite. Received: nan"),
        ({"test/accuracy": math.nan}, "finite"),
        ({"test/log_loss": math.inf}, "must be finite. Received: inf"),
        ({"test/log_loss": -math.inf}, "finite"),
        ({"test/log_loss": -0.1}, "must not be negative"),
        ({"cost/flops": -1.0}, "cost/flops must not be negative. Received: -1.0"),
        ({"train/seconds": -0.5}, "negative"),
        ({"explain/grad-cam/stability": -1.1}, "between -1 and 1. Received: -1.1"),
        ({"test/brier": 2.01}, "test/brier must be at most 2. Received: 2.01"),
        ({"test/examples": 10, "test/correct": 11}, "11 of 10"),
        ({"test/examples": 10, "test/correct": 9, "test/accuracy": 0.91}, "0.91 with 9 of 10"),
    ],
)
def test_impossible_metrics_are_refused(metrics: dict[str, float], says: str) -> None:
    with pytest.raises(ImplausibleMetric) as caught:
        check_metrics({"train/epochs": 3.0} | metrics)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        {"test/accuracy": 1.0, "test/ece": 0.0, "test/brier": 2.0},
        {"test/log_loss": 30.0, "cost/flops": 1e12, "train/epochs": 0.0},
        {"test/examples": 3, "test/correct": 1, "test/accuracy": 1 / 3},
        {"test/examples": 3, "test/correct": 3},
        {"explain/grad-cam/randomisation_similarity": -0.4},
    ],
)
def test_possible_metrics_are_accepted(metrics: dict[str, float]) -> None:
    check_metrics(metrics)


@pytest.mark.parametrize(
    ("name", "computed", "logged"),
    [
        ("explain/occlusion/stability", 1.0000000000000002, 1.0),
        ("explain/occlusion/randomisation_similarity", -1.0000000000000002, -1.0),
        ("test/accuracy", 1.0000000000000002, 1.0),
        ("test/ece", -1e-17, 0.0),
        ("test/log_loss", -1e-17, 0.0),
        ("test/log_loss", 1.0000000000000002, 1.0000000000000002),
    ],
)
def test_rounding_beyond_a_bound_is_clipped(name: str, computed: float, logged: float) -> None:
    assert check_metrics({name: computed}) == {name: logged}
    if name != "test/log_loss":
        with pytest.raises(ImplausibleMetric, match="between"):
            check_metrics({name: computed + math.copysign(1e-8, computed)})


def test_no_examples_at_all_are_refused() -> None:
    with pytest.raises(ImplausibleMetric):
        check_metrics({"test/examples": 0, "test/correct": 0})


@pytest.mark.parametrize(
    ("labels", "probabilities", "says"),
    [
        (
            [0, 1],
            [[2.0, -3.0, 1.5], [0.1, 0.2, 0.3]],
            "negative or do not sum to 1. Apply a softmax",
        ),
        ([0, 1], [[0.5, 0.5, 0.001], [0.1, 0.2, 0.7]], "do not sum to 1"),
        ([0, 1], [[math.nan, 0.5, 0.5], [0.1, 0.2, 0.7]], "not finite"),
        ([0, 1], [[math.inf, -math.inf, 1], [0.1, 0.2, 0.7]], "not finite"),
    ],
)
def test_invalid_probabilities_are_refused(
    labels: list[int], probabilities: list[list[float]], says: str
) -> None:
    with pytest.raises(ImplausibleMetric, match=says):
        classification_metrics(np.array(labels), np.array(probabilities), NAMES, bins=10)


@pytest.mark.parametrize(
    ("labels", "probabilities"),
    [
        # Logits whose sum happens to be 1.
        ([0, 1], [[1.5, -0.5, 0.0], [0.1, 0.2, 0.7]]),
        # A label that is no class: the counts do not add up.
        ([0, 3], [[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]]),
    ],
)
def test_implausible_rows_are_refused_with_our_message(
    labels: list[int], probabilities: list[list[float]]
) -> None:
    with pytest.raises(ImplausibleMetric):
        classification_metrics(np.array(labels), np.array(probabilities), NAMES, bins=10)


def test_a_class_without_examples_is_not_the_worst() -> None:
    metrics, scores, _ = classification_metrics(
        np.array([0, 0, 1]), np.eye(3)[[0, 0, 1]], NAMES, bins=10
    )
    assert scores[2].examples == 0
    assert scores[2].recall == 0
    assert metrics["test/worst_class_recall"] == 1


def test_records_are_plain_numbers() -> None:
    metrics, scores, _ = classification_metrics(LABELS, PROBABILITIES, NAMES, bins=10)
    kinds: set[Any] = {type(value) for value in metrics.values()}
    assert kinds <= {int, float}
    assert {type(score.examples) for score in scores} == {int}
