"""Attributions agree with closed forms, with a formula of plain NumPy, and with each other."""

from pathlib import Path

import numpy as np
import pytest

from tests.explain.small_models import SHAPES, convolutional, linear, values

pytestmark = pytest.mark.usefixtures("tensorflow")
TARGETS = np.array([0, 2, 1, 1])


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("method", ["integrated-gradients", "occlusion"])
def test_attributions_of_a_linear_model_are_weight_times_difference(axes: int, method: str) -> None:
    from chapterflow.explain.attributions import attribute, default_baseline

    shape = SHAPES[axes]
    model, inputs = linear(shape), values(4, shape)
    options = {"window": 1, "stride": 1} if method == "occlusion" else {"steps": 3}
    result = attribute(model, inputs, TARGETS, method, **options)
    kernel = np.asarray(model.layers[-1].kernel)
    weights = kernel.T[TARGETS].reshape(inputs.shape)
    expected = (weights * (inputs - default_baseline(inputs))).sum(axis=-1)
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_integrated_gradients_are_complete(axes: int) -> None:
    from chapterflow.explain.attributions import attribute, default_baseline
    from chapterflow.explain.outputs import outputs

    shape = SHAPES[axes]
    model, inputs = convolutional(shape), values(4, shape)
    result = attribute(model, inputs, TARGETS, "integrated-gradients", steps=300)
    base = np.broadcast_to(default_baseline(inputs), inputs.shape)
    rise = outputs(model, inputs) - outputs(model, np.array(base, np.float32))
    sums = result.reshape(4, -1).sum(axis=1)
    np.testing.assert_allclose(sums, rise[np.arange(4), TARGETS], atol=5e-3)
    assert np.abs(sums).max() > 0.05


def test_occlusion_is_the_mean_fall_over_the_windows_that_cover_a_place() -> None:
    from chapterflow.explain.attributions import attribute
    from chapterflow.explain.outputs import outputs

    model, inputs = convolutional((6, 6, 1)), values(2, (6, 6, 1))
    result = attribute(model, inputs, TARGETS[:2], "occlusion", window=3, stride=2, baseline=0.5)
    for one, target, place in ((0, 0, (0, 0)), (1, 2, (3, 4))):
        falls = []
        for top in range(-1, 6, 2):
            for left in range(-1, 6, 2):
                rows, columns = (slice(max(s, 0), s + 3) for s in (top, left))
                if rows.start <= place[0] < rows.stop and columns.start <= place[1] < columns.stop:
                    covered = inputs[one : one + 1].copy()
                    covered[0, rows, columns] = 0.5
                    before, after = outputs(model, inputs[one : one + 1]), outputs(model, covered)
                    falls.append((before - after)[0, target])
        assert result[one][place] == pytest.approx(np.mean(falls), abs=1e-5)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_grad_cam_is_the_maps_weighted_by_their_mean_gradient(axes: int) -> None:
    """Behind the maps only sums and a known dense layer: the gradient is written down."""
    import keras
    from keras import layers

    from chapterflow.explain.attributions import attribute
    from chapterflow.explain.feature_maps import feature_maps

    shape = SHAPES[axes]
    inputs = keras.Input(shape)
    keras.utils.set_random_seed(5)
    maps = getattr(layers, f"Conv{axes}D")(4, 3, padding="same", bias_initializer="zeros")(inputs)
    pooled = getattr(layers, f"GlobalAveragePooling{axes}D")()(maps)
    model = keras.Model(inputs, layers.Dense(3)(pooled))
    model.layers[1].bias.assign(np.full(4, 0.1, np.float32))
    given = values(4, shape)
    (answer,) = feature_maps(model, given).values()
    weights = np.asarray(model.layers[-1].kernel).T[TARGETS] / np.prod(shape[:-1])
    expected = np.maximum(np.einsum("n...c,nc->n...", answer, weights), 0)
    np.testing.assert_allclose(attribute(model, given, TARGETS, "grad-cam"), expected, atol=1e-6)
    assert expected.max() > 0


def test_grad_cam_of_a_chosen_layer_has_the_size_of_the_input() -> None:
    from chapterflow.explain.attributions import attribute, last_wide

    model, inputs = convolutional((6, 6, 1)), values(2, (6, 6, 1))
    usual = attribute(model, inputs, TARGETS[:2], "grad-cam")
    chosen = attribute(model, inputs, TARGETS[:2], "grad-cam", layer="pool")
    assert usual.shape == chosen.shape == (2, 6, 6)
    assert last_wide(model) == "conv2"
    assert not np.allclose(usual, chosen)


def test_interpolation_keeps_a_slope_and_the_places_of_the_middles() -> None:
    from chapterflow.explain.attributions import interpolate

    slope = np.arange(4.0).reshape(1, 4)
    expected = [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
    np.testing.assert_allclose(interpolate(slope, (8,))[0], expected)
    assert interpolate(np.full((2, 1, 1), 3.0), (4, 5)).tolist() == np.full((2, 4, 5), 3.0).tolist()


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_every_place_is_covered_equally_often_but_for_uneven_ends(stride: int) -> None:
    from chapterflow.explain.attributions import windows

    covered = windows((6, 6), 2 * stride, stride)
    counts = covered.sum(axis=0)
    assert counts.min() == counts.max() == 4


def test_a_saved_model_has_the_same_explanation(tmp_path: Path) -> None:
    from chapterflow.explain.attributions import METHODS, attribute
    from chapterflow.training.batches import load_model

    model, inputs = convolutional((6, 6, 1)), values(2, (6, 6, 1))
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    for method in METHODS:
        first, second = (attribute(one, inputs, TARGETS[:2], method) for one in (model, loaded))
        np.testing.assert_allclose(first, second, atol=1e-6)
        assert np.abs(first).max() > 0


@pytest.mark.parametrize(
    ("method", "layer", "message"),
    [
        ("gradcam", None, "Did you mean 'grad-cam'.*Received: 'gradcam'"),
        ("grad-cam", "conv", "Did you mean 'conv.'.*Received: 'conv'"),
        ("occlusion", "conv1", "needs the method grad-cam"),
    ],
)
def test_wrong_names(method: str, layer: str | None, message: str) -> None:
    from chapterflow.errors import ConfigError
    from chapterflow.explain.attributions import attribute

    with pytest.raises(ConfigError, match=message):
        attribute(convolutional((6, 6, 1)), values(1, (6, 6, 1)), TARGETS[:1], method, layer=layer)
    with pytest.raises(ConfigError, match="must have a convolution"):
        attribute(linear((6, 6, 1)), values(1, (6, 6, 1)), TARGETS[:1], "grad-cam")


def test_grad_cam_does_not_take_a_layer_of_four_positions() -> None:
    import keras
    from keras import layers

    from chapterflow.explain.attributions import last_wide

    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(2, 3, padding="same", name="wide")(inputs)
    x = layers.Conv2D(2, 3, name="small")(layers.MaxPooling2D(2)(x))
    assert last_wide(keras.Model(inputs, layers.Flatten()(x))) == "wide"
