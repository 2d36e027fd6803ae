"""Feature maps: what the convolutions and poolings of a trained network make of its inputs.

Zeiler & Fergus, "Visualizing and understanding convolutional networks", ECCV (2014).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.explain.canvas import GREY, Canvas
from chapterflow.explain.tiles import draw_input, draw_map
from chapterflow.explain.trained import check_trained, is_convolution

if TYPE_CHECKING:
    import keras

__all__ = ["check_trained", "draw_feature_maps", "draw_layer", "feature_maps", "has_feature_maps"]

#: Maps drawn of each layer, and layers drawn of a deep network.
CHANNELS, LAYERS = 8, 12
# Pixels: a map, the gap to the next, the column of names, the heading, the line of numbers.
TILE, GAP, NAMES, MARGIN, HEADING, LINE = 92, 10, 170, 20, 88, 20
#: An example of one axis is wider than high.
WIDE = 1.4


def has_feature_maps(model: keras.Model) -> bool:
    """Return whether a model has convolutions to look into."""
    return any(is_convolution(layer) for layer in model.layers)


def mapped_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the convolutions and poolings of a model, from the input to the output."""
    import keras

    poolings = tuple(
        getattr(keras.layers, f"{sort}Pooling{axes}D")
        for sort in ("Max", "Average")
        for axes in "123"
    )
    return [one for one in model.layers if is_convolution(one) or isinstance(one, poolings)]


