"""Faithfulness of attribution maps: deletion and insertion, compared with random orders.

Petsiuk et al., "RISE: randomized input sampling for explanation of black-box models", BMVC (2018).
Places (pixels, voxels, samples, nodes) are kept or removed. The caller scores examples of which
some places are kept, so images and graphs share this code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.explain.attributions import default_baseline
from chapterflow.explain.outputs import at_targets, is_classifier, outputs, probability

if TYPE_CHECKING:
    import keras

#: Random orders that a map is compared with, and steps from nothing kept to everything kept.
ORDERS, STEPS = 8, 10
#: A smaller gap between insertion and deletion proves nothing, however alike the random orders are.
LEAST_GAP = 0.02
#: Masked inputs that are in memory at once.
MASKED = 2048
#: Score in [0, 1] of examples `(m,)` of which the places `(m, places)` are kept.
Score = Callable[[NDArray[np.intp], NDArray[np.bool_]], NDArray[Any]]


@dataclass(frozen=True)
class Faithfulness:
    """Deletion and insertion of one method's maps of `n` examples.

    Attributes:
        deletion: Area under the score while the places with the highest values are removed first,
            `(n,)`; low is good.
        insertion: Area under the score while they are added first, `(n,)`; high is good.
        random: Area for each random order, `(orders, n)`. It serves for both: deletion in one order
            is insertion in the reverse order.
        empty: Whether a map has one value everywhere, and so no order, `(n,)`.
    """

    deletion: NDArray[Any]
    insertion: NDArray[Any]
    random: NDArray[Any]
    empty: NDArray[np.bool_]

    @property
    def gap(self) -> NDArray[Any]:
        """Insertion minus deletion, `(n,)`: about 0 for a random order, 0 for an empty map."""
        return np.where(self.empty, 0.0, self.insertion - self.deletion)

    @property
    def beats_random(self) -> bool:
        """Whether the mean gap is wider than the gap between any two of the random orders."""
        means = self.random.mean(axis=1)
        return bool(self.gap.mean() > max(LEAST_GAP, means.max() - means.min()))

    @property
    def each_beats_random(self) -> NDArray[np.bool_]:
        """The same for each example on its own, `(n,)`."""
        spread = self.random.max(axis=0) - self.random.min(axis=0)
        return np.asarray(self.gap > np.maximum(LEAST_GAP, spread))

    @property
    def metrics(self) -> dict[str, float]:
        """Means of deletion, insertion and the random orders, and the verdict."""
        return {
            "deletion_auc": float(self.deletion.mean()),
            "insertion_auc": float(self.insertion.mean()),
            "random_deletion_auc": float(self.random.mean()),
            "beats_random": float(self.beats_random),
        }

    def of_example(self, number: int) -> dict[str, float | bool]:
        """Return deletion, insertion and the verdict on one example's map."""
        return {
            "deletion_auc": float(self.deletion[number]),
            "insertion_auc": float(self.insertion[number]),
            "beats_random": bool(self.each_beats_random[number]),
        }


def faithfulness(
    score: Score,
    maps: Mapping[str, NDArray[Any]],
    *,
    seed: int,
    orders: int = ORDERS,
    steps: int = STEPS,
    free: NDArray[np.bool_] | None = None,
) -> dict[str, Faithfulness]:
    """Return deletion and insertion of each method's maps and of random orders.

    Equal values of a map are put into a random order, so their order in the array has no effect.

    Args:
        score: Scores examples of which some places are kept.
        maps: Maps `(n, *places)` by method; the highest values go first.
        seed: Seed of the random orders.
        orders: Number of random orders.
        steps: Steps from nothing kept to everything kept.
        free: Places that may be removed, `(n, places)`; the others are always kept.
    """
    rng = np.random.default_rng([seed, 5])
    flat = {name: values.reshape(len(values), -1) for name, values in maps.items()}
    n, places = next(iter(flat.values())).shape
    allowed = np.ones((n, places), bool) if free is None else free
    rankings = [_ranks(sign * values, rng, allowed) for values in flat.values() for sign in (1, -1)]
    rankings += [_ranks(np.zeros((n, places)), rng, allowed) for _ in range(orders)]
    areas = insertion_areas(score, np.array(rankings), allowed, steps)
    random = areas[2 * len(flat) :]
    return {
        name: Faithfulness(
            areas[2 * place + 1], areas[2 * place], random, _is_empty(values, allowed)
        )
        for place, (name, values) in enumerate(flat.items())
    }


