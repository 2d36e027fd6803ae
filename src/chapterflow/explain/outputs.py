"""What a model outputs for its inputs, and which of these outputs is explained: the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.errors import ConfigError, nearest

if TYPE_CHECKING:
    import keras

#: Inputs in one forward pass, and in one with a gradient, which keeps the values of all layers.
BATCH, GRADIENT_BATCH = 512, 256
#: Values of all layers that one pass may compute.
VALUES = 1e8
#: Values assumed for each position of the input of a network whose layers are hidden, and the side
#: assumed for an axis of any length.
OPAQUE, USUAL_SIDE = 90, 224
#: Test examples of each sort in `reactions`.
EACH = 4
#: Positions of examples, by number of the class and then by sort.
Reactions = dict[str, dict[str, list[int]]]


def values_per_input(model: keras.Model) -> int:
    """Return how many values all layers of a model compute for one input.

    A layer may hold a whole network whose layers are hidden, so there is a lower bound.
    """
    shapes = [getattr(getattr(layer, "output", None), "shape", ()) for layer in model.layers]
    visible = sum(int(np.prod([side or 1 for side in shape[1:]])) for shape in shapes)
    sides = getattr(model.input, "shape", ())[1:]
    return max(visible, OPAQUE * int(np.prod([side or USUAL_SIDE for side in sides[:-1]])))


def batch_size(model: keras.Model, most: int) -> int:
    """Return how many inputs, at most `most`, one pass takes within `VALUES`."""
    return int(np.clip(VALUES / max(1, values_per_input(model)), 1, most))


def outputs(model: keras.Model, inputs: NDArray[Any]) -> NDArray[Any]:
    """Return a model's outputs `(n, values)`: logits, or the samples of a curve."""
    batch = batch_size(model, BATCH)
    parts = [
        np.asarray(model(inputs[start : start + batch], training=False))
        for start in range(0, len(inputs), batch)
    ]
    return np.concatenate(parts).reshape(len(inputs), -1)


def is_classifier(model: keras.Model) -> bool:
    """Return whether a model outputs logits `(n, classes)`, not a value for each sample."""
    return len(model.output.shape) == 2


def probability(logits: NDArray[Any], targets: NDArray[np.intp]) -> NDArray[Any]:
    """Return the probability of each target, `(n,)`, from logits `(n, classes)`."""
    from scipy.special import softmax

    return at_targets(softmax(logits, axis=1), targets)


def at_targets(values: NDArray[Any], targets: NDArray[np.intp]) -> NDArray[Any]:
    """Return the value of each row `(n, values)` at its target, `(n,)`."""
    return np.asarray(np.take_along_axis(values, targets[:, np.newaxis], axis=1)[:, 0])


def default_targets(
    model: keras.Model, inputs: NDArray[Any], classes: Sequence[str]
) -> tuple[NDArray[np.intp], list[dict[str, Any]]]:
    """Return the output that is explained by default for each input, and its value.

    Returns:
        The class that the model predicts, or the sample in the middle of a curve, `(n,)`; for each
        input `predicted` and `confidence`, or `sample` and `value`.
    """
    values = outputs(model, inputs)
    if not is_classifier(model):
        targets = np.full(len(inputs), values.shape[1] // 2, np.intp)
        return targets, [
            {"sample": int(target), "value": float(value)}
            for target, value in zip(targets, at_targets(values, targets), strict=True)
        ]
    targets = values.argmax(axis=1)
    return targets, [
        {"predicted": classes[target] if classes else str(target), "confidence": float(confidence)}
        for target, confidence in zip(targets, probability(values, targets), strict=True)
    ]


def target_number(target: int | str, classes: Sequence[str], count: int) -> int:
    """Return the number of a class given by name or number.

    Raises:
        ConfigError: If there is no such class.
    """
    text = str(target)
    if text in classes:
        return list(classes).index(text)
    if text.isdecimal() and int(text) < count:
        return int(text)
    valid = classes or [f"0 to {count - 1}"]
    raise ConfigError(
        f"target must be a class of the model, or the number of an output.{nearest(text, valid)} "
        f"Received: {target!r}"
    )


def reactions(labels: NDArray[Any], probabilities: NDArray[Any], classes: int) -> Reactions:
    """Return the examples that best show what the network takes for each class.

    Args:
        labels: True classes `(n,)`.
        probabilities: `(n, classes)`.
        classes: Number of classes.

    Returns:
        Positions in the arrays, by number of the class: `surest` (examples of the class that are
        right, the highest confidence first), `doubtful` (examples of the class, the lowest
        probability of the class first) and `wrong` (examples of the class that are taken for
        another, the highest confidence first).
    """
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    result: Reactions = {}
    for number in range(classes):
        own = np.flatnonzero(labels == number)
        right, wrong = own[predicted[own] == number], own[predicted[own] != number]
        result[str(number)] = {
            "surest": _first(right, -confidence[right]),
            "doubtful": _first(own, probabilities[own, number]),
            "wrong": _first(wrong, -confidence[wrong]),
        }
    return result


def _first(positions: NDArray[np.intp], keys: NDArray[Any]) -> list[int]:
    return [int(position) for position in positions[np.argsort(keys, kind="stable")[:EACH]]]
