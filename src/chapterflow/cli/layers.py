"""`chapterflow layers`: the layers of a model as a table, with their output shapes and costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from chapterflow.cli.common import (
    JsonOption,
    LanguageOption,
    ProfileOption,
    SetOption,
    print_json,
    start,
)
from chapterflow.language import message, tr

if TYPE_CHECKING:
    import keras

    from chapterflow.config.settings import Settings
    from chapterflow.environment import Project

#: For a value that a layer does not have, or that cannot be computed.
NONE = "—"
#: Columns that a narrower terminal does without, the first one first.
DROPPED = ("FLOPs", "padding", "stride", "type")
CAPTION = message(
    "Output: height x width x channels; each channel is one feature map. Kernel: the window that "
    "slides over the input. Stride: how far it moves in each step; a stride of 2 halves the sides. "
    "Padding: same adds a border to the input, so stride 1 keeps the size; valid does not, and a "
    "kernel of size k removes k - 1 from each side. Parameters of a convolution: (kernel height x "
    "kernel width x input channels + 1) x output channels. FLOPs: forward pass of one example; a "
    "multiplication and an addition count as two. {none}: does not apply; for FLOPs, cannot be "
    "counted separately."
)


@dataclass(frozen=True)
class LayerRow:
    """One layer.

    Attributes:
        name: Name of the layer in its model.
        type: Class of the layer.
        output: Shape of its output, without the batch axis; None for sides that vary.
        kernel: Sides of the window of a convolution or pooling.
        stride: Steps of the window.
        padding: `same` or `valid`.
        parameters: Number of weights, trained or not.
        flops: Floating-point operations for one example; None if the profiler cannot run the layer
            separately.
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
    """Return one row for each layer of a model, in order; a nested model counts as one layer.

    Args:
        model: A functional model that has been built, with any number of inputs.
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

    from chapterflow.evaluation.cost import flops

    if isinstance(layer, keras.layers.InputLayer):
        return 0
    # A tensor that a layer reads twice is one input of the model around it.
    inputs = list({id(value): value for value in keras.tree.flatten(layer.input)}.values())
    if any(None in value.shape[1:] or value.name == "edges" for value in inputs):
        return None
    try:
        return flops(keras.Model(inputs, layer.output))
    except Exception:
        # A layer from another package may fail in any way; the other columns are still useful.
        return None


def totals(rows: Sequence[LayerRow]) -> tuple[int, int]:
    """Return the parameters of all layers, and the FLOPs of those that could be counted."""
    return sum(row.parameters for row in rows), sum(row.flops or 0 for row in rows)


def print_layers(console: Console, rows: Sequence[LayerRow], title: str) -> None:
    """Print the layers as a table with totals, and explain the columns below it."""
    from chapterflow.kinds.dataset import shape_text
    from chapterflow.loop.tables import fitting

    parameters, operations = totals(rows)
    uncounted = sum(row.flops is None for row in rows)
    counted = f"{operations:,}" + (f" + {uncounted} {NONE}" if uncounted else "")
    footers = {"layer": tr("total"), "params": f"{parameters:,}", "FLOPs": counted}
    cells = [
        {
            message("layer"): row.name,
            message("type"): row.type,
            message("output"): shape_text(row.output),
            message("kernel"): shape_text(row.kernel) if row.kernel else NONE,
            message("stride"): shape_text(row.stride) if row.stride else NONE,
            message("padding"): row.padding or NONE,
            message("params"): f"{row.parameters:,}" if row.parameters else NONE,
            message("FLOPs"): NONE if row.flops is None else f"{row.flops:,}",
        }
        for row in rows
    ]

    def draw(columns: list[str]) -> Table:
        table = Table(
            title=title, caption=tr(CAPTION, none=NONE), caption_justify="left", show_footer=True
        )
        for name in columns:
            left = name in ("layer", "type")
            table.add_column(
                *(tr(name), footers.get(name, "")),
                justify="left" if left else "right",
                overflow="fold" if left else "ellipsis",
            )
        for row in cells:
            table.add_row(*(row[name] for name in columns))
        return table

    console.print(fitting(console, draw, list(cells[0]), DROPPED))


def layers(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model of params.yaml.")],
    profile: ProfileOption = None,
    set_: SetOption = None,
    lang: LanguageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a model's layers: shapes, kernels, parameters, FLOPs.

    The model is built for the dataset of the profile, and needs no training.
    """
    project, settings = start(profile, set_, language=lang)
    from chapterflow.loop.progress import console

    rows = layer_table(untrained(project, settings, model))
    dataset = settings.dataset_of(model)
    if as_json:
        parameters, flops = totals(rows)
        document = {"model": model, "dataset": dataset, "parameters": parameters, "flops": flops}
        print_json(document | {"layers": [asdict(row) for row in rows]})
    else:
        print_layers(console(), rows, tr("{model} for {dataset}", model=model, dataset=dataset))


def untrained(project: Project, settings: Settings, model: str) -> keras.Model:
    """Return a model of `params.yaml` as training starts with it.

    Raises:
        ConfigError: If there is no such model.
        DataError: If its dataset is neither here nor embedded.
    """
    dataset, embedded = settings.dataset_of(model), settings.profile == "embedded"
    from chapterflow.environment import load_tensorflow
    from chapterflow.errors import DataError
    from chapterflow.kinds.dataset import CARD
    from chapterflow.loop import steps

    if not embedded and not (project.data / dataset / CARD).is_file():
        raise DataError(
            f"The layers of {model} depend on the shape of {dataset!r}, which is not on this "
            f"machine. `chapterflow data fetch {dataset}` builds it."
        )
    load_tensorflow()
    return steps.untrained(project, settings, model, build=embedded)
