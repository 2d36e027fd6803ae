"""The table of layers against values worked out by hand."""

import io
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from chapterflow.models.base import InputSpec
from chapterflow.models.catalog import get_model

pytestmark = pytest.mark.usefixtures("tensorflow")


def model_of(name: str, side: int = 8) -> Any:
    entry = get_model(name)
    return entry.build(entry.params(role="digits"), InputSpec((side, side, 1), 10, 16.0))


def printed(rows: Any, width: int = 140) -> str:
    from chapterflow.cli.layers import print_layers

    console = Console(record=True, file=io.StringIO(), width=width)
    print_layers(console, rows, "a title")
    return console.export_text()


def test_the_chapters_cnn() -> None:
    from chapterflow.cli.layers import LayerRow, layer_table

    # A multiplication and an addition for each weight and output pixel, and one for the bias.
    conv1, conv2 = 8 * 8 * 32 * (9 * 2 + 1), 4 * 4 * 64 * (9 * 32 * 2 + 1)
    three, two, one = (3, 3), (2, 2), (1, 1)
    assert layer_table(model_of("cnn")) == [
        LayerRow("pixels", "InputLayer", (8, 8, 1), None, None, None, 0, 0),
        LayerRow("rescale", "Rescaling", (8, 8, 1), None, None, None, 0, 2 * 64),
        LayerRow("conv1", "Conv2D", (8, 8, 32), three, one, "same", 320, conv1),
        LayerRow("pool1", "MaxPooling2D", (4, 4, 32), two, two, "valid", 0, 8 * 8 * 32),
        LayerRow("conv2", "Conv2D", (4, 4, 64), three, one, "same", 18_496, conv2),
        LayerRow("pool2", "MaxPooling2D", (2, 2, 64), two, two, "valid", 0, 4 * 4 * 64),
        LayerRow("flatten", "Flatten", (256,), None, None, None, 0, 0),
        LayerRow("dense", "Dense", (128,), None, None, None, 257 * 128, 513 * 128),
        LayerRow("logits", "Dense", (10,), None, None, None, 129 * 10, 257 * 10),
    ]


@pytest.mark.parametrize("name", ["cnn", "lenet5", "vgg"])
def test_the_layers_together_are_the_model(name: str) -> None:
    from chapterflow.cli.layers import layer_table, totals
    from chapterflow.evaluation.cost import flops

    model = model_of(name)
    rows = layer_table(model)
    parameters, operations = totals(rows)
    assert [row.name for row in rows] == [layer.name for layer in model.layers]
    assert parameters == model.count_params()
    assert operations == pytest.approx(flops(model), rel=0.01)


@given(
    kernel=st.integers(1, 7),
    stride=st.integers(1, 4),
    padding=st.sampled_from(["same", "valid"]),
    side=st.integers(7, 40),
    channels=st.integers(1, 4),
    filters=st.integers(1, 8),
)
@settings(max_examples=10, deadline=None)
def test_a_convolution_as_the_chapter_counts_it(
    kernel: int, stride: int, padding: str, side: int, channels: int, filters: int
) -> None:
    import keras

    from chapterflow.cli.layers import layer_table

    inputs = keras.Input((side, side, channels))
    layer = keras.layers.Conv2D(filters, kernel, stride, padding=padding, name="conv")
    row = layer_table(keras.Model(inputs, layer(inputs)))[1]
    made = math.ceil((side if padding == "same" else side - kernel + 1) / stride)
    assert row.output == (made, made, filters)
    assert (row.kernel, row.stride, row.padding) == ((kernel,) * 2, (stride,) * 2, padding)
    assert row.parameters == (kernel * kernel * channels + 1) * filters
    assert row.flops == made * made * filters * (kernel * kernel * channels * 2 + 1)


def test_one_and_three_dimensions() -> None:
    import keras
    from keras import layers

    from chapterflow.cli.layers import layer_table

    series = keras.Input((16, 1))
    row = layer_table(keras.Model(series, layers.Conv1D(4, 5, padding="same")(series)))[1]
    assert (row.output, row.kernel, row.stride) == ((16, 4), (5,), (1,))
    assert row.parameters == (5 + 1) * 4
    volume = keras.Input((6, 6, 6, 1))
    row = layer_table(keras.Model(volume, layers.Conv3D(2, 3, 2)(volume)))[1]
    assert (row.output, row.kernel, row.stride) == ((2, 2, 2, 2), (3, 3, 3), (2, 2, 2))
    assert row.parameters == (27 + 1) * 2


