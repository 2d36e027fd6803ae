"""What a page is made of: tables with formatted numbers, and pictures within a size limit."""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.errors import ChapterflowError
from chapterflow.explain.canvas import TILES
from chapterflow.language import tr
from chapterflow.tracking.artifacts import lost

if TYPE_CHECKING:
    from PIL.Image import Image

    from chapterflow.kinds.dataset import Dataset

#: Text of a cell without a number.
NONE = "—"


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: The text.
        sort: Key of the cell when its column is sorted; the text by default.
        href: Address of a link, on this page or relative to it.
        tone: `good`, `bad`, `dim` or empty: a colour that only repeats what the text says.
        share: From 0 to 1, the strength of the background.
        code: Whether the text is an id or a hash.
        title: The whole of a text that is shortened.
    """

    text: str
    sort: float | str | None = None
    href: str = ""
    tone: str = ""
    share: float | None = None
    code: bool = False
    title: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Attributes:
        caption: What the table shows.
        headings: One for each column, with the unit.
        rows: Cells of each row.
        numeric: Whether each column contains numbers.
        sortable: Whether readers can sort the rows.
        small: Whether the table is as narrow as its content.
    """

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numeric: Sequence[bool] = field(default_factory=tuple)
    sortable: bool = True
    small: bool = False

    def __post_init__(self) -> None:
        """Check that each row fits the headings.

        Raises:
            ChapterflowError: If a row has more or fewer cells.
        """
        for row in self.rows:
            if len(row) != len(self.headings):
                raise ChapterflowError(
                    f"A row of the table {self.caption!r} must have {len(self.headings)} cells. "
                    f"Received: {len(row)}"
                )

    def is_numeric(self, column: int) -> bool:
        """Return whether a column is aligned right."""
        return bool(self.numeric) and self.numeric[column]


def number(value: float | None, digits: int, *, sign: bool = False) -> Cell:
    """Return a number with a fixed count of decimals, or `NONE`."""
    if value is None:
        return Cell(NONE, float("inf"), tone="dim")
    return Cell(f"{value:{'+' if sign else ''},.{digits}f}", value)


def interval(low: float | None, high: float | None, digits: int, *, sign: bool = False) -> Cell:
    """Return an interval; it sorts by its lower end."""
    if low is None or high is None:
        return Cell(NONE, float("inf"), tone="dim")
    form = f"{'+' if sign else ''},.{digits}f"
    return Cell(between(f"{low:{form}}", f"{high:{form}}"), low)


def between(low: str, high: str) -> str:
    """Return the text of an interval."""
    return tr("{low} to {high}", low=low, high=high)


def times(ratio: float | None) -> Cell:
    """Return a factor: `1.50×`."""
    return Cell(NONE, float("inf"), tone="dim") if ratio is None else Cell(f"{ratio:.2f}×", ratio)


def answer_cell(name: str, *, right: bool) -> Cell:
    """Return an answer, marked as right or wrong."""
    return Cell(f"{name}\u00a0{'✓' if right else '✗'}", tone="good" if right else "bad")


def ratio(upper: float | None, lower: float | None) -> float | None:
    """Return a ratio, or None if it does not exist."""
    return upper / lower if upper is not None and lower else None


#: Longest side in pixels and WebP quality, tried in turn until all pictures fit.
LEVELS = ((1400, 80), (1000, 70), (720, 55), (480, 40))
#: One picture in so many is encoded first; a level fails if they exceed the space by this factor.
SAMPLED, TOO_LARGE = 8, 1.15
#: Largest size of a page with everything in it, in bytes.
PAGE_BYTES = 8_000_000
#: Pictures up to this side keep their pixels: smoothing would hide what a model saw.
TINY = 64


@dataclass(frozen=True)
class Picture:
    """A picture of the page.

    Attributes:
        src: Token that `Album.fill` replaces.
        ink: Token of the text of a picture whose `src` has its tiles alone, on transparent paper.
        width: Width of the original in pixels.
        height: Height of the original in pixels.
        alt: Description for people who do not see the picture.
        caption: Text below the picture; may be empty.
        tiny: Whether the picture is enlarged pixel by pixel.
    """

    src: str
    width: int
    height: int
    alt: str
    caption: str = ""
    tiny: bool = False
    ink: str = ""


class Album:
    """All pictures of a page."""

    def __init__(self) -> None:
        self._sources: list[_Source] = []
        self._tokens = 0

    def picture(self, source: Path | NDArray[Any], alt: str, caption: str = "") -> Picture:
        """Add a picture.

        Args:
            source: An image file, or uint8 `(height, width)` or `(height, width, 3)`.
            alt: Description for people who do not see the picture.
            caption: Text below the picture.
        """
        import PIL.Image

        layered = False
        if isinstance(source, Path):
            with _picture_errors(source), PIL.Image.open(source) as opened:
                width, height = opened.size  # only the header; `fill` reads the pixels
                layered = TILES in opened.info
        else:
            height, width = source.shape[:2]
        tiny = max(width, height) <= TINY
        self._sources.append(_Source(source, layered, tiny))
        token, ink = self._token(), self._token() if layered else ""
        return Picture(token, width, height, alt, caption, tiny, ink)

    def _token(self) -> str:
        self._tokens += 1
        return f"@@picture-{self._tokens - 1}@@"

    def fill(self, page: str, limit: int = PAGE_BYTES) -> str:
        """Return the page with its pictures, at the best quality that fits `limit` bytes."""
        space = max(limit - len(page.encode()), 1)
        addresses: list[str] = []
        # Decoders and encoders release the interpreter's lock. Each thread has one picture in
        # memory: all of them would take several hundred MB.
        with ThreadPoolExecutor(os.cpu_count()) as pool:

            def encoded(sources: Sequence[_Source], side: int, quality: int) -> list[str]:
                encode = partial(_addresses, side=side, quality=quality)
                return list(itertools.chain.from_iterable(pool.map(encode, sources)))

            large = [source for source in self._sources if not source.tiny]
            some = large[::SAMPLED]
            for number, level in enumerate(LEVELS, 1):
                # Encoding takes most of the time, so a sample decides whether the level can fit.
                sample = sum(map(len, encoded(some, *level)))
                if sample * len(large) > TOO_LARGE * space * len(some) and number < len(LEVELS):
                    continue
                addresses = encoded(self._sources, *level)
                if sum(map(len, addresses)) <= space:
                    break
        return re.sub(r"@@picture-(\d+)@@", lambda token: addresses[int(token[1])], page)


