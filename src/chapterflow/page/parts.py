"""What a page is made of: tables, notes on numbers, and pictures small enough to be sent."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.errors import ChapterflowError

if TYPE_CHECKING:
    from PIL.Image import Image

#: Stands where a run has no such number.
NONE = "—"


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: What is read.
        sort: What the column is sorted by; the text where there is none.
        href: Address that the text leads to, on this page or beside it.
        tone: `good`, `bad`, `dim` or nothing: a colour that only repeats what the text says.
        share: From 0 to 1, the strength of the cell's background.
        code: Whether it is an id or a hash.
    """

    text: str
    sort: float | str | None = None
    href: str = ""
    tone: str = ""
    share: float | None = None
    code: bool = False


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Attributes:
        caption: What it shows, and of what.
        headings: One for each column, with the unit.
        rows: Cells of each row.
        numeric: Whether each column holds numbers.
        sortable: Whether a reader may want another order.
        small: Whether it is as narrow as its content.
        text: Whether cells are sentences, which may break.
    """

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numeric: Sequence[bool] = field(default_factory=tuple)
    sortable: bool = True
    small: bool = False
    text: bool = False

    def __post_init__(self) -> None:
        """Refuse a row that does not fit the headings.

        Raises:
            ChapterflowError: If one has more or fewer cells.
        """
        for row in self.rows:
            if len(row) != len(self.headings):
                raise ChapterflowError(
                    f"A row of the table {self.caption!r} must have {len(self.headings)} cells. "
                    f"Received: {len(row)}"
                )

    def is_numeric(self, column: int) -> bool:
        """Tell whether a column is set flush right."""
        return bool(self.numeric) and self.numeric[column]


def number(value: float | None, digits: int, *, sign: bool = False) -> Cell:
    """Return a number with a fixed count of decimals, or the sign for none."""
    if value is None:
        return Cell(NONE, float("inf"), tone="dim")
    return Cell(f"{value:{'+' if sign else ''},.{digits}f}", value)


def interval(low: float | None, high: float | None, digits: int, *, sign: bool = False) -> Cell:
    """Return an interval; it sorts by its lower end."""
    if low is None or high is None:
        return Cell(NONE, float("inf"), tone="dim")
    form = f"{'+' if sign else ''},.{digits}f"
    return Cell(f"{low:{form}} to {high:{form}}", low)


def times(ratio: float | None) -> Cell:
    """Return how many times one figure is another."""
    return Cell(NONE, float("inf"), tone="dim") if ratio is None else Cell(f"{ratio:.2f}×", ratio)


def answered(name: str, *, right: bool) -> Cell:
    """Return an answer with a mark that tells whether it is right."""
    return Cell(f"{name}\u00a0{'✓' if right else '✗'}", tone="good" if right else "bad")


def ratio(upper: float | None, lower: float | None) -> float | None:
    """Return a ratio where there is one."""
    return upper / lower if upper is not None and lower else None


def plain(rows: Sequence[Sequence[Any]]) -> list[list[Cell]]:
    """Return rows of text as cells."""
    return [[Cell(str(value)) for value in row] for row in rows]


#: Longest side in pixels and WebP quality, tried in turn until all pictures fit.
LEVELS = ((1400, 80), (1000, 70), (720, 55), (480, 40))
#: One picture of so many is tried first, and more than so many times the room is surely too much.
SAMPLED, SURELY = 8, 1.15
#: Bytes that a page may have, with all that is in it.
PAGE_BYTES = 8_000_000
#: Up to this side pixels are kept as they are: smoothing would hide what a model saw.
TINY = 64


@dataclass(frozen=True)
class Picture:
    """A picture of the page.

    Attributes:
        src: Token that `Album.fill` replaces.
        width: In pixels, of the original.
        height: In pixels.
        alt: What somebody who does not see it should know.
        caption: Shown below it; empty where the text around says it.
        tiny: Whether it is enlarged pixel by pixel.
    """

    src: str
    width: int
    height: int
    alt: str
    caption: str = ""
    tiny: bool = False


class Album:
    """All pictures of one page."""

    def __init__(self) -> None:
        self._sources: list[Path | NDArray[Any]] = []

    def picture(self, source: Path | NDArray[Any], alt: str, caption: str = "") -> Picture:
        """Take a picture in.

        Args:
            source: An image file, or uint8 `(height, width)` or `(height, width, 3)`.
            alt: What somebody who does not see it should know.
            caption: Shown below it.
        """
        import PIL.Image

        if isinstance(source, Path):
            with PIL.Image.open(source) as opened:  # its header: pixels are read in `fill`
                width, height = opened.size
        else:
            height, width = source.shape[:2]
        self._sources.append(source)
        token = f"@@picture-{len(self._sources) - 1}@@"
        return Picture(token, width, height, alt, caption, tiny=max(width, height) <= TINY)

    def fill(self, page: str, limit: int = PAGE_BYTES) -> str:
        """Return the page with its pictures in it, at the best quality that fits `limit` bytes."""
        room = max(limit - len(page.encode()), 1)
        addresses: list[str] = []
        with ThreadPoolExecutor() as pool:  # decoders and encoders release the interpreter's lock
            images = list(pool.map(_loaded, self._sources))
            large = [image for image in images if max(image.size) > TINY]
            for level, (side, quality) in enumerate(LEVELS, 1):
                encode = partial(_address, side=side, quality=quality)
                # A few of them tell whether all of them can fit: most of the time goes here.
                some = large[::SAMPLED]
                expected = sum(map(len, pool.map(encode, some))) / max(len(some), 1) * len(large)
                if expected > SURELY * room and level < len(LEVELS):
                    continue
                addresses = list(pool.map(encode, images))
                if sum(map(len, addresses)) <= room:
                    break
        return re.sub(r"@@picture-(\d+)@@", lambda found: addresses[int(found[1])], page)


def _loaded(source: Path | NDArray[Any]) -> Image:
    """Return a picture without transparency, no larger than the first level shows it."""
    import PIL.Image

    if not isinstance(source, Path):
        return PIL.Image.fromarray(np.ascontiguousarray(source))
    with PIL.Image.open(source) as opened:
        image: Image = opened
        image.thumbnail((LEVELS[0][0],) * 2, reducing_gap=2.0)
        if not image.has_transparency_data:
            return image.convert("RGB")
        # Figures may be transparent, and are drawn for paper.
        layer = image.convert("RGBA")
        paper = PIL.Image.new("RGB", layer.size, "white")
        paper.paste(layer, mask=layer.getchannel("A"))
        return paper


def _address(image: Image, side: int, quality: int) -> str:
    tiny = max(image.size) <= TINY
    if max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side), reducing_gap=2.0)
    file = io.BytesIO()
    if tiny:
        image.save(file, "PNG", optimize=True)
        kind = "png"
    else:
        image.save(file, "WEBP", quality=quality, method=1)
        kind = "webp"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def grey_or_colour(values: NDArray[Any], value_max: float) -> NDArray[np.uint8]:
    """Return an image `(height, width, channels)` of raw values as uint8 for showing."""
    scaled: NDArray[np.uint8] = np.clip(
        np.asarray(values, np.float32) * (255 / value_max), 0, 255
    ).astype(np.uint8)
    return scaled[..., 0] if scaled.shape[-1] == 1 else scaled[..., :3]


def shown(values: NDArray[Any], value_max: float) -> NDArray[np.uint8]:
    """Return an example as one image: an image itself, or a volume's three middle slices.

    Args:
        values: `(height, width, channels)` or `(depth, height, width, channels)`, raw.
        value_max: Largest raw value.
    """
    if values.ndim == 3:
        return grey_or_colour(values, value_max)
    middles = [side // 2 for side in values.shape[:3]]
    slices = [values[middles[0]], values[:, middles[1]], values[:, :, middles[2]]]
    tall = max(part.shape[0] for part in slices)
    padded = [np.pad(p, ((0, tall - p.shape[0]), (0, 1), (0, 0))) for p in slices]
    return grey_or_colour(np.concatenate(padded, axis=1)[:, :-1], value_max)
