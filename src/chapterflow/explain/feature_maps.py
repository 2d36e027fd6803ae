"""Feature maps, kernels and the walk through a network: what its layers make of an input.

Zeiler & Fergus, "Visualizing and understanding convolutional networks", ECCV (2014).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.explain.canvas import GREY, Canvas, coloured, draw_input, draw_map, flattened
from chapterflow.explain.explanation import Picture
from chapterflow.explain.untrained import check_trained, is_convolution

if TYPE_CHECKING:
    import keras

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


#: Kernels drawn, and kernels a row.
MOST, COLUMNS = 32, 8
KERNEL_TILE, KERNEL_GAP, KERNEL_MARGIN, KERNEL_HEADING, KERNEL_LINE = 84, 12, 20, 76, 18


def first_kernels(model: keras.Model) -> tuple[str, NDArray[Any]] | None:
    """Return name and kernels `(*sides, channels in, filters)` of the first convolution.

    Returns:
        None where there is no convolution, or its kernels are not of this form (transposed,
        separable).
    """
    for layer in model.layers:
        if is_convolution(layer):
            kernel = getattr(layer, "kernel", None)
            plain = kernel is not None and type(layer).__name__ in ("Conv1D", "Conv2D", "Conv3D")
            return (layer.name, np.asarray(kernel)) if plain else None
    return None


def draw_kernels(name: str, kernels: NDArray[Any], title: str, path: Path) -> int:
    """Draw the kernels that have most weight: red positive, blue negative, white zero.

    Of three channels in, the kernels are shown in colour, as they tint their input (grey: zero);
    otherwise summed over the channels. Kernels of one axis are curves, those of three slices.

    Args:
        name: Of the layer.
        kernels: `(*sides, channels in, filters)`.
        title: Heading.
        path: Image to write.

    Returns:
        How many are drawn.
    """
    axes = kernels.ndim - 2
    norms = np.sqrt(np.sum(np.square(kernels), axis=tuple(range(kernels.ndim - 1))))
    shown = np.argsort(-norms, kind="stable")[:MOST]
    rows = -(-len(shown) // COLUMNS)
    width = 2 * KERNEL_MARGIN + COLUMNS * (KERNEL_TILE + KERNEL_GAP)
    canvas = Canvas(
        width, KERNEL_MARGIN + KERNEL_HEADING + rows * (KERNEL_TILE + KERNEL_LINE + KERNEL_GAP)
    )
    limit = float(np.abs(kernels).max())
    tinted = kernels.shape[-2] == 3 and axes == 2
    key = (
        "each as it tints its input, grey is zero"
        if tinted
        else "lines: the weights from first to last, one range for all"
        if axes == 1
        else "red positive, blue negative, white zero, one range for all"
    )
    left_out = f", the {len(shown)} with most weight" if len(shown) < len(norms) else ""
    canvas.text(KERNEL_MARGIN, KERNEL_MARGIN, title, size=12)
    canvas.text(
        KERNEL_MARGIN,
        KERNEL_MARGIN + 26,
        f"{name}: {len(norms)} kernels of {sides(kernels.shape[:-1])}{left_out}; "
        f"below each its number.\n{key[0].upper()}{key[1:]}.",
        color=GREY,
    )
    for place, number in enumerate(shown):
        x = KERNEL_MARGIN + (place % COLUMNS) * (KERNEL_TILE + KERNEL_GAP)
        y = (
            KERNEL_MARGIN
            + KERNEL_HEADING
            + (place // COLUMNS) * (KERNEL_TILE + KERNEL_LINE + KERNEL_GAP)
        )
        one = kernels[..., number]
        if tinted:
            top = float(np.abs(one).max()) or 1.0
            colours = np.asarray(np.round((one / top + 1) * 127.5), np.uint8)
            canvas.tile(x, y, KERNEL_TILE, KERNEL_TILE, colours)
        elif axes == 1:
            summed = one.sum(axis=-1)
            zero = np.zeros(len(summed))
            draw_map(canvas, (x, y, KERNEL_TILE, KERNEL_TILE), summed, (-limit, limit))
            canvas.curve(x, y, KERNEL_TILE, KERNEL_TILE, zero, (-limit, limit), "#b0b0b0")
        else:
            canvas.tile(
                x,
                y,
                KERNEL_TILE,
                KERNEL_TILE,
                flattened(coloured(one.sum(-1), -limit, limit, "bwr"), 120),
            )
            if axes == 2:
                canvas.frame(x, y, KERNEL_TILE, KERNEL_TILE, (200, 200, 200))
        canvas.text(
            x + KERNEL_TILE / 2, y + KERNEL_TILE + 3, str(number), size=8, ha="center", color=GREY
        )
    canvas.save(path)
    return len(shown)


def look_inside(
    model: keras.Model,
    inputs: NDArray[Any],
    names: Sequence[str],
    folder: Path,
    title: str,
    value_max: float,
    *,
    channels: bool = True,
) -> tuple[list[Picture], list[dict[str, Any]]]:
    """Draw the walk of the first input, each layer for all inputs, and the first kernels.

    Args:
        model: A trained model with convolutions.
        inputs: Raw values `(n, *spatial, channels)`.
        names: What each input is.
        folder: Where the PNGs go.
        title: What all headings begin with.
        value_max: Largest raw value.
        channels: Whether to draw a picture for each layer.

    Returns:
        The pictures, and of each layer its name, kind, output shape and the channels shown.

    Raises:
        Untrained: If its convolutions have the weights that they were built with.
    """
    maps = feature_maps(model, inputs)
    kinds = {layer.name: type(layer).__name__ for layer in mapped_layers(model)}
    steps = {name: step for step, name in enumerate(maps)}
    path = folder / "walk.png"
    draw_feature_maps(
        inputs[0],
        {name: found[0] for name, found in maps.items()},
        f"{title}: {names[0]} on its way through the layers",
        path,
        value_max=value_max,
        caption=names[0],
    )
    last = next(reversed(maps.values())).shape[1:]
    pictures = [
        Picture(
            key="walk",
            step=0,
            path=path,
            caption=f"One input, {names[0]}, through {len(maps)} convolutions and poolings, from "
            f"{sides(inputs.shape[1:])} to {sides(last)}: the maps that answer most.",
        )
    ]
    details: list[dict[str, Any]] = []
    drawn = spread([*maps]) if channels else []
    for name, found in maps.items():
        shape = sides(found.shape[1:])
        detail = {"name": name, "kind": kinds[name], "output_shape": list(found.shape[1:])}
        if name in drawn:
            path = folder / f"feature_maps_{steps[name]:02d}_{name}.png"
            shown = draw_layer(
                inputs,
                found,
                f"{title}: feature maps of {name} ({kinds[name]}, {shape})",
                path,
                value_max=value_max,
                captions=names,
            )
            detail["channels"] = shown
            pictures.append(
                Picture(
                    key="feature_maps",
                    step=steps[name],
                    path=path,
                    caption=f"Layer {name} ({kinds[name]}, {shape}): the channels "
                    f"{', '.join(map(str, shown))} for {len(inputs)} inputs.",
                )
            )
        details.append(detail)
    if channels and (found_kernels := first_kernels(model)):
        name, kernels = found_kernels
        path = folder / "kernels.png"
        count = draw_kernels(name, kernels, f"{title}: kernels of the first convolution", path)
        pictures.append(
            Picture(
                key="kernels",
                step=0,
                path=path,
                caption=f"{count} of {kernels.shape[-1]} kernels of {name}, each "
                f"{sides(kernels.shape[:-1])}.",
            )
        )
    return pictures, details
