"""What VGG, GoogLeNet and the explainable network must do, trained or not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests.models import images

pytestmark = pytest.mark.usefixtures("tensorflow")

MODELS = ("vgg", "googlenet", "xcnn")


@pytest.fixture(scope="module", params=MODELS)
def network(request: pytest.FixtureRequest, tensorflow: None) -> Any:
    """Each model for grey pictures of 8x8 pixels, for tests that only ask it."""
    return images.build(request.param)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 9, 3), (15, 15, 1), (33, 33, 3), (9, 28, 1)])
def test_any_size_and_number_of_channels(name: str, shape: tuple[int, int, int]) -> None:
    logits = np.asarray(images.build(name, shape, classes=3)(images.pixels(2, *shape)))
    assert logits.shape == (2, 3)
    assert np.isfinite(logits).all()
    assert np.ptp(logits) > 0


def test_raw_pixels_of_any_range_are_the_same_picture(network: Any) -> None:
    bytes8 = images.build(network.name, value_max=255.0)
    bytes8.set_weights(network.get_weights())
    x = images.pixels(4, 8, 8, 1)
    np.testing.assert_allclose(network(x), bytes8(x * (255 / 16)), rtol=1e-3, atol=1e-4)
    assert np.abs(np.asarray(network(x)) - np.asarray(bytes8(x))).max() > 1e-3


def test_an_example_is_judged_alone(network: Any) -> None:
    # Batch normalisation looks at the batch in training alone.
    x = images.pixels(6, 8, 8, 1)
    together = np.asarray(network(x))
    alone = np.concatenate([np.asarray(network(x[i : i + 1])) for i in range(6)])
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(network(x[::-1])[::-1], together, rtol=1e-3, atol=1e-5)


def test_logits_come_out(network: Any, request: pytest.FixtureRequest) -> None:
    assert network.name == request.node.callspec.params["network"]
    assert network.get_layer("logits").activation.__name__ == "linear"


@pytest.mark.parametrize("name", MODELS)
def test_saving_keeps_the_answers(name: str, tmp_path: Path) -> None:
    import keras

    model: Any = images.build(name)
    # Statistics of a normalisation, too, are other than at the start.
    model.set_weights([weights + 0.01 for weights in model.get_weights()])
    x = images.pixels(3, 8, 8, 1)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(np.asarray(loaded(x)), np.asarray(model(x)))
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_few_digits_are_memorised(name: str) -> None:
    import keras

    raw = load_digits()
    x, y = raw.images[:20, ..., np.newaxis].astype(np.float32), raw.target[:20]
    model: Any = images.build(name, **({} if name == "xcnn" else {"dropout": 0.0}))
    model.compile(
        keras.optimizers.Adam(0.003), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    assert (np.asarray(model(x)).argmax(axis=1) != y).any()
    # The moving averages of batch normalisation need some 50 steps; xcnn has none.
    model.fit(x, y, batch_size=20, epochs=40 if name == "xcnn" else 70, verbose=0)
    logits = np.asarray(model(x))
    assert (logits.argmax(axis=1) == y).all()
    # One pixel apart is another picture.
    assert np.abs(np.asarray(model(np.roll(x, 1, axis=2))) - logits).max() > 0.1
