"""Pictures measured in pixels: a canvas of tiles with text, and inputs and maps as tiles."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DPI = 100
GREY, RED = "#5f5f5f", "#b3261e"
#: Bytes from which on a PNG is written with fewer colours.
LARGE = 100_000
#: Names of matplotlib's alignments, which the rest of the project uses, in Pillow's letters.
ANCHORS = {"left": "l", "center": "m", "right": "r", "top": "a", "bottom": "d"}


class Canvas:
    """Tiles, text and curves of one picture.

    All tiles are copied into one array that is drawn once: an axes, or an image of matplotlib, for
    each tile takes ten times as long.

    Args:
        width: Pixels.
        height: Pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self.pixels = np.full((height, width, 3), 255, np.uint8)
        self._texts: list[tuple[float, float, str, float, str, str, str]] = []
        self._curves: list[tuple[NDArray[Any], str]] = []
        self._lines: list[tuple[list[float], list[float], dict[str, Any]]] = []
        self._edges: list[NDArray[Any]] = []
        self._nodes: list[tuple[NDArray[Any], NDArray[Any], float]] = []
        self._rings: list[tuple[NDArray[Any], float]] = []

    def tile(
        self, left: int, top: int, width: int, height: int, colours: NDArray[np.uint8]
    ) -> None:
        """Copy an image `(h, w, 3)` into a box, as large as fits, its pixels square, centred."""
        h, w = colours.shape[:2]
        scale = min(height / h, width / w)
        size = max(1, round(w * scale)), max(1, round(h * scale))
        left += (width - size[0]) // 2
        top += (height - size[1]) // 2
        self._copy(left, top, size, colours)

    def stretched(
        self, left: int, top: int, width: int, height: int, colours: NDArray[np.uint8]
    ) -> None:
        """Copy an image `(h, w, 3)` so that it fills a box."""
        self._copy(left, top, (width, height), colours)

    def _copy(self, left: int, top: int, size: tuple[int, int], colours: NDArray[Any]) -> None:
        from PIL import Image

        enlarged = colours.shape[0] <= size[1]
        way = Image.Resampling.NEAREST if enlarged else Image.Resampling.BOX
        image = Image.fromarray(np.ascontiguousarray(colours)).resize(size, way)
        self.pixels[top : top + size[1], left : left + size[0]] = np.asarray(image)

    def frame(self, left: int, top: int, width: int, height: int, colour: tuple[int, ...]) -> None:
        """Draw the frame of a box, one pixel wide, around it."""
        self.pixels[top - 1, left - 1 : left + width + 1] = colour
        self.pixels[top + height, left - 1 : left + width + 1] = colour
        self.pixels[top - 1 : top + height + 1, left - 1] = colour
        self.pixels[top - 1 : top + height + 1, left + width] = colour

    def curve(
        self,
        left: int,
        top: int,
        width: int,
        height: int,
        values: NDArray[Any],
        limits: tuple[float, float],
        colour: str = "#1f3b73",
    ) -> None:
        """Draw values `(length,)` as a curve in a box that spans `limits` from bottom to top."""
        low, high = limits
        x = left + (np.arange(len(values)) + 0.5) * width / len(values)
        share = (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
        self._curves.append((np.stack([x, top + height - 1 - share * (height - 2)], 1), colour))

    def line(self, x1: float, y1: float, x2: float, y2: float, **options: Any) -> None:
        """Draw a straight line."""
        options = {"color": "#303030", "linewidth": 0.9, **options}
        self._lines.append(([x1, x2], [y1, y2], options))

    def graph(
        self, places: NDArray[Any], edges: NDArray[np.intp], colours: NDArray[Any], size: float
    ) -> None:
        """Draw nodes at `places` `(n, 2)` in their colours `(n, 3 or 4)`, and edges `(e, 2)`."""
        self._edges.append(places[edges])
        self._nodes.append((places, colours, size))

    def ring(self, place: NDArray[Any], size: float) -> None:
        """Draw a black ring around a node."""
        self._rings.append((place, size))

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 9,
        ha: str = "left",
        va: str = "top",
        color: str = "#000000",
        weight: str = "normal",
    ) -> None:
        """Write text of a size in points; its upper left is at the point unless told otherwise."""
        self._texts.append((x, y, text, size, ANCHORS[ha] + ANCHORS[va], color, weight))

    def save(self, path: Path) -> None:
        """Write the PNG."""
        from PIL import Image, ImageDraw

        image = Image.fromarray(self.pixels)
        if self._curves or self._lines or self._nodes:
            image = Image.fromarray(self._with_lines())
        draw = ImageDraw.Draw(image)
        for x, y, text, size, anchor, colour, weight in self._texts:
            # Pillow writes the text: of a picture with hundreds of numbers, it takes a tenth.
            draw.multiline_text(
                (x, y),
                text,
                fill=colour,
                font=_font(weight, round(size * DPI / 72, 1)),
                anchor=anchor,
                align={"l": "left", "m": "center", "r": "right"}[anchor[0]],
                spacing=5,
            )
        written = io.BytesIO()
        image.save(written, "PNG", compress_level=6)
        if written.tell() > LARGE and not self._nodes:
            # Pale edges of curves and large maps compress badly; the eye misses nothing. Small
            # nodes of a strong colour would lose it.
            written = io.BytesIO()
            image.quantize(200, method=Image.Quantize.MEDIANCUT).save(written, "PNG")
        path.write_bytes(written.getvalue())

    def _with_lines(self) -> NDArray[np.uint8]:
        """Return the tiles with curves, lines and graphs over them, smooth at their edges."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.collections import LineCollection
        from matplotlib.figure import Figure

        height, width = self.pixels.shape[:2]
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="none")
        plane = figure.add_axes((0, 0, 1, 1))
        plane.set_axis_off()
        if self._curves:
            lines, colours = zip(*self._curves, strict=True)
            plane.add_collection(LineCollection(list(lines), colors=colours, linewidths=0.9))
        for xs, ys, options in self._lines:
            plane.plot(xs, ys, **options)
        for ends in self._edges:
            plane.add_collection(LineCollection(list(ends), colors="#c4c4c4", linewidths=0.5))
        for places, shades, size in self._nodes:
            plane.scatter(
                *(places[:, 0], places[:, 1], size, shades),
                edgecolors="#707070",
                lw=0.4,
                zorder=3,
            )
        for place, size in self._rings:
            plane.scatter(
                *([place[0]], [place[1]], size),
                facecolors="none",
                edgecolors="black",
                lw=1.6,
                zorder=4,
            )
        plane.set(xlim=(0, width), ylim=(height, 0))
        # The tiles stay out of matplotlib: it would resample them, and take longer for that than
        # for all the rest.
        agg = FigureCanvasAgg(figure)
        agg.draw()
        drawn = np.asarray(agg.buffer_rgba())
        inked = drawn[..., 3] > 0
        share = drawn[inked][:, 3:] / 255.0
        sheet = self.pixels.copy()
        sheet[inked] = np.round(sheet[inked] * (1 - share) + drawn[inked][:, :3] * share)
        return sheet


@functools.cache
def _font(weight: str, size: float) -> Any:
    import matplotlib as mpl
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if weight == "bold" else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name), size)


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
