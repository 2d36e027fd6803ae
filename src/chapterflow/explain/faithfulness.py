"""Is a map to be believed? Deletion and insertion, randomised weights, stability.

Petsiuk et al., "RISE: randomized input sampling for explanation of black-box models", BMVC (2018).
Places (pixels, voxels, samples, nodes) are kept or not; how an example with some of them kept is
scored is the caller's, so that images and graphs are judged by the same code.

Model-parameter randomisation: Adebayo et al., "Sanity checks for saliency maps", NeurIPS (2018).
Stability under small noise: Alvarez-Melis & Jaakkola, "On the robustness of interpretability
methods" (2018).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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


#: Shares of the weighted layers, counted from the output, that the cascade has randomised.
STAGES = (0.0, 1.0)
Maps = Mapping[str, NDArray[Any]]


@contextmanager
def randomised(layers: Sequence[keras.layers.Layer], seed: int) -> Iterator[None]:
    """Give layers first weights anew, each by its own initialiser; the learnt ones come back.

    Weights whose initialiser is not known (those of a SavedModel, of some layers of this project)
    are shuffled instead, which leaves their range as it was.
    """
    rng = np.random.default_rng([seed, 6])
    kept = [(weight, np.array(weight)) for layer in layers for weight in layer.weights]
    try:
        for layer in layers:
            for owner in layer._flatten_layers():
                for weight in (*owner._trainable_variables, *owner._non_trainable_variables):
                    weight.assign(_anew(owner, weight, rng))
        yield
    finally:
        for weight, value in kept:
            weight.assign(value)


def _anew(owner: Any, weight: Any, rng: np.random.Generator) -> Any:
    first = getattr(owner, f"{weight.name}_initializer", None)
    if first is None:
        value = np.array(weight)
        return rng.permuted(value.reshape(-1)).reshape(value.shape)
    config = first.get_config()
    if "seed" in config:  # A saved layer has none, and would draw others at each loading.
        first = type(first).from_config({**config, "seed": int(rng.integers(2**31))})
    return first(tuple(weight.shape), dtype=weight.dtype)


def weighted_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers with weights, from the output to the input."""
    return [layer for layer in reversed(model.layers) if layer.weights]


def cascade(
    model: keras.Model,
    learnt: Maps,
    make: Callable[[], Maps],
    *,
    seed: int,
    where: NDArray[np.bool_],
) -> dict[str, list[float]]:
    """Return how alike each method's maps stay while the layers are randomised from the top.

    Args:
        model: Trained; as it was afterwards.
        learnt: Maps `(n, *places)` by method of the trained model.
        make: Returns maps `(n, *places)` by method from the model as it stands.
        seed: Of the weights.
        where: Places `(n, *places)` that are compared.

    Returns:
        By method the mean similarity at each of `STAGES`: the last layer alone, all layers.
    """
    layers = weighted_layers(model)
    found: dict[str, list[float]] = {name: [] for name in learnt}
    for share in STAGES:
        with randomised(layers[: max(1, round(share * len(layers)))], seed):
            for name, maps in make().items():
                found[name].append(float(np.mean(similarity(learnt[name], maps, where))))
    return found


def similarity(first: NDArray[Any], second: NDArray[Any], where: NDArray[np.bool_]) -> NDArray[Any]:
    """Return Spearman's rank correlation of pairs of maps `(n, *places)`, `(n,)`.

    Only over the places that are compared: where an input equals its baseline, integrated gradients
    are 0 whatever the weights, and those zeros would agree. 0 where a map is the same everywhere.
    """
    from scipy.stats import rankdata

    found = np.zeros(len(first))
    for number, mask in enumerate(where):
        chosen = mask if mask.sum() > 2 else np.ones_like(mask)
        ranks = [rankdata(maps[number][chosen]) for maps in (first, second)]
        spreads = [one.std() for one in ranks]
        if min(spreads) > 0:
            a, b = ((one - one.mean()) / s for one, s in zip(ranks, spreads, strict=True))
            found[number] = float(np.mean(a * b))
    return found


