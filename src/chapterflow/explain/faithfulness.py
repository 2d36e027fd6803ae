"""Does a map say what the network really uses? Deletion and insertion against random orders.

Petsiuk et al., "RISE: randomized input sampling for explanation of black-box models", BMVC (2018).
Places (pixels, voxels, samples, nodes) are kept or not; how an example with some of them kept is
scored is the caller's, so that images and graphs are judged by the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.explain.attributions import answers, background

if TYPE_CHECKING:
    import keras

#: Random orders that a map is held against; steps from nothing to everything kept.
RANDOM, FRACTIONS = 8, 10
#: Gap below which nothing is shown, however close the random orders are to each other.
LEAST = 0.02

#: Score in [0, 1] of examples `(m,)` of which the places `(m, places)` are kept.
Score = Callable[[NDArray[np.intp], NDArray[np.bool_]], NDArray[Any]]


@dataclass(frozen=True)
class Faithfulness:
    """How a method's maps of `n` examples fare.

    Attributes:
        deletion: Area under the score while the places with the highest values go first, `(n,)`;
            low is good.
        insertion: Area while they come first, `(n,)`; high is good.
        random: Area for each random order, `(orders, n)`; deleting in one order is inserting in the
            reverse, so it serves for both.
        empty: Whether a map is the same everywhere and so says nothing, `(n,)`.
    """

    deletion: NDArray[Any]
    insertion: NDArray[Any]
    random: NDArray[Any]
    empty: NDArray[np.bool_]

    @property
    def gap(self) -> NDArray[Any]:
        """Insertion less deletion, `(n,)`: about 0 for an order that knows nothing.

        0 for an empty map, whose order is one of chance.
        """
        return np.where(self.empty, 0.0, self.insertion - self.deletion)

    @property
    def beats_random(self) -> bool:
        """Whether the mean gap is wider than that of any two of the random orders."""
        means = self.random.mean(axis=1)
        return bool(self.gap.mean() > max(LEAST, means.max() - means.min()))

    @property
    def each_beats_random(self) -> NDArray[np.bool_]:
        """The same for every example on its own, `(n,)`."""
        spread = self.random.max(axis=0) - self.random.min(axis=0)
        return np.asarray(self.gap > np.maximum(LEAST, spread))


def faithfulness(
    score: Score,
    maps: Mapping[str, NDArray[Any]],
    *,
    seed: int,
    orders: int = RANDOM,
    fractions: int = FRACTIONS,
    free: NDArray[np.bool_] | None = None,
) -> dict[str, Faithfulness]:
    """Return how the maps of each method fare against random orders, all in one pass.

    Equal values of a map are put into a random order: the first in the array have no advantage.

    Args:
        score: Scores examples of which some places are kept.
        maps: Maps `(n, *places)` by method; the highest values go first.
        seed: Of the random orders.
        orders: How many.
        fractions: Steps from nothing kept to everything.
        free: Which places may be taken away, `(n, places)`; the others always stay.
    """
    rng = np.random.default_rng([seed, 5])
    flat = {name: one.reshape(len(one), -1) for name, one in maps.items()}
    n, places = next(iter(flat.values())).shape
    allowed = np.ones((n, places), bool) if free is None else free
    ranks = []
    for one in flat.values():
        for values in (one, -one):
            ranks.append(_ranks(values, rng, allowed))
    for _ in range(orders):
        ranks.append(_ranks(np.zeros((n, places)), rng, allowed))
    areas = insertion_areas(score, np.array(ranks), allowed, fractions)
    random = areas[2 * len(flat) :]
    return {
        name: Faithfulness(areas[2 * place + 1], areas[2 * place], random, _empty(one, allowed))
        for place, (name, one) in enumerate(flat.items())
    }


def _empty(values: NDArray[Any], allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which maps `(n, places)` have one value in all places that may go."""
    highest = np.where(allowed, values, -np.inf).max(axis=1)
    return np.asarray(highest == np.where(allowed, values, np.inf).min(axis=1))


