"""The picture of attributions: each probe, and over it what speaks for the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from chapterflow.explain.canvas import GREY, RED, Canvas
from chapterflow.explain.faithfulness import Faithfulness
from chapterflow.explain.feature_maps import wrapped
from chapterflow.explain.tiles import draw_input, draw_overlay

TILE, GAP, NAMES, MARGIN, HEADING, COLUMN, LINE = 118, 40, 160, 20, 88, 52, 30
#: A curve is wider than high.
WIDE = 2.2


def draw_attributions(
    inputs: NDArray[Any],
    maps: Mapping[str, NDArray[Any]],
    title: str,
    path: Path,
    *,
    value_max: float,
    captions: Sequence[str],
    faithful: Mapping[str, Faithfulness] | None = None,
    doubts: Mapping[str, Sequence[str]] | None = None,
    marks: NDArray[Any] | None = None,
) -> None:
    """Draw a row for each input: itself, then the map of each method over it.

    A map that does not beat random orders says so below itself; a method that does not, below its
    name.

    Args:
        inputs: Raw values `(n, *spatial, channels)`.
        maps: Maps `(n, *spatial)` by method.
        title: Heading.
        path: Image to write.
        value_max: Largest raw value.
        captions: What each input is and what the model says; lines are kept.
        faithful: How the maps of the first inputs fare, by method.
        doubts: What speaks against each method.
        marks: Of curves, the position of the sample that is explained, `(n,)`.
    """
    tile = round(TILE * WIDE) if inputs.ndim == 3 else TILE
    width = max(820, 2 * MARGIN + NAMES + (1 + len(maps)) * (tile + GAP))
    top = MARGIN + HEADING + COLUMN
    row = TILE + LINE + 12
    canvas = Canvas(width, top + row * len(inputs) + 6)
    slices = "\nVolumes are shown as slices, front to back." if inputs.ndim == 5 else ""
    what = "the value at the dotted line" if marks is not None else "the class named at the left"
    canvas.text(MARGIN, MARGIN, title, size=12)
    canvas.text(
        MARGIN,
        MARGIN + 26,
        f"Red raises {what}, blue lowers it; each map has its own scale.\n"
        "del: area under the score while the places marked most go first (low is good); "
        "ins: while they come first (high is good)." + slices,
        color=GREY,
    )
    for column, name in enumerate(["input", *maps]):
        x = MARGIN + NAMES + column * (tile + GAP)
        canvas.text(x + tile / 2, top - COLUMN + 2, name, size=10, ha="center", weight="bold")
        said = "\n".join((doubts or {}).get(name, ()))
        if said:
            canvas.text(x + tile / 2, top - COLUMN + 19, said, size=7.5, ha="center", color=RED)
    for number, values in enumerate(inputs):
        y = top + number * row
        lines = [wrapped(line, 20, 2) for line in captions[number].split("\n")]
        canvas.text(MARGIN, y + TILE / 2, "\n".join(lines), va="center")
        draw_input(canvas, (MARGIN + NAMES, y, tile, TILE), values, value_max)
        for column, (name, found) in enumerate(maps.items(), start=1):
            x = MARGIN + NAMES + column * (tile + GAP)
            draw_overlay(canvas, (x, y, tile, TILE), values, found[number], value_max)
            if marks is not None:
                at = x + (marks[number] + 0.5) * tile / len(values)
                canvas.line(at, y, at, y + TILE, linestyle=":")
            if faithful and number < len(faithful[name].deletion):
                text, colour = score_text(faithful[name], number)
                canvas.text(x + tile / 2, y + TILE + 3, text, size=8, ha="center", color=colour)
    canvas.save(path)


def score_text(found: Faithfulness, number: int) -> tuple[str, str]:
    """Return the scores of one map for its tile, and their colour: red where it is no better."""
    text = f"del {found.deletion[number]:.2f}  ins {found.insertion[number]:.2f}"
    if found.each_beats_random[number]:
        return text, GREY
    return f"{text}\nno better than random", RED
