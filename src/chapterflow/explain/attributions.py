"""Attributions: how much each place of an input contributes to an output.

Grad-CAM (Selvaraju et al., ICCV 2017), integrated gradients (Sundararajan et al., ICML 2017),
occlusion (Zeiler & Fergus, ECCV 2014). All work on inputs `(n, *spatial, channels)` of one, two or
three spatial axes, for models that output logits or values. Models are called eagerly in large
batches: tracing a function would take longer than the whole computation.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.errors import ConfigError, nearest
from chapterflow.explain.feature_maps import has_feature_maps, mapped_layers
from chapterflow.explain.outputs import (
    BATCH,
    GRADIENT_BATCH,
    at_targets,
    batch_size,
    is_classifier,
    outputs,
)
from chapterflow.explain.untrained import is_convolution

if TYPE_CHECKING:
    import keras

#: Fewest positions of the maps that Grad-CAM weighs by default.
WIDE = 16
#: Points on the path of integrated gradients.
STEPS = 24
#: Windows of occlusion along the longest axis, by the number of spatial axes.
WINDOWS = {1: 32, 2: 10, 3: 5}


def default_baseline(inputs: NDArray[Any]) -> NDArray[Any]:
    """Return the values that stand for "nothing there", `(n, 1, ..., 1, channels)`.

    The median of the values at the border of each image or volume: 0 for digits on black, the
    usual colour at the edges of a photo. For a curve, its mean.
    """
    axes = tuple(range(1, inputs.ndim - 1))
    if len(axes) == 1:
        return np.asarray(inputs.mean(axis=1, keepdims=True))
    border = np.ones(inputs.shape[1:-1], bool)
    border[tuple(slice(1, -1) for _ in axes)] = False
    median = np.median(inputs[:, border], axis=1)
    return np.reshape(median, (len(inputs), *(1 for _ in axes), inputs.shape[-1]))


def grad_cam(
    model: keras.Model,
    inputs: NDArray[Any],
    targets: NDArray[np.intp],
    *,
    layer: str | None = None,
) -> NDArray[Any]:
    """Return Grad-CAM's maps `(n, *spatial)`, never negative.

    The sum of a layer's maps, each weighted by the mean gradient of the output in it, without its
    negative part; interpolated linearly to the size of the input.

    Args:
        model: A functional model.
        inputs: Raw values `(n, *spatial, channels)`.
        targets: Which output of each input is explained, `(n,)`.
        layer: Name of a convolution or pooling layer; `last_wide` by default.

    Raises:
        ConfigError: If the model has no such layer.
    """
    import keras
    import tensorflow as tf

    names = [mapped.name for mapped in mapped_layers(model)]
    if layer is None and not names:
        raise ConfigError(
            "grad-cam: the model must have a convolution layer. Received: "
            f"{model.name}, which has none. Use integrated-gradients or occlusion"
        )
    chosen = last_wide(model) if layer is None else layer
    if chosen not in names:
        raise ConfigError(
            f"layer must be one of {', '.join(names) or 'none'}.{nearest(chosen, names)} "
            f"Received: {chosen!r}"
        )
    inner = keras.Model(model.input, [model.get_layer(chosen).output, model.output])
    parts = []
    batch = batch_size(model, GRADIENT_BATCH)
    for start in range(0, len(inputs), batch):
        x = tf.convert_to_tensor(inputs[start : start + batch], tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(x)  # A frozen backbone would record nothing else.
            maps, out = inner(x, training=False)
            total = _target_sum(out, targets[start : start + batch])
        gradient = np.asarray(tape.gradient(total, maps))
        axes = tuple(range(1, gradient.ndim - 1))
        weights = gradient.mean(axis=axes, keepdims=True)
        parts.append(np.maximum((weights * np.asarray(maps)).sum(axis=-1), 0))
    return interpolate(np.concatenate(parts), inputs.shape[1:-1])


def last_wide(model: keras.Model) -> str:
    """Return the name of the last convolution layer whose maps have sixteen positions or more.

    The last layers know most about the output, but maps of 2 x 2 do not locate anything. If no
    layer has so many positions, the layer with the most is chosen.
    """
    layers = [layer for layer in mapped_layers(model) if is_convolution(layer)]
    sizes = [int(np.prod([side or WIDE for side in layer.output.shape[1:-1]])) for layer in layers]
    least = min(WIDE, max(sizes))
    return str([n.name for n, size in zip(layers, sizes, strict=True) if size >= least][-1])


def integrated_gradients(
    model: keras.Model,
    inputs: NDArray[Any],
    targets: NDArray[np.intp],
    *,
    baseline: NDArray[Any] | float | None = None,
    steps: int = STEPS,
) -> NDArray[Any]:
    """Return integrated gradients `(n, *spatial)`, summed over the channels.

    The gradient along the straight path from a baseline to the input, times their difference. All
    values of a map add up to the output for the input minus the output for the baseline, up to the
    error of the midpoint rule with `steps` points.

    Args:
        model: Any differentiable model.
        inputs: Raw values `(n, *spatial, channels)`.
        targets: Which output of each input is explained, `(n,)`.
        baseline: Start of the path, broadcast over the inputs; `default_baseline` by default.
        steps: Points on the path.
    """
    import tensorflow as tf

    start = default_baseline(inputs) if baseline is None else np.asarray(baseline)
    difference = np.asarray(inputs - start, np.float32)
    shares = ((np.arange(steps) + 0.5) / steps).astype(np.float32)
    total = np.zeros_like(difference)
    places = len(inputs) * steps
    batch = batch_size(model, GRADIENT_BATCH)
    for begin in range(0, places, batch):
        number, point = np.divmod(np.arange(begin, min(begin + batch, places)), steps)
        path = (inputs - difference)[number] + difference[number] * shares[point].reshape(
            -1, *(1 for _ in inputs.shape[1:])
        )
        x = tf.convert_to_tensor(path, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(x)
            output = _target_sum(model(x, training=False), targets[number])
        gradient = tape.gradient(output, x)
        if gradient is None:
            raise ConfigError(
                "integrated-gradients: the output must be differentiable in the input. Received: "
                f"{model.name}, which is not. Use occlusion"
            )
        np.add.at(total, number, np.asarray(gradient) / steps)
    return np.asarray((difference * total).sum(axis=-1))


def occlusion(
    model: keras.Model,
    inputs: NDArray[Any],
    targets: NDArray[np.intp],
    *,
    baseline: NDArray[Any] | float | None = None,
    window: int | None = None,
    stride: int | None = None,
) -> NDArray[Any]:
    """Return the drop of the output when a window covers a place of the input, `(n, *spatial)`.

    The value of a place is the mean over all windows that cover it, including those that reach
    over the border.

    Args:
        model: Any model.
        inputs: Raw values `(n, *spatial, channels)`.
        targets: Which output of each input is explained, `(n,)`.
        baseline: Values in the window, broadcast over the inputs; `default_baseline` by default.
        window: Side of the window in pixels, voxels or samples; two strides by default.
        stride: Distance between two windows; `default_stride` by default.
    """
    spatial = inputs.shape[1:-1]
    base = default_baseline(inputs) if baseline is None else np.asarray(baseline)
    base = np.broadcast_to(base, inputs.shape)
    stride = stride or default_stride(spatial)
    covered = windows(spatial, window or 2 * stride, stride)
    parts = []
    # All inputs together, in full batches: a call costs more than its computation.
    batch = batch_size(model, BATCH)
    for start in range(0, len(inputs) * len(covered), batch):
        pair = np.arange(start, min(start + batch, len(inputs) * len(covered)))
        number, mask = np.divmod(pair, len(covered))
        masked = np.where(covered[mask][..., np.newaxis], base[number], inputs[number])
        parts.append(at_targets(outputs(model, masked.astype(np.float32)), targets[number]))
    whole = at_targets(outputs(model, inputs), targets)[:, np.newaxis]
    fall = whole - np.concatenate(parts).reshape(len(inputs), -1)
    weights = covered.reshape(len(covered), -1).astype(np.float64)
    return np.asarray((fall @ weights / weights.sum(axis=0)).reshape(len(inputs), *spatial))


def default_stride(spatial: tuple[int, ...]) -> int:
    """Return the stride with which ten windows (curve: 32, volume: 5) span the longest axis."""
    return -(-max(spatial) // WINDOWS[len(spatial)])


def windows(spatial: tuple[int, ...], window: int, stride: int) -> NDArray[np.bool_]:
    """Return which places each window covers, `(windows, *spatial)`; every place is covered."""
    spans = []
    for axis, side in enumerate(spatial):
        places = np.arange(side).reshape([-1 if a == axis else 1 for a in range(len(spatial))])
        starts = range(min(0, stride - window), side, stride)
        spans.append([(places >= start) & (places < start + window) for start in starts])
    return np.array(
        [functools.reduce(np.logical_and, combination) for combination in itertools.product(*spans)]
    )


#: Attribution methods by their names on the command line.
METHODS: dict[str, Callable[..., NDArray[Any]]] = {
    "grad-cam": grad_cam,
    "integrated-gradients": integrated_gradients,
    "occlusion": occlusion,
}


def usable_methods(model: keras.Model) -> list[str]:
    """Return the methods that apply to a model.

    Grad-CAM needs convolution layers and one output for the whole input: for one sample of a curve,
    the mean gradient over all positions of a map has no meaning.
    """
    grad_cam_applies = has_feature_maps(model) and is_classifier(model)
    return [name for name in METHODS if grad_cam_applies or name != "grad-cam"]


def check_method(name: str) -> None:
    """Refuse an unknown method.

    Raises:
        ConfigError: If there is no such method.
    """
    if name not in METHODS:
        raise ConfigError(
            f"method must be one of {', '.join(METHODS)}.{nearest(name, METHODS)} "
            f"Received: {name!r}"
        )


def attribute(
    model: keras.Model,
    inputs: NDArray[Any],
    targets: NDArray[Any],
    method: str,
    *,
    layer: str | None = None,
    **options: Any,
) -> NDArray[Any]:
    """Return how much each place of each input contributes to an output, `(n, *spatial)`.

    Args:
        model: A trained model that outputs logits `(n, classes)` or values `(n, ...)`.
        inputs: Raw values `(n, *spatial, channels)`, of one, two or three spatial axes.
        targets: Which output of each input is explained, `(n,)`: the number of a class, or the
            position of a sample in a curve.
        method: One of `METHODS`.
        layer: For `grad-cam`: the layer whose maps are weighed.
        options: For the other methods: `steps` and `baseline`, or `window`, `stride` and
            `baseline`.

    Raises:
        ConfigError: If there is no such method or layer.
    """
    check_method(method)
    if method == "grad-cam":
        options["layer"] = layer
    elif layer is not None:
        raise ConfigError(f"layer needs the method grad-cam. Received: {layer!r} with {method}")
    values = np.asarray(inputs, np.float32)
    return METHODS[method](model, values, np.asarray(targets, np.intp), **options)


def ranking(model: keras.Model, maps: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    """Return maps whose order ranks places: by contribution to a class, or by effect on a value."""
    if is_classifier(model):
        return maps
    return {name: np.abs(values) for name, values in maps.items()}


def interpolate(maps: NDArray[Any], spatial: tuple[int, ...]) -> NDArray[Any]:
    """Return maps `(n, *any)` as `(n, *spatial)`, linear along each axis."""
    for axis, side in enumerate(spatial, start=1):
        old = maps.shape[axis]
        if old == side:
            continue
        # Pixels are areas, so their centres are aligned, not the first and the last pixel.
        places = np.clip((np.arange(side) + 0.5) * old / side - 0.5, 0, old - 1)
        low = np.minimum(places.astype(int), max(0, old - 2))
        high = np.minimum(low + 1, old - 1)
        share = (places - low).reshape([-1 if a == axis else 1 for a in range(maps.ndim)])
        maps = np.take(maps, low, axis) * (1 - share) + np.take(maps, high, axis) * share
    return maps


def _target_sum(out: Any, targets: NDArray[np.intp]) -> Any:
    """Return the sum over the inputs of each input's output at its target."""
    import tensorflow as tf

    flat = tf.reshape(out, (len(targets), -1))
    return tf.reduce_sum(tf.gather(flat, targets, axis=1, batch_dims=1))