@dataclass(frozen=True)
class _Source:
    """Where a picture comes from.

    Attributes:
        pixels: An image file or an array.
        layered: Whether its text is apart from its tiles.
        tiny: Whether it is enlarged pixel by pixel.
    """

    pixels: Path | NDArray[Any]
    layered: bool
    tiny: bool


@contextmanager
def _picture_errors(source: Path) -> Iterator[None]:
    """Report a picture of a run that cannot be decoded."""
    try:
        yield
    except (OSError, ValueError, SyntaxError) as error:  # Pillow raises all of them
        run_id, *name = source.parts[-3:]  # a copy lies in a folder that is called as its run
        raise lost(run_id, "/".join(name), error) from None


def _addresses(source: _Source, side: int, quality: int) -> list[str]:
    """Return a picture as a `data:` address, or two: its tiles and the text around them."""
    import PIL.Image

    if not isinstance(source.pixels, Path):
        image = PIL.Image.fromarray(np.ascontiguousarray(source.pixels))
        return [_address(image, source.tiny, side, quality=quality)]
    with _picture_errors(source.pixels), PIL.Image.open(source.pixels) as opened:
        if source.layered:
            tiles, ink = _layers(opened.convert("RGB"), json.loads(opened.info[TILES]))
            return [
                _address(tiles, source.tiny, side, quality=quality),
                # Text on empty paper takes less time and space without loss.
                _address(ink, source.tiny, side, quality=0, lossless=True),
            ]
        if not opened.has_transparency_data:
            return [_address(opened.convert("RGB"), source.tiny, side, quality=quality)]
        # Transparent figures are drawn for white paper.
        figure = opened.convert("RGBA")
        paper = PIL.Image.new("RGB", figure.size, "white")
        paper.paste(figure, mask=figure.getchannel("A"))
        return [_address(paper, source.tiny, side, quality=quality)]


def _layers(image: Image, boxes: list[list[int]]) -> tuple[Image, Image]:
    """Return the tiles of a picture, and the text around them, on transparent paper."""
    import PIL.Image

    inside = PIL.Image.new("L", image.size)
    for left, top, width, height in boxes:
        inside.paste(255, (left, top, left + width, top + height))
    tiles = image.copy()
    tiles.putalpha(inside)
    pixels = np.asarray(image)
    # Text was drawn on white: what white paper leaves of a colour is its opacity. Not `min` over
    # the last axis, which takes ten times as long.
    opacity = 255 - np.minimum(np.minimum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])
    opacity[np.asarray(inside) > 0] = 0
    # Little of the picture: whole arrays of wide numbers take 100 MB each.
    drawn = np.flatnonzero(opacity)
    missing = 255 - pixels.reshape(-1, 3)[drawn].astype(np.uint16)
    alpha = opacity.reshape(-1)[drawn].astype(np.uint16)
    text = np.zeros((opacity.size, 4), np.uint8)
    text[drawn, :3] = 255 - missing * 255 // alpha[:, np.newaxis]
    text[drawn, 3] = alpha
    return tiles, PIL.Image.fromarray(text.reshape(*opacity.shape, 4))


def _address(image: Image, tiny: bool, side: int, **options: Any) -> str:
    """Return an image, no larger than `side`, as an address.

    Args:
        options: Of the WebP encoder.
    """
    file = io.BytesIO()
    if tiny:
        image.save(file, "PNG", optimize=True)
    else:
        image.thumbnail((side, side), reducing_gap=2.0)
        image.save(file, "WEBP", method=1, **options)
    form = "png" if tiny else "webp"
    return f"data:image/{form};base64,{base64.b64encode(file.getvalue()).decode()}"


def example_images(dataset: Dataset, positions: NDArray[np.intp]) -> list[NDArray[np.uint8]]:
    """Return examples of images, photos or volumes as images."""
    return [as_image(raw, dataset.card.value_max) for raw in dataset.inputs(np.asarray(positions))]


def as_image(values: NDArray[Any], value_max: float) -> NDArray[np.uint8]:
    """Return an example as an image: `(h, w)` or `(h, w, 3)`, of a volume three middle slices.

    Args:
        values: `(height, width, channels)` or `(depth, height, width, channels)`, raw.
        value_max: Largest raw value.
    """
    if values.ndim == 4:
        middles = [side // 2 for side in values.shape[:3]]
        slices = [values[middles[0]], values[:, middles[1]], values[:, :, middles[2]]]
        height = max(part.shape[0] for part in slices)
        padded = [np.pad(p, ((0, height - p.shape[0]), (0, 1), (0, 0))) for p in slices]
        values = np.concatenate(padded, axis=1)[:, :-1]
    scaled: NDArray[np.uint8] = np.clip(
        np.asarray(values, np.float32) * (255 / value_max), 0, 255
    ).astype(np.uint8)
    return scaled[..., 0] if scaled.shape[-1] == 1 else scaled[..., :3]
