"""VGG is the paper's, block by block, and fits images of a few pixels."""

from itertools import chain
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from chapterflow.models.base import InputSpec
from chapterflow.models.catalog import get_model
from tests.models import images

pytestmark = pytest.mark.usefixtures("tensorflow")

#: Table 1 of the paper: kernel and filters of each block's convolutions.
PAPER = {
    "A": [[(3, 64)], [(3, 128)], [(3, 256)] * 2, [(3, 512)] * 2, [(3, 512)] * 2],
    "B": [[(3, 64)] * 2, [(3, 128)] * 2, [(3, 256)] * 2, [(3, 512)] * 2, [(3, 512)] * 2],
    "C": [
        [(3, 64)] * 2,
        [(3, 128)] * 2,
        [(3, 256), (3, 256), (1, 256)],
        [(3, 512), (3, 512), (1, 512)],
        [(3, 512), (3, 512), (1, 512)],
    ],
    "D": [[(3, 64)] * 2, [(3, 128)] * 2, [(3, 256)] * 3, [(3, 512)] * 3, [(3, 512)] * 3],
    "E": [[(3, 64)] * 2, [(3, 128)] * 2, [(3, 256)] * 4, [(3, 512)] * 4, [(3, 512)] * 4],
}
#: Exact counts, and the paper's table 2 in millions.
COUNTS = {
    "A": (132_863_336, 133),
    "B": (133_047_848, 133),
    "C": (133_638_952, 134),
    "D": (138_357_544, 138),
    "E": (143_667_240, 144),
}


@pytest.mark.parametrize("configuration", COUNTS)
def test_configurations_are_those_of_the_paper(configuration: str, no_weights: Any) -> None:
    model = images.build("vgg", (224, 224, 3), classes=1000, configuration=configuration)
    actual: list[list[tuple[int, int]]] = [[]]
    for layer in model.layers:
        if type(layer).__name__ == "Conv2D":
            assert layer.activation.__name__ == "relu"
            assert layer.kernel_size[0] == layer.kernel_size[1]
            actual[-1].append((layer.kernel_size[0], layer.filters))
        elif type(layer).__name__ == "MaxPooling2D":
            actual.append([])
    assert actual == [*PAPER[configuration], []]
    sides = [model.get_layer(f"pool{block}").output.shape[1] for block in range(1, 6)]
    assert sides == [112, 56, 28, 14, 7]
    dense = [layer.units for layer in model.layers if hasattr(layer, "units")]
    assert dense == [4096, 4096, 1000]
    exact, millions = COUNTS[configuration]
    assert model.count_params() == exact
    assert round(exact / 1e6) == millions


def test_the_exact_counts_by_hand() -> None:
    for configuration, blocks in PAPER.items():
        count, channels = 0, 3
        for kernel, filters in chain.from_iterable(blocks):
            count += (kernel * kernel * channels + 1) * filters
            channels = filters
        for units, read in ((4096, 7 * 7 * 512), (4096, 4096), (1000, 4096)):
            count += (read + 1) * units
        assert count == COUNTS[configuration][0]


def test_the_small_one_layer_by_layer() -> None:
    model = images.build("vgg", (8, 8, 1))
    # Convolutions without bias; four numbers for each normalised channel.
    convolutions = [(1, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64)]
    expected = sum(9 * read * made + 4 * made for read, made in convolutions)
    assert model.count_params() == expected + 64 * 128 + 128 + 128 * 10 + 10
    assert [model.get_layer(f"pool{block}").output.shape[1:] for block in (1, 2, 3)] == [
        (4, 4, 16),
        (2, 2, 32),
        (1, 1, 64),
    ]


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 9, 3), (8, 8, 1), (15, 33, 1), (31, 4, 3)])
def test_pooling_ends_at_one_pixel(shape: tuple[int, int, int]) -> None:
    model = images.build("vgg", shape, blocks=[1] * 5, filters=[4] * 5, dense=[8])
    height, width = shape[:2]
    for block in range(1, 6):
        height, width = max(1, height // 2), max(1, width // 2)
        assert model.get_layer(f"pool{block}").output.shape == (None, height, width, 4)
    assert np.isfinite(np.asarray(model(images.pixels(2, *shape)))).all()


def test_blocks_filters_dense_and_normalisation_are_options() -> None:
    model = images.build(
        "vgg", (8, 8, 3), blocks=[1, 2], filters=[4, 6], dense=[], batch_normalisation=False
    )
    expected = (9 * 3 + 1) * 4 + (9 * 4 + 1) * 6 + (9 * 6 + 1) * 6 + (2 * 2 * 6 + 1) * 10
    assert model.count_params() == expected
    assert not any(type(layer).__name__ == "BatchNormalization" for layer in model.layers)
    entry = get_model("vgg")
    params = entry.params(role="digits", configuration="A", batch_normalisation=True)
    assert params.resolved.normalise
    assert params.resolved.blocks == [1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    "options",
    [
        {"blocks": [1, 1]},
        {"filters": [4]},
        {"blocks": [], "filters": []},
        {"blocks": [1, 0], "filters": [4, 4]},
        {"configuration": "A", "filters": [4, 4, 4]},
        {"configuration": "F"},
        {"dropout": 1.0},
        {"dense": [0]},
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        get_model("vgg").params(role="digits", **options)


def test_dropout_silences_dense_units_in_training_alone() -> None:
    params = get_model("vgg").params(role="digits", batch_normalisation=False)
    model = get_model("vgg").build(params, InputSpec((8, 8, 1), 10, 16.0))
    x = images.pixels(4, 8, 8, 1)
    np.testing.assert_array_equal(model(x, training=False), model(x, training=False))
    assert not np.array_equal(model(x, training=True), model(x, training=True))
