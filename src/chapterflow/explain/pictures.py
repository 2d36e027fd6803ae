"""The pictures of an explanation: layers, kernels, attributions, reactions and graphs as PNG."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len, set_cell_size

from chapterflow.explain.canvas import (
    GREY,
    MARGIN,
    RED,
    Canvas,
    Grid,
    coloured,
    draw_input,
    draw_map,
    draw_overlay,
    flattened,
)
from chapterflow.explain.explanation import Picture
from chapterflow.explain.feature_maps import feature_maps, first_kernels, mapped_layers, strongest
from chapterflow.explain.outputs import EACH, Reactions
from chapterflow.language import message

if TYPE_CHECKING:
    import keras

    from chapterflow.explain.faithfulness import Faithfulness
    from chapterflow.explain.nodes import NodeProbe
    from chapterflow.kinds.dataset import Dataset

#: Captions.
WALK = message(
    "One input, {name}, through {layers} convolution and pooling layers, from {first} to {last}: "
    "the channels with the highest activation."
)
WALK_UNNAMED = message(
    "One input through {layers} convolution and pooling layers, from {first} to {last}: the "
    "channels with the highest activation."
)
MAPS_OF = message("Layer {name} ({kind}, {shape}): the channels {channels} for {inputs} inputs.")
KERNELS_OF = message("{count} of {of} kernels of {name}, each {shape}.")
#: Layers drawn of a deep network.
LAYERS = 12
#: Width over height of a curve, in pictures of layers and of attributions.
CURVE_ASPECT, OVERLAY_ASPECT = 1.4, 2.2
#: Kernels drawn, and kernels in a row.
KERNELS, KERNEL_COLUMNS = 32, 8
#: Classes drawn, and headings of the columns of `draw_reactions`.
CLASSES = 10
REACTIONS = {"surest": "surest, and right", "doubtful": "least sure", "wrong": "wrong, and sure"}
#: Nodes are numbered in graphs of at most this size.
NUMBERED = 40
#: Pixels of a warning of two lines.
WARNING = 44
SLICES_NOTE = "\nVolumes are shown as slices, front to back."


def draw_layers(
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
        model: A trained model with convolution layers.
        inputs: Raw values `(n, *spatial, channels)`.
        names: Name of each input.
        folder: Folder of the PNGs.
        title: First words of all headings.
        value_max: Largest raw value.
        channels: Whether to draw a picture for each layer, and the kernels.

    Returns:
        The pictures, and for each layer its name, class, output shape and the channels drawn.

    Raises:
        Untrained: If a convolution layer has its initial weights.
    """
    maps = feature_maps(model, inputs)
    layer_classes = {layer.name: type(layer).__name__ for layer in mapped_layers(model)}
    path = folder / "walk.png"
    draw_walk(
        inputs[0],
        {name: values[0] for name, values in maps.items()},
        f"{title}: {names[0]} through the layers",
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
            caption=(WALK if channels else WALK_UNNAMED).format(
                name=names[0], layers=len(maps), first=sides(inputs.shape[1:]), last=sides(last)
            ),
        )
    ]
    details: list[dict[str, Any]] = []
    drawn = spread([*maps]) if channels else []
    for step, (name, values) in enumerate(maps.items()):
        shape, layer_class = sides(values.shape[1:]), layer_classes[name]
        detail = {"name": name, "kind": layer_class, "output_shape": list(values.shape[1:])}
        if name in drawn:
            path = folder / f"feature_maps_{step:02d}_{name}.png"
            numbers = draw_layer(
                inputs,
                values,
                f"{title}: feature maps of {name} ({layer_class}, {shape})",
                path,
                value_max=value_max,
                captions=names,
            )
            detail["channels"] = numbers
            pictures.append(
                Picture(
                    key="feature_maps",
                    step=step,
                    path=path,
                    caption=MAPS_OF.format(
                        name=name,
                        kind=layer_class,
                        shape=shape,
                        channels=", ".join(map(str, numbers)),
                        inputs=len(inputs),
                    ),
                )
            )
        details.append(detail)
    if channels and (first := first_kernels(model)):
        name, kernels = first
        path = folder / "kernels.png"
        count = draw_kernels(name, kernels, f"{title}: kernels of the first convolution", path)
        pictures.append(
            Picture(
                key="kernels",
                step=0,
                path=path,
                caption=KERNELS_OF.format(
                    count=count,
                    of=kernels.shape[-1],
                    name=name,
                    shape=sides(kernels.shape[:-1]),
                ),
            )
        )
    return pictures, details


