"""The explainable network sees 100x100 RGB, whatever it is given."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from chapterflow.models.catalog import get_model
from tests.models import images

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("tensorflow")


def until(model: Any, layer: str) -> Any:
    """Return the model up to a layer."""
    import keras

    return keras.Model(model.input, model.get_layer(layer).output)


def test_layers_are_those_of_the_book() -> None:
    model = images.build("xcnn", (100, 100, 3), classes=2)
    read, expected = 3, 0
    for block, (side, filters) in enumerate([(100, 8), (50, 16), (25, 32), (12, 32)], start=1):
        layer = model.get_layer(f"conv{block}")
        assert layer.kernel_size == (5, 5)
        assert layer.output.shape == (None, side, side, filters)
        assert model.get_layer(f"pool{block}").pool_size == (2, 2)
        expected += (25 * read + 1) * filters
        read = filters
    for units, width in ((128, 6 * 6 * 32), (64, 128), (32, 64), (2, 32)):
        expected += (width + 1) * units
    assert [layer.units for layer in model.layers if hasattr(layer, "units")] == [128, 64, 32, 2]
    assert model.count_params() == expected


def test_photos_are_normalised_averaged_and_changed_in_training_only() -> None:
    block = yaml.safe_load((REPOSITORY / "params.yaml").read_text())["models"]["xcnn"]["book"]
    options = {name: block[name] for name in ("batch_normalisation", "pooling", "dense", "augment")}
    model = images.build("xcnn", (100, 100, 3), classes=2, value_max=255.0, **options)
    assert model.get_layer("pool").output.shape == (None, 32)
    assert [layer.name for layer in model.layers if layer.name.endswith("_norm")] == [
        f"conv{block}_norm" for block in range(1, 5)
    ]
    changed = until(model, "rescale")
    x = images.pixels(2, 100, 100, 3, top=255)
    np.testing.assert_allclose(changed(x, training=False), x / 255, rtol=1e-5, atol=1e-6)
    seen = np.asarray(changed(x, training=True))
    assert np.abs(seen - x / 255).mean() > 0.01
    assert 0 <= seen.min() < seen.max() <= 1


def test_grey_becomes_three_equal_channels() -> None:
    model = images.build("xcnn", (8, 8, 1))
    seen = np.asarray(until(model, "rgb")(images.pixels(2, 8, 8, 1)))
    assert seen.shape == (2, 100, 100, 3)
    np.testing.assert_array_equal(seen[..., 0], seen[..., 1])
    np.testing.assert_array_equal(seen[..., 0], seen[..., 2])
    assert 0 <= seen.min() < seen.max() <= 1


def test_grey_and_rgb_versions_of_a_picture_get_the_same_answer() -> None:
    grey, colour = images.build("xcnn", (28, 28, 1)), images.build("xcnn", (28, 28, 3))
    colour.set_weights(grey.get_weights())
    x = images.pixels(2, 28, 28, 1)
    np.testing.assert_allclose(grey(x), colour(np.repeat(x, 3, axis=3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", [33, 100, 150])
def test_batches_of_any_size(side: int) -> None:
    model = images.build("xcnn", (None, None, 3), value_max=255.0)
    x = images.pixels(2, side, side + 7, 3, top=255)
    assert np.asarray(model(x)).shape == (2, 10)
    seen = np.asarray(until(model, "rescale")(x))
    assert seen.shape == (2, 100, 100, 3)
    assert 0.9 < seen.max() <= 1


def test_an_image_of_the_right_size_is_not_changed_but_in_scale() -> None:
    model = images.build("xcnn", (100, 100, 3), value_max=255.0)
    x = images.pixels(1, 100, 100, 3, top=255)
    np.testing.assert_allclose(until(model, "rescale")(x), x / 255, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channels_are_refused(channels: int) -> None:
    with pytest.raises(ValueError, match=f"1 or 3 channels. Received: {channels} channels"):
        images.build("xcnn", (8, 8, channels))


@pytest.mark.parametrize("options", [{"filters": [8, 8, 8]}, {"filters": [8] * 5}, {"dense": [0]}])
def test_options_that_do_not_fit_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        get_model("xcnn").params(role="digits", **options)
