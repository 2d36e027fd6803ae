"""Matplotlib figures as SVG inside a page: its colours, its fonts, text kept as text."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from rich.cells import cell_len

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

#: Placeholders that become the page's variables, so figures follow light, dark and print mode.
INK, DIM, GRID, CARD = "#010101", "#020202", "#030303", "#040404"
SERIES = ("#050501", "#050502", "#050503", "#050504", "#050505")
VARIABLES = {
    INK: "var(--ink)",
    DIM: "var(--dim)",
    GRID: "var(--line)",
    CARD: "var(--card)",
    **{colour: f"var(--c{position})" for position, colour in enumerate(SERIES, 1)},
}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "chapterflow",
    # Names of models and classes may contain dollar signs.
    "text.parse_math": False,
    "font.size": 9.5,
    "axes.edgecolor": GRID,
    "axes.labelcolor": DIM,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": DIM,
    "ytick.labelcolor": DIM,
    "text.color": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "lines.linewidth": 1.6,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
}


@dataclass(frozen=True)
class Drawing:
    """A figure of the page.

    Attributes:
        svg: The markup of the figure.
        caption: Text below the figure.
    """

    svg: str
    caption: str


#: Width and height of most figures, in inches.
WIDTH, HEIGHT = 4.4, 3.1


class Pen:
    """Turns figures into drawings with ids that are unique on the page."""

    def __init__(self) -> None:
        self._count = 0

    def drawing(self, figure: Figure, alt: str, caption: str) -> Drawing:
        """Return a figure as markup for the page.

        Args:
            figure: A figure made within `STYLE`.
            alt: Description for people who do not see the figure.
            caption: Text below the figure.
        """
        self._count += 1
        name = f"g{self._count}"
        file = io.StringIO()
        with warnings.catch_warnings():
            # Browsers have letters that matplotlib's font lacks.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        text = file.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(
            r"<metadata>.*?</metadata>|<!--.*?-->|<title>.*?</title>", "", text, flags=re.S
        )
        # matplotlib uses the same ids in each figure.
        references = set(re.findall(r'(?:xlink:)?href="#([^"]+)"|url\(#([^)]+)\)', text))
        needed = {link or url for link, url in references}
        text = re.sub(
            r' id="([^"]+)"',
            lambda match: f' id="{name}-{match[1]}"' if match[1] in needed else "",
            text,
        )
        text = re.sub(r'xlink:href="#', f'href="#{name}-', text)
        text = re.sub(r"url\(#", f"url(#{name}-", text)
        for colour, variable in VARIABLES.items():
            text = text.replace(colour, variable)
        text = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", text)
        text = re.sub(r">\s+<", "><", text)
        head = re.match(r"<svg[^>]*>", text)
        view = re.search(r'viewBox="([^"]+)"', text)
        if head is None or view is None:
            raise ValueError("matplotlib wrote no SVG")
        width = float(view[1].split()[2])
        tag = (
            f'<svg viewBox="{view[1]}" role="img" aria-label="{escape(alt, quote=True)}" '
            f'style="max-width:{width * 1.6:.0f}px">'
        )
        return Drawing(tag + text[head.end() :].strip(), caption)


def figure(width: float, height: float, *, left: float = 0.62, top: float = 0.12) -> Figure:
    """Return an empty figure with margins; use it within `STYLE`.

    The margins are fixed, because computing them takes matplotlib longer than drawing.

    Args:
        width: Width in inches; the page enlarges figures if there is space.
        height: Height in inches.
        left: Margin for the labels of the vertical axis, in inches.
        top: Margin at the top, in inches.
    """
    from matplotlib.figure import Figure

    empty = Figure(figsize=(width, height))
    empty.subplots_adjust(
        left=left / width, right=1 - 0.14 / width, bottom=0.5 / height, top=1 - top / height
    )
    return empty


def label_margin(labels: Sequence[str]) -> float:
    """Return the inches that labels of a vertical axis need."""
    return 0.15 + 0.086 * max(map(cell_len, labels), default=0)


def plain_ticks(axis: Axis, low: float, high: float) -> None:
    """Label a log axis 0.5, 1, 2 or 10k, not with powers of ten, with at least two ticks."""
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

    if high / low < 6:
        axis.set_major_locator(MaxNLocator(5))
    else:
        subs = (1, 2, 5) if high / low < 30 else (1, 3) if high / low < 1000 else (1,)
        axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(EngFormatter(sep="") if high >= 2000 else "{x:g}")
    axis.set_minor_locator(NullLocator())
