"""1D and 3D convolution: any length and size, learning by heart, saved and loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chapterflow.models import conv1d, conv3d
from chapterflow.models.base import InputSpec

pytestmark = pytest.mark.usefixtures("tensorflow")


def curve_model(length: int | None, value_max: float = 8.0, **options: Any) -> Any:
    import keras

    keras.utils.set_random_seed(5)
    params = conv1d.Params(role="curves", **options)
    return conv1d.build(params, InputSpec((length, 1), 0, value_max, "curves"))


def volume_model(side: int, channels: int = 1, **options: Any) -> Any:
    import keras

    keras.utils.set_random_seed(5)
    params = conv3d.Params(role="solids", **options)
    return conv3d.build(params, InputSpec((side, side, side, channels), 3, 255, "volumes"))


def shaken(model: Any) -> Any:
    """Give every weight another value, those that start at 0 too."""
    rng = np.random.default_rng(5)
    model.set_weights([w + 0.1 * rng.standard_normal(w.shape) for w in model.get_weights()])
    return model


@pytest.mark.parametrize("own_scale", [False, True])
def test_a_curve_of_any_length_keeps_it(own_scale: bool) -> None:
    model = curve_model(None, own_scale=own_scale)
    for length in (8, 17, 128):
        given = np.random.default_rng(5).standard_normal((2, length, 1)).astype(np.float32)
        # Untrained, it changes nothing.
        np.testing.assert_allclose(np.asarray(model(given)), given, atol=1e-6)


def test_smoothing_does_not_depend_on_the_position() -> None:
    model = shaken(curve_model(None))
    given = np.random.default_rng(5).standard_normal((1, 200, 1)).astype(np.float32)
    whole = np.asarray(model(given))
    # Seen on each side: 2 samples for the convolutions outside the blocks and the second ones in
    # them, 2, 4 and 8 for the dilated ones.
    reach = 2 * 5 + 2 + 4 + 8
    part = np.asarray(model(given[:, 30:170]))
    np.testing.assert_allclose(part[:, reach:-reach], whole[:, 30 + reach : 170 - reach], atol=1e-4)
    assert np.abs(part[:, 0] - whole[:, 30]).max() > 1e-3


def test_a_curve_of_its_own_scale_may_have_any_unit_and_offset() -> None:
    model = shaken(curve_model(64, own_scale=True))
    given = np.random.default_rng(5).standard_normal((3, 64, 1)).astype(np.float32)
    np.testing.assert_allclose(
        np.asarray(model(given * 50 + 7)), np.asarray(model(given)) * 50 + 7, rtol=1e-3, atol=0.05
    )
    flat = np.full((1, 64, 1), 3.0, np.float32)
    assert np.abs(np.asarray(model(flat)) - flat).max() < 0.01


def test_a_curve_is_measured_by_the_largest_value() -> None:
    given = np.random.default_rng(5).standard_normal((3, 64, 1)).astype(np.float32)
    one, ten = shaken(curve_model(64, 1.0)), shaken(curve_model(64, 10.0))
    np.testing.assert_allclose(np.asarray(ten(given * 10)), np.asarray(one(given)) * 10, atol=1e-3)


@pytest.mark.slow
def test_a_few_curves_are_memorised() -> None:
    rng = np.random.default_rng(5)
    clean = np.repeat(rng.choice([-1.0, 1.0], (8, 8)), 8, axis=1)[..., np.newaxis]
    noisy = clean + 0.3 * rng.standard_normal(clean.shape)
    model = curve_model(64, 2.0, filters=8, blocks=1)
    model.compile("adam", "mse", jit_compile=False)
    model.optimizer.learning_rate = 0.01
    model.fit(noisy, clean, batch_size=8, epochs=60, verbose=0)
    assert np.mean((np.asarray(model(noisy)) - clean) ** 2) < 0.09 / 4


@pytest.mark.parametrize("own_scale", [False, True])
def test_a_saved_curve_model_answers_the_same(tmp_path: Path, own_scale: bool) -> None:
    import keras

    model = shaken(curve_model(33, own_scale=own_scale))
    model.save(tmp_path / "model.keras")
    given = np.random.default_rng(5).standard_normal((2, 33, 1)).astype(np.float32)
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(np.asarray(loaded(given)), np.asarray(model(given)))


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (11, 1), (16, 2), (28, 1)])
def test_a_volume_of_any_size_gets_a_logit_for_each_class(side: int, channels: int) -> None:
    model = volume_model(side, channels)
    assert model.output_shape == (None, 3)
    given = np.zeros((2, side, side, side, channels), np.float32)
    assert np.asarray(model(given)).shape == (2, 3)
    assert [layer.name for layer in model.layers if "conv" in layer.name] == [
        "conv1",
        "conv2",
        "conv3",
    ]


def test_too_many_blocks_for_a_volume_are_refused_by_keras() -> None:
    with pytest.raises(ValueError, match="output size would be zero"):
        volume_model(8, blocks=4)


def test_voxels_are_divided_by_their_largest_value() -> None:
    import keras

    model = volume_model(8)
    rescaled = keras.Model(model.input, model.get_layer("rescale").output)
    assert np.asarray(rescaled(np.full((1, 8, 8, 8, 1), 255, np.float32))).max() == 1


@pytest.mark.slow
def test_a_few_volumes_are_memorised_and_a_saved_model_answers_the_same(
    tmp_path: Path,
) -> None:
    import keras

    rng = np.random.default_rng(5)
    volumes = rng.integers(0, 256, (9, 8, 8, 8, 1)).astype(np.float32)
    labels = np.arange(9) % 3
    model = volume_model(8, filters=8, blocks=2, dropout=0.0)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.optimizer.learning_rate = 0.01
    model.fit(volumes, labels, batch_size=9, epochs=60, verbose=0)
    logits = np.asarray(model(volumes))
    assert (logits.argmax(axis=1) == labels).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(np.asarray(loaded(volumes)), logits)
