"""A convolution with its activation, and with batch normalisation between them where wanted."""

from __future__ import annotations

from typing import Any


def convolution(
    x: Any, filters: int, kernel: int, *, name: str, normalise: bool, strides: int = 1
) -> Any:
    """Return relu of a convolution over `x`: `(batch, h, w, c)` -> `(batch, h', w', filters)`.

    The map is padded so that only the stride makes it smaller: h' = ceil(h / strides).

    Args:
        x: Feature maps.
        kernel: Side of the square kernel, in pixels.
        name: Name of the convolution; the normalisation behind it is `name_norm`.
        normalise: Normalise over the batch before the activation (Ioffe & Szegedy, "Batch
            normalization", ICML 2015). The shift of the normalisation stands for the bias then.
    """
    from keras import layers

    if not normalise:
        return layers.Conv2D(
            filters, kernel, strides, padding="same", activation="relu", name=name
        )(x)
    x = layers.Conv2D(filters, kernel, strides, padding="same", use_bias=False, name=name)(x)
    # The usual 0.99 averages over more steps than a small data set has in its first epochs.
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x)