def draw_walk(
    image: NDArray[Any],
    maps: Mapping[str, NDArray[Any]],
    title: str,
    path: Path,
    *,
    value_max: float,
    caption: str = "input",
) -> None:
    """Draw one example in each layer: the mean map and the strongest channels.

    Each map has its own range of colours. Of a deep network, twelve layers are drawn, evenly
    spread from the first to the last.

    Args:
        image: Raw values `(*spatial, c)` of one channel or three.
        maps: Maps `(*spatial', channels)` of the example, by layer.
        title: Heading.
        path: PNG to write.
        value_max: Largest raw value.
        caption: Name of the example.
    """
    layers = spread([*maps])
    channels = {name: strongest(maps[name]) for name in layers}
    grid = Grid(
        MARGIN + 170, 108, _width(92, image.ndim), 92, gap=10, row_gap=30,
        breaks=(1,), break_width=10,
    )  # fmt: skip
    canvas = grid.canvas(1 + len(layers), 1 + max(map(len, channels.values())), least=760)
    left_out = f" {len(layers)} of {len(maps)} layers." if len(layers) < len(maps) else ""
    canvas.heading(
        title,
        "One row per layer: the mean of all channels, then the channels with the highest mean "
        f"activation and their numbers.\n{_scale(image.ndim)}{left_out}"
        + (SLICES_NOTE if image.ndim == 4 else ""),
    )
    _row_name(canvas, grid, 0, caption, [sides(image.shape)])
    draw_input(canvas, grid.box(0, 0), image, value_max)
    positions = int(np.prod(image.shape[:-1]))
    for row, name in enumerate(layers, start=1):
        values = maps[name]
        share = int(np.prod(values.shape[:-1])) / positions
        size = f"{share:{'.0%' if share > 0.02 else '.1%'}} of the positions"
        facts = [
            sides(values.shape),
            size if share <= 1 else "enlarged",
            f"{np.mean(values == 0):.0%} zeros",
        ]
        _row_name(canvas, grid, row, name, facts)
        columns = [("mean", values.mean(axis=-1))]
        columns += [(str(channel), values[..., channel]) for channel in channels[name]]
        for column, (text, channel_map) in enumerate(columns):
            box = grid.box(row, column)
            limits = float(channel_map.min()), float(channel_map.max())
            draw_map(canvas, box, channel_map, limits)
            canvas.caption(box, text)
    canvas.save(path)


