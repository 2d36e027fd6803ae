"""Small models whose explanations are known, on one, two and three axes."""

from typing import Any

import numpy as np

SHAPES = {1: (12, 1), 2: (6, 6, 1), 3: (4, 4, 4, 1)}


def linear(shape: tuple[int, ...], classes: int = 3) -> Any:
    """Return a model whose logits are weighted sums of its inputs."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(5)
    inputs = keras.Input(shape)
    return keras.Model(
        inputs, layers.Dense(classes, bias_initializer="ones")(layers.Flatten()(inputs))
    )


def convolutional(shape: tuple[int, ...], classes: int = 3) -> Any:
    """Return a model of two convolutions that has seen a step of training."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(5)
    axes = len(shape) - 1
    convolution = getattr(layers, f"Conv{axes}D")
    inputs = keras.Input(shape)
    x = convolution(4, 3, padding="same", activation="relu", name="conv1")(inputs)
    x = convolution(5, 3, padding="same", activation="relu", name="conv2")(x)
    x = getattr(layers, f"MaxPooling{axes}D")(2, name="pool")(x)
    model = keras.Model(inputs, layers.Dense(classes, name="logits")(layers.Flatten()(x)))
    for layer in model.layers:
        if layer.weights:
            layer.bias.assign(np.full(layer.bias.shape, 0.05, np.float32))
    return model


def values(n: int, shape: tuple[int, ...]) -> Any:
    """Return raw inputs, 0 at the border where there is one."""
    result = np.random.default_rng(5).uniform(0.2, 1, (n, *shape)).astype(np.float32)
    if len(shape) > 2:
        inner = np.zeros(shape, np.float32)
        inner[tuple(slice(1, -1) for _ in shape[:-1])] = 1
        result *= inner
    return result
