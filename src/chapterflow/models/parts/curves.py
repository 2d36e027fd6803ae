"""Layers for curves of any length."""

from __future__ import annotations

from typing import Any, cast

import keras


@keras.saving.register_keras_serializable(package="chapterflow")
class OwnScale(keras.layers.Layer):  # type: ignore[misc]
    """Mean and scale of each curve by itself: `(batch, length, 1)` -> two `(batch, 1, 1)`.

    The scale is the standard deviation of the curve, never below `floor`, so that a flat curve is
    not blown up. Subtracting the one and dividing by the other makes a network blind to offset and
    unit; multiplying its answer by the scale undoes it (Kim et al. 2022, "Reversible instance
    normalization").

    Args:
        floor: Smallest scale, in the unit of the input.
    """

    def __init__(self, floor: float = 1e-3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.floor = floor

    def call(self, inputs: Any) -> tuple[Any, Any]:
        """Return mean and scale."""
        mean = keras.ops.mean(inputs, axis=1, keepdims=True)
        spread = keras.ops.std(inputs, axis=1, keepdims=True)
        return mean, keras.ops.maximum(spread, self.floor)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, Any]:
        """Return the shapes of mean and scale."""
        shape = (input_shape[0], 1, input_shape[2])
        return shape, shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return cast(dict[str, Any], super().get_config()) | {"floor": self.floor}
