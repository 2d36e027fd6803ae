"""The book's mistakes: each is made here with real parts, and the named check catches it.

docs/mistakes.md is the table of them.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chapterflow.config.settings import EvaluationParams
from chapterflow.errors import ConfigError, DataError, ImplausibleMetric
from chapterflow.kinds.dataset import Dataset
from chapterflow.kinds.pixels import ImageExpectations
from chapterflow.models.base import ChapterModel, InputSpec, ModelParams
from chapterflow.models.catalog import get_model
from tests.digits import digits_dataset, with_arrays
from tests.models.images import build
from tests.small_images import colours
from tests.validation.conftest import without_data_docs  # noqa: F401

pytestmark = pytest.mark.usefixtures("tensorflow")

BOUNDS = ImageExpectations(
    class_divergence=0.2, duplicates=0.01, value_use=0.9, mean_value=[0.02, 0.7]
)
RGB = InputSpec((None, None, 3), 2, 255.0, "photos")
SMALL = {"epochs": 1, "batch_size": 16, "learning_rate": 0.01}


@pytest.fixture
def digits() -> Dataset:
    """Two hundred digits, in equal shares of the classes as near as they come."""
    return digits_dataset(np.repeat(np.arange(3, dtype=np.uint8), (140, 30, 30)))


def broken(dataset: Dataset, folder: Path) -> set[str]:
    """Return the names of the expectations that a real validation finds broken."""
    from chapterflow.validation.validate import validate_dataset

    return {check.name for check in validate_dataset(dataset, BOUNDS, folder).failures}


def checked_model(dataset: Dataset, build: Callable[..., Any]) -> Any:
    """Return what would be trained, of a model that is written by hand."""
    from chapterflow.training.epochs import checked

    entry = ChapterModel("own", ModelParams, build, "", "")
    return checked(entry, ModelParams(role="digits"), dataset, 5)


def classifier(classes: int, activation: str | None = None, scales: int = 1) -> Any:
    """Return a build function: rescaling, one dense layer."""

    def build(params: ModelParams, data: InputSpec) -> Any:
        import keras
        from keras import layers

        inputs = keras.Input(data.shape)
        x: Any = inputs
        for number in range(scales):
            x = layers.Rescaling(1 / data.value_max, name=f"rescale{number + 1}")(x)
        x = layers.Flatten()(x)
        x = layers.Dense(classes, activation=activation, name="answer")(x)
        return keras.Model(inputs, x, name="own")

    return build


@pytest.mark.usefixtures("without_data_docs")
def test_pixels_divided_twice_on_disk(digits: Dataset, tmp_path: Path) -> None:
    assert broken(digits, tmp_path / "right") == set()
    scaled = np.asarray(digits.arrays["images"], np.float32) / 16
    actual = broken(with_arrays(digits, images=scaled), tmp_path / "floats")
    assert {"dtype", "value-use"} <= actual
    actual = broken(with_arrays(digits, images=scaled.astype(np.uint8)), tmp_path / "bytes")
    assert "value-use" in actual
    # And the other way round: a range other than that which the models divide by.
    too_large = np.asarray(digits.arrays["images"]) * 15
    actual = broken(with_arrays(digits, images=too_large), tmp_path / "large")
    assert "value-max" in actual


def test_pixels_divided_twice_in_the_model(digits: Dataset) -> None:
    checked_model(digits, classifier(10))
    with pytest.raises(ConfigError, match=r"check_scaled_once: .*0\.0625 after rescale1, resc"):
        checked_model(digits, classifier(10, scales=2))


@pytest.mark.slow
def test_resnet50_fed_values_from_0_to_1(tmp_path: Path) -> None:
    import keras

    from chapterflow.models.layers.backbones import BackboneParams, backbone
    from chapterflow.training.frozen import cached_features

    photos = colours(tmp_path / "data" / "colours", side=64)
    train = photos.indices("train")[:2]
    model = backbone(BackboneParams(backbone="ResNet50", weights="none"), RGB)
    # What the features are made with, cut off early: the rest has 24 million weights.
    model = keras.Model(model.input, model.get_layer("conv1_pad").output)
    assert len(cached_features(model, photos, train, tmp_path / "features")) == 2
    scaled = with_arrays(photos, images=np.asarray(photos.arrays["images"]) / np.float32(255))
    scaled = replace(scaled, card=scaled.card.model_copy(update={"name": "scaled"}))
    with pytest.raises(DataError, match=r"check_backbone_input: ResNet50 expects .*Received: "):
        cached_features(model, scaled, train, tmp_path / "features")


def test_probabilities_for_features(tmp_path: Path) -> None:
    import keras

    from chapterflow.models.layers.backbones import check_without_top
    from chapterflow.training.frozen import cached_features

    photos = colours(tmp_path / "data" / "colours", side=32)
    train = photos.indices("train")[:2]
    size: dict[str, Any] = {"alpha": 0.25, "weights": None, "input_shape": (32, 32, 3)}
    for include_top in (False, True):
        network = keras.applications.MobileNet(include_top=include_top, **size)
        network.save(tmp_path / f"{include_top}.h5")
    answers = keras.Model(network.input, network.layers[-4].output)
    cached_features(answers, photos, train, tmp_path / "features")
    with pytest.raises(DataError, match=r"check_not_probabilities: .*1000 numbers that sum to one"):
        cached_features(network, photos, train, tmp_path / "features")

    check_without_top(tmp_path / "False.h5")
    with pytest.raises(DataError, match=r"check_without_top: .*conv_preds, predictions"):
        check_without_top(tmp_path / "True.h5")


def test_sigmoids_with_binary_cross_entropy_on_one_hot_classes(tmp_path: Path) -> None:
    two = colours(tmp_path / "data" / "colours")
    checked_model(two, classifier(2))
    with pytest.raises(ConfigError, match=r"check_logits: .*Received: sigmoid .*, answer\."):
        checked_model(two, classifier(2, "sigmoid"))
    with pytest.raises(ConfigError, match=r"check_logits: .*2 logits.*\(None, 1\).*, answer\."):
        checked_model(two, classifier(1))


def test_feature_maps_of_an_untrained_model(tmp_path: Path) -> None:
    from chapterflow.explain.feature_maps import feature_maps
    from chapterflow.explain.untrained import Untrained
    from chapterflow.training.batches import load_model
    from chapterflow.training.fit import fit

    two = colours(tmp_path / "data" / "colours")
    image = two.inputs(two.indices("test")[:1])
    entry = get_model("cnn")
    params = entry.params(role="digits", dense=8, **SMALL)
    with pytest.raises(Untrained, match=r"check_trained: cnn .*2 of 2 layers \(conv1, conv2\)"):
        feature_maps(entry.build(params, two.card.input_spec), image)
    fit(entry, params, two, seed=5, work=tmp_path / "work")
    maps = feature_maps(load_model(tmp_path / "work" / "model.keras"), image)
    assert [*maps] == ["conv1", "pool1", "conv2", "pool2"]


def test_blue_green_red_for_red_green_blue() -> None:
    import keras

    from chapterflow.models.layers.backbones import BackboneParams, backbone
    from chapterflow.models.layers.preprocessing import ReverseChannels, check_channel_order

    params = BackboneParams(alpha=0.25, weights="none")
    right = keras.applications.mobilenet.preprocess_input
    check_channel_order(backbone(params, RGB), right, 255.0)
    inputs = keras.Input(RGB.shape)
    swapped = backbone(params, RGB, ReverseChannels()(inputs))
    with pytest.raises(DataError, match="check_channel_order: a red image must reach MobileNet"):
        check_channel_order(swapped, right, 255.0)


def without(dataset: Dataset, code: int) -> Dataset:
    """Return a dataset whose examples of a split are for training, as its card says too."""
    split = np.where(dataset.split == code, 0, dataset.split).astype(np.uint8)
    name = ("train", "validation", "test")[code]
    counts = dataset.card.counts
    counts = counts | {"train": counts["train"] + counts[name], name: 0}
    card = dataset.card.model_copy(update={"counts": counts})
    return replace(with_arrays(dataset, split=split), card=card)


def score(dataset: Dataset, folder: Path) -> Any:
    from chapterflow.evaluation.evaluate import evaluate
    from chapterflow.training.history import EpochRecord, Training

    record = EpochRecord(
        epoch=1,
        train_loss=1.0,
        train_accuracy=0.5,
        validation_loss=1.0,
        validation_accuracy=0.5,
        learning_rate=0.0,
        seconds=1.0,
    )
    build("dnn").save(folder / "model.keras")
    return evaluate(
        get_model("dnn"),
        get_model("dnn").params(role="digits"),
        folder / "model.keras",
        Training(history=[record], chosen_epoch=1, resumed_from=0, seconds=1.0, images=140),
        dataset,
        EvaluationParams(calibration_bins=15, latency_batch=4, latency_repeats=10),
    )


@pytest.mark.usefixtures("without_data_docs")
def test_no_held_out_examples(digits: Dataset, tmp_path: Path) -> None:
    assert broken(digits, tmp_path / "all") == set()
    assert broken(without(digits, 1), tmp_path / "no-validation") == {"held-out"}
    assert broken(without(digits, 2), tmp_path / "no-test") == {"held-out"}
    assert score(digits, tmp_path).metrics["test/examples"] == 30
    with pytest.raises(DataError, match="check_held_out: digits must have test examples"):
        score(without(digits, 2), tmp_path)


def test_an_accuracy_above_one(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chapterflow.evaluation import evaluate
    from chapterflow.evaluation.scores import check_metrics

    metrics = score(digits, tmp_path).metrics
    check_metrics(metrics)
    right = metrics["test/correct"]
    assert right > 1
    # Counted over a part of the examples; and given in per cent.
    halved = metrics | {"test/accuracy": right / (right - 1)}
    with pytest.raises(ImplausibleMetric, match="test/accuracy must be a share between 0 and 1"):
        check_metrics(halved)

    # The same mistake inside the evaluation: it returns nothing.
    real = evaluate.classification_metrics

    def in_percent(*given: Any, **options: Any) -> Any:
        scores, *rest = real(*given, **options)
        return scores | {"test/accuracy": 100 * scores["test/accuracy"]}, *rest

    monkeypatch.setattr(evaluate, "classification_metrics", in_percent)
    with pytest.raises(ImplausibleMetric, match="test/accuracy must be a share between 0 and 1"):
        score(digits, tmp_path)
