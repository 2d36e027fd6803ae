"""Models end in logits and scale pixels once, or they are not trained."""

from collections.abc import Callable
from typing import Any

import pytest

from chapterflow.errors import ConfigError
from chapterflow.kinds.dataset import Dataset
from chapterflow.models.base import InputSpec
from chapterflow.models.catalog import get_model, model_names
from tests.models.images import build

pytestmark = pytest.mark.usefixtures("tensorflow")

KINDS = {
    "conv3d": InputSpec((12, 12, 12, 1), 10, 255.0, "volumes"),
    "gcn": InputSpec((None, 7), 10, 1.0, "graphs"),
    "gcn-node": InputSpec((7,), 10, 1.0, "citations"),
}


def ending(*tail: Callable[[Any], Any]) -> Any:
    """Return a model that ends in these layers behind a first dense layer."""
    import keras

    inputs = keras.Input((8, 8, 1))
    x: Any = keras.layers.Flatten()(inputs)
    x = keras.layers.Dense(16, activation="relu", name="first")(x)
    for layer in tail:
        x = layer(x)
    return keras.Model(inputs, x, name="own")


@pytest.mark.parametrize("name", sorted({*model_names()} - {"conv1d", "hub"}))
def test_chapter_models_end_in_logits_and_scale_once(name: str) -> None:
    from chapterflow.training.model_checks import check_layers, check_logits, check_scaled_once

    options = {"backbone": "small", "weights": "none"} if name == "transfer" else {}
    if name in KINDS:
        entry = get_model(name)
        model, spec = entry.build(entry.params(role="any"), KINDS[name]), KINDS[name]
    else:
        model, spec = build(name, **options), InputSpec((8, 8, 1), 10, 16.0)
    check_layers(model)
    check_logits(model, 10)
    check_scaled_once(model, spec)


def test_a_fault_names_the_model_as_its_user_does(dataset: Dataset) -> None:
    """Keras would call it `functional`."""
    import keras
    from keras import layers

    from chapterflow.models.base import ChapterModel, ModelParams
    from chapterflow.training.epochs import checked

    def build(_: ModelParams, data: InputSpec) -> Any:
        inputs = keras.Input(data.shape)
        flat = layers.Flatten()(inputs)
        return keras.Model(inputs, layers.Dense(data.classes, "softmax", name="answer")(flat))

    entry = ChapterModel("resnet", ModelParams, build)
    with pytest.raises(ConfigError, match=r"^resnet: check_logits: the model .* layer, answer\."):
        checked(entry, ModelParams(role="digits"), dataset, seed=1)


def test_layers_that_change_nothing_are_looked_through() -> None:
    from keras import layers

    from chapterflow.training.model_checks import check_logits

    same = layers.Activation("linear"), layers.Dropout(0.1), layers.Reshape((4,))
    check_logits(ending(layers.Dense(4), *same), 4)
    with pytest.raises(ConfigError, match=r"softmax in its last layer, answer\."):
        check_logits(ending(layers.Dense(4, activation="softmax", name="answer"), *same), 4)


def test_every_way_to_write_an_activation() -> None:
    import keras
    from keras import layers

    from chapterflow.training.model_checks import check_logits

    logits = layers.Dense(4)
    for activation in ("sigmoid", "softmax", "tanh", "relu", "hard_sigmoid", "softsign"):
        with pytest.raises(ConfigError, match=f"check_logits: .*Received: {activation} in"):
            check_logits(ending(layers.Dense(4, activation=activation)), 4)
        with pytest.raises(ConfigError, match=f"check_logits: .*Received: {activation} in"):
            check_logits(ending(logits, layers.Activation(activation)), 4)
    for layer in (layers.Softmax(), layers.ReLU(), keras.ops.sigmoid, keras.ops.softmax):
        with pytest.raises(ConfigError, match="check_logits"):
            check_logits(ending(logits, layer), 4)


