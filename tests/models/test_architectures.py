"""Each model is the one of the chapter and its paper, whatever images it is built for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.special import log_softmax, softmax

from chapterflow.models.base import InputSpec, with_softmax
from chapterflow.models.catalog import get_model

pytestmark = pytest.mark.usefixtures("tensorflow")

IMAGE_MODELS = ("dnn", "cnn", "lenet5")
#: Name, kind, shape of the output, parameters (weights + biases), written down by hand.
Row = tuple[str, str, tuple[int, ...], int]
TABLES: dict[tuple[str, int], list[Row]] = {
    ("dnn", 28): [
        ("rescale", "Rescaling", (28, 28, 1), 0),
        ("flatten", "Flatten", (784,), 0),
        ("hidden", "Dense", (128,), 784 * 128 + 128),
        ("dropout", "Dropout", (128,), 0),
        ("logits", "Dense", (10,), 128 * 10 + 10),
    ],
    ("dnn", 8): [
        ("rescale", "Rescaling", (8, 8, 1), 0),
        ("flatten", "Flatten", (64,), 0),
        ("hidden", "Dense", (128,), 64 * 128 + 128),
        ("dropout", "Dropout", (128,), 0),
        ("logits", "Dense", (10,), 128 * 10 + 10),
    ],
    ("cnn", 28): [
        ("rescale", "Rescaling", (28, 28, 1), 0),
        ("conv1", "Conv2D", (28, 28, 32), 3 * 3 * 1 * 32 + 32),
        ("pool1", "MaxPooling2D", (14, 14, 32), 0),
        ("conv2", "Conv2D", (14, 14, 64), 3 * 3 * 32 * 64 + 64),
        ("pool2", "MaxPooling2D", (7, 7, 64), 0),
        ("flatten", "Flatten", (3136,), 0),
        ("dense", "Dense", (128,), 3136 * 128 + 128),
        ("logits", "Dense", (10,), 128 * 10 + 10),
    ],
    ("cnn", 8): [
        ("rescale", "Rescaling", (8, 8, 1), 0),
        ("conv1", "Conv2D", (8, 8, 32), 3 * 3 * 1 * 32 + 32),
        ("pool1", "MaxPooling2D", (4, 4, 32), 0),
        ("conv2", "Conv2D", (4, 4, 64), 3 * 3 * 32 * 64 + 64),
        ("pool2", "MaxPooling2D", (2, 2, 64), 0),
        ("flatten", "Flatten", (256,), 0),
        ("dense", "Dense", (128,), 256 * 128 + 128),
        ("logits", "Dense", (10,), 128 * 10 + 10),
    ],
    # LeCun et al. 1998, section II.B and figure 2; C3 with full connections.
    ("lenet5", 28): [
        ("pad", "ZeroPadding2D", (32, 32, 1), 0),
        ("rescale", "Rescaling", (32, 32, 1), 0),
        ("c1", "Conv2D", (28, 28, 6), 156),
        ("s2", "AveragePooling2D", (14, 14, 6), 0),
        ("c3", "Conv2D", (10, 10, 16), 5 * 5 * 6 * 16 + 16),
        ("s4", "AveragePooling2D", (5, 5, 16), 0),
        ("c5", "Conv2D", (1, 1, 120), 48_120),
        ("flatten", "Flatten", (120,), 0),
        ("f6", "Dense", (84,), 10_164),
        ("logits", "Dense", (10,), 84 * 10 + 10),
    ],
}
TABLES["lenet5", 8] = TABLES["lenet5", 28]  # padded to the paper's 32x32
TOTALS = {
    ("dnn", 28): 101_770,
    ("dnn", 8): 9_610,
    ("cnn", 28): 421_642,
    ("cnn", 8): 53_002,
    ("lenet5", 28): 61_706,
    ("lenet5", 8): 61_706,
}


def build(name: str, shape: tuple[int, ...] = (8, 8, 1), **options: Any) -> Any:
    """Build a model for ten classes with weights of seed 5; `value_max` is 16 unless given."""
    import keras

    value_max = options.pop("value_max", 16.0)
    classes = options.pop("classes", 10)
    entry = get_model(name)
    keras.utils.set_random_seed(options.pop("seed", 5))
    return entry.build(entry.params(role="digits", **options), InputSpec(shape, classes, value_max))


def pixels(*shape: int, top: float = 16.0) -> Any:
    """Return raw values between 0 and `top`."""
    return np.random.default_rng(5).uniform(0, top, shape).astype(np.float32)


@pytest.mark.parametrize(("name", "side"), TABLES)
def test_layers_are_those_of_the_chapter(name: str, side: int) -> None:
    model = build(name, (side, side, 1))
    rows = [
        (layer.name, type(layer).__name__, layer.output.shape[1:], layer.count_params())
        for layer in model.layers[1:]
    ]
    assert rows == TABLES[name, side]
    assert model.count_params() == TOTALS[name, side]
    assert model.name == name
    assert model.input_shape == (None, side, side, 1)


def test_kernels_strides_and_activations() -> None:
    cnn, lenet5, dnn = build("cnn"), build("lenet5"), build("dnn")
    for block in ("1", "2"):
        convolution, pool = cnn.get_layer(f"conv{block}"), cnn.get_layer(f"pool{block}")
        assert convolution.kernel_size == (3, 3)
        assert convolution.strides == (1, 1)
        assert convolution.padding == "same"
        assert convolution.activation.__name__ == "relu"
        assert pool.pool_size == pool.strides == (2, 2)
    for block in ("c1", "c3", "c5"):
        convolution = lenet5.get_layer(block)
        assert convolution.kernel_size == (5, 5)
        assert convolution.strides == (1, 1)
        assert convolution.padding == "valid"
        assert convolution.activation.__name__ == "tanh"
    for block in ("s2", "s4"):
        assert lenet5.get_layer(block).pool_size == lenet5.get_layer(block).strides == (2, 2)
    assert lenet5.get_layer("f6").activation.__name__ == "tanh"
    assert cnn.get_layer("dense").activation.__name__ == "relu"
    assert dnn.get_layer("hidden").activation.__name__ == "relu"
    assert dnn.get_layer("dropout").rate == 0.2


@pytest.mark.parametrize("name", IMAGE_MODELS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 9, 15, 28, 33, 64])
def test_any_size_and_number_of_channels(name: str, side: int, channels: int) -> None:
    model = build(name, (side, side, channels), classes=3)
    logits = np.asarray(model(pixels(2, side, side, channels)))
    assert logits.shape == (2, 3)
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("name", IMAGE_MODELS)
@pytest.mark.parametrize("shape", [(9, 28, 1), (40, 12, 3)])
def test_images_need_not_be_square(name: str, shape: tuple[int, ...]) -> None:
    assert build(name, shape)(pixels(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize(("side", "margins"), [(28, (2, 2)), (8, (12, 12)), (15, (8, 9))])
def test_lenet5_sets_the_image_in_the_middle_of_blank_paper(
    side: int, margins: tuple[int, int]
) -> None:
    import keras

    model = build("lenet5", (side, side, 1), value_max=255.0)
    assert model.get_layer("pad").padding == (margins, margins)
    seen = keras.Model(model.input, model.get_layer("rescale").output)
    ink = np.asarray(seen(np.full((1, side, side, 1), 255, np.float32)))[0, :, :, 0]
    # Section II.B: background -0.1, foreground 1.175.
    before, after = margins
    inside = np.zeros((32, 32), bool)
    inside[before : 32 - after, before : 32 - after] = True
    np.testing.assert_allclose(ink[inside], 1.175, rtol=1e-6)
    np.testing.assert_allclose(ink[~inside], -0.1, rtol=1e-6)


def test_lenet5_does_not_pad_what_is_large_enough() -> None:
    model = build("lenet5", (33, 40, 1))
    assert model.get_layer("pad").padding == ((0, 0), (0, 0))
    assert model.get_layer("c5").output.shape == (None, 1, 1, 120)


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_raw_pixels_of_any_range_are_the_same_picture(name: str) -> None:
    grey17, bytes8 = build(name, value_max=16.0), build(name, value_max=255.0)
    bytes8.set_weights(grey17.get_weights())
    x = pixels(4, 8, 8, 1)
    np.testing.assert_allclose(grey17(x), bytes8(x * (255 / 16)), rtol=1e-4, atol=1e-5)
    assert np.abs(np.asarray(grey17(x)) - np.asarray(bytes8(x))).max() > 1e-3


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_an_untrained_model_is_undecided_on_raw_bytes(name: str) -> None:
    # Pixels that were not rescaled, or rescaled twice, give losses far from that of a guess.
    model = build(name, (28, 28, 1), value_max=255.0)
    logits = np.asarray(model(pixels(64, 28, 28, 1, top=255)))
    loss = -log_softmax(logits, axis=1)[np.arange(64), np.arange(64) % 10].mean()
    assert loss == pytest.approx(np.log(10), abs=1)
    assert np.ptp(logits, axis=1).min() > 0.05


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_models_answer_logits(name: str) -> None:
    model = build(name)
    assert model.get_layer("logits").activation.__name__ == "linear"
    assert not np.allclose(np.asarray(model(pixels(4, 8, 8, 1))).sum(axis=1), 1, atol=1e-3)


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_softmax_shares_the_weights_and_survives_saving(name: str, tmp_path: Path) -> None:
    import keras

    model = build(name)
    served = with_softmax(model)
    x = pixels(5, 8, 8, 1)
    probabilities = np.asarray(served(x))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(probabilities, softmax(np.asarray(model(x)), axis=1), rtol=1e-4)
    assert served.count_params() == model.count_params()

    served.save(tmp_path / "served.keras")
    loaded = keras.saving.load_model(tmp_path / "served.keras", compile=False)
    np.testing.assert_array_equal(np.asarray(loaded(x)), probabilities)

    model.set_weights([weights * 0 for weights in model.get_weights()])
    np.testing.assert_allclose(np.asarray(served(x)), 0.1, rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(loaded(x)), probabilities)


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_an_example_is_judged_alone(name: str) -> None:
    model = build(name)
    x = pixels(6, 8, 8, 1)
    x[[1, 4]] = 7  # the same constant image twice, among others
    together = np.asarray(model(x))
    alone = np.concatenate([np.asarray(model(x[i : i + 1])) for i in range(6)])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(together[1], together[4], rtol=1e-4, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_dropout_silences_units_in_training_alone() -> None:
    model, x = build("dnn"), pixels(4, 8, 8, 1)
    np.testing.assert_array_equal(model(x, training=False), model(x, training=False))
    assert not np.array_equal(model(x, training=True), model(x, training=True))
    still = build("dnn", dropout=0.0)
    np.testing.assert_array_equal(still(x, training=True), still(x, training=False))


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_equal_seeds_give_equal_weights(name: str) -> None:
    first, again, other = (build(name, seed=seed).get_weights() for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(
    ("activation", "pooling", "pool"),
    [
        ("tanh", "average", "AveragePooling2D"),
        ("relu", "average", "AveragePooling2D"),
        ("tanh", "max", "MaxPooling2D"),
        ("relu", "max", "MaxPooling2D"),
    ],
)
def test_options_of_lenet5(activation: str, pooling: str, pool: str) -> None:
    model = build("lenet5", activation=activation, pooling=pooling)
    for name in ("c1", "c3", "c5", "f6"):
        assert model.get_layer(name).activation.__name__ == activation
    assert {type(model.get_layer(name)).__name__ for name in ("s2", "s4")} == {pool}
    assert model.count_params() == 61_706


def test_widths_are_options() -> None:
    assert build("dnn", hidden=16).count_params() == 64 * 16 + 16 + 16 * 10 + 10
    assert build("dnn", dropout=0.5).get_layer("dropout").rate == 0.5
    narrow = build("cnn", dense=16)
    assert narrow.get_layer("dense").units == 16
    assert narrow.count_params() == 320 + 18_496 + 256 * 16 + 16 + 16 * 10 + 10


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lenet5", {"activation": "sigmoid"}),
        ("lenet5", {"pooling": "min"}),
        ("dnn", {"hidden": 0}),
        ("dnn", {"hidden": "128"}),
        ("dnn", {"dropout": 1.0}),
        ("cnn", {"dense": -1}),
        ("cnn", {"hidden": 128}),
        ("cnn", {"epochs": 0}),
        ("cnn", {"epochs": 2.5}),
        ("cnn", {"batch_size": 0}),
        ("cnn", {"learning_rate": 0.0}),
        ("cnn", {"learning_rate": 11.0}),
        ("cnn", {"learning_rate": float("nan")}),
        ("cnn", {"warmup": 1.0}),
        ("cnn", {"patience": 0}),
        ("cnn", {"schedule": "linear"}),
        ("cnn", {"steps_per_execution": 0}),
        ("cnn", {"precision": "float16"}),
        ("cnn", {"recipe": "paper"}),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        get_model(name).params(role="digits", **options)


def test_the_book_recipe_replaces_the_parameters_of_a_block() -> None:
    options = {"epochs": 2, "batch_size": 256, "learning_rate": 0.004, "precision": "bfloat16"}
    options |= {"beta_2": 0.99, "label_smoothing": 0.1}
    book = get_model("cnn").params(role="digits", dense=64, recipe="book", **options)
    assert (book.epochs, book.batch_size, book.learning_rate) == (5, 32, 0.001)
    assert (book.schedule, book.patience, book.precision) == ("constant", None, "float32")
    assert (book.beta_2, book.label_smoothing) == (0.999, 0.0)
    assert book.dense == 64
    variant = {"beside": {"book": {"change": {"recipe": "book"}}}}
    fast = get_model("cnn").params(role="digits", **(options | variant))
    assert fast.epochs == 2
    assert fast.variant("book").epochs == 5
