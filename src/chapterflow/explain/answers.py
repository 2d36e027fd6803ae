"""What a model says of inputs, and what of it is explained, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.errors import ConfigError
from chapterflow.explain.attributions import METHODS, answers
from chapterflow.explain.faithfulness import is_classifier, probability
from chapterflow.explain.feature_maps import has_feature_maps
from chapterflow.settings import nearest

if TYPE_CHECKING:
    import keras


def usable_methods(model: keras.Model) -> list[str]:
    """Return the methods that say something of a model.

    Grad-CAM needs convolutions, and an answer for the whole input: of a smoothed curve's sample,
    the mean over the positions of a map tells nothing.
    """
    cam = has_feature_maps(model) and is_classifier(model)
    return [name for name in METHODS if cam or name != "grad-cam"]


def answered(
    model: keras.Model, inputs: NDArray[Any], classes: Sequence[str]
) -> tuple[NDArray[np.intp], dict[str, Any]]:
    """Return what is explained of each input `(n,)`, and what the model says, as text and rows."""
    out = answers(model, inputs)
    if not is_classifier(model):
        targets = np.full(len(inputs), out.shape[1] // 2, np.intp)
        values = np.take_along_axis(out, targets[:, np.newaxis], axis=1)[:, 0]
        rows = [
            {"sample": int(one), "value": float(value)}
            for one, value in zip(targets, values, strict=True)
        ]
        return targets, {"text": [f"value {v:.3g}\nin the middle" for v in values], "rows": rows}
    said = out.argmax(axis=1)
    confidence = probability(out, said)
    names = [classes[int(one)] if classes else str(one) for one in said]
    return said, {
        "text": [f"model: {n}, {c:.2f}" for n, c in zip(names, confidence, strict=True)],
        "rows": [
            {"predicted": n, "confidence": float(c)} for n, c in zip(names, confidence, strict=True)
        ],
    }


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
        f"target must be one of the answers of the model.{nearest(text, valid)} "
        f"Received: {target!r}"
    )


def ranking(model: keras.Model, maps: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    """Return the maps as places are ranked: by what speaks for a class, or moves a value at all."""
    if is_classifier(model):
        return maps
    return {name: np.abs(one) for name, one in maps.items()}
