"""Compare a retrained model with the recorded one: first the weights, then the answers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from chapterflow.kinds.dataset import Dataset
from chapterflow.types import Strict

if TYPE_CHECKING:
    import keras

#: Share of the test examples that must get the same class.
AGREEMENT = 0.95
#: Largest difference in accuracy that is irrelevant even if it is significant.
TOLERANCE = 0.01
#: Curves: limits of the distance between the answers, relative to the recorded model's error, and
#: of the relative change of the error.
DISTANCE, ERROR_CHANGE = 0.5, 0.05
Outcome = Literal["identical", "agrees", "differs"]


class Agreement(Strict):
    """How well a retrained model agrees with the recorded one.

    Attributes:
        identical: Whether all weights are bit-for-bit identical.
        weights: Number of arrays of weights.
        different_weights: Number of arrays that differ.
        largest_difference: Largest difference between two weights; None if the shapes differ, or
            if it is not finite.
        examples: Number of test examples.
        metric: `accuracy`, or `rmse` for curves.
        recorded: The metric of the recorded model.
        retrained: The metric of the retrained model.
        difference: Retrained metric minus recorded metric.
        low: Lower end of the 95 % paired bootstrap interval of the difference; None for curves.
        high: Upper end.
        agreement: Share of test examples with the same predicted class; None for curves.
        answers_rmse: Root mean squared difference between the answers; None for classes.
    """

    identical: bool
    weights: int
    different_weights: int
    largest_difference: float | None
    examples: int
    metric: Literal["accuracy", "rmse"]
    recorded: float
    retrained: float
    difference: float
    low: float | None = None
    high: float | None = None
    agreement: float | None = None
    answers_rmse: float | None = None

    def near(self) -> bool:
        """Tell whether the answers agree.

        Classes: 95 % of the test examples get the same class, and the interval of the difference
        in accuracy includes 0 or lies within 0.01 of it. Curves: the answers lie closer to each
        other than half the recorded model's error, and the error differs by at most 5 %.
        """
        if self.agreement is not None and self.low is not None and self.high is not None:
            includes_zero = self.low <= 0 <= self.high
            small = max(abs(self.low), abs(self.high)) <= TOLERANCE
            return self.agreement >= AGREEMENT and (includes_zero or small)
        distance = self.answers_rmse if self.answers_rmse is not None else math.inf
        return (
            distance <= DISTANCE * self.recorded
            and abs(self.difference) <= ERROR_CHANGE * self.recorded
        )

    def verdict(self, *, same_environment: bool) -> Outcome:
        """Return `identical`, `agrees` or `differs`.

        In the same environment only identical weights are acceptable.
        """
        if self.identical:
            return "identical"
        return "agrees" if self.near() and not same_environment else "differs"

    def summary(self) -> str:
        """Return the comparison in a few words."""
        if self.identical:
            return f"all {self.weights} weight arrays are bit-for-bit identical"
        weights = f"{self.different_weights} of {self.weights} weight arrays differ"
        if self.largest_difference is not None:
            weights += f" (by at most {self.largest_difference:.2g})"
        if self.agreement is None or self.low is None or self.high is None:
            return (
                f"{weights}; the answers to {self.examples} test curves differ by "
                f"{self.answers_rmse:.4f} (RMSE), error {self.recorded:.4f} -> "
                f"{self.retrained:.4f}"
            )
        return (
            f"{weights}; {self.agreement:.1%} of {self.examples} test examples get the same "
            f"class, accuracy {self.recorded:.4f} -> {self.retrained:.4f}, difference "
            f"{self.difference:+.4f} (95 % interval {self.low:+.4f} to {self.high:+.4f})"
        )


def compare_models(
    recorded: keras.Model, retrained: keras.Model, dataset: Dataset, *, resamples: int, seed: int
) -> Agreement:
    """Compare a retrained model with the recorded one.

    Args:
        recorded: The model from the registry.
        retrained: The model trained now.
        dataset: With a test split, photos at the models' size.
        resamples: Bootstrap samples.
        seed: Seed of the bootstrap.
    """
    from chapterflow.training.batches import predict

    weights = compare_weights(recorded.get_weights(), retrained.get_weights())
    answers = [predict(model, dataset, "test") for model in (recorded, retrained)]
    test = dataset.indices("test")
    if dataset.card.task.classes:
        labels = np.asarray(dataset.labels[test])
        predicted = [answer.argmax(axis=1) for answer in answers]
        return Agreement(
            **weights,
            **_classes(labels, predicted[0], predicted[1], resamples=resamples, seed=seed),
        )
    return Agreement(
        **weights,
        **_curves(answers[0], answers[1], dataset.targets(test), dataset.weights(test)),
    )


def compare_weights(a: list[NDArray[Any]], b: list[NDArray[Any]]) -> dict[str, Any]:
    """Return the fields of an `Agreement` that describe the weights."""
    same_shapes = [(x.shape, x.dtype) for x in a] == [(y.shape, y.dtype) for y in b]
    if not same_shapes:
        return {
            "identical": False,
            "weights": len(a),
            "different_weights": sum(
                x.tobytes() != y.tobytes() or x.shape != y.shape for x, y in zip(a, b, strict=False)
            )
            + abs(len(a) - len(b)),
            "largest_difference": None,
        }
    # Bytes, not values: 0.0 equals -0.0, and NaN equals nothing.
    differing = [(x, y) for x, y in zip(a, b, strict=True) if x.tobytes() != y.tobytes()]
    largest = max(
        (float(np.max(np.abs(x.astype(np.float64) - y.astype(np.float64)))) for x, y in differing),
        default=0.0,
    )
    return {
        "identical": not differing,
        "weights": len(a),
        "different_weights": len(differing),
        "largest_difference": largest if math.isfinite(largest) else None,
    }


def _classes(
    labels: NDArray[Any], a: NDArray[Any], b: NDArray[Any], *, resamples: int, seed: int
) -> dict[str, Any]:
    from chapterflow.evaluation.significance import paired_bootstrap

    right = a == labels, b == labels
    low, high = paired_bootstrap(*right, resamples=resamples, seed=seed)
    return {
        "examples": len(labels),
        "metric": "accuracy",
        "recorded": float(right[0].mean()),
        "retrained": float(right[1].mean()),
        "difference": float(right[1].mean() - right[0].mean()),
        "low": low,
        "high": high,
        "agreement": float((a == b).mean()),
    }


def _curves(
    a: NDArray[Any], b: NDArray[Any], targets: NDArray[Any], weights: NDArray[Any] | None
) -> dict[str, Any]:
    def rmse(x: NDArray[Any], y: NDArray[Any]) -> float:
        errors = (x.astype(np.float64) - y.astype(np.float64))[..., 0] ** 2
        return float(np.sqrt(np.average(errors, weights=weights)))

    return {
        "examples": len(targets),
        "metric": "rmse",
        "recorded": rmse(a, targets),
        "retrained": rmse(b, targets),
        "difference": rmse(b, targets) - rmse(a, targets),
        "answers_rmse": rmse(a, b),
    }