def draw_examples(dataset: Dataset, positions: Sequence[int], path: Path) -> None:
    """Draw examples of a dataset in rows, each with its class, or else its position.

    Args:
        dataset: Of pictures, volumes or curves.
        positions: Positions of the examples.
        path: PNG to write.
    """
    card = dataset.card
    axes = len(card.shape) - 1
    grid = Grid(MARGIN, MARGIN, _width(92, axes), 92, gap=10, row_gap=30)
    columns = min(len(positions), 10 if axes > 1 else 5)
    canvas = grid.canvas(-(-len(positions) // columns), columns)
    for place, position in enumerate(positions):
        box = grid.box(*divmod(place, columns))
        (values,) = np.asarray(dataset.inputs(np.array([position])), np.float32)
        draw_input(canvas, box, values, card.value_max)
        name = card.classes[int(dataset.labels[position])] if card.classes else f"curve {position}"
        canvas.caption(box, name)
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
    """Draw one layer's maps of several inputs: a row an input, a column a channel.

    The colours of a column have one range, so its rows can be compared: a channel that looks for
    something shows in which inputs it finds it.

    Args:
        inputs: Raw values `(n, *spatial, c)`.
        maps: Maps `(n, *spatial', channels)`.
        title: Heading.
        path: PNG to write.
        value_max: Largest raw value.
        captions: Name of each input.

    Returns:
        The channels drawn, the highest mean activation over the inputs first.
    """
    axes = inputs.ndim - 1
    channels = [int(channel) for channel in strongest(maps)]
    grid = Grid(
        MARGIN + 108, 128, _width(92, axes), 92, gap=10, row_gap=10, breaks=(1,), break_width=10
    )
    canvas = grid.canvas(len(inputs), 1 + len(channels), least=760, bottom=MARGIN)
    canvas.heading(
        title,
        "One row per input, one column per channel, the highest mean activation first.\n"
        + _scale(axes, "column")
        + (SLICES_NOTE if axes == 4 else ""),
    )
    for column, text in enumerate(["input", *map(str, channels)]):
        left, top, width, _ = grid.box(0, column)
        canvas.text(left + width / 2, top - 4, text, size=8, ha="center", va="bottom", color=GREY)
    for row, caption in enumerate(captions):
        middle = grid.box(row, 0)[1] + grid.height / 2
        canvas.text(MARGIN, middle, wrapped(caption, 14), va="center", weight="bold")
        draw_input(canvas, grid.box(row, 0), inputs[row], value_max)
        for column, channel in enumerate(channels, start=1):
            values = maps[..., channel]
            limits = float(values.min()), float(values.max())
            draw_map(canvas, grid.box(row, column), values[row], limits)
    canvas.save(path)
    return channels


def draw_kernels(name: str, kernels: NDArray[Any], title: str, path: Path) -> int:
    """Draw the kernels with the largest norms: red positive, blue negative, white zero.

    Kernels of three input channels are drawn in colour, as they tint their input (grey: zero);
    others are summed over the input channels. Kernels of one axis are curves, of three slices.

    Args:
        name: Name of the layer.
        kernels: `(*sides, channels in, filters)`.
        title: Heading.
        path: PNG to write.

    Returns:
        How many are drawn.
    """
    axes = kernels.ndim - 2
    norms = np.sqrt(np.sum(np.square(kernels), axis=tuple(range(kernels.ndim - 1))))
    drawn = np.argsort(-norms, kind="stable")[:KERNELS]
    grid = Grid(MARGIN, 96, 84, 84, gap=12, row_gap=30)
    canvas = grid.canvas(-(-len(drawn) // KERNEL_COLUMNS), KERNEL_COLUMNS)
    limit = float(np.abs(kernels).max())
    limits = (-limit, limit)
    tinted = kernels.shape[-2] == 3 and axes == 2
    key = (
        "Each kernel as it tints its input; grey is zero."
        if tinted
        else "Lines: the weights from first to last; one range for all."
        if axes == 1
        else "Red positive, blue negative, white zero; one range for all."
    )
    left_out = f", the {len(drawn)} largest shown" if len(drawn) < len(norms) else ""
    canvas.heading(
        title,
        f"{name}: {len(norms)} kernels of {sides(kernels.shape[:-1])}{left_out}, "
        f"with their numbers.\n{key}",
    )
    for place, number in enumerate(drawn):
        box = grid.box(*divmod(place, KERNEL_COLUMNS))
        kernel = kernels[..., number]
        if tinted:
            largest = float(np.abs(kernel).max()) or 1.0
            canvas.tile(box, np.asarray(np.round((kernel / largest + 1) * 127.5), np.uint8))
        elif axes == 1:
            weights = kernel.sum(axis=-1)
            draw_map(canvas, box, weights, limits)
            canvas.curve(box, np.zeros(len(weights)), limits, "#b0b0b0")
        else:
            canvas.tile(box, flattened(coloured(kernel.sum(axis=-1), *limits, "bwr"), 120))
            if axes == 2:
                canvas.frame(box, (200, 200, 200))
        canvas.caption(box, str(number))
    canvas.save(path)
    return len(drawn)


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
    targets: NDArray[Any] | None = None,
    warning: str = "",
) -> None:
    """Draw a row for each input: the input, then the map of each method over it.

    Below a map that is no better than random orders, a red note says so; below the name of a
    method, its doubts.

    Args:
        inputs: Raw values `(n, *spatial, channels)`.
        maps: Maps `(n, *spatial)` by method.
        title: Heading.
        path: PNG to write.
        value_max: Largest raw value.
        captions: Name of each input and what the model outputs; line breaks are kept.
        faithful: Deletion and insertion of the first inputs, by method.
        doubts: Reasons not to believe each method.
        targets: For curves, the position of the sample that is explained, `(n,)`.
        warning: A sentence in red below the heading.
    """
    curves = inputs.ndim == 3
    grid = Grid(
        MARGIN + 160, 160 + (WARNING if warning else 0),
        round(118 * OVERLAY_ASPECT) if curves else 118, 118, gap=40, row_gap=42,
    )  # fmt: skip
    canvas = grid.canvas(len(inputs), 1 + len(maps), least=850, bottom=6)
    what = "the score of the class" if targets is None else "the value at the dotted line"
    canvas.heading(
        title,
        f"Red raises {what}, blue lowers it; each map has its own scale.\n"
        "del: area under the score while the strongest places are removed first (low is good); "
        "ins: while they are added first (high is good)."
        + (SLICES_NOTE if inputs.ndim == 5 else ""),
    )
    if warning:
        text = wrapped(warning, canvas.pixels.shape[1] // 7, 2)
        canvas.text(MARGIN, grid.top - 50 - WARNING, text, color=RED)
    for column, name in enumerate(["input", *maps]):
        left, top, width, _ = grid.box(0, column)
        canvas.text(left + width / 2, top - 50, name, size=10, ha="center", weight="bold")
        text = "\n".join((doubts or {}).get(name, ()))
        canvas.text(left + width / 2, top - 33, text, size=7.5, ha="center", color=RED)
    for row, values in enumerate(inputs):
        box = grid.box(row, 0)
        lines = [wrapped(line, 20, 2) for line in captions[row].split("\n")]
        canvas.text(MARGIN, box[1] + grid.height / 2, "\n".join(lines), va="center")
        draw_input(canvas, box, values, value_max)
        for column, (name, attribution) in enumerate(maps.items(), start=1):
            box = grid.box(row, column)
            draw_overlay(canvas, box, values, attribution[row], value_max)
            if targets is not None:
                x = box[0] + (targets[row] + 0.5) * grid.width / len(values)
                canvas.line(x, box[1], x, box[1] + grid.height, linestyle=":")
            if faithful and row < len(faithful[name].deletion):
                scores, colour = _scores(faithful[name], row)
                canvas.caption(box, scores, color=colour)
    canvas.save(path)


def draw_reactions(
    dataset: Dataset,
    examples: Reactions,
    probabilities: NDArray[Any],
    title: str,
    path: Path,
) -> None:
    """Draw a row for each class (ten at most): the three sorts of test examples side by side.

    Below each example are the class that the model predicts and its probability, red if wrong.

    Args:
        dataset: The dataset; positions count its test split.
        examples: What `reactions` returned.
        probabilities: Of the test split, `(n, classes)`.
        title: Heading.
        path: PNG to write.
    """
    test, classes = dataset.indices("test"), dataset.card.classes
    rows = list(examples.items())[:CLASSES]
    columns = EACH * len(REACTIONS)
    grid = Grid(
        MARGIN + 96, 104, 68, 68, gap=8, row_gap=26,
        breaks=tuple(range(EACH, columns, EACH)), break_width=26,
    )  # fmt: skip
    canvas = grid.canvas(len(rows), columns, bottom=6)
    canvas.heading(
        title,
        f"{len(test):,} test examples, one row per class. Below each example: the model's answer "
        "and its confidence, red if it is wrong.",
    )
    for block, text in enumerate(REACTIONS.values()):
        left, top, _, _ = grid.box(0, block * EACH)
        canvas.text(left, top - 22, text, weight="bold")
    needed = np.unique([place for _, sorts in rows for own in sorts.values() for place in own])
    needed = needed.astype(int)
    inputs = dict(zip(needed.tolist(), dataset.inputs(test[needed]), strict=True))
    for row, (number, sorts) in enumerate(rows):
        middle = grid.box(row, 0)[1] + grid.height / 2
        name = wrapped(classes[int(number)], 12)
        canvas.text(MARGIN, middle, name, size=10, va="center", weight="bold")
        for block, sort in enumerate(REACTIONS):
            if not sorts[sort]:
                canvas.text(grid.box(row, block * EACH)[0], middle, "none", va="center", color=GREY)
            for column, place in enumerate(sorts[sort], start=block * EACH):
                box = grid.box(row, column)
                draw_input(canvas, box, inputs[place], dataset.card.value_max)
                predicted = int(probabilities[place].argmax())
                text = f"{_short(classes[predicted])} {probabilities[place, predicted]:.2f}"
                colour = GREY if predicted == int(number) else RED
                canvas.caption(box, text, size=7.5, color=colour)
    canvas.save(path)


def draw_nodes(
    probes: Sequence[NodeProbe],
    maps: Mapping[str, NDArray[Any]],
    title: str,
    path: Path,
    *,
    captions: Sequence[str],
    faithful: Mapping[str, Faithfulness],
    doubts: Mapping[str, Sequence[str]],
    seed: int,
) -> None:
    """Draw a row for each graph, a column for each method.

    Args:
        probes: The graphs.
        maps: Values of the nodes `(graphs, nodes)` by method.
        title: Heading.
        path: PNG to write.
        captions: Name of each graph and what the model outputs.
        faithful: Deletion and insertion of the graphs, by method.
        doubts: Reasons not to believe each method.
        seed: Seed of the layout.
    """
    longest = max(cell_len(line) for caption in captions for line in caption.split("\n"))
    grid = Grid(MARGIN + max(195, 7 * longest + 20), 146, 330, 330, gap=30, row_gap=34)
    canvas = grid.canvas(len(probes), len(maps), least=850, bottom=6)
    ring = any(probe.focus is not None for probe in probes)
    canvas.heading(
        title,
        "Red nodes raise the score of the predicted class, blue nodes lower it; each graph has its "
        f"own scale.{' Black ring: the node that is classified.' if ring else ''}\n"
        "del: area under the score while the strongest nodes are removed first (low is good); "
        "ins: while they are added first (high is good).",
    )
    for column, name in enumerate(maps):
        left, top, width, _ = grid.box(0, column)
        canvas.text(left + width / 2, top - 40, name, size=10, ha="center", weight="bold")
        text = ", ".join(doubts.get(name, ()))
        canvas.text(left + width / 2, top - 23, text, size=8, ha="center", color=RED)
    for row, probe in enumerate(probes):
        middle = grid.box(row, 0)[1] + grid.height / 2
        canvas.text(MARGIN, middle, captions[row], va="center")
        visible = probe.free.copy()
        if probe.focus is not None:
            visible[probe.focus] = True
        number = np.cumsum(visible) - 1
        links = np.sort(number[probe.edges[visible[probe.edges].all(axis=1)]], axis=1)
        links = np.unique(links, axis=0)
        places = _layout(int(visible.sum()), links, seed)
        for column, (name, values) in enumerate(maps.items()):
            box = grid.box(row, column)
            own = values[row, : len(probe.nodes)][visible]
            limit = float(np.abs(own).max())
            points = places * grid.width + box[:2]
            size = float(np.clip(2400 / len(points), 14, 110))
            shades = coloured(own, -limit, limit, "bwr") / 255.0
            canvas.graph(points, links, shades, size)
            if probe.focus is not None:
                canvas.ring(points[int(visible[: probe.focus].sum())], size * 1.6)
            if len(points) <= NUMBERED:
                # Brightness as eyes see it (ITU-R BT.601): dark nodes have white numbers.
                inks = np.where(shades[:, :3] @ (0.299, 0.587, 0.114) < 0.5, "#ffffff", "#000000")
                for (x, y), node, ink in zip(points, probe.nodes[visible], inks, strict=True):
                    canvas.text(x, y, str(node), size=6, ha="center", va="center", color=str(ink))
            text, colour = _scores(faithful[name], row)
            left, top, width, height = box
            text = text.replace("\n", ": ")
            canvas.text(left + width / 2, top + height + 6, text, size=8, ha="center", color=colour)
    canvas.save(path)


def _layout(nodes: int, links: NDArray[np.intp], seed: int) -> NDArray[Any]:
    """Return places in the unit square `(n, 2)`, linked nodes near each other."""
    import networkx

    graph = networkx.Graph()
    graph.add_nodes_from(range(nodes))
    graph.add_edges_from(links.tolist())
    # Unconnected parts would drift so far apart that each is drawn tiny.
    first, *others = sorted(networkx.connected_components(graph), key=len, reverse=True)
    for other in others:
        graph.add_edge(min(first), min(other))
    layout = networkx.spring_layout(graph, seed=seed, iterations=30)
    places = np.array([layout[node] for node in range(len(layout))])
    low, high = places.min(axis=0), places.max(axis=0)
    return np.asarray(0.03 + 0.94 * (places - low) / np.where(high > low, high - low, 1))


def _scores(faithful: Faithfulness, number: int) -> tuple[str, str]:
    """Return deletion and insertion of one map, and their colour: red if no better than random."""
    text = f"del {faithful.deletion[number]:.2f}  ins {faithful.insertion[number]:.2f}"
    if faithful.each_beats_random[number]:
        return text, GREY
    return f"{text}\nno better than random", RED


def _row_name(canvas: Canvas, grid: Grid, row: int, name: str, facts: Sequence[str]) -> None:
    """Write a layer's name and facts before its row."""
    text = wrapped(name, 19)
    middle = grid.box(row, 0)[1] + grid.height / 2 + 7 * (text.count("\n") - len(facts) + 1)
    canvas.text(MARGIN, middle - 2, text, size=10, va="bottom", weight="bold")
    canvas.text(MARGIN, middle + 2, "\n".join(facts), size=8.5, color=GREY)


def _width(height: int, axes: int) -> int:
    """Return the width of a tile for an input with this number of axes, channels included."""
    return round(height * CURVE_ASPECT) if axes == 2 else height


def _scale(axes: int, of: str = "map") -> str:
    what = "range" if axes == 2 else "scale, from dark (low) to bright (high)"
    return f"Each {of} has its own {what}; grey maps are constant."


def _short(name: str) -> str:
    return name if cell_len(name) <= 7 else f"{set_cell_size(name, 6).rstrip()}…"


def spread(names: Sequence[str], most: int = LAYERS) -> list[str]:
    """Return at most `most` names, evenly spread from the first to the last."""
    places = np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int)
    return [names[place] for place in places]


def sides(shape: Sequence[int]) -> str:
    """Return a shape as text: `8 × 8 × 1`."""
    return " × ".join(map(str, shape))


def wrapped(name: str, width: int, lines: int = 3) -> str:
    """Return a name in at most `lines` lines, broken after its underscores."""
    import textwrap

    name = unicodedata.normalize("NFC", name)
    # Letters of Korean, Chinese and Japanese are as wide as two others.
    width = max(1, width * len(name) // max(1, cell_len(name)))
    parts = textwrap.wrap(name.replace("_", "_ "), width, break_long_words=True)
    return "\n".join(line.replace("_ ", "_") for line in parts[:lines])
