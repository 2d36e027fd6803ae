"""Does a map depend on what the network has learnt, and only on that?

Model-parameter randomisation: Adebayo et al., "Sanity checks for saliency maps", NeurIPS (2018).
Stability under small noise: Alvarez-Melis & Jaakkola, "On the robustness of interpretability
methods" (2018).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import keras

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
