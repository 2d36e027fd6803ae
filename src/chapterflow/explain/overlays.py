"""What is explained of an answer, and the picture of its attributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.errors import ConfigError, nearest
from chapterflow.explain.canvas import GREY, RED, Canvas, draw_input, draw_overlay
from chapterflow.explain.faithfulness import Faithfulness, is_classifier, probability
from chapterflow.explain.feature_maps import has_feature_maps, wrapped

if TYPE_CHECKING:
    import keras

from chapterflow.explain.attributions import METHODS, answers


def usable_methods(model: keras.Model) -> list[str]:
    """Return the methods that say something of a model.

    Grad-CAM needs convolutions, and an answer for the whole input: of a smoothed curve's sample,
    the mean over the positions of a map tells nothing.
    """
    cam = has_feature_maps(model) and is_classifier(model)
    return [name for name in METHODS if cam or name != "grad-cam"]


def answered(
    model: keras.Model, inputs: NDArray[Any], classes: Sequence[str]
) -> tuple[NDArray[np.intp], dict[str, Any]]:
    """Return what is explained of each input `(n,)`, and what the model says, as text and rows."""
    out = answers(model, inputs)
    if not is_classifier(model):
        targets = np.full(len(inputs), out.shape[1] // 2, np.intp)
        values = np.take_along_axis(out, targets[:, np.newaxis], axis=1)[:, 0]
        rows = [
            {"sample": int(one), "value": float(value)}
            for one, value in zip(targets, values, strict=True)
        ]
        return targets, {"text": [f"value {v:.3g}\nin the middle" for v in values], "rows": rows}
    said = out.argmax(axis=1)
    confidence = probability(out, said)
    names = [classes[int(one)] if classes else str(one) for one in said]
    return said, {
        "text": [f"model: {n}, {c:.2f}" for n, c in zip(names, confidence, strict=True)],
        "rows": [
            {"predicted": n, "confidence": float(c)} for n, c in zip(names, confidence, strict=True)
        ],
    }


def target_number(target: int | str, classes: Sequence[str], count: int) -> int:
    """Return the number of a class given by name or number.

    Raises:
        ConfigError: If there is no such class.
    """
    text = str(target)
    if text in classes:
        return list(classes).index(text)
    if text.isdecimal() and int(text) < count:
        return int(text)
    valid = classes or [f"0 to {count - 1}"]
    raise ConfigError(
        f"target must be one of the answers of the model.{nearest(text, valid)} "
        f"Received: {target!r}"
    )


def ranking(model: keras.Model, maps: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    """Return the maps as places are ranked: by what speaks for a class, or moves a value at all."""
    if is_classifier(model):
        return maps
    return {name: np.abs(one) for name, one in maps.items()}


TILE, GAP, NAMES, MARGIN, HEADING, COLUMN, LINE = 118, 40, 160, 20, 88, 52, 30
#: A curve is wider than high.
OVERLAY_WIDTH = 2.2


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
    tile = round(TILE * OVERLAY_WIDTH) if inputs.ndim == 3 else TILE
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