def test_a_model_within_a_model() -> None:
    import keras
    from keras import layers

    from chapterflow.training.model_checks import check_logits

    head = keras.Sequential([keras.Input((16,)), layers.Dense(4, "sigmoid", name="deep")])
    with pytest.raises(ConfigError, match=r"sigmoid in its last layer, deep\."):
        check_logits(ending(head), 4)


@pytest.mark.parametrize("units", [1, 3, 5])
def test_another_width_than_the_classes(units: int) -> None:
    from keras import layers

    from chapterflow.training.model_checks import check_logits

    with pytest.raises(ConfigError, match=rf"must end in 4 logits.*\(None, {units}\).*, answer\."):
        check_logits(ending(layers.Dense(units, name="answer")), 4)


def test_maps_are_no_logits() -> None:
    import keras

    from chapterflow.training.model_checks import check_logits

    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, keras.layers.Conv2D(4, 3, name="maps")(inputs))
    with pytest.raises(ConfigError, match=r"must end in 4 logits.*maps"):
        check_logits(model, 4)


@pytest.mark.parametrize("kind", ["images", "curves"])
def test_only_pixels_are_held_to_a_scale(kind: Any) -> None:
    import keras
    from keras import layers

    from chapterflow.training.model_checks import check_scaled_once

    inputs = keras.Input((8, 8, 1))
    x = layers.Rescaling(1 / 16)(layers.Rescaling(1 / 16)(inputs))
    model = keras.Model(inputs, layers.Dense(4)(x))
    spec = InputSpec((8, 8, 1), 4, 16.0, kind)
    if kind == "images":
        with pytest.raises(ConfigError, match="check_scaled_once"):
            check_scaled_once(model, spec)
    else:
        check_scaled_once(model, spec)


def test_layers_that_no_file_brings_back_are_refused() -> None:
    import keras
    from keras import layers

    from chapterflow.training.model_checks import check_layers

    class Plain(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x

    check_layers(ending(layers.Dense(4)))
    with pytest.raises(ConfigError, match=r"Received: Plain, unregistered\. Put @keras\.saving"):
        check_layers(ending(Plain(), layers.Dense(4)))
    with pytest.raises(ConfigError, match="Received: odd, a Lambda"):
        check_layers(ending(layers.Lambda(lambda x: x + 1, name="odd"), layers.Dense(4)))
    registered = keras.saving.register_keras_serializable("tests")(Plain)
    check_layers(ending(registered(), layers.Dense(4)))


@pytest.mark.parametrize("named", [True, False])
def test_a_sequential_is_a_model_like_others(named: bool) -> None:
    """With an `Input` of its own or without: its input can be asked for, and saved with it."""
    import keras
    from keras import layers

    from chapterflow.models.base import ChapterModel, ModelParams
    from chapterflow.training.epochs import built

    def build(_: ModelParams, data: InputSpec) -> Any:
        first = [keras.Input(data.shape)] if named else []
        return keras.Sequential([*first, layers.Flatten(), layers.Dense(data.classes)])

    spec = InputSpec((8, 8, 1), 10, 16.0)
    model = built(ChapterModel("own", ModelParams, build), ModelParams(role="digits"), spec)
    assert tuple(model.input.shape) == (None, 8, 8, 1)
    assert tuple(model.output.shape) == (None, 10)
    nothing = ChapterModel("own", ModelParams, lambda *_: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(ConfigError, match=r"must return a keras\.Model. Received: NoneType"):
        built(nothing, ModelParams(role="digits"), spec)


def test_logits_for_each_position_are_reported_apart() -> None:
    import keras
    from keras import layers

    from chapterflow.training.model_checks import check_logits

    inputs = keras.Input((8, 8, 1))
    with pytest.raises(ConfigError, match="Flatten or pool before it"):
        check_logits(keras.Model(inputs, layers.Dense(10)(inputs)), 10)