def insertion_areas(
    score: Score, ranks: NDArray[np.intp], allowed: NDArray[np.bool_], steps: int = STEPS
) -> NDArray[Any]:
    """Return the area under the score while places are added in the order of their ranks.

    Args:
        score: Scores examples of which some places are kept.
        ranks: `(orders, n, places)`, 0 is added first.
        allowed: Places that are added, `(n, places)`; the others are always kept.
        steps: Steps from nothing kept to everything kept.

    Returns:
        `(orders, n)`, between the lowest and the highest score.
    """
    orders, n, places = ranks.shape
    counts = allowed.sum(axis=1)
    shares = np.linspace(0, 1, min(steps, int(counts.max(initial=1))) + 1)
    # Nothing kept and everything kept are the same for all orders, so they are scored once.
    ends = np.stack([~allowed, np.ones_like(allowed)])
    kept = ranks < np.round(np.multiply.outer(shares[1:-1], counts))[:, np.newaxis, :, np.newaxis]
    kept |= ~allowed
    examples = np.tile(np.arange(n), 2 + orders * (len(shares) - 2))
    scores = score(examples, np.concatenate([ends.reshape(-1, places), kept.reshape(-1, places)]))
    curve = np.empty((len(shares), orders, n))
    curve[0], curve[-1] = scores[:n], scores[n : 2 * n]
    curve[1:-1] = scores[2 * n :].reshape(len(shares) - 2, orders, n)
    return np.asarray(np.trapezoid(curve, shares, axis=0))


def _ranks(
    values: NDArray[Any], rng: np.random.Generator, allowed: NDArray[np.bool_]
) -> NDArray[np.intp]:
    """Return the rank of each place: the highest value 0, ties at random, fixed places last."""
    order = np.stack(
        [
            np.lexsort((rng.random(len(row)), -row, ~free))
            for row, free in zip(values, allowed, strict=True)
        ]
    )
    return np.argsort(order, axis=1)


def _is_empty(values: NDArray[Any], allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which maps `(n, places)` have one value in all places that may be removed."""
    highest = np.where(allowed, values, -np.inf).max(axis=1)
    return np.asarray(highest == np.where(allowed, values, np.inf).min(axis=1))


def pixel_score(
    model: keras.Model,
    inputs: NDArray[Any],
    targets: NDArray[np.intp],
    *,
    baseline: NDArray[Any] | float | None = None,
) -> Score:
    """Return the score of inputs `(n, *spatial, channels)` of which some places are kept.

    The other places show the baseline (`default_baseline` by default). The score is the probability
    of the target. If the model outputs values, the score is the closeness to the value for the
    whole input: 1 if equal, 0 if at least a standard deviation of the input away.
    """
    base = default_baseline(inputs) if baseline is None else baseline
    base = np.broadcast_to(base, inputs.shape)
    classes = is_classifier(model)
    if not classes:
        whole = at_targets(outputs(model, inputs), targets)
        unit = inputs.reshape(len(inputs), -1).std(axis=1)
        unit = np.where(unit > 0, unit, 1)

    def score(examples: NDArray[np.intp], kept: NDArray[np.bool_]) -> NDArray[Any]:
        scores = []
        for start in range(0, len(examples), MASKED):
            part = examples[start : start + MASKED]
            mask = kept[start : start + MASKED].reshape(len(part), *inputs.shape[1:-1], 1)
            values = outputs(model, np.where(mask, inputs[part], base[part]).astype(np.float32))
            if classes:
                scores.append(probability(values, targets[part]))
            else:
                distance = np.abs(at_targets(values, targets[part]) - whole[part])
                scores.append(np.clip(1 - distance / unit[part], 0, 1))
        return np.concatenate(scores)

    return score