def feature_maps(model: keras.Model, inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return what the convolutions and poolings of a trained model answer.

    Args:
        model: A functional model; models nested in it are not entered.
        inputs: A batch of raw values `(batch, *spatial, c)`.

    Returns:
        Maps `(batch, *spatial', channels)` by name of the layer, from the input to the output.

    Raises:
        Untrained: If its convolutions have the weights that they were built with.
    """
    import keras

    check_trained(model)
    # By name: of a list of one, Keras answers what is in it.
    inner = keras.Model(model.input, {one.name: one.output for one in mapped_layers(model)})
    answers = inner(inputs, training=False)
    return {layer.name: np.asarray(answers[layer.name]) for layer in mapped_layers(model)}


def draw_feature_maps(
    image: NDArray[Any],
    maps: dict[str, NDArray[Any]],
    title: str,
    path: Path,
    *,
    value_max: float,
    caption: str = "input",
) -> None:
    """Draw the walk of one example: for each layer the mean map, and the maps that answer most.

    Each map has its own range of colours. Of a deep network, twelve layers are drawn, evenly
    spread from the first to the last.

    Args:
        image: Raw values `(*spatial, c)` of one channel or three.
        maps: Maps `(*spatial', channels)` of the example, by layer.
        title: Heading.
        path: Image to write.
        value_max: Largest raw value.
        caption: What the example is.
    """
    chosen = spread([*maps])
    tile = _tile(image.ndim)
    row = TILE + LINE + GAP
    columns = 1 + max(min(CHANNELS, maps[name].shape[-1]) for name in chosen)
    width = max(760, 2 * MARGIN + NAMES + columns * (tile + GAP) + GAP)
    canvas = Canvas(width, MARGIN + HEADING + row * (1 + len(chosen)))
    left_out = f" {len(chosen)} of {len(maps)} layers." if len(chosen) < len(maps) else ""
    _heading(
        canvas,
        title,
        "One row a layer: the mean of all channels, then the channels with the highest mean "
        f"activation, numbers below.\n{_scale(image.ndim)}{left_out}",
        image.ndim,
    )
    top = MARGIN + HEADING
    name_row(canvas, top, caption, [sides(image.shape)])
    draw_input(canvas, (MARGIN + NAMES, top, tile, TILE), image, value_max)
    size = int(np.prod(image.shape[:-1]))
    for number, name in enumerate(chosen, start=1):
        top = MARGIN + HEADING + number * row
        values = maps[name]
        left = int(np.prod(values.shape[:-1]))
        name_row(
            canvas,
            top,
            name,
            [
                sides(values.shape),
                f"{left / size:{'.0%' if left > 0.02 * size else '.1%'}} of the positions"
                if left <= size
                else "enlarged",
                f"{np.mean(values == 0):.0%} zeros",
            ],
        )
        shown = [("mean", values.mean(axis=-1))]
        shown += [(str(channel), values[..., channel]) for channel in strongest(values)]
        for column, (text, one) in enumerate(shown):
            x = MARGIN + NAMES + column * (tile + GAP) + (GAP if column else 0)
            draw_map(canvas, (x, top, tile, TILE), one, (float(one.min()), float(one.max())))
            canvas.text(x + tile / 2, top + TILE + 3, text, size=8, ha="center", color=GREY)
    canvas.save(path)


def draw_layer(
    inputs: NDArray[Any],
    maps: NDArray[Any],
    title: str,
    path: Path,
    *,
    value_max: float,
    captions: Sequence[str],
) -> list[int]:
    """Draw what one layer makes of several inputs: a row an input, a column a channel.

    The colours of a column have one range, so that its rows can be compared: a channel that looks
    for something shows on which inputs it finds it.

    Args:
        inputs: Raw values `(n, *spatial, c)`.
        maps: Maps `(n, *spatial', channels)`.
        title: Heading.
        path: Image to write.
        value_max: Largest raw value.
        captions: What each input is.

    Returns:
        The channels shown, the highest mean activation over the inputs first.
    """
    channels = strongest(maps)
    tile = _tile(inputs.ndim - 1)
    left = MARGIN + 108
    width = max(760, left + (1 + len(channels)) * (tile + GAP) + GAP + MARGIN)
    top = MARGIN + HEADING + LINE
    row = TILE + GAP
    canvas = Canvas(width, top + row * len(inputs) + MARGIN)
    _heading(
        canvas,
        title,
        "One row an input, one column a channel, the highest mean activation first.\n"
        f"{_scale(inputs.ndim - 1, 'column')}",
        inputs.ndim - 1,
    )
    ranges = [
        (float(maps[..., channel].min()), float(maps[..., channel].max())) for channel in channels
    ]
    for column, text in enumerate(["input", *map(str, channels)]):
        x = left + column * (tile + GAP) + (GAP if column else 0)
        canvas.text(x + tile / 2, top - 4, text, size=8, ha="center", va="bottom", color=GREY)
    for number, caption in enumerate(captions):
        y = top + number * row
        canvas.text(MARGIN, y + TILE / 2, wrapped(caption, 14), va="center", weight="bold")
        draw_input(canvas, (left, y, tile, TILE), inputs[number], value_max)
        for column, channel in enumerate(channels, start=1):
            box = (left + column * (tile + GAP) + GAP, y, tile, TILE)
            draw_map(canvas, box, maps[number, ..., channel], ranges[column - 1])
    canvas.save(path)
    return [int(channel) for channel in channels]


def strongest(maps: NDArray[Any]) -> NDArray[np.intp]:
    """Return the channels of maps `(..., channels)` with the highest mean, highest first."""
    means = maps.mean(axis=tuple(range(maps.ndim - 1)))
    return np.argsort(-means, kind="stable")[:CHANNELS]


def spread(names: Sequence[str], most: int = LAYERS) -> list[str]:
    """Return at most so many of the names, evenly spread from the first to the last."""
    places = np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int)
    return [names[place] for place in places]


def sides(shape: Sequence[int]) -> str:
    """Return a shape for people."""
    return " × ".join(map(str, shape))


def wrapped(name: str, width: int, lines: int = 3) -> str:
    """Return a name in at most so many lines, broken behind its underscores."""
    import textwrap

    parts = textwrap.wrap(name.replace("_", "_ "), width, break_long_words=True)
    return "\n".join(line.replace("_ ", "_") for line in parts[:lines])


def name_row(canvas: Canvas, top: int, name: str, facts: Sequence[str]) -> None:
    """Write a layer's name and what there is to say of it before its row."""
    middle = top + TILE / 2
    text = wrapped(name, 19)
    middle += 7 * (text.count("\n") - len(facts) + 1)
    canvas.text(MARGIN, middle - 2, text, size=10, va="bottom", weight="bold")
    canvas.text(MARGIN, middle + 2, "\n".join(facts), size=8.5, color=GREY)


def _tile(axes: int) -> int:
    """Return the width of a tile for an input of so many axes, the channels among them."""
    return round(TILE * WIDE) if axes == 2 else TILE


def _scale(axes: int, of: str = "map") -> str:
    what = "range" if axes == 2 else "scale, dark low, bright high"
    return f"Each {of} has its own {what}; grey: the same everywhere."


def _heading(canvas: Canvas, title: str, text: str, axes: int) -> None:
    slices = "\nVolumes are shown as slices, front to back." if axes == 4 else ""
    canvas.text(MARGIN, MARGIN, title, size=12)
    canvas.text(MARGIN, MARGIN + 26, text + slices, color=GREY)
