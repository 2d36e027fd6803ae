"""A trained model is scored on the test split, and on nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chapterflow.config.settings import EvaluationParams
from chapterflow.errors import ImplausibleMetric
from chapterflow.kinds.dataset import Dataset
from chapterflow.models.base import InputSpec
from chapterflow.models.catalog import get_model
from tests.digits import Watched, digits_dataset, with_arrays

pytestmark = pytest.mark.usefixtures("tensorflow")

PARAMS = EvaluationParams(calibration_bins=15, latency_batch=4, latency_repeats=10)


@pytest.fixture
def dataset() -> Dataset:
    """Scikit-learn's digits, two thirds of them for the test: more than one forward batch."""
    return digits_dataset(np.random.default_rng(5).choice([0, 1, 2, 2], 1797))


def score(model: Any, dataset: Dataset, folder: Path, seconds: float = 2.0) -> Any:
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
    training = Training(
        history=[record] * 3, chosen_epoch=2, resumed_from=0, seconds=seconds, images=300
    )
    model.save(folder / "model.keras")
    entry = get_model("dnn")
    return evaluate(
        entry,
        entry.params(role="digits"),
        folder / "model.keras",
        training,
        dataset,
        PARAMS,
    )


def build(bias: float | None = None) -> Any:
    """Return a model; with `bias`, one that is sure of class 3 by that much."""
    import keras

    keras.utils.set_random_seed(5)
    entry = get_model("dnn")
    model = entry.build(entry.params(role="digits"), InputSpec((8, 8, 1), 10, 16.0))
    if bias is not None:
        kernel, biases = model.get_layer("logits").get_weights()
        biases[3] = bias
        model.get_layer("logits").set_weights([kernel * 0, biases])
    return model


def test_scores_are_those_of_the_test_split(dataset: Dataset, tmp_path: Path) -> None:
    from scipy.special import softmax

    model = build()
    images = Watched(dataset.arrays["images"])
    evaluation = score(model, with_arrays(dataset, images=images), tmp_path)
    test = dataset.indices("test")
    assert len(test) > 512
    read = np.concatenate(images.read)
    np.testing.assert_array_equal(np.unique(read), test)

    logits = np.asarray(model(dataset.arrays["images"][test].astype(np.float32)))
    right = logits.argmax(axis=1) == dataset.labels[test]
    assert evaluation.metrics["test/accuracy"] == pytest.approx(right.mean())
    assert evaluation.metrics["test/examples"] == len(test)
    assert np.sum(evaluation.confusion) == len(test)
    assert [score.name for score in evaluation.classes] == dataset.card.classes

    predictions = evaluation.predictions
    np.testing.assert_array_equal(predictions["index"], test)
    np.testing.assert_array_equal(predictions["label"], dataset.labels[test])
    assert predictions["probability"].dtype == np.float32
    np.testing.assert_allclose(predictions["probability"], softmax(logits, axis=1), atol=1e-5)


def test_costs_and_training_are_among_the_metrics(dataset: Dataset, tmp_path: Path) -> None:
    metrics = score(build(), dataset, tmp_path).metrics
    assert metrics["train/seconds"] == 2.0
    assert metrics["train/epochs"] == 3
    assert metrics["train/chosen_epoch"] == 2
    assert metrics["train/images_per_second"] == 150
    assert metrics["cost/parameters"] == 9_610
    assert metrics["cost/file_bytes"] == (tmp_path / "model.keras").stat().st_size


def test_one_answer_to_everything(dataset: Dataset, tmp_path: Path) -> None:
    evaluation = score(build(bias=3.0), dataset, tmp_path)
    test = dataset.labels[dataset.indices("test")]
    share = (test == 3).mean()
    sure = np.e**3 / (np.e**3 + 9)
    assert evaluation.metrics["test/accuracy"] == pytest.approx(share)
    assert evaluation.metrics["test/worst_class_recall"] == 0
    assert evaluation.metrics["test/ece"] == pytest.approx(sure - share, rel=1e-5)
    assert np.array(evaluation.confusion)[:, 3].tolist() == np.bincount(test).tolist()


def test_an_impossible_figure_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ImplausibleMetric, match="train/"):
        score(build(), dataset, tmp_path, seconds=-1.0)


def test_weights_that_are_not_finite_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ImplausibleMetric, match="not finite"):
        score(build(bias=np.nan), dataset, tmp_path)
