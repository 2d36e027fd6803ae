"""Layers between raw pixels and a backbone, and the checks on what reaches it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from chapterflow.errors import DataError

#: Share of a backbone's range that training images must span at least, and at most.
NARROWEST, WIDEST = 0.1, 3.0


@keras.saving.register_keras_serializable(package="chapterflow")
class ReverseChannels(keras.layers.Layer):  # type: ignore[misc]
    """RGB -> BGR: the channels in the other order, `(batch, h, w, c)` -> the same shape."""

    def call(self, inputs: Any) -> Any:
        """Return the images with their channels reversed."""
        return keras.ops.flip(inputs, axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the inputs."""
        return input_shape


@keras.saving.register_keras_serializable(package="chapterflow")
class BackboneInput(keras.layers.Layer):  # type: ignore[misc]
    """What reaches a backbone, passed on unchanged, with the range that it was trained on.

    Args:
        backbone: Its name, for messages.
        low: Smallest value of its training images.
        high: Largest value.
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
    """Refuse raw training images that reach a backbone on another scale than it was trained on.

    Catches pixels divided by 255 twice, [0, 1] images before a ResNet50 (which expects about
    -124 to 152), and raw pixels before a network that expects [-1, 1].

    Args:
        model: A model with a `BackboneInput` layer; one without is not checked.
        images: A batch as the model takes it.

    Raises:
        DataError: If their range is a tiny fraction, or a multiple, of the backbone's.
    """
    for layer in model.layers:
        if isinstance(layer, BackboneInput):
            reaching = np.asarray(keras.Model(model.input, layer.output)(images, training=False))
            low, high = float(reaching.min()), float(reaching.max())
            # By channel: the mean colour that is taken off differs between them.
            spread = float(np.ptp(reaching, axis=(0, 1, 2)).max())
            share = spread / (layer.high - layer.low)
            outside = max(layer.low - low, high - layer.high) / (layer.high - layer.low)
            if not (NARROWEST <= share <= WIDEST and outside <= 1):
                raise DataError(
                    f"check_backbone_input: {layer.backbone} expects values from {layer.low:g} to "
                    f"{layer.high:g}. Received: {low:.4g} to {high:.4g}. Give raw pixels up to "
                    "the card's value_max (not divided before), and preprocessing: own"
                )


def check_channel_order(model: keras.Model, expected: Any, value_max: float) -> None:
    """Refuse a preprocessing that is not Keras's own: golden images, each of one known colour.

    A swap of red and blue hardly moves the accuracy, so only such a comparison finds it.

    Args:
        model: Takes raw RGB pixels, with a `BackboneInput` layer.
        expected: `keras.applications.<network>.preprocess_input`.
        value_max: Largest raw value.

    Raises:
        DataError: If a colour reaches the backbone as another one.
    """
    layer = next(found for found in model.layers if isinstance(found, BackboneInput))
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
    reaching = np.asarray(keras.Model(model.input, layer.output)(raw * value_max, training=False))[
        :, 0, 0
    ]
    rgb = np.broadcast_to(colours, (len(colours), 3)).copy() * np.float32(255)
    wanted = np.asarray(expected(rgb[:, np.newaxis, np.newaxis].copy()))[:, 0, 0]
    for name, got, right in zip(shades, reaching, wanted, strict=True):
        if not np.allclose(got, right, atol=1e-3):
            raise DataError(
                f"check_channel_order: a {name} image must reach {layer.backbone} as "
                f"{np.round(right, 3).tolist()}. Received: {np.round(got, 3).tolist()}. Channels "
                "are given in the order red, green, blue, and swapped within the model only"
            )


def check_not_probabilities(features: NDArray[Any]) -> None:
    """Refuse features that are class probabilities, as a backbone with its classifier gives.

    Args:
        features: `(batch, ..., channels)`.

    Raises:
        DataError: If all are non-negative and sum to one over the last axis.
    """
    sums = features.sum(axis=-1)
    if features.shape[-1] > 1 and (features >= 0).all() and np.allclose(sums, 1, atol=1e-3):
        raise DataError(
            "check_not_probabilities: features must come from below a classifier (include_top "
            f"false). Received: {features.shape[-1]} numbers that sum to one, which are "
            "probabilities. Use a backbone without its top"
        )
