"""One input, one map or one map over its input, as a tile: curves, images, slices of volumes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.explain.canvas import Canvas

#: Colour of a map that is the same everywhere.
FLAT = 217
#: Slices shown of a volume, two by two, from the first along the depth to the last.
SLICES = 4
#: Left, top, width, height in pixels.
Box = tuple[int, int, int, int]


def coloured(
    values: NDArray[Any], low: float, high: float, colours: str = "viridis"
) -> NDArray[np.uint8]:
    """Return colours `(..., 3)` of values from `low` to `high`; grey where these are equal."""
    import matplotlib as mpl

    if not high > low:
        return np.full((*values.shape, 3), FLAT, np.uint8)
    shares = np.clip((values - low) / (high - low), 0, 1)
    found: NDArray[np.uint8] = mpl.colormaps[colours](shares, bytes=True)[..., :3]
    return found


def grey(values: NDArray[Any], value_max: float) -> NDArray[np.uint8]:
    """Return colours `(..., 3)` of raw values `(..., channels)`: RGB as it is, else the first."""
    shares = np.clip(values / value_max, 0, 1)
    if shares.shape[-1] != 3:
        shares = np.repeat(shares[..., :1], 3, axis=-1)
    return np.asarray(np.round(shares * 255), np.uint8)


def flattened(colours: NDArray[np.uint8], between: int = 255) -> NDArray[np.uint8]:
    """Return an image of colours `(h, w, 3)` or `(d, h, w, 3)`; of the latter, four slices.

    Args:
        colours: Of pixels or voxels.
        between: Grey level between slices.
    """
    if colours.ndim == 3:
        return colours
    depth, height, width, _ = colours.shape
    shown = np.unique(np.linspace(0, depth - 1, SLICES + 2)[1:-1].round().astype(int))
    if depth <= SLICES:
        shown = np.arange(depth)
    columns = 2 if len(shown) == SLICES else len(shown)
    rows = -(-len(shown) // columns)
    gap = max(1, round(width / 16))
    sheet = np.full(
        (rows * (height + gap) - gap, columns * (width + gap) - gap, 3), between, np.uint8
    )
    for place, position in enumerate(shown):
        top, left = (place // columns) * (height + gap), (place % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = colours[position]
    return sheet


def draw_map(canvas: Canvas, box: Box, values: NDArray[Any], limits: tuple[float, float]) -> None:
    """Draw a map of one, two or three axes; volumes as slices, curves as curves."""
    if values.ndim > 1:
        canvas.tile(*box, flattened(coloured(values, *limits)))
        return
    colour = "#1f3b73" if limits[1] > limits[0] else "#a0a0a0"
    canvas.stretched(*box, np.full((1, 1, 3), 246, np.uint8))
    canvas.curve(*box, values, limits, colour)


def draw_input(canvas: Canvas, box: Box, values: NDArray[Any], value_max: float) -> None:
    """Draw raw values `(*spatial, channels)`."""
    if values.ndim > 2:
        canvas.tile(*box, flattened(grey(values, value_max)))
        return
    curve = values[..., 0]
    canvas.stretched(*box, np.full((1, 1, 3), 246, np.uint8))
    canvas.curve(*box, curve, (float(curve.min()), float(curve.max())), "#303030")


def draw_overlay(
    canvas: Canvas, box: Box, values: NDArray[Any], attribution: NDArray[Any], value_max: float
) -> None:
    """Draw an attribution `(*spatial)` over its input: red speaks for the answer, blue against.

    The strongest place of each map has the full colour.
    """
    limit = float(np.abs(attribution).max())
    tint = coloured(attribution, -limit, limit, "bwr").astype(np.float64)
    share = 0.9 * np.abs(attribution)[..., np.newaxis] / limit if limit else 0.0
    if attribution.ndim == 1:
        ground = np.full((1, len(attribution), 3), 246.0)
        canvas.stretched(*box, blended(ground, tint, share))
        curve = values[..., 0]
        canvas.curve(*box, curve, (float(curve.min()), float(curve.max())), "#303030")
        return
    # Half as bright as the input, so that both black and white parts take the tint.
    pale = 60 + grey(values, value_max) * 0.6
    canvas.tile(*box, flattened(blended(pale, tint, share)))


def blended(ground: NDArray[Any], tint: NDArray[Any], share: Any) -> NDArray[np.uint8]:
    """Return colours between two, `share` of the tint."""
    return np.asarray(np.round((1 - share) * ground + share * tint), np.uint8)
