"""Feature maps: what the convolutions and poolings of a trained network make of one example.

Zeiler & Fergus, "Visualizing and understanding convolutional networks", ECCV (2014).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.explain.trained import check_trained, is_convolution

if TYPE_CHECKING:
    import keras
    from matplotlib.axes import Axes

__all__ = ["check_trained", "draw_feature_maps", "feature_maps", "has_feature_maps"]

#: Maps drawn of each layer, and layers drawn of a deep network.
CHANNELS, LAYERS = 8, 12
COLOURS, GREY = "viridis", 0.85
# Inches: a map, the step from one to the next, the column of names, the height of a row.
TILE, STEP, NAMES, ROW = 1.0, 1.1, 1.55, 1.36
MARGIN, HEADING = 0.2, 0.8


def has_feature_maps(model: keras.Model) -> bool:
    """Return whether a model has 2D convolutions to look into."""
    return any(is_convolution(layer) for layer in model.layers)


def feature_maps(model: keras.Model, inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return what the 2D convolutions and poolings of a trained model answer.

    Args:
        model: A functional model; models nested in it are not entered.
        inputs: A batch of raw values `(batch, h, w, c)`.

    Returns:
        Maps `(batch, h', w', channels)` by name of the layer, from the input to the output.

    Raises:
        Untrained: If its convolutions have the weights that they were built with.
    """
    import keras

    check_trained(model)
    poolings = (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)
    shown = [one for one in model.layers if is_convolution(one) or isinstance(one, poolings)]
    inner = keras.Model(model.input, [layer.output for layer in shown])
    answers = inner(inputs, training=False)
    return {layer.name: np.asarray(maps) for layer, maps in zip(shown, answers, strict=True)}


def draw_feature_maps(
    image: NDArray[Any],
    maps: dict[str, NDArray[Any]],
    title: str,
    path: Path,
    *,
    value_max: float,
    caption: str = "input",
) -> None:
    """Draw an example, and for each layer a row of the maps that answer to it most.

    Each map has its own range of colours. Of a deep network, twelve layers are drawn, evenly
    spread from the first to the last.

    Args:
        image: Raw values `(h, w, c)` of one channel or three.
        maps: Maps `(h', w', channels)` of the example, by layer.
        title: Heading.
        path: Image to write.
        value_max: Largest raw value.
        caption: What the example is.
    """
    from matplotlib.figure import Figure

    chosen = _spread([*maps])
    left_out = f" {len(chosen)} of {len(maps)} layers." if len(chosen) < len(maps) else ""
    width = 2 * MARGIN + NAMES + CHANNELS * STEP
    height = 2 * MARGIN + HEADING + ROW * (1 + len(chosen))
    figure = Figure(figsize=(width, height))
    # One plane, measured in inches from the upper left: an axes for each map takes ten times as
    # long to draw.
    plane = figure.add_axes((0, 0, 1, 1))
    plane.set_axis_off()
    plane.text(MARGIN, MARGIN, title, fontsize=13, va="top")
    plane.text(
        *(MARGIN, MARGIN + 0.28),
        "One row a layer, the highest mean activation first; below each map the number of its "
        f"channel.\nEach map has its own scale; grey: the same everywhere.{left_out}",
        fontsize=9,
        va="top",
        color="dimgrey",
    )
    _legend(plane, width - MARGIN, MARGIN)
    top = MARGIN + HEADING
    _name(plane, top, caption, image.shape)
    shown = np.clip(image / value_max, 0, 1)
    _tile(plane, 0, top, shown[..., 0] if shown.shape[-1] == 1 else shown, "gray", (0, 1))
    for row, name in enumerate(chosen, start=1):
        top = MARGIN + HEADING + row * ROW
        _name(plane, top, name, maps[name].shape)
        for column, channel in enumerate(strongest(maps[name])):
            values = maps[name][..., channel]
            low, high = values.min(), values.max()
            if low < high:
                _tile(plane, column, top, values, COLOURS, (low, high))
            else:
                _tile(plane, column, top, np.full_like(values, GREY), "gray", (0, 1))
            plane.text(
                NAMES + MARGIN + column * STEP + TILE / 2,
                top + TILE + 0.04,
                str(channel),
                fontsize=8,
                ha="center",
                va="top",
                color="dimgrey",
            )
    plane.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    figure.savefig(path, dpi=110)


def strongest(maps: NDArray[Any]) -> NDArray[np.intp]:
    """Return the channels of maps `(h, w, channels)` with the highest mean, highest first."""
    return np.argsort(-maps.mean(axis=(0, 1)), kind="stable")[:CHANNELS]


def _spread(names: Sequence[str]) -> list[str]:
    places = np.linspace(0, len(names) - 1, min(LAYERS, len(names))).round().astype(int)
    return [names[place] for place in places]


def _name(plane: Axes, top: float, name: str, shape: Sequence[int]) -> None:
    """Write a layer's name and shape before its row, the name in as many lines as it takes."""
    import textwrap

    lines = textwrap.wrap(name.replace("_", "_ "), 17, break_long_words=True)
    name = "\n".join(line.replace("_ ", "_") for line in lines[:3])
    plane.text(*(MARGIN, top + TILE / 2 - 0.03), name, fontsize=10, va="bottom", weight="bold")
    plane.text(
        *(MARGIN, top + TILE / 2 + 0.03),
        " × ".join(map(str, shape)),
        fontsize=9,
        va="top",
        color="dimgrey",
    )


def _tile(
    plane: Axes, column: int, top: float, values: Any, colours: str, limits: tuple[Any, Any]
) -> None:
    """Draw a picture as large as its tile allows, its pixels square."""
    height, width = values.shape[:2]
    scale = TILE / max(height, width)
    left = MARGIN + NAMES + column * STEP + (TILE - scale * width) / 2
    upper = top + (TILE - scale * height) / 2
    plane.imshow(
        values,
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
        extent=(left, left + scale * width, upper + scale * height, upper),
        interpolation="nearest",
        aspect="auto",
    )


def _legend(plane: Axes, right: float, top: float) -> None:
    """Draw the scale of colours."""
    length = 1.2
    left = right - length - 0.35
    plane.imshow(
        np.linspace(0, 1, 64)[np.newaxis],
        cmap=COLOURS,
        extent=(left, left + length, top + 0.16, top),
        aspect="auto",
    )
    for x, text, side in ((left - 0.06, "low", "right"), (left + length + 0.06, "high", "left")):
        plane.text(x, top + 0.08, text, fontsize=9, va="center", ha=side, color="dimgrey")