#: Deviation of the noise that a map should survive, as a share of the largest raw value.
NOISE = 0.02
#: A map depends on the model where random weights leave less than this share of the similarity
#: that noise leaves: a relative threshold, because how alike two maps are depends on the data.
RELATIVE = 0.5


@dataclass(frozen=True)
class Judgement:
    """What is known of one method's maps.

    Attributes:
        faithful: Deletion and insertion, against random orders.
        stages: Similarity after the last layer, and after all layers, were randomised.
        stability: Similarity after a little noise on the inputs.
    """

    faithful: Faithfulness
    stages: list[float]
    stability: float

    @property
    def depends_on_model(self) -> bool:
        """Whether random weights change the map clearly more than noise does."""
        return self.stages[-1] < RELATIVE * self.stability

    @property
    def metrics(self) -> dict[str, float]:
        """The measures by name, finite."""
        return faithful_metrics(self.faithful) | {
            "randomisation_similarity": self.stages[-1],
            "depends_on_model": float(self.depends_on_model),
            "stability": self.stability,
        }

    @property
    def doubts(self) -> list[str]:
        """What speaks against the maps, in words for a picture; none where nothing does."""
        found = [] if self.faithful.beats_random else ["does not beat random orders"]
        if not self.depends_on_model:
            found.append("hardly depends on the weights")
        return found


def faithful_metrics(found: Faithfulness) -> dict[str, float]:
    """Return deletion, insertion, what random orders reach, and the verdict."""
    return {
        "deletion_auc": float(found.deletion.mean()),
        "insertion_auc": float(found.insertion.mean()),
        "random_deletion_auc": float(found.random.mean()),
        "beats_random": float(found.beats_random),
    }


def judge(
    model: keras.Model,
    make: Callable[[bool], Mapping[str, NDArray[Any]]],
    faithful: Mapping[str, Faithfulness],
    *,
    seed: int,
    where: NDArray[np.bool_],
) -> dict[str, Judgement]:
    """Return the judgement on each method.

    Args:
        model: Trained.
        make: Returns maps `(n, *places)` by method, of inputs with noise or without.
        faithful: How the methods fare against random orders.
        seed: Of the random weights.
        where: Places `(n, *places)` of the maps that are compared.
    """
    maps, noisy = make(False), make(True)
    stages = cascade(model, maps, lambda: make(False), seed=seed, where=where)
    return {
        name: Judgement(
            found, stages[name], float(np.mean(similarity(maps[name], noisy[name], where)))
        )
        for name, found in faithful.items()
    }


def as_metrics(judged: Mapping[str, Judgement]) -> dict[str, float]:
    """Return all measures as `explain/<method>/<measure>`."""
    return {
        f"explain/{method}/{measure}": value
        for method, one in judged.items()
        for measure, value in one.metrics.items()
    }


def as_details(judged: Mapping[str, Judgement]) -> dict[str, Any]:
    """Return what the metrics leave out: each stage of the randomisation, and the doubts."""
    return {
        method: {
            "similarity_after_randomising": dict(
                zip(
                    [
                        f"{share:.0%} of the layers" if share else "the last layer"
                        for share in STAGES
                    ],
                    one.stages,
                    strict=True,
                )
            ),
            "doubts": one.doubts,
        }
        for method, one in judged.items()
    }


def with_scores(
    rows: Sequence[dict[str, Any]], faithful: Mapping[str, Faithfulness]
) -> list[dict[str, Any]]:
    """Return the rows of the probes with the scores of their maps."""
    found = []
    for number, row in enumerate(rows):
        scores = {
            name: {
                "deletion_auc": float(one.deletion[number]),
                "insertion_auc": float(one.insertion[number]),
                "beats_random": bool(one.each_beats_random[number]),
            }
            for name, one in faithful.items()
            if number < len(one.deletion)
        }
        found.append(row | {"maps": scores})
    return found
