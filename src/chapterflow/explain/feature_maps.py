"""Feature maps and kernels: what the layers of a trained network compute from an input.

Zeiler & Fergus, "Visualizing and understanding convolutional networks", ECCV (2014).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.explain.untrained import check_trained, is_convolution

if TYPE_CHECKING:
    import keras

#: Channels that are drawn of each layer.
CHANNELS = 8


def has_feature_maps(model: keras.Model) -> bool:
    """Return whether a model has convolution layers."""
    return any(is_convolution(layer) for layer in model.layers)


def mapped_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the convolution and pooling layers of a model, from the input to the output."""
    import keras

    pooling = tuple(
        getattr(keras.layers, f"{sort}Pooling{axes}D")
        for sort in ("Max", "Average")
        for axes in "123"
    )
    return [layer for layer in model.layers if is_convolution(layer) or isinstance(layer, pooling)]


def architecture(model: keras.Model) -> list[dict[str, Any]]:
    """Return `name`, `kind`, `output_shape` and `parameters` of each layer of a model, in order.

    Shapes have no batch axis; sides that vary are None. A nested model counts as one layer.
    """
    import keras

    return [
        {
            "name": layer.name,
            "kind": type(layer).__name__,
            "output_shape": list(keras.tree.flatten(layer.output)[0].shape[1:]),
            "parameters": int(layer.count_params()),
        }
        for layer in model.layers
    ]


def feature_maps(model: keras.Model, inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the outputs of the convolution and pooling layers of a trained model.

    Args:
        model: A functional model; layers of models nested in it are left out.
        inputs: A batch of raw values `(batch, *spatial, c)`.

    Returns:
        Maps `(batch, *spatial', channels)` by layer name, from the input to the output.

    Raises:
        Untrained: If a convolution layer has its initial weights.
    """
    import keras

    check_trained(model)
    layers = mapped_layers(model)
    # A dict, because Keras unwraps a list of one output.
    inner = keras.Model(model.input, {layer.name: layer.output for layer in layers})
    maps = inner(inputs, training=False)
    return {layer.name: np.asarray(maps[layer.name]) for layer in layers}


def strongest(maps: NDArray[Any]) -> NDArray[np.intp]:
    """Return the channels of maps `(..., channels)` with the highest mean, highest first."""
    means = maps.mean(axis=tuple(range(maps.ndim - 1)))
    return np.argsort(-means, kind="stable")[:CHANNELS]


def first_kernels(model: keras.Model) -> tuple[str, NDArray[Any]] | None:
    """Return name and kernels `(*sides, channels in, filters)` of the first convolution layer.

    Returns:
        None if there is no convolution layer, or its kernels do not have this form (transposed,
        separable).
    """
    for layer in model.layers:
        if is_convolution(layer):
            if type(layer).__name__ in ("Conv1D", "Conv2D", "Conv3D"):
                return layer.name, np.asarray(layer.kernel)
            return None
    return None
