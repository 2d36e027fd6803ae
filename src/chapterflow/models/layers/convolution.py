"""Convolution blocks: a convolution with its activation, and GoogLeNet's Inception module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


def convolution(
    x: Any, filters: int, kernel: int, *, name: str, normalise: bool, strides: int = 1
) -> Any:
    """Return the ReLU of a convolution over `x`: `(batch, h, w, c)` -> `(batch, h', w', filters)`.

    The map is padded, so only the stride reduces its size: h' = ceil(h / strides).

    Args:
        x: Feature maps.
        kernel: Side of the square kernel, in pixels.
        name: Name of the convolution; its normalisation is named `<name>_norm`.
        normalise: Whether to apply batch normalisation before the activation (Ioffe & Szegedy,
            "Batch normalization", ICML 2015). Its shift replaces the bias.
    """
    from keras import layers

    if not normalise:
        return layers.Conv2D(
            filters, kernel, strides, padding="same", activation="relu", name=name
        )(x)
    x = layers.Conv2D(filters, kernel, strides, padding="same", use_bias=False, name=name)(x)
    # The default 0.99 averages over more steps than a small dataset has in its first epochs.
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


@dataclass(frozen=True)
class Inception:
    """Filters of an Inception module, in the column order of the paper's table 1.

    Attributes:
        one: Filters of the 1x1 convolution that reads the input.
        reduce3: Filters of the 1x1 reduction before the 3x3 convolution.
        three: Filters of the 3x3 convolution.
        reduce5: Filters of the 1x1 reduction before the 5x5 convolution.
        five: Filters of the 5x5 convolution.
        pool: Filters of the 1x1 projection after the 3x3 max pooling.
    """

    one: int
    reduce3: int
    three: int
    reduce5: int
    five: int
    pool: int

    @property
    def width(self) -> int:
        """Channels of the module's output."""
        return self.one + self.three + self.five + self.pool


def inception(
    x: Any, filters: Inception, *, name: str, normalise: bool, reductions: bool = True
) -> Any:
    """Return an Inception module's output: `(batch, h, w, c)` -> `(batch, h, w, filters.width)`.

    Four branches read the same map at different scales; their outputs are concatenated (Szegedy et
    al., "Going deeper with convolutions", CVPR 2015, figure 2b).

    Args:
        x: Feature maps.
        filters: Filters of the branches.
        name: Prefix of the names of all layers.
        normalise: Whether each convolution has batch normalisation.
        reductions: Whether to apply the two 1x1 reductions. Without them the 3x3 and 5x5
            convolutions read all input channels, as in figure 2a. Unlike in figure 2a the
            projection after the pooling stays: it keeps the output width, so the reductions are
            the only difference between two networks that are compared.
    """
    from keras import layers

    def branch(x: Any, filters: int, kernel: int, part: str) -> Any:
        return convolution(x, filters, kernel, name=f"{name}_{part}", normalise=normalise)

    one = branch(x, filters.one, 1, "1x1")
    before3 = branch(x, filters.reduce3, 1, "3x3_reduce") if reductions else x
    before5 = branch(x, filters.reduce5, 1, "5x5_reduce") if reductions else x
    three = branch(before3, filters.three, 3, "3x3")
    five = branch(before5, filters.five, 5, "5x5")
    pooled = layers.MaxPooling2D(3, 1, padding="same", name=f"{name}_pool")(x)
    projected = branch(pooled, filters.pool, 1, "pool_proj")
    return layers.Concatenate(name=f"{name}_concat")([one, three, five, projected])
