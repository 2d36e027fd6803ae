"""Sanity checks of attribution methods: randomised weights, and stability under noise.

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

from chapterflow.checks import Check
from chapterflow.explain.faithfulness import Faithfulness
from chapterflow.language import message

if TYPE_CHECKING:
    import keras

#: Shares of the layers with weights that the cascade randomises, from the output; 0: the last.
STAGES = {"the last layer": 0.0, "100% of the layers": 1.0}
#: Standard deviation of the noise that a map should survive, as a share of the largest raw value.
NOISE = 0.02
#: A map depends on the model if random weights leave less than this share of the similarity that
#: noise leaves. The threshold is relative because the data decide how similar two maps are.
RELATIVE = 0.5
#: Measure of the randomisation test: 1 if the maps depend on the weights.
DEPENDS = "depends_on_model"
#: Maps `(n, *places)` by method.
Maps = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Judgement:
    """Whether to believe one method's maps.

    Attributes:
        faithful: Deletion and insertion, compared with random orders.
        stages: Similarity to the maps of the model with randomised layers, for each of `STAGES`.
        stability: Similarity to the maps of inputs with a little noise.
    """

    faithful: Faithfulness
    stages: list[float]
    stability: float

    @property
    def depends_on_model(self) -> bool:
        """Whether random weights change the maps clearly more than noise does."""
        return self.stages[-1] < RELATIVE * self.stability

    @property
    def metrics(self) -> dict[str, float]:
        """All measures by name, finite."""
        return self.faithful.metrics | {
            "randomisation_similarity": self.stages[-1],
            DEPENDS: float(self.depends_on_model),
            "stability": self.stability,
        }

    @property
    def doubts(self) -> list[str]:
        """Reasons not to believe the maps, for a picture."""
        return _doubts(self.metrics)

    @property
    def details(self) -> dict[str, Any]:
        """Each stage of the randomisation and the doubts, which the metrics leave out."""
        similarities = dict(zip(STAGES, self.stages, strict=True))
        return {"similarity_after_randomising": similarities, "doubts": self.doubts}


def _doubts(metrics: Mapping[str, float]) -> list[str]:
    doubts = [] if metrics["beats_random"] else [message("does not beat random orders")]
    # One input is explained without the sanity checks, which take long.
    depends = metrics.get(DEPENDS, 1)
    return [*doubts, *([] if depends else [message("hardly depends on the weights")])]


def verdicts(metrics: Mapping[str, float]) -> list[Check]:
    """Return whether to believe each method's maps.

    Args:
        metrics: `explain/<method>/<measure>`, as an explanation has them.

    Returns:
        By method a check of deletion against the random orders, with the other measures as details.
    """
    methods: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        _, *path = name.split("/")
        if len(path) == 2:
            methods.setdefault(path[0], {})[path[1]] = value
    return [
        Check(
            name=method,
            state="warning" if (doubts := _doubts(measures)) else "passed",
            expected=measures["random_deletion_auc"],
            observed=measures["deletion_auc"],
            reason="; ".join(doubts),
            details={
                "insertion": measures["insertion_auc"],
                "similarity": measures.get("randomisation_similarity"),
                "stability": measures.get("stability"),
            },
        )
        for method, measures in methods.items()
    ]


def judge(
    model: keras.Model,
    maps: Maps,
    make: Callable[[bool], Maps],
    faithful: Mapping[str, Faithfulness],
    *,
    seed: int,
    where: NDArray[np.bool_],
) -> dict[str, Judgement]:
    """Return the judgement on each method.

    Args:
        model: Trained; its weights are restored.
        maps: Maps of the trained model for inputs without noise.
        make: Returns the maps of inputs with noise (true) or without (false), for the model with
            its present weights.
        faithful: Deletion and insertion, by method.
        seed: Seed of the random weights.
        where: Places `(n, *places)` of the maps that are compared.
    """
    noisy = make(True)
    stages = cascade(model, maps, lambda: make(False), seed=seed, where=where)
    return {
        name: Judgement(
            measured, stages[name], float(np.mean(similarity(maps[name], noisy[name], where)))
        )
        for name, measured in faithful.items()
    }


def cascade(
    model: keras.Model,
    learnt: Maps,
    make: Callable[[], Maps],
    *,
    seed: int,
    where: NDArray[np.bool_],
) -> dict[str, list[float]]:
    """Return how similar each method's maps stay if layers are randomised, from the output on.

    Args:
        model: Trained; its weights are restored.
        learnt: Maps of the trained model.
        make: Returns the maps of the model with its present weights.
        seed: Seed of the random weights.
        where: Places `(n, *places)` that are compared.

    Returns:
        By method the mean similarity at each of `STAGES`.
    """
    layers = weighted_layers(model)
    similarities: dict[str, list[float]] = {name: [] for name in learnt}
    for share in STAGES.values():
        with randomised(layers[: max(1, round(share * len(layers)))], seed):
            for name, maps in make().items():
                similarities[name].append(float(np.mean(similarity(learnt[name], maps, where))))
    return similarities


def weighted_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers with weights, from the output to the input."""
    return [layer for layer in reversed(model.layers) if layer.weights]


@contextmanager
def randomised(layers: Sequence[keras.layers.Layer], seed: int) -> Iterator[None]:
    """Give layers new initial weights, and restore the learnt ones at the end.

    Each layer's own initialisers draw them. Weights without a known initialiser (in a SavedModel,
    in some layers of this project) are shuffled, which keeps their range.
    """
    rng = np.random.default_rng([seed, 6])
    learnt = [(weight, np.array(weight)) for layer in layers for weight in layer.weights]
    try:
        for layer in layers:
            for owner in layer._flatten_layers():
                for weight in (*owner._trainable_variables, *owner._non_trainable_variables):
                    weight.assign(_initial(owner, weight, rng))
        yield
    finally:
        for weight, value in learnt:
            weight.assign(value)


def _initial(owner: Any, weight: Any, rng: np.random.Generator) -> Any:
    initialiser = getattr(owner, f"{weight.name}_initializer", None)
    if initialiser is None:
        value = np.array(weight)
        return rng.permuted(value.reshape(-1)).reshape(value.shape)
    config = initialiser.get_config()
    if "seed" in config:  # Without one, each loaded copy of a model would draw different weights.
        initialiser = type(initialiser).from_config({**config, "seed": int(rng.integers(2**31))})
    return initialiser(tuple(weight.shape), dtype=weight.dtype)


def similarity(first: NDArray[Any], second: NDArray[Any], where: NDArray[np.bool_]) -> NDArray[Any]:
    """Return Spearman's rank correlation of pairs of maps `(n, *places)`: `(n,)`, in [-1, 1].

    Only the places in `where` count: where an input equals its baseline, integrated gradients are 0
    for any weights, and these zeros would agree. A constant map has similarity 0.
    """
    from scipy.stats import rankdata

    correlations = np.zeros(len(first))
    for number, mask in enumerate(where):
        chosen = mask if mask.sum() > 2 else np.ones_like(mask)
        ranks = [rankdata(maps[number][chosen]) for maps in (first, second)]
        if all(values.std() > 0 for values in ranks):
            a, b = ((values - values.mean()) / values.std() for values in ranks)
            # Rounding alone can carry the correlation of equal maps past 1.
            correlations[number] = np.clip(np.mean(a * b), -1, 1)
    return correlations
