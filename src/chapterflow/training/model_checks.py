"""Checks of a model before training: its output, its scaling of pixels, and its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chapterflow.errors import ConfigError
from chapterflow.kinds.dataset import get_kind
from chapterflow.models.base import InputSpec

if TYPE_CHECKING:
    import keras

#: Layers that return their input or a part of it.
PASSING = ("Dropout", "Flatten", "Identity", "Reshape")
#: Minimum span between a black and a white example at the first weights. Dividing by the largest
#: value gives 1; dividing twice by 16 gives 0.06.
NARROWEST = 0.1


def check_logits(model: keras.Model, classes: int) -> None:
    """Refuse a classifier that does not end in one unbounded number per class.

    The loss takes logits: for probabilities it would apply the softmax a second time, which makes
    training very slow. The check also catches a sigmoid with binary cross-entropy on one-hot
    classes, whose units learn independently and whose probabilities do not sum to one.

    Args:
        model: Built, not compiled.
        classes: Number of classes.

    Raises:
        ConfigError: If the last layer has an activation, or another width; it names the layer.
    """
    shape = model.output_shape
    layer = _last_layer(model)
    activation = _activation(layer)
    if activation is not None:
        raise ConfigError(
            f"check_logits: the model must end in logits, without an activation. Received: "
            f"{activation} in its last layer, {layer.name}. Leave the activation out: the loss is "
            "the cross-entropy of all classes and contains the softmax"
        )
    if isinstance(shape, tuple) and len(shape) > 2:
        raise ConfigError(
            f"check_logits: the model must end in {classes} logits for each example. Received: "
            f"shape {shape} from its last layer, {layer.name}. Flatten or pool before it"
        )
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[-1] != classes:
        raise ConfigError(
            f"check_logits: the model must end in {classes} logits, one for each class. "
            f"Received: shape {shape} from its last layer, {layer.name}. Give that layer "
            f"{classes} units"
        )


def check_layers(model: keras.Model) -> None:
    """Refuse a model that could be saved but not loaded.

    Args:
        model: Built, not compiled.

    Raises:
        ConfigError: If it has a layer of an unregistered class, or a Lambda; it names the layer.
    """
    import keras

    register = "@keras.saving.register_keras_serializable()"
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Lambda):
            raise ConfigError(
                f"check_layers: every layer must load from a file without running code stored "
                f"in it. Received: {layer.name}, a Lambda. Write a layer class with "
                f"{register} above it"
            )
        layer_class = type(layer)
        # For an unregistered class Keras returns the plain class name.
        if (
            not layer_class.__module__.startswith("keras.")
            and keras.saving.get_registered_name(layer_class) == layer_class.__name__
        ):
            raise ConfigError(
                f"check_layers: Keras must know every class of layers by name to load it from a "
                f"file. Received: {layer_class.__name__}, unregistered. Put {register} above the "
                "class"
            )


def _last_layer(model: Any) -> Any:
    """Return the layer that computes the output; later layers that compute nothing are skipped.

    Only the first of several outputs is followed.
    """
    import keras

    tensor = model.outputs[0]
    while True:
        layer, node, _ = tensor._keras_history
        # Not `output`: a nested Sequential's `output` leads back to itself.
        if isinstance(layer, keras.Model) and getattr(layer, "outputs", None):
            tensor = layer.outputs[0]
        elif type(layer).__name__ in PASSING or _passes_on(layer):
            tensor = layer._inbound_nodes[node].input_tensors[0]
        else:
            return layer


def _passes_on(layer: Any) -> bool:
    import keras

    return isinstance(layer, keras.layers.Activation) and _activation(layer) is None


def _activation(layer: Any) -> str | None:
    """Return the name of a layer's final activation; None if it has none."""
    import keras

    own = getattr(layer, "activation", None)
    if own is not None:
        name = getattr(own, "__name__", type(own).__name__)
        return None if name == "linear" else str(name)
    # Some layers and operations are activations: `layers.Softmax`, `ops.sigmoid(x)`.
    layer_class = type(layer)
    name = layer_class.__name__.lower()
    known = {str(key).replace("_", "") for key in vars(keras.activations)}
    return layer_class.__name__ if name in known and name != "linear" else None


def check_scaled_once(model: keras.Model, data: InputSpec) -> None:
    """Refuse a model that divides pixels by their largest value a second time.

    The check passes a black and a white example through the layers before the first weights, where
    they must still differ.

    Args:
        model: Built for `data`; a model without pixels or with several inputs is not checked.
        data: Description of the data.

    Raises:
        ConfigError: If the span is below `NARROWEST`.
    """
    import keras

    if not get_kind(data.kind).bounded or not isinstance(model.input, keras.KerasTensor):
        return
    first = next((layer for layer in model.layers if layer.weights), None)
    if first is None or not isinstance(first.input, keras.KerasTensor):
        return
    sides = [side or 32 for side in model.input_shape[1:]]
    batch = np.zeros((2, *sides), np.float32)
    batch[1] = data.value_max
    values = np.asarray(keras.Model(model.input, first.input)(batch, training=False))
    span = float(np.ptp(values))
    if span < NARROWEST:
        scaling = [x.name for x in model.layers if isinstance(x, keras.layers.Rescaling)]
        raise ConfigError(
            f"check_scaled_once: pixels from 0 to {data.value_max:g} must reach {first.name} "
            f"scaled once, with a span near 1. Received: a span of {span:.3g} after "
            f"{', '.join(scaling) or 'the first layers'}. Divide by the largest value only once"
        )
