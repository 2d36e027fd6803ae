"""Backbones get what they were trained on, and the book's mistakes before them are caught."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chapterflow.errors import ConfigError, DataError, FetchError
from chapterflow.models.base import InputSpec
from chapterflow.models.layers.backbones import BackboneParams, backbone

pytestmark = pytest.mark.usefixtures("tensorflow")

#: Name, module of `keras.applications`, size, filters of the last maps (its documentation).
NETWORKS = [
    ("MobileNet", "mobilenet", 224, 256),
    *(
        pytest.param(*row, marks=pytest.mark.slow)
        for row in [
            ("Xception", "xception", 299, 2048),
            ("InceptionV3", "inception_v3", 299, 2048),
            ("ResNet50", "resnet", 224, 2048),
            ("VGG16", "vgg16", 224, 512),
            ("VGG19", "vgg19", 224, 512),
        ]
    ),
]
RGB = InputSpec((None, None, 3), 2, 255.0, "photos")


def made(name: str, data: InputSpec = RGB, **options: Any) -> Any:
    return backbone(
        BackboneParams(**{"backbone": name, "alpha": 0.25, "weights": "none"} | options), data
    )


def reaching(model: Any, images: Any) -> Any:
    """Return what the layer before the backbone gives."""
    import keras

    return np.asarray(keras.Model(model.input, model.get_layer("backbone_input").output)(images))


@pytest.mark.parametrize(("name", "module", "size", "filters"), NETWORKS)
def test_preprocessing_is_keras_own(name: str, module: str, size: int, filters: int) -> None:
    import keras

    model = made(name)
    assert model.input_shape == (None, None, None, 3)
    assert model.output_shape[-1] == filters
    images = np.random.default_rng(5).uniform(0, 255, (2, size, size, 3)).astype(np.float32)
    expected = getattr(keras.applications, module).preprocess_input(images.copy())
    np.testing.assert_allclose(reaching(model, images), expected, atol=1e-4)
    # The same from another range of raw values, and the resizing.
    scaled = made(name, InputSpec((40, 30, 3), 2, 16.0))
    assert reaching(scaled, images[:, :40, :30] * (16 / 255)).shape == (2, size, size, 3)
    flat = np.full((1, 40, 30, 3), (16.0, 8.0, 0.0), np.float32)
    pixel = getattr(keras.applications, module).preprocess_input(
        np.array([[[[255, 127.5, 0]]]], np.float32)
    )
    np.testing.assert_allclose(reaching(scaled, flat)[:, :1, :1], pixel, atol=1e-3)


def test_grey_is_repeated_to_rgb() -> None:
    model = made("MobileNet", InputSpec((20, 20, 1), 2, 255.0))
    images = np.random.default_rng(5).uniform(0, 255, (1, 20, 20, 1)).astype(np.float32)
    rgb = reaching(model, images)
    assert rgb.shape == (1, 224, 224, 3)
    assert (rgb == rgb[..., :1]).all()


def test_the_books_recipe_and_none() -> None:
    images = np.full((1, 224, 224, 3), 51.0, np.float32)
    assert reaching(made("MobileNet", preprocessing="divide-255"), images).max() == (
        pytest.approx(0.2)
    )
    assert reaching(made("MobileNet", preprocessing="none"), images).max() == 51


@pytest.mark.parametrize("name", ["small", "MobileNet"])
def test_saved_and_loaded_it_gives_the_same(name: str, tmp_path: Path) -> None:
    import keras

    model = made(name)
    images = np.random.default_rng(5).uniform(0, 255, (2, 50, 40, 3)).astype(np.float32)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = model(images)
    np.testing.assert_allclose(loaded(images), expected, rtol=1e-5, atol=1e-6)
    # As a file of weights, in all forms that a user may have.
    model.save_weights(tmp_path / "model.weights.h5")
    for file in ("model.weights.h5", "model.keras"):
        again = made(name, weights=str(tmp_path / file))
        np.testing.assert_allclose(again(images), expected, rtol=1e-5, atol=1e-6)


def test_caffe_style_saves_and_loads(tmp_path: Path) -> None:
    import keras

    from chapterflow.models.layers.backbones import _prepared

    inputs = keras.Input((224, 224, 3))
    params = BackboneParams(backbone="ResNet50")
    model = keras.Model(inputs, _prepared(params, InputSpec((224, 224, 3), 2, 255.0), inputs))
    model.save(tmp_path / "model.keras")
    images = np.random.default_rng(5).uniform(0, 255, (1, 224, 224, 3)).astype(np.float32)
    expected = keras.applications.resnet.preprocess_input(images.copy())
    np.testing.assert_allclose(
        keras.saving.load_model(tmp_path / "model.keras")(images), expected, atol=1e-4
    )


def prepared(name: str, **options: Any) -> Any:
    """Return the preprocessing of a backbone alone, which is quick to build."""
    import keras

    from chapterflow.models.layers.backbones import _prepared

    inputs = keras.Input((32, 32, 3))
    params = BackboneParams(backbone=name, **options)
    return keras.Model(inputs, _prepared(params, InputSpec((32, 32, 3), 2, 255.0), inputs))


@pytest.mark.parametrize(
    ("name", "divisor", "caught"),
    [
        ("ResNet50", 1, False),
        ("MobileNet", 1, False),
        ("ResNet50", 255, True),  # fed [0, 1] images
        ("VGG16", 255, True),
        ("MobileNet", 255, True),  # divided twice
        ("small", 255, True),
    ],
)
def test_images_on_another_scale_are_caught(name: str, divisor: int, caught: bool) -> None:
    from chapterflow.models.layers.preprocessing import check_backbone_input

    images = np.random.default_rng(5).uniform(0, 255, (4, 32, 32, 3)).astype(np.float32) / divisor
    if caught:
        with pytest.raises(DataError, match=f"check_backbone_input: {name} expects.*Received: "):
            check_backbone_input(prepared(name), images)
    else:
        check_backbone_input(prepared(name), images)


@pytest.mark.parametrize(
    ("name", "preprocessing", "caught"),
    [
        ("MobileNet", "divide-255", False),  # the book's, worse but no nonsense
        ("ResNet50", "divide-255", True),
        ("MobileNet", "none", True),
        ("ResNet50", "none", False),
    ],
)
def test_a_preprocessing_that_is_none_of_the_backbones(
    name: str, preprocessing: str, caught: bool
) -> None:
    from chapterflow.models.layers.preprocessing import check_backbone_input

    images = np.random.default_rng(5).uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)
    model = prepared(name, preprocessing=preprocessing)
    if caught:
        with pytest.raises(DataError, match="check_backbone_input"):
            check_backbone_input(model, images)
    else:
        check_backbone_input(model, images)


@pytest.mark.parametrize("name", ["MobileNet", "ResNet50"])
def test_bgr_for_rgb_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    from chapterflow.models.layers import preprocessing as pixels

    module = {"MobileNet": "mobilenet", "ResNet50": "resnet"}[name]
    right = getattr(keras.applications, module).preprocess_input
    pixels.check_channel_order(prepared(name), right, 255.0)

    inputs = keras.Input((32, 32, 3))
    swapped = prepared(name)(pixels.ReverseChannels()(inputs))
    model = keras.Model(inputs, pixels.BackboneInput(name, -1, 1)(swapped))
    with pytest.raises(DataError, match=r"check_channel_order: a red image must reach"):
        pixels.check_channel_order(model, right, 255.0)
    if name == "ResNet50":  # Caffe's order forgotten: the check is part of every build
        monkeypatch.setattr(pixels.ReverseChannels, "call", lambda self, inputs: inputs)
        with pytest.raises(DataError, match="check_channel_order"):
            made("ResNet50")


def test_probabilities_are_no_features() -> None:
    from chapterflow.models.layers.preprocessing import check_not_probabilities

    rng = np.random.default_rng(5)
    check_not_probabilities(rng.uniform(0, 1, (4, 7, 7, 8)))
    given = rng.uniform(0, 1, (4, 1000))
    with pytest.raises(DataError, match=r"check_not_probabilities.*1000 numbers"):
        check_not_probabilities(given / given.sum(axis=1, keepdims=True))


def test_weights_with_a_top_are_caught(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "with_top.h5", "w") as file:
        file.attrs["layer_names"] = ["conv1", "conv_preds", "predictions"]
    with pytest.raises(DataError, match=r"check_without_top.*conv_preds, predictions"):
        made("MobileNet", weights=str(tmp_path / "with_top.h5"))


def test_weights_that_are_not_there_or_of_another_network(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Received: .*nowhere\.h5, which does not exist"):
        made("small", weights=str(tmp_path / "nowhere.h5"))
    with pytest.raises(ConfigError, match="pretext must be trained first"):
        made("small", weights="pretext")
    made("small", InputSpec((8, 8, 1), 2, 16.0)).save_weights(tmp_path / "grey.weights.h5")
    with pytest.raises(DataError, match="must hold the weights of small"):
        made("small", weights=str(tmp_path / "grey.weights.h5"))
    (tmp_path / "text.h5").write_text("no weights")
    with pytest.raises(DataError, match="must hold the weights of MobileNet"):
        made("MobileNet", weights=str(tmp_path / "text.h5"))


def test_imagenet_weights_come_from_the_mirror(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chapterflow.training.weights import imagenet_weights

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("CHAPTERFLOW_MIRROR", str(mirror))
    path = imagenet_weights("MobileNet", 0.25)
    assert path == tmp_path / "models/mobilenet_2_5_224_tf_no_top.h5"
    made("MobileNet", weights=str(path))
    with_top = mirror / "keras-applications/mobilenet/mobilenet_2_5_224_tf.h5"
    with pytest.raises(DataError, match="check_without_top"):
        made("MobileNet", weights=str(with_top))
    with pytest.raises(DataError, match="must hold the weights of MobileNet"):
        made("MobileNet", alpha=0.5, weights=str(path))


def test_imagenet_weights_that_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    from chapterflow.training.weights import imagenet_weights

    asked = []

    def unreachable(*words: Any, **options: Any) -> None:
        asked.append(words)
        raise OSError("no network")

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(keras.utils, "get_file", unreachable)
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("CHAPTERFLOW_MIRROR", str(tmp_path / "empty"))
    with pytest.raises(FetchError, match=r"resnet50_weights_tf_dim_ordering_tf_kernels_notop\.h5"):
        imagenet_weights("ResNet50", 1.0)
    assert not asked  # a mirror replaces Keras's address
    monkeypatch.delenv("CHAPTERFLOW_MIRROR")
    with pytest.raises(FetchError, match=r"resnet50_weights_tf_dim_ordering_tf_kernels_notop\.h5"):
        imagenet_weights("ResNet50", 1.0)
    assert asked
    with pytest.raises(ConfigError, match=r"alpha 0.25, 0.5, 0.75, 1.0"):
        imagenet_weights("MobileNet", 0.3)
    models = tmp_path / "models"
    shutil.rmtree(models)
    models.mkdir()
    (models / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5").write_bytes(b"damaged")
    with pytest.raises(DataError, match="must have the MD5"):
        imagenet_weights("VGG16", 1.0)
