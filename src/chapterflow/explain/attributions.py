"""Attributions: how much each place of an input speaks for an answer.

Grad-CAM (Selvaraju et al., ICCV 2017), integrated gradients (Sundararajan et al., ICML 2017),
occlusion (Zeiler & Fergus, ECCV 2014). All work on inputs `(n, *spatial, channels)` of one, two or
three spatial axes, on models that end in logits or values, and call them eagerly in large batches:
tracing a function would take longer than all of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.errors import ConfigError, nearest
from chapterflow.explain.feature_maps import mapped_layers
from chapterflow.explain.untrained import is_convolution

if TYPE_CHECKING:
    import keras

#: Inputs in one forward pass, and in one whose gradient is taken, at most: as many as keep the
#: values of all layers below `VALUES`, since a gradient needs all of them at once.
BATCH, GRADIENT_BATCH, VALUES = 512, 256, 1e8
#: Values of a network that is not seen, for each place of its input, and side of an open axis.
OPAQUE, USUAL_SIDE = 90, 224
#: Positions of a map that Grad-CAM takes unless told which.
WIDE = 16
#: Points on the path of integrated gradients; windows of occlusion along an axis, by their number.
STEPS, WINDOWS = 24, {1: 32, 2: 10, 3: 5}


def background(inputs: NDArray[Any]) -> NDArray[Any]:
    """Return what stands for "nothing there", `(n, 1, ..., 1, channels)`.

    The median of the values at the border of each image or volume: 0 for digits on black, the
    usual colour at the edges of a photo. Of a curve, its mean.
    """
    axes = tuple(range(1, inputs.ndim - 1))
    if len(axes) == 1:
        found: NDArray[Any] = inputs.mean(axis=1, keepdims=True)
        return found
    border = np.ones(inputs.shape[1:-1], bool)
    border[tuple(slice(1, -1) for _ in axes)] = False
    found = np.median(inputs[:, border], axis=1)
    return found.reshape(len(inputs), *(1 for _ in axes), inputs.shape[-1])


def values_of(model: keras.Model) -> int:
    """Return how many values all layers of a model compute for one input, open axes left out.

    A layer may hold a whole network, of which nothing is seen: thirty times the input, at least.
    """
    shapes = [getattr(getattr(layer, "output", None), "shape", ()) for layer in model.layers]
    seen = sum(int(np.prod([side or 1 for side in shape[1:]])) for shape in shapes)
    sides = getattr(model.input, "shape", ())[1:]
    return max(seen, OPAQUE * int(np.prod([side or USUAL_SIDE for side in sides[:-1]])))


def _batch(model: keras.Model, most: int) -> int:
    return int(np.clip(VALUES / max(1, values_of(model)), 1, most))


def answers(model: keras.Model, inputs: NDArray[Any]) -> NDArray[Any]:
    """Return a model's answers `(n, values)`: logits, or the samples of a curve side by side."""
    batch = _batch(model, BATCH)
    found = [
        np.asarray(model(inputs[start : start + batch], training=False))
        for start in range(0, len(inputs), batch)
    ]
    return np.concatenate(found).reshape(len(inputs), -1)


