"""Feature maps are those of a trained network, and their picture shows all that it should."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image, pyplot

from chapterflow.models.catalog import get_model
from tests.digits import digits_dataset
from tests.explain.small_models import SHAPES, convolutional, values
from tests.models.images import build, pixels

pytestmark = pytest.mark.usefixtures("tensorflow")


def moved(model: Any, names: list[str]) -> None:
    """Give a layer's last weight another value, as a step of training does."""
    for name in names:
        weight = model.get_layer(name).weights[-1]
        weight.assign(np.asarray(weight) + 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dnn", "cnn", "vgg", "googlenet", "xcnn"])
def test_one_epoch_is_enough_and_none_is_not(name: str, tmp_path: Path) -> None:
    from chapterflow.explain.untrained import Untrained, check_trained
    from chapterflow.training.batches import load_model
    from chapterflow.training.fit import fit

    with pytest.raises(Untrained, match=f"check_trained: {name} must be trained"):
        check_trained(build(name))
    digits = digits_dataset(np.repeat(np.arange(3, dtype=np.uint8), (64, 16, 16)))
    params = get_model(name).params(role="digits", epochs=1, batch_size=16)
    fit(get_model(name), params, digits, seed=5, work=tmp_path)
    check_trained(load_model(tmp_path / "model.keras"))


def test_a_pretrained_backbone_passes_and_a_random_one_under_a_trained_head_does_not() -> None:
    from chapterflow.explain.untrained import Untrained, check_trained

    model = build("transfer", backbone="small", weights="none")
    moved(model, ["logits"])
    with pytest.raises(Untrained, match=r"4 of 4 layers \(conv1, conv2, conv3, conv4\)"):
        check_trained(model)
    moved(model, ["norm1", "norm2", "norm3"])
    with pytest.raises(Untrained, match=r"1 of 4 layers \(conv4\)"):
        check_trained(model)
    pretrained = build("transfer", backbone="small", weights="none")
    moved(pretrained, ["norm1", "norm2", "norm3", "norm4"])
    check_trained(pretrained)


def test_convolutions_without_a_constant_of_their_own() -> None:
    import keras
    from keras import layers

    from chapterflow.explain.untrained import Untrained, check_trained

    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, use_bias=False, name="bare")(inputs)
    x = layers.Dense(2, name="logits")(layers.Flatten()(layers.ReLU()(x)))
    model = keras.Model(inputs, x)
    with pytest.raises(Untrained, match="bare"):
        check_trained(model)
    moved(model, ["logits"])
    check_trained(model)
    model.get_layer("bare").trainable = False  # the head learnt on random maps
    with pytest.raises(Untrained, match="bare"):
        check_trained(model)


def test_maps_are_what_the_layers_answer() -> None:
    import keras

    from chapterflow.explain.feature_maps import feature_maps

    model = build("cnn")
    moved(model, ["conv1", "conv2"])
    given = pixels(2, 8, 8, 1)
    maps = feature_maps(model, given)
    assert {name: result.shape for name, result in maps.items()} == {
        "conv1": (2, 8, 8, 32),
        "pool1": (2, 4, 4, 32),
        "conv2": (2, 4, 4, 64),
        "pool2": (2, 2, 2, 64),
    }
    expected = keras.Model(model.input, model.get_layer("conv2").output)(given)
    np.testing.assert_allclose(maps["conv2"], expected, rtol=1e-5)


def test_the_strongest_channels_come_first() -> None:
    from chapterflow.explain.feature_maps import strongest

    means = np.array([3, 9, 1, 9, 5, 0, 2, 8, 7, 6])
    assert strongest(np.ones((4, 4, 1)) * means).tolist() == [1, 3, 7, 8, 9, 4, 0, 6]


@pytest.mark.parametrize("shape", [(30,), (9, 7), (6, 5, 4)])
@pytest.mark.parametrize(("layers", "rows"), [(1, 2), (3, 4), (40, 13)])
def test_the_walk(shape: tuple[int, ...], layers: int, rows: int, tmp_path: Path) -> None:
    from chapterflow.explain.pictures import draw_walk

    rng = np.random.default_rng(5)
    maps = {f"layer_{number}": rng.normal(size=(*shape, 5)) for number in range(layers)}
    maps["layer_0"][..., 0] = 0.0
    path = tmp_path / "maps.png"
    draw_walk(rng.uniform(0, 255, (*shape, 3)), maps, "cnn", path, value_max=255.0)
    result = image.imread(path)
    assert result.shape[0] == 108 + 122 * rows
    last = result[-110:-30, 200:600, :3]
    assert last.std() > 0.05  # maps in the last row
    assert result[:, -10:, :3].min() > 0.97  # and nothing cut off at the right
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_each_layer_has_a_picture_of_all_inputs(axes: int, tmp_path: Path) -> None:
    from chapterflow.explain.pictures import draw_layers

    model, inputs = convolutional(SHAPES[axes]), values(3, SHAPES[axes])
    pictures, layers = draw_layers(model, inputs, ["a", "b", "c"], tmp_path, "small", 1.0)
    assert [(one.key, one.step) for one in pictures] == [
        ("walk", 0),
        ("feature_maps", 0),
        ("feature_maps", 1),
        ("feature_maps", 2),
        ("kernels", 0),
    ]
    assert [(one["name"], len(one["channels"])) for one in layers] == [
        ("conv1", 4),
        ("conv2", 5),
        ("pool", 5),
    ]
    for picture in pictures:
        assert image.imread(picture.path)[80:, :, :3].std() > 0.02


def test_an_untrained_1d_or_3d_convolution_is_refused() -> None:
    from chapterflow.explain.feature_maps import feature_maps
    from chapterflow.explain.untrained import Untrained

    for axes in (1, 3):
        model = convolutional(SHAPES[axes])
        model.get_layer("conv2").bias.assign(np.zeros(5, np.float32))
        with pytest.raises(Untrained, match="conv2"):
            feature_maps(model, values(1, SHAPES[axes]))


def test_maps_of_a_single_layer() -> None:
    import keras

    from chapterflow.explain.feature_maps import feature_maps

    inputs = keras.Input((6, 6, 1))
    maps = keras.layers.Conv2D(3, 3, bias_initializer="zeros", name="only")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(maps)))
    moved(model, ["only"])
    assert feature_maps(model, values(2, (6, 6, 1)))["only"].shape == (2, 4, 4, 3)


def test_slices_of_a_volume_run_from_front_to_back() -> None:
    from chapterflow.explain.canvas import flattened

    volume = np.zeros((16, 4, 4, 3), np.uint8) + np.arange(16, dtype=np.uint8).reshape(-1, 1, 1, 1)
    sheet = flattened(volume)
    shown = [sheet[0, 0, 0], sheet[0, -1, 0], sheet[-1, 0, 0], sheet[-1, -1, 0]]
    assert shown == sorted(shown)
    assert len(set(shown)) == 4