def insertion_areas(
    score: Score, ranks: NDArray[np.intp], allowed: NDArray[np.bool_], fractions: int = FRACTIONS
) -> NDArray[Any]:
    """Return the area under the score while places come in the order of their ranks.

    Args:
        score: Scores examples of which some places are kept.
        ranks: `(orders, n, places)`, 0 comes first.
        allowed: Places that come and go, `(n, places)`; the others are always there.
        fractions: Steps.

    Returns:
        `(orders, n)`, between the lowest and the highest score.
    """
    orders, n, places = ranks.shape
    counts = allowed.sum(axis=1)
    shares = np.linspace(0, 1, min(fractions, int(counts.max(initial=1))) + 1)
    # Nothing and everything are the same for all orders: they are scored once.
    ends = np.stack([~allowed, np.ones_like(allowed)])
    kept = ranks < np.round(np.multiply.outer(shares[1:-1], counts))[:, np.newaxis, :, np.newaxis]
    kept |= ~allowed
    middle = kept.reshape(-1, places)
    which = np.tile(np.arange(n), 2 + orders * (len(shares) - 2))
    found = score(which, np.concatenate([ends.reshape(-1, places), middle]))
    first, last = found[:n], found[n : 2 * n]
    curve = np.empty((len(shares), orders, n))
    curve[0], curve[-1] = first, last
    curve[1:-1] = found[2 * n :].reshape(len(shares) - 2, orders, n)
    return np.asarray(np.trapezoid(curve, shares, axis=0))


def pixel_score(
    model: keras.Model,
    inputs: NDArray[Any],
    targets: NDArray[np.intp],
    *,
    baseline: NDArray[Any] | float | None = None,
) -> Score:
    """Return how inputs `(n, *spatial, channels)` are scored of which some places are kept.

    The rest shows the baseline (`background` unless given). The score is the probability of the
    target; of a model that answers values, how near the value is to that for the whole input: 1 is
    there, 0 is a standard deviation of the input away.
    """
    base = np.broadcast_to(background(inputs) if baseline is None else baseline, inputs.shape)
    classes = is_classifier(model)
    if not classes:
        whole = np.take_along_axis(answers(model, inputs), targets[:, np.newaxis], axis=1)[:, 0]
        unit = inputs.reshape(len(inputs), -1).std(axis=1)
        unit = np.where(unit > 0, unit, 1)

    def score(which: NDArray[np.intp], kept: NDArray[np.bool_]) -> NDArray[Any]:
        found = []
        for start in range(0, len(which), 2048):  # Not all masked inputs in memory at once.
            part = which[start : start + 2048]
            mask = kept[start : start + 2048].reshape(len(part), *inputs.shape[1:-1], 1)
            out = answers(model, np.where(mask, inputs[part], base[part]).astype(np.float32))
            if classes:
                found.append(probability(out, targets[part]))
            else:
                value = np.take_along_axis(out, targets[part][:, np.newaxis], axis=1)[:, 0]
                found.append(np.clip(1 - np.abs(value - whole[part]) / unit[part], 0, 1))
        return np.concatenate(found)

    return score


def is_classifier(model: keras.Model) -> bool:
    """Return whether a model answers logits `(n, classes)`, not a value for each sample."""
    return len(model.output.shape) == 2


def probability(logits: NDArray[Any], targets: NDArray[np.intp]) -> NDArray[Any]:
    """Return the probability of each target, `(n,)`, from logits `(n, classes)`."""
    from scipy.special import softmax

    picked = np.take_along_axis(softmax(logits, axis=1), targets[:, np.newaxis], axis=1)
    return np.asarray(picked[:, 0])


def _ranks(
    values: NDArray[Any], rng: np.random.Generator, allowed: NDArray[np.bool_]
) -> NDArray[np.intp]:
    """Return the rank of each place, the highest value 0, ties at random, forbidden ones last."""
    order = np.stack(
        [
            np.lexsort((rng.random(len(one)), -one, ~may))
            for one, may in zip(values, allowed, strict=True)
        ]
    )
    return np.argsort(order, axis=1)
