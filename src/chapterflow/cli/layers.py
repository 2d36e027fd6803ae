"""The layers of a model as a table: what comes out of each, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from chapterflow.evaluation.cost import flops
from chapterflow.kinds.dataset import shape_text

if TYPE_CHECKING:
    import keras

#: For what a layer does not have, or what cannot be told.
NONE = "—"
CAPTION = (
    "Output: height x width x channels; each channel is one feature map. Kernel: the window that "
    "slides over the input. Stride: how far it moves each time; 2 halves the sides. Padding: "
    "same surrounds the input with blanks, so that stride 1 keeps the size; valid does not, and a "
    "kernel of k takes k - 1 off each side. Parameters of a convolution: (kernel height x kernel "
    "width x input channels + 1) x output channels. FLOPs: one example, forward; a multiplication "
    f"and an addition are two. {NONE}: has none; for FLOPs, cannot be counted alone."
)


@dataclass(frozen=True)
class LayerRow:
    """One layer.

    Attributes:
        name: Name of the layer in its model.
        type: Class of the layer.
        output: Shape of its output, without the batch axis; None where it varies.
        kernel: Sides of the window of a convolution or a pooling.
        stride: Steps of the window.
        padding: `same` or `valid`.
        parameters: Weights, whether they are trained or not.
        flops: Floating-point operations of one example; None where the profiler cannot run the
            layer alone.
    """

    name: str
    type: str
    output: tuple[int | None, ...]
    kernel: tuple[int, ...] | None
    stride: tuple[int, ...] | None
    padding: str | None
    parameters: int
    flops: int | None


def layer_table(model: keras.Model) -> list[LayerRow]:
    """Return one row for each layer of a model, in its order. A model in it is one layer.

    Args:
        model: A functional model that has been built, of any number of inputs.
    """
    return [_row(layer) for layer in model.layers]


def _row(layer: keras.layers.Layer) -> LayerRow:
    window = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", None)
    return LayerRow(
        name=layer.name,
        type=type(layer).__name__,
        output=_first_output(layer),
        kernel=_sides(window),
        stride=_sides(getattr(layer, "strides", None)) if window else None,
        padding=str(layer.padding) if window and hasattr(layer, "padding") else None,
        parameters=int(layer.count_params()),
        flops=_flops(layer),
    )


def _sides(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    return (value,) if isinstance(value, int) else tuple(int(side) for side in value)


def _first_output(layer: keras.layers.Layer) -> tuple[int | None, ...]:
    import keras

    return tuple(keras.tree.flatten(layer.output)[0].shape[1:])


def _flops(layer: keras.layers.Layer) -> int | None:
    import keras

    if isinstance(layer, keras.layers.InputLayer):
        return 0
    # A tensor that a layer takes twice is one input of the model around it.
    inputs = list({id(value): value for value in keras.tree.flatten(layer.input)}.values())
    if any(None in value.shape[1:] for value in inputs):
        return None
    try:
        return flops(keras.Model(inputs, layer.output))
    except Exception:
        # Whatever a layer of somebody's own needs around it: the table still tells the rest.
        return None


def totals(rows: Sequence[LayerRow]) -> tuple[int, int]:
    """Return the parameters of all layers together, and the FLOPs of those that were counted."""
    return sum(row.parameters for row in rows), sum(row.flops or 0 for row in rows)


def print_layers(console: Console, rows: Sequence[LayerRow], title: str) -> None:
    """Print the layers as a table with totals, and what the columns mean below it."""
    parameters, operations = totals(rows)
    uncounted = sum(row.flops is None for row in rows)
    table = Table(title=title, caption=CAPTION, caption_justify="left", show_footer=True)
    table.add_column("layer", "total", overflow="fold")
    table.add_column("type", overflow="fold")
    for heading in ("output", "kernel", "stride", "padding"):
        table.add_column(heading, justify="right")
    table.add_column("parameters", f"{parameters:,}", justify="right")
    counted = f"{operations:,}" + (f" + {uncounted} {NONE}" if uncounted else "")
    table.add_column("FLOPs", counted, justify="right")
    for row in rows:
        table.add_row(
            row.name,
            row.type,
            shape_text(row.output),
            shape_text(row.kernel) if row.kernel else NONE,
            shape_text(row.stride) if row.stride else NONE,
            row.padding or NONE,
            f"{row.parameters:,}" if row.parameters else NONE,
            NONE if row.flops is None else f"{row.flops:,}",
        )
    console.print(table)
