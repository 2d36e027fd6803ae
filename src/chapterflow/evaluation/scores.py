"""Classification metrics, and checks that every metric passes before it is logged."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.errors import ImplausibleMetric
from chapterflow.types import Strict

Metrics = dict[str, float]
#: Metrics between 0 and 1, by the last part of their name.
SHARES = (
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "balanced_accuracy",
    "macro_f1",
    "ece",
    "worst_class_recall",
    "majority_accuracy",
)
#: Metrics between -1 and 1, by the last part of their name.
CORRELATIONS = frozenset({"randomisation_similarity", "stability"})
#: Largest excess over a bound that is treated as rounding.
ROUNDING = 1e-9
NO_EXAMPLES = "There must be test examples. Received: none. Build the dataset with a test split"


def accuracy_interval(correct: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of an accuracy (Wilson 1927).

    Args:
        correct: Number of correctly classified examples.
        count: Number of examples.
        confidence: Confidence level.
    """
    # `scipy.stats.binomtest` gives the same; importing it takes a second.
    from scipy.special import ndtri

    z, share = float(ndtri((1 + confidence) / 2)), correct / count
    centre = share + z**2 / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    scale = 1 + z**2 / count
    low = 0.0 if correct == 0 else (centre - spread) / scale
    high = 1.0 if correct == count else (centre + spread) / scale
    return low, high


def expected_calibration_error(
    labels: NDArray[Any], probabilities: NDArray[Any], bins: int
) -> float:
    """Return the expected calibration error (Guo et al. 2017, section 2).

    Predictions are sorted into `bins` bins of equal width by the confidence of the predicted class.
    The error is the mean gap between accuracy and confidence, weighted by bin size.

    Args:
        labels: `(n,)` true classes.
        probabilities: `(n, classes)`.
        bins: Number of bins over (0, 1].
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    position = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(position, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


class ClassScore(Strict):
    """Precision, recall and F1 of one class, and its number of test examples."""

    name: str
    precision: float
    recall: float
    f1: float
    examples: int


def classification_metrics(
    labels: NDArray[Any], probabilities: NDArray[Any], classes: Sequence[str], *, bins: int
) -> tuple[Metrics, list[ClassScore], NDArray[np.int64]]:
    """Return the metrics, the scores by class and the confusion matrix of a test split.

    Args:
        labels: `(n,)` true classes.
        probabilities: `(n, classes)`, rows summing to 1.
        classes: Names of the classes.
        bins: Number of bins of the calibration error.

    Returns:
        Metrics by name (`test/...`), scores by class, and counts `(true, predicted)`.

    Raises:
        ImplausibleMetric: If there are no examples, a label is unknown, probabilities are not
            finite or do not sum to 1, or counts do not add up.
    """
    from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

    count = len(labels)
    if not count:
        raise ImplausibleMetric(NO_EXAMPLES)
    if not np.isin(labels, np.arange(len(classes))).all():
        raise ImplausibleMetric(
            f"Labels must be integers from 0 to {len(classes) - 1}. "
            f"Received: {sorted(set(labels.tolist()))}"
        )
    if not np.isfinite(probabilities).all():
        raise ImplausibleMetric(
            "Probabilities must be finite. Received: values that are not finite. Check that the "
            "training converged"
        )
    if probabilities.min() < 0 or not np.allclose(probabilities.sum(axis=1), 1, atol=1e-4):
        raise ImplausibleMetric(
            "Probabilities must be non-negative and sum to 1. Received: rows that are negative or "
            "do not sum to 1. Apply a softmax to the logits"
        )
    probabilities = probabilities.astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    every = np.arange(len(classes))
    predicted = probabilities.argmax(axis=1)
    confusion = confusion_matrix(labels, predicted, labels=every)
    correct = int(np.trace(confusion))
    low, high = accuracy_interval(correct, count)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=every, zero_division=0.0
    )
    one_hot = labels[:, np.newaxis] == every
    metrics: Metrics = {
        "test/examples": count,
        "test/correct": correct,
        # Charts begin at 0: 0.96 and 0.99 look the same there, 18 and 5 errors do not.
        "test/errors": count - correct,
        "test/accuracy": correct / count,
        "test/accuracy_low": low,
        "test/accuracy_high": high,
        "test/balanced_accuracy": balanced_accuracy(labels, predicted),
        "test/macro_f1": float(f1.mean()),
        "test/log_loss": float(log_loss(labels, probabilities, labels=every)),
        # Multi-class form, 0 to 2 (Brier 1950).
        "test/brier": float(((probabilities - one_hot) ** 2).sum(axis=1).mean()),
        "test/ece": expected_calibration_error(labels, probabilities, bins),
    }
    scores = [
        ClassScore(name=name, precision=p, recall=r, f1=f, examples=int(n))
        for name, p, r, f, n in zip(
            classes, precision.tolist(), recall.tolist(), f1.tolist(), support, strict=True
        )
    ]
    metrics["test/worst_class_recall"] = min(score.recall for score in scores if score.examples)
    for subject, total in (
        ("confusion matrix", int(confusion.sum())),
        ("classes' examples", sum(score.examples for score in scores)),
    ):
        if total != count:
            raise ImplausibleMetric(f"The {subject} must add up to {count}. Received: {total}")
    return check_metrics(metrics), scores, confusion.astype(np.int64)


def balanced_accuracy(labels: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Return the mean recall over the classes that have examples (Brodersen et al. 2010).

    Accuracy hardly shows whether a model knows the rare classes. The best constant answer has the
    share of the largest class as its accuracy, but a balanced accuracy of only 1 / classes.
    """
    from sklearn.metrics import balanced_accuracy_score

    with warnings.catch_warnings():
        # A predicted class that the test split does not have counts as a mistake, as it should.
        warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
        return float(balanced_accuracy_score(labels, predicted))


