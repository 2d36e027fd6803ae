"""Kernels of the first convolution: what a network looks for in its input, before all else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.explain.canvas import GREY, Canvas
from chapterflow.explain.feature_maps import sides
from chapterflow.explain.tiles import coloured, draw_map, flattened
from chapterflow.explain.trained import is_convolution

if TYPE_CHECKING:
    import keras

#: Kernels drawn, and kernels a row.
MOST, COLUMNS = 32, 8
TILE, GAP, MARGIN, HEADING, LINE = 84, 12, 20, 76, 18


def first_kernels(model: keras.Model) -> tuple[str, NDArray[Any]] | None:
    """Return name and kernels `(*sides, channels in, filters)` of the first convolution.

    Returns:
        None where there is no convolution, or its kernels are not of this form (transposed,
        separable).
    """
    for layer in model.layers:
        if is_convolution(layer):
            kernel = getattr(layer, "kernel", None)
            plain = kernel is not None and type(layer).__name__ in ("Conv1D", "Conv2D", "Conv3D")
            return (layer.name, np.asarray(kernel)) if plain else None
    return None


def draw_kernels(name: str, kernels: NDArray[Any], title: str, path: Path) -> int:
    """Draw the kernels that have most weight: red positive, blue negative, white zero.

    Of three channels in, the kernels are shown in colour, as they tint their input (grey: zero);
    otherwise summed over the channels. Kernels of one axis are curves, those of three slices.

    Args:
        name: Of the layer.
        kernels: `(*sides, channels in, filters)`.
        title: Heading.
        path: Image to write.

    Returns:
        How many are drawn.
    """
    axes = kernels.ndim - 2
    norms = np.sqrt(np.sum(np.square(kernels), axis=tuple(range(kernels.ndim - 1))))
    shown = np.argsort(-norms, kind="stable")[:MOST]
    rows = -(-len(shown) // COLUMNS)
    width = 2 * MARGIN + COLUMNS * (TILE + GAP)
    canvas = Canvas(width, MARGIN + HEADING + rows * (TILE + LINE + GAP))
    limit = float(np.abs(kernels).max())
    tinted = kernels.shape[-2] == 3 and axes == 2
    key = (
        "each as it tints its input, grey is zero"
        if tinted
        else "lines: the weights from first to last, one range for all"
        if axes == 1
        else "red positive, blue negative, white zero, one range for all"
    )
    left_out = f", the {len(shown)} with most weight" if len(shown) < len(norms) else ""
    canvas.text(MARGIN, MARGIN, title, size=12)
    canvas.text(
        MARGIN,
        MARGIN + 26,
        f"{name}: {len(norms)} kernels of {sides(kernels.shape[:-1])}{left_out}; "
        f"below each its number.\n{key[0].upper()}{key[1:]}.",
        color=GREY,
    )
    for place, number in enumerate(shown):
        x = MARGIN + (place % COLUMNS) * (TILE + GAP)
        y = MARGIN + HEADING + (place // COLUMNS) * (TILE + LINE + GAP)
        one = kernels[..., number]
        if tinted:
            top = float(np.abs(one).max()) or 1.0
            colours = np.asarray(np.round((one / top + 1) * 127.5), np.uint8)
            canvas.tile(x, y, TILE, TILE, colours)
        elif axes == 1:
            summed = one.sum(axis=-1)
            zero = np.zeros(len(summed))
            draw_map(canvas, (x, y, TILE, TILE), summed, (-limit, limit))
            canvas.curve(x, y, TILE, TILE, zero, (-limit, limit), "#b0b0b0")
        else:
            canvas.tile(
                x, y, TILE, TILE, flattened(coloured(one.sum(-1), -limit, limit, "bwr"), 120)
            )
            if axes == 2:
                canvas.frame(x, y, TILE, TILE, (200, 200, 200))
        canvas.text(x + TILE / 2, y + TILE + 3, str(number), size=8, ha="center", color=GREY)
    canvas.save(path)
    return len(shown)
