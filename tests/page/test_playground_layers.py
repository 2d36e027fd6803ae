"""The layers of the playground, in a browser, equal those of Keras."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chapterflow.config.load import load_settings
from chapterflow.environment import load_tensorflow
from chapterflow.explain.attributions import grad_cam
from chapterflow.models.catalog import get_model
from chapterflow.page.network import read_network
from chapterflow.page.playground import ASSETS
from chapterflow.types import InputSpec
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

CHAPTER = ["dnn", "cnn", "lenet5", "vgg", "googlenet", "xcnn"]
CASES = [
    *((name, "embedded", (8, 8, 1), 16) for name in CHAPTER),
    *((name, "book", (28, 28, 1), 255) for name in CHAPTER if name != "xcnn"),
    ("transfer", "embedded", (8, 8, 1), 16),
]
#: Answers for one input, as base64 of float32 by name of layer; and Grad-CAM for one class.
ASK = """async ([document, inputs, unit]) => {
  const network = await readNetwork(document);
  const given = {};
  for (const [name, { shape, data }] of Object.entries(inputs))
    given[name] = shape ? tensor(shape, Float32Array.from(data)) : data;
  const outputs = forward(network, given);
  const text = ({ data }) => {
    const floats = Float32Array.from(data);
    let letters = "";
    for (const byte of new Uint8Array(floats.buffer)) letters += String.fromCharCode(byte);
    return btoa(letters);
  };
  const answers = {};
  for (const [name, output] of outputs) if (output.shape) answers[name] = text(output);
  const cam = unit === null ? null : gradCam(network, outputs, unit);
  return { answers, cam: cam && { layer: camLayer(network, outputs), map: text(cam) } };
}"""


def floats(text: str) -> Any:
    return np.frombuffer(base64.b64decode(text), np.float32)


@pytest.fixture(scope="module")
def page(browser: Any) -> Any:
    page = browser.new_page()
    page.add_script_tag(content=(ASSETS / "layers.js").read_text())
    return page


def randomise(model: Any) -> None:
    """Give a model biases, and statistics of batches, as training would."""
    random = np.random.default_rng(3)
    for weight in model.weights:
        if weight.name in ("bias", "beta", "moving_mean"):
            weight.assign(random.normal(0, 0.1, weight.shape))
        elif weight.name in ("gamma", "moving_variance"):
            weight.assign(random.uniform(0.7, 1.3, weight.shape))


def differences(page: Any, model: Any, x: Any, folder: Path, *, planes: int, cam: bool) -> Any:
    """Return the largest difference in each layer, and in Grad-CAM's map for class 1."""
    import keras

    randomise(model)
    model.save(folder / "model.keras")
    document = read_network(folder / "model.keras").document(planes)
    name = model.layers[0].name
    inputs = {name: {"shape": x.shape[1:], "data": x.ravel().tolist()}}
    actual = page.evaluate(ASK, [document, inputs, 1 if cam else None])
    inner = keras.Model(model.input, {layer.name: layer.output for layer in model.layers})
    expected = {name: np.asarray(value)[0] for name, value in inner(x, training=False).items()}
    assert set(actual["answers"]) == set(expected)
    result = {
        name: float(np.abs(floats(actual["answers"][name]) - value.ravel()).max())
        for name, value in expected.items()
    }
    if cam:
        chosen = actual["cam"]["layer"]
        shape = expected[chosen].shape[:2]
        maps = keras.Model(model.input, model.get_layer(chosen).output)
        theirs = grad_cam(model, x, np.array([1]), layer=chosen)[0]
        ours = floats(actual["cam"]["map"]).reshape(1, *shape)
        from chapterflow.explain.attributions import interpolate, last_wide

        assert maps.output.shape[1:3] == shape
        assert chosen == last_wide(model)
        result["Grad-CAM"] = float(np.abs(interpolate(ours, x.shape[1:3])[0] - theirs).max())
    return result


@pytest.mark.parametrize("planes", [4, 3])
@pytest.mark.parametrize(("name", "profile", "shape", "value_max"), CASES)
def test_every_layer_equals_keras(
    name: str, profile: Any, shape: Any, value_max: int, planes: int, page: Any, tmp_path: Path
) -> None:
    load_tensorflow()
    import keras

    keras.utils.set_random_seed(1)
    chapter = get_model(name)
    params = load_settings(REPOSITORY / "params.yaml", profile=profile).params(name)
    if name == "transfer":
        params = params.model_copy(update={"weights": "none"})
    model = chapter.build(params, InputSpec(shape, 10, value_max))
    x = np.random.default_rng(2).uniform(0, value_max, (1, *shape)).astype(np.float32)
    actual = differences(page, model, x, tmp_path, planes=planes, cam=name != "dnn")
    assert max(actual.values()) < 1e-4, actual


def test_settings_that_no_chapter_model_has(page: Any, tmp_path: Path) -> None:
    load_tensorflow()
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    inputs = keras.Input((11, 9, 2), name="pixels")
    x = layers.Conv2D(3, (3, 2), strides=(2, 1), padding="same", activation="sigmoid")(inputs)
    y = layers.Conv2D(3, 2, dilation_rate=2, padding="same", activation="tanh")(x)
    x = layers.Add()([x, y])
    x = layers.SeparableConv2D(4, 3, padding="same", activation="relu")(x)
    x = layers.DepthwiseConv2D(2, activation="relu", use_bias=False)(x)
    x = layers.AveragePooling2D(3, 2, padding="same")(x)
    x = layers.Conv2D(5, 1)(x)
    x = layers.Activation("softmax")(x)
    x = layers.ReLU(max_value=0.3)(x)
    x = layers.MaxPooling2D(2, 1)(x)
    x = layers.Concatenate()([layers.GlobalMaxPooling2D()(x), layers.GlobalAveragePooling2D()(x)])
    outputs = layers.Softmax()(layers.Dense(4, use_bias=False)(x))
    model = keras.Model(inputs, outputs)
    x = np.random.default_rng(2).normal(0, 1, (1, 11, 9, 2)).astype(np.float32)
    actual = differences(page, model, x, tmp_path, planes=4, cam=True)
    assert max(actual.values()) < 1e-5, actual


def test_graph_convolutions_equal_keras(page: Any, tmp_path: Path) -> None:
    load_tensorflow()
    import keras
    import networkx as nx

    keras.utils.set_random_seed(1)
    club = nx.karate_club_graph()
    pairs = sorted([*club.edges, *((b, a) for a, b in club.edges)])
    settings = load_settings(REPOSITORY / "params.yaml", profile="embedded")
    chapter = get_model("gcn-node")
    model = chapter.build(settings.params("gcn-node"), InputSpec((34,), 2, 1, "citations"))
    randomise(model)
    model.save(tmp_path / "model.keras")
    features = np.random.default_rng(2).uniform(0, 1, (34, 34)).astype(np.float32)
    document = read_network(tmp_path / "model.keras").document(4)
    inputs = {
        "features": {"shape": [34, 34], "data": features.ravel().tolist()},
        "edges": {"data": [list(pair) for pair in pairs]},
    }
    actual = page.evaluate(ASK, [document, inputs, None])["answers"]
    expected = model({"features": features, "edges": np.array(pairs, np.int32)}, training=False)
    assert np.abs(floats(actual["logits"]) - np.asarray(expected).ravel()).max() < 1e-5