def test_inputs_by_name_of_sizes_that_vary() -> None:
    import keras
    from keras import layers

    from chapterflow.cli.layers import layer_table

    given = {
        "features": keras.Input((None, 5), name="features"),
        "adjacency": keras.Input((None, None), name="adjacency"),
    }
    hidden = layers.Dense(3, name="dense")(given["features"])
    mixed = layers.Dot(axes=(2, 1), name="neighbours")([given["adjacency"], hidden])
    model = keras.Model(given, mixed)
    rows = {row.name: row for row in layer_table(model)}
    assert rows["dense"].parameters == 18
    assert rows["dense"].output == (None, 3)
    assert rows["dense"].flops is None
    text = printed(list(rows.values()))
    assert "any x 3" in text
    assert "0 + 2 —" in text


def test_models_in_models_and_tensors_taken_twice() -> None:
    import keras
    from keras import layers

    from chapterflow.cli.layers import layer_table, totals

    grey = keras.Input((8, 8, 1))
    colour = layers.Concatenate(name="rgb")([grey, grey, grey])
    inner_input = keras.Input((8, 8, 3))
    inner = keras.Model(inner_input, layers.Conv2D(2, 3)(inner_input), name="backbone")
    model = keras.Model(grey, layers.Flatten()(inner(colour)))
    rows = {row.name: row for row in layer_table(model)}
    assert rows["rgb"].flops == 0
    assert rows["backbone"].type == "Functional"
    assert rows["backbone"].output == (6, 6, 2)
    assert rows["backbone"].parameters == (27 + 1) * 2
    assert rows["backbone"].flops == 6 * 6 * 2 * (27 * 2 + 1)
    assert totals(list(rows.values())) == (56, 6 * 6 * 2 * 55)


def test_a_layer_that_cannot_run_alone_leaves_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    from chapterflow.cli import layers
    from chapterflow.evaluation import cost

    counted = cost.flops

    def refuse(model: Any) -> int:
        if model.layers[-1].name == "dense":
            raise RuntimeError("no profile")
        return counted(model)

    monkeypatch.setattr(cost, "flops", refuse)
    rows = layers.layer_table(model_of("cnn"))
    assert [row.name for row in rows if row.flops is None] == ["dense"]
    assert f"{701_194 - 65_664:,} + 1 —" in printed(rows)


@pytest.mark.parametrize(("name", "kept"), [("cnn", ["kernel", "stride"]), ("googlenet", [])])
def test_a_terminal_of_80_columns_gets_whole_words(name: str, kept: list[str]) -> None:
    from chapterflow.cli.layers import LayerRow, layer_table

    rows = layer_table(model_of("cnn"))
    if name == "googlenet":  # its longest names, at the book's size
        rows = [LayerRow("inception3a_5x5_reduce_norm", "BatchNormalization", (112, 112, 16),
                         None, None, None, 64, 2144)]  # fmt: skip
    text = printed(rows, width=80).partition("Output:")[0]
    assert max(map(len, text.splitlines())) <= 80
    table = [line for line in text.splitlines() if "┃" in line or "│" in line]
    assert len(table) == len(rows) + 2  # no name is broken
    assert "…" not in text
    assert all(f" {heading} " in table[0] for heading in ("layer", "output", "params", *kept))


def test_the_printed_table() -> None:
    from chapterflow.cli.layers import layer_table

    text = printed(layer_table(model_of("cnn")))
    assert "a title" in text
    row = next(line for line in text.splitlines() if "conv2" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells == [
        "conv2", "Conv2D", "4 x 4 x 64", "3 x 3", "1 x 1", "same", "18,496", "590,848",
    ]  # fmt: skip
    total = next(line for line in text.splitlines() if "total" in line)
    assert "53,002" in total
    assert "701,194" in total
    for word in ("Kernel:", "Stride:", "Padding:", "same", "valid"):
        assert word in text