def grad_cam(
    model: keras.Model,
    inputs: NDArray[Any],
    targets: NDArray[np.intp],
    *,
    layer: str | None = None,
) -> NDArray[Any]:
    """Return Grad-CAM's maps `(n, *spatial)`, never negative.

    The maps of a layer, weighted by the mean gradient of the answer in each, summed; what is
    negative is cut off. Interpolated linearly to the size of the input.

    Args:
        model: A functional model.
        inputs: Raw values `(n, *spatial, channels)`.
        targets: Which answer of each input is explained, `(n,)`.
        layer: Name of a convolution or pooling; that of `last_wide` unless given.

    Raises:
        ConfigError: If the model has no such layer.
    """
    import keras
    import tensorflow as tf

    names = [one.name for one in mapped_layers(model)]
    if layer is None and not names:
        raise ConfigError(
            "grad-cam: the model must have a convolution whose maps are weighed. Received: "
            f"{model.name}, which has none; integrated-gradients and occlusion need none"
        )
    chosen = last_wide(model) if layer is None else layer
    if chosen not in names:
        raise ConfigError(
            f"layer must be one of {', '.join(names) or 'none'}.{nearest(chosen, names)} "
            f"Received: {chosen!r}"
        )
    inner = keras.Model(model.input, [model.get_layer(chosen).output, model.output])
    parts = []
    batch = _batch(model, GRADIENT_BATCH)
    for start in range(0, len(inputs), batch):
        x = tf.convert_to_tensor(inputs[start : start + batch], tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(x)  # Of a frozen backbone, nothing else would be recorded.
            maps, out = inner(x, training=False)
            total = _picked(out, targets[start : start + batch])
        gradient = np.asarray(tape.gradient(total, maps))
        axes = tuple(range(1, gradient.ndim - 1))
        weights = gradient.mean(axis=axes, keepdims=True)
        parts.append(np.maximum((weights * np.asarray(maps)).sum(axis=-1), 0))
    return interpolated(np.concatenate(parts), inputs.shape[1:-1])


def last_wide(model: keras.Model) -> str:
    """Return the name of the last convolution whose maps have sixteen positions or more.

    Those that are closest to the answer know most of it, but maps of 2 x 2 do not say where. Where
    none has so many, the one with the most.
    """
    layers = [one for one in mapped_layers(model) if is_convolution(one)]
    sizes = [int(np.prod([side or WIDE for side in one.output.shape[1:-1]])) for one in layers]
    enough = min(WIDE, max(sizes))
    found = [one.name for one, size in zip(layers, sizes, strict=True) if size >= enough]
    return str(found[-1])


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
    values of a map add up to the answer for the input less that for the baseline, but for the
    error of `steps` points (at the middles of as many parts of the path).

    Args:
        model: Any model whose gradient can be taken.
        inputs: Raw values `(n, *spatial, channels)`.
        targets: Which answer of each input is explained, `(n,)`.
        baseline: Where the path begins, broadcast over the inputs; `background` unless given.
        steps: Points on the path.
    """
    import tensorflow as tf

    start = background(inputs) if baseline is None else np.asarray(baseline)
    difference = np.asarray(inputs - start, np.float32)
    shares = ((np.arange(steps) + 0.5) / steps).astype(np.float32)
    total = np.zeros_like(difference)
    places = len(inputs) * steps
    batch = _batch(model, GRADIENT_BATCH)
    for begin in range(0, places, batch):
        which, point = np.divmod(np.arange(begin, min(begin + batch, places)), steps)
        path = (inputs - difference)[which] + difference[which] * shares[point].reshape(
            -1, *(1 for _ in inputs.shape[1:])
        )
        x = tf.convert_to_tensor(path, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(x)
            answer = _picked(model(x, training=False), targets[which])
        gradient = tape.gradient(answer, x)
        if gradient is None:
            raise ConfigError(
                "integrated-gradients: the answer must have a gradient in the input. Received: "
                f"{model.name}, which has none; use occlusion"
            )
        np.add.at(total, which, np.asarray(gradient) / steps)
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
    """Return by how much the answer falls where a window covers the input, `(n, *spatial)`.

    A place has the mean over all windows that cover it, those that reach over the border too.

    Args:
        model: Any model.
        inputs: Raw values `(n, *spatial, channels)`.
        targets: Which answer of each input is explained, `(n,)`.
        baseline: What the window shows, broadcast over the inputs; `background` unless given.
        window: Side of the window, in pixels, voxels or samples; two strides unless given.
        stride: From one window to the next; so that ten (of a curve 32, of a volume five) span
            the longest axis unless given.
    """
    spatial = inputs.shape[1:-1]
    cover = background(inputs) if baseline is None else np.asarray(baseline)
    step = stride or usual_stride(spatial)
    covered = windows(spatial, window or 2 * step, step)
    whole = np.take_along_axis(answers(model, inputs), targets[:, np.newaxis], axis=1)
    base = np.broadcast_to(cover, inputs.shape)
    left = []
    # All inputs together, in full batches: a call costs more than what is computed in it.
    batch = _batch(model, BATCH)
    for start in range(0, len(inputs) * len(covered), batch):
        pair = np.arange(start, min(start + batch, len(inputs) * len(covered)))
        which, mask = np.divmod(pair, len(covered))
        masked = np.where(covered[mask][..., np.newaxis], base[which], inputs[which])
        out = answers(model, masked.astype(np.float32))
        left.append(np.take_along_axis(out, targets[which][:, np.newaxis], axis=1)[:, 0])
    fall = whole - np.concatenate(left).reshape(len(inputs), -1)
    flat = covered.reshape(len(covered), -1).astype(np.float64)
    return np.asarray((fall @ flat / flat.sum(axis=0)).reshape(len(inputs), *spatial))


def usual_stride(spatial: tuple[int, ...]) -> int:
    """Return the stride with which ten windows (of a curve 32, of a volume five) span an axis."""
    return -(-max(spatial) // WINDOWS[len(spatial)])


def windows(spatial: tuple[int, ...], window: int, stride: int) -> NDArray[np.bool_]:
    """Return which places each window covers, `(windows, *spatial)`; every place is covered."""
    spans = []
    for side in spatial:
        starts = range(min(0, stride - window), side, stride)
        places = np.arange(side)
        spans.append([(places >= start) & (places < start + window) for start in starts])
    axes = len(spatial)
    found = []
    for one in itertools.product(*spans):
        shaped = (
            span.reshape([-1 if axis == i else 1 for i in range(axes)])
            for axis, span in enumerate(one)
        )
        mask = np.ones(spatial, bool)
        for span in shaped:
            mask = mask & span
        found.append(mask)
    return np.array(found)


#: How an answer is attributed, by the name on the command line.
METHODS: dict[str, Callable[..., NDArray[Any]]] = {
    "grad-cam": grad_cam,
    "integrated-gradients": integrated_gradients,
    "occlusion": occlusion,
}


def attribute(
    model: keras.Model,
    inputs: NDArray[Any],
    targets: NDArray[Any],
    method: str,
    *,
    layer: str | None = None,
    **options: Any,
) -> NDArray[Any]:
    """Return how much each place of each input speaks for an answer, `(n, *spatial)`.

    Args:
        model: A trained model that answers logits `(n, classes)` or values `(n, ...)`; it may come
            from a `.keras` file.
        inputs: Raw values `(n, *spatial, channels)`, of one, two or three spatial axes.
        targets: Which answer of each input is explained, `(n,)`: the number of a class, or the
            position among the values of a curve.
        method: One of `METHODS`.
        layer: For `grad-cam`: whose maps are weighed.
        options: Of the method: `steps` and `baseline`, or `window`, `stride` and `baseline`.

    Raises:
        ConfigError: If there is no such method or layer.
    """
    if method not in METHODS:
        raise ConfigError(
            f"method must be one of {', '.join(METHODS)}.{nearest(method, METHODS)} "
            f"Received: {method!r}"
        )
    if method == "grad-cam":
        options["layer"] = layer
    elif layer is not None:
        raise ConfigError(f"layer must go with grad-cam. Received: {layer!r} with {method}")
    given = np.asarray(inputs, np.float32)
    return METHODS[method](model, given, np.asarray(targets, np.intp), **options)


def interpolated(maps: NDArray[Any], spatial: tuple[int, ...]) -> NDArray[Any]:
    """Return maps `(n, *any)` as `(n, *spatial)`, linear along each axis."""
    for axis, side in enumerate(spatial, start=1):
        old = maps.shape[axis]
        if old == side:
            continue
        # Pixels are areas: their middles, not the first and the last, keep their place.
        places = np.clip((np.arange(side) + 0.5) * old / side - 0.5, 0, old - 1)
        low = np.minimum(places.astype(int), max(0, old - 2))
        high = np.minimum(low + 1, old - 1)
        share = (places - low).reshape([-1 if a == axis else 1 for a in range(maps.ndim)])
        maps = np.take(maps, low, axis) * (1 - share) + np.take(maps, high, axis) * share
    return maps


def _picked(out: Any, targets: NDArray[np.intp]) -> Any:
    """Return the sum over the inputs of the answer that each is asked for."""
    import tensorflow as tf

    flat = tf.reshape(out, (len(targets), -1))
    return tf.reduce_sum(tf.gather(flat, targets, axis=1, batch_dims=1))
