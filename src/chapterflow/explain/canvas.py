"""A canvas measured in pixels: a grid of tiles with text, and how inputs and maps become tiles."""

from __future__ import annotations

import functools
import json
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.fonts import segments

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

#: Left, top, width, height in pixels.
Box = tuple[int, int, int, int]
DPI = 100
#: Pixels around the whole picture.
MARGIN = 20
#: Key of the text chunk of a PNG with the boxes of its tiles, `[[left, top, width, height], ...]`.
TILES = "tiles"
GREY, RED = "#5f5f5f", "#b3261e"
#: Pillow's letters for the alignments of matplotlib.
ANCHORS = {"left": "l", "center": "m", "right": "r", "top": "a", "bottom": "d"}


class Canvas:
    """One picture: tiles, text, curves and graphs.

    All tiles are copied into one array that is drawn once: an axes of matplotlib for each tile
    takes ten times as long.

    Args:
        width: Pixels.
        height: Pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self.pixels = np.full((height, width, 3), 255, np.uint8)
        self._tiles: list[Box] = []
        self._texts: list[tuple[float, float, str, float, str, str, str]] = []
        self._curves: list[tuple[NDArray[Any], str]] = []
        self._lines: list[tuple[list[float], list[float], dict[str, Any]]] = []
        self._edges: list[NDArray[Any]] = []
        self._nodes: list[tuple[NDArray[Any], NDArray[Any], float]] = []
        self._rings: list[tuple[NDArray[Any], float]] = []

    def heading(self, title: str, note: str) -> None:
        """Write the title at the top, and a note of one line or more below it."""
        self.text(MARGIN, MARGIN, title, size=12)
        self.text(MARGIN, MARGIN + 26, note, color=GREY)

    def caption(self, box: Box, text: str, *, size: float = 8, color: str = GREY) -> None:
        """Write text below a box, centred."""
        left, top, width, height = box
        self.text(left + width / 2, top + height + 3, text, size=size, ha="center", color=color)

    def tile(self, box: Box, colours: NDArray[np.uint8]) -> None:
        """Copy an image `(h, w, 3)` into a box: as large as fits, centred, with square pixels."""
        left, top, width, height = box
        h, w = colours.shape[:2]
        scale = min(height / h, width / w)
        fitted = max(1, round(w * scale)), max(1, round(h * scale))
        self.fill(
            (left + (width - fitted[0]) // 2, top + (height - fitted[1]) // 2, *fitted), colours
        )

    def fill(self, box: Box, colours: NDArray[Any]) -> None:
        """Copy an image `(h, w, 3)` so that it fills a box."""
        from PIL import Image

        left, top, width, height = box
        enlarged = colours.shape[0] <= height
        resampling = Image.Resampling.NEAREST if enlarged else Image.Resampling.BOX
        image = Image.fromarray(np.ascontiguousarray(colours)).resize((width, height), resampling)
        self.pixels[top : top + height, left : left + width] = np.asarray(image)
        self._tiles.append(box)

    def frame(self, box: Box, colour: tuple[int, ...]) -> None:
        """Draw a frame one pixel wide around a box."""
        left, top, width, height = box
        self.pixels[top - 1, left - 1 : left + width + 1] = colour
        self.pixels[top + height, left - 1 : left + width + 1] = colour
        self.pixels[top - 1 : top + height + 1, left - 1] = colour
        self.pixels[top - 1 : top + height + 1, left + width] = colour

    def curve(
        self,
        box: Box,
        values: NDArray[Any],
        limits: tuple[float, float],
        colour: str = "#1f3b73",
    ) -> None:
        """Draw values `(length,)` as a curve in a box that spans `limits` from bottom to top."""
        left, top, width, height = box
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
        (left, top), (right, bottom) = (places.min(axis=0) - 12, places.max(axis=0) + 12)
        self._tiles.append((int(left), int(top), int(right - left), int(bottom - top)))
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
        """Write text of a size in points, with its upper left corner at the point by default."""
        self._texts.append((x, y, text, size, ANCHORS[ha] + ANCHORS[va], color, weight))

    def save(self, path: Path) -> None:
        """Write the PNG, with the boxes of its tiles as the text chunk `TILES`.

        Outside of them is only text on white paper, which the report draws in its own colours.
        """
        from PIL import Image, PngImagePlugin
        from PIL.ImageDraw import Draw

        image = Image.fromarray(self.pixels)
        if self._curves or self._lines or self._nodes:
            image = Image.fromarray(self._with_lines())
        draw = Draw(image)
        for text in self._texts:
            _write(draw, *text)
        # In true colour: a palette would take the colours of photos.
        chunks = PngImagePlugin.PngInfo()
        chunks.add_text(TILES, json.dumps(self._tiles))
        image.save(path, "PNG", compress_level=6, pnginfo=chunks)

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
        # Tiles stay out of matplotlib, which would spend most of its time on resampling them.
        agg = FigureCanvasAgg(figure)
        agg.draw()
        drawn = np.asarray(agg.buffer_rgba())
        inked = drawn[..., 3] > 0
        share = drawn[inked][:, 3:] / 255.0
        sheet = self.pixels.copy()
        sheet[inked] = np.round(sheet[inked] * (1 - share) + drawn[inked][:, :3] * share)
        return sheet


#: Pixels between two lines of text.
SPACING = 5


def _write(
    draw: ImageDraw,
    x: float,
    y: float,
    text: str,
    size: float,
    anchor: str,
    colour: str,
    weight: str,
) -> None:
    """Write lines of text, each letter with a font that has it.

    Pillow needs a tenth of matplotlib's time for a picture with hundreds of numbers.

    Args:
        anchor: Pillow's letters for the point's place in the text.
    """
    pixels, bold = round(size * DPI / 72, 1), weight == "bold"
    # Folders of macOS decompose Hangul into letters that fonts draw next to each other.
    lines = [segments(line, bold=bold) for line in unicodedata.normalize("NFC", text).split("\n")]
    plain = _font(segments("A", bold=bold)[0][1], pixels)
    height = plain.getbbox("A")[3] + SPACING
    ascent, descent = plain.getmetrics()
    # The baseline of the first line is so far below the point.
    first = {
        "a": ascent,
        "m": (ascent - descent) / 2 - height * (len(lines) - 1) / 2,
        "d": -descent - height * (len(lines) - 1),
    }[anchor[1]]
    for number, line in enumerate(lines):
        parts = [(part, _font(file, pixels)) for part, file in line]
        wide = sum(font.getlength(part) for part, font in parts)
        left = x - wide * {"l": 0.0, "m": 0.5, "r": 1.0}[anchor[0]]
        for part, font in parts:
            draw.text(
                (left, y + first + number * height), part, fill=colour, font=font, anchor="ls"
            )
            left += font.getlength(part)


@functools.cache
def _font(file: Path, size: float) -> FreeTypeFont:
    from PIL import ImageFont

    return ImageFont.truetype(str(file), size)


@dataclass(frozen=True)
class Grid:
    """Tiles in rows and columns, below a heading and right of the names of the rows.

    Attributes:
        left: Left side of the first tile.
        top: Upper side of the first tile.
        width: Width of a tile.
        height: Height of a tile.
        gap: Pixels between two columns.
        row_gap: Pixels between two rows, captions included.
        breaks: Columns before which the gap is wider.
        break_width: By how much.
    """

    left: int
    top: int
    width: int
    height: int
    gap: int
    row_gap: int
    breaks: tuple[int, ...] = ()
    break_width: int = 0

    def box(self, row: int, column: int) -> Box:
        """Return the box of a tile."""
        wider = sum(column >= first for first in self.breaks)
        left = self.left + column * (self.width + self.gap) + wider * self.break_width
        return left, self.top + row * (self.height + self.row_gap), self.width, self.height

    def canvas(self, rows: int, columns: int, *, least: int = 0, bottom: int = 0) -> Canvas:
        """Return an empty canvas for a number of tiles.

        Args:
            rows: Rows of tiles.
            columns: Columns of tiles.
            least: Least width, for the heading.
            bottom: Pixels below the last row's gap.
        """
        right = self.box(0, columns)[0] + MARGIN
        return Canvas(max(least, right), self.box(rows, 0)[1] + bottom)


#: Grey level of a constant map.
CONSTANT = 217
#: Slices drawn of a volume, two by two, evenly spaced along the depth.
SLICES = 4
#: Grey level of the area of a curve, and colour of its line.
PAPER, LINE = 246, "#303030"


def coloured(
    values: NDArray[Any], low: float, high: float, colours: str = "viridis"
) -> NDArray[np.uint8]:
    """Return colours `(..., 3)` of values from `low` to `high`; grey where these are equal."""
    import matplotlib as mpl

    if not high > low:
        return np.full((*values.shape, 3), CONSTANT, np.uint8)
    shares = np.clip((values - low) / (high - low), 0, 1)
    return np.asarray(mpl.colormaps[colours](shares, bytes=True)[..., :3], np.uint8)


def grey(values: NDArray[Any], value_max: float) -> NDArray[np.uint8]:
    """Return colours `(..., 3)` of raw values `(..., channels)`: RGB, or the first channel grey."""
    shares = np.clip(values / value_max, 0, 1)
    if shares.shape[-1] != 3:
        shares = np.repeat(shares[..., :1], 3, axis=-1)
    return np.asarray(np.round(shares * 255), np.uint8)


def flattened(colours: NDArray[np.uint8], between: int = 255) -> NDArray[np.uint8]:
    """Return an image as it is, or a volume as an image of four slices.

    Args:
        colours: `(h, w, 3)`, or `(d, h, w, 3)`.
        between: Grey level between slices.
    """
    if colours.ndim == 3:
        return colours
    depth, height, width, _ = colours.shape
    chosen = np.unique(np.linspace(0, depth - 1, SLICES + 2)[1:-1].round().astype(int))
    if depth <= SLICES:
        chosen = np.arange(depth)
    columns = 2 if len(chosen) == SLICES else len(chosen)
    rows = -(-len(chosen) // columns)
    gap = max(1, round(width / 16))
    sheet = np.full(
        (rows * (height + gap) - gap, columns * (width + gap) - gap, 3), between, np.uint8
    )
    for place, position in enumerate(chosen):
        top, left = (place // columns) * (height + gap), (place % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = colours[position]
    return sheet


def draw_map(canvas: Canvas, box: Box, values: NDArray[Any], limits: tuple[float, float]) -> None:
    """Draw a map `(*spatial)`: a curve, an image, or the slices of a volume."""
    if values.ndim > 1:
        canvas.tile(box, flattened(coloured(values, *limits)))
        return
    colour = "#1f3b73" if limits[1] > limits[0] else "#a0a0a0"
    canvas.fill(box, np.full((1, 1, 3), PAPER, np.uint8))
    canvas.curve(box, values, limits, colour)


def draw_input(canvas: Canvas, box: Box, values: NDArray[Any], value_max: float) -> None:
    """Draw raw values `(*spatial, channels)`."""
    if values.ndim > 2:
        canvas.tile(box, flattened(grey(values, value_max)))
        return
    curve = values[..., 0]
    canvas.fill(box, np.full((1, 1, 3), PAPER, np.uint8))
    canvas.curve(box, curve, (float(curve.min()), float(curve.max())), LINE)


def draw_overlay(
    canvas: Canvas, box: Box, values: NDArray[Any], attribution: NDArray[Any], value_max: float
) -> None:
    """Draw an attribution `(*spatial)` over its input: red raises the output, blue lowers it.

    The largest absolute value of each map has the full colour.
    """
    limit = float(np.abs(attribution).max())
    tint = coloured(attribution, -limit, limit, "bwr").astype(np.float64)
    share = 0.9 * np.abs(attribution)[..., np.newaxis] / limit if limit else 0.0
    if attribution.ndim == 1:
        paper = np.full((1, len(attribution), 3), float(PAPER))
        canvas.fill(box, _blended(paper, tint, share))
        curve = values[..., 0]
        canvas.curve(box, curve, (float(curve.min()), float(curve.max())), LINE)
        return
    # Half as bright as the input, so that both its black and its white parts take the tint.
    pale = 60 + grey(values, value_max) * 0.6
    canvas.tile(box, flattened(_blended(pale, tint, share)))


def _blended(ground: NDArray[Any], tint: NDArray[Any], share: Any) -> NDArray[np.uint8]:
    """Return colours between two, with `share` of the tint."""
    return np.asarray(np.round((1 - share) * ground + share * tint), np.uint8)
