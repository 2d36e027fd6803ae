"""Layers between raw pixels and a backbone, and checks on the backbone's input."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from chapterflow.errors import DataError

#: Smallest and largest fraction of a backbone's range that training images may span.
NARROWEST, WIDEST = 0.1, 3.0


@keras.saving.register_keras_serializable(package="chapterflow")
class ReverseChannels(keras.layers.Layer):  # type: ignore[misc]
    """RGB -> BGR: reverse the channels of `(batch, h, w, c)`."""

    def call(self, inputs: Any) -> Any:
        """Return the images with their channels reversed."""
        return keras.ops.flip(inputs, axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the inputs."""
        return input_shape


@keras.saving.register_keras_serializable(package="chapterflow")
class BackboneInput(keras.layers.Layer):  # type: ignore[misc]
    """Identity layer before a backbone that records the range of values it was trained on.

    Args:
        backbone: Name of the backbone, for error messages.
        low: Smallest value of its preprocessed training images.
        high: Largest value of its preprocessed training images.
    """

    def __init__(self, backbone: str, low: float, high: float, **options: Any) -> None:
        super().__init__(**options)
        self.backbone, self.low, self.high = backbone, low, high

    def call(self, inputs: Any) -> Any:
        """Return the inputs."""
        return inputs

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the inputs."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the layer."""
        own = {"backbone": self.backbone, "low": self.low, "high": self.high}
        config: dict[str, Any] = super().get_config()
        return config | own


def check_backbone_input(model: keras.Model, images: NDArray[Any]) -> None:
    """Refuse training images that reach a backbone on a different scale than it was trained on.

    Catches pixels divided by 255 twice, [0, 1] images before a ResNet50 (which expects about
    -124 to 152), and raw pixels before a network that expects [-1, 1].

    Args:
        model: Model with a `BackboneInput` layer; a model without that layer is not checked.
        images: A batch of raw images.

    Raises:
        DataError: If the range is far smaller or far larger than the backbone's.
    """
    for layer in model.layers:
        if isinstance(layer, BackboneInput):
            values = np.asarray(keras.Model(model.input, layer.output)(images, training=False))
            low, high = float(values.min()), float(values.max())
            # Per channel, because the subtracted mean colour differs between channels.
            spread = float(np.ptp(values, axis=(0, 1, 2)).max())
            share = spread / (layer.high - layer.low)
            outside = max(layer.low - low, high - layer.high) / (layer.high - layer.low)
            if not (NARROWEST <= share <= WIDEST and outside <= 1):
                raise DataError(
                    f"check_backbone_input: {layer.backbone} expects values from {layer.low:g} to "
                    f"{layer.high:g}. Received: {low:.4g} to {high:.4g}. Use raw pixels up to "
                    "the card's value_max, not rescaled, and set preprocessing: own"
                )


def check_channel_order(model: keras.Model, expected: Any, value_max: float) -> None:
    """Compare a model's preprocessing with the reference from Keras on images of known colours.

    Swapping red and blue hardly changes the accuracy, so only this comparison detects it.

    Args:
        model: Model of raw RGB or grey pixels with a `BackboneInput` layer.
        expected: `keras.applications.<network>.preprocess_input`.
        value_max: Largest raw value.

    Raises:
        DataError: If a colour reaches the backbone with the wrong values.
    """
    layer = next(item for item in model.layers if isinstance(item, BackboneInput))
    side = [size or 32 for size in model.input_shape[1:3]]
    shades: dict[str, tuple[float, ...]] = {
        "red": (1, 0, 0),
        "green": (0, 1, 0),
        "blue": (0, 0, 1),
        "grey": (0.5, 0.5, 0.5),
    }
    if model.input_shape[-1] == 1:
        shades = {"black": (0,), "grey": (0.5,), "white": (1,)}
    colours = np.array([*shades.values()], np.float32)
    raw = np.tile(colours[:, np.newaxis, np.newaxis], (1, *side, 1))
    received = np.asarray(keras.Model(model.input, layer.output)(raw * value_max, training=False))[
        :, 0, 0
    ]
    rgb = np.broadcast_to(colours, (len(colours), 3)).copy() * np.float32(255)
    reference = np.asarray(expected(rgb[:, np.newaxis, np.newaxis].copy()))[:, 0, 0]
    for name, values, target in zip(shades, received, reference, strict=True):
        if not np.allclose(values, target, atol=1e-3):
            raise DataError(
                f"check_channel_order: a {name} image must reach {layer.backbone} as "
                f"{np.round(target, 3).tolist()}. Received: {np.round(values, 3).tolist()}. Give "
                "the channels in the order red, green, blue; only the model may swap them"
            )


def check_not_probabilities(features: NDArray[Any]) -> None:
    """Refuse features that are class probabilities, the output of a backbone with a classifier.

    Args:
        features: `(batch, ..., channels)`.

    Raises:
        DataError: If all features are non-negative and sum to 1 over the last axis.
    """
    sums = features.sum(axis=-1)
    if features.shape[-1] > 1 and (features >= 0).all() and np.allclose(sums, 1, atol=1e-3):
        raise DataError(
            "check_not_probabilities: a backbone must return features, not class probabilities. "
            f"Received: {features.shape[-1]} numbers that sum to one. Use a backbone without its "
            "classifier (include_top false)"
        )