def majority_accuracy(train_labels: NDArray[Any], test_labels: NDArray[Any]) -> float:
    """Return the test accuracy of always predicting the most frequent class of training."""
    values, counts = np.unique(train_labels, return_counts=True)
    return float((test_labels == values[counts.argmax()]).mean())


def check_metrics(metrics: Mapping[str, float]) -> Metrics:
    """Refuse impossible metrics; every metric passes this check before it is logged.

    Returns:
        The metrics; values that exceed a bound only by rounding are clipped to it.

    Raises:
        ImplausibleMetric: If a value is not finite, a fraction is outside [0, 1], a correlation
            is outside [-1, 1], a count or cost is negative, or counts do not add up.
    """
    plausible: Metrics = {}
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise ImplausibleMetric(f"{name} must be finite. Received: {value}")
        last = name.rpartition("/")[2]
        lowest = -1.0 if last in CORRELATIONS else 0.0
        highest = 1.0 if last in CORRELATIONS or last in SHARES else math.inf
        bounded = min(max(value, lowest), highest)
        if abs(bounded - value) > ROUNDING:
            if last in CORRELATIONS:
                rule = "must be a correlation between -1 and 1"
            elif last in SHARES:
                rule = "must be a share between 0 and 1"
            else:
                rule = "must not be negative"
            raise ImplausibleMetric(f"{name} {rule}. Received: {value}")
        plausible[name] = bounded
    if metrics.get("test/brier", 0) > 2:
        raise ImplausibleMetric(f"test/brier must be at most 2. Received: {metrics['test/brier']}")
    examples, correct = metrics.get("test/examples"), metrics.get("test/correct")
    if examples is not None and correct is not None:
        if examples < 1:
            raise ImplausibleMetric(NO_EXAMPLES)
        accuracy = metrics.get("test/accuracy", correct / examples)
        if correct > examples or abs(accuracy - correct / examples) > ROUNDING:
            raise ImplausibleMetric(
                "test/accuracy must equal test/correct divided by test/examples. "
                f"Received: {accuracy} with {correct:g} of {examples:g}"
            )
    return plausible
