"""Training on one graph: the same for a seed, sparse throughout, and it learns from neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chapterflow.errors import ChapterflowError
from chapterflow.kinds.dataset import Dataset
from chapterflow.models.catalog import get_model
from chapterflow.training.history import EpochRecord, Training
from tests.graphs import two_circles

pytestmark = pytest.mark.usefixtures("tensorflow")


@pytest.fixture(scope="module")
def circles(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return two_circles(tmp_path_factory.mktemp("data") / "citations")


def fitted(dataset: Dataset, work: Path, *, seed: int = 5, **options: Any) -> tuple[Training, Any]:
    import keras

    from chapterflow.training.fit import fit

    entry = get_model("gcn-node")
    options = {"epochs": 30, "schedule": "constant", "learning_rate": 0.05} | options
    params = entry.params(role="citations", **options)
    seen: list[EpochRecord] = []
    training = fit(entry, params, dataset, seed=seed, work=work, on_epoch=seen.append)
    assert seen == training.history
    return training, keras.saving.load_model(work / "model.keras")


@pytest.fixture(scope="module")
def five_epochs(
    tensorflow: None, circles: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """The weights of five epochs of seed 5."""
    return fitted(circles, tmp_path_factory.mktemp("five"), epochs=5)[1].get_weights()


def test_classes_are_learnt_from_few_nodes(circles: Dataset, tmp_path: Path) -> None:
    from chapterflow.training.batches import predict_full

    training, model = fitted(circles, tmp_path / "work", epochs=60, seed=3)
    logits = predict_full(model, circles)
    assert logits.shape == (60, 2)
    test = circles.indices("test")
    assert (logits.argmax(axis=1) == circles.labels)[test].mean() >= 0.8
    assert [record.epoch for record in training.history] == list(range(1, 61))
    assert training.chosen_epoch == 60
    assert training.images == 60 * len(circles.indices("train"))
    assert training.history[-1].train_loss < training.history[0].train_loss


def test_a_seed_decides_the_weights(circles: Dataset, five_epochs: Any, tmp_path: Path) -> None:
    same, other = (
        fitted(circles, tmp_path / str(seed), seed=seed, epochs=5)[1].get_weights()
        for seed in (5, 6)
    )
    assert all(np.array_equal(a, b) for a, b in zip(five_epochs, same, strict=True))
    assert not np.array_equal(five_epochs[0], other[0])


def test_a_graph_too_large_for_a_constant_trains_to_the_same_weights(
    circles: Dataset, five_epochs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chapterflow.training.epochs.IN_GRAPH", 0)
    large = fitted(circles, tmp_path / "large", epochs=5)[1].get_weights()
    for expected, actual in zip(five_epochs, large, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def test_sparse_and_dense_inputs_are_the_same_graph(
    circles: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    from chapterflow.training.batches import predict_full, sparse_inputs

    dense = circles.inputs(np.arange(3))
    for name, given in sparse_inputs(circles).items():
        whole = tf.sparse.to_dense(given) if name == "features" else given
        np.testing.assert_array_equal(whole, dense[name])
    with monkeypatch.context() as patch:  # Nothing becomes dense on the way.
        patch.setattr(tf.sparse, "to_dense", lambda *a, **k: pytest.fail("made dense"))
        _, model = fitted(circles, tmp_path / "work", epochs=2)
    logits = np.asarray(model(dense, training=False))
    np.testing.assert_allclose(predict_full(model, circles), logits, rtol=1e-3, atol=1e-4)


def test_patience_keeps_the_weights_of_the_best_epoch(circles: Dataset, tmp_path: Path) -> None:
    from scipy.special import log_softmax

    from chapterflow.training.batches import predict_full

    training, model = fitted(circles, tmp_path / "work", epochs=40, patience=2, learning_rate=0.3)
    losses = [record.validation_loss for record in training.history]
    assert training.chosen_epoch == 1 + int(np.argmin(losses))
    assert len(losses) in (training.chosen_epoch + 2, 40)
    chosen = circles.indices("validation")
    logits = predict_full(model, circles)[chosen]
    actual = -log_softmax(logits, axis=1)[np.arange(len(chosen)), circles.labels[chosen]].mean()
    assert actual == pytest.approx(min(losses), rel=1e-3)


def test_weight_decay_is_half_of_the_squares(circles: Dataset) -> None:
    entry = get_model("gcn-node")
    params = entry.params(role="citations", weight_decay=0.25)
    model = entry.build(params, circles.card.input_spec)
    kernel = np.asarray(model.get_layer("conv1").kernel)
    assert float(sum(model.losses)) == pytest.approx(0.25 * (kernel**2).sum() / 2, rel=1e-4)


class Killed(BaseException):
    """The end of a process, in a test."""


@pytest.mark.parametrize("patience", [None, 20])
def test_a_killed_training_ends_with_the_same_weights(
    circles: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int | None
) -> None:
    from chapterflow.training.epochs import WholeGraph
    from chapterflow.training.fit import fit

    monkeypatch.setattr(WholeGraph, "checkpoint_seconds", 0.0)
    options: dict[str, Any] = {"epochs": 12, "patience": patience, "dropout": 0.5}
    training, model = fitted(circles, tmp_path / "undisturbed", **options)

    def die(record: EpochRecord) -> None:
        if record.epoch == 5:
            raise Killed

    entry = get_model("gcn-node")
    params = entry.params(role="citations", schedule="constant", learning_rate=0.05, **options)
    work = tmp_path / "killed"
    with pytest.raises(Killed):
        fit(entry, params, circles, seed=5, work=work, on_epoch=die)
    resumed, same = fitted(circles, work, **options)
    assert resumed.resumed_from == 5
    assert resumed.chosen_epoch == training.chosen_epoch
    assert [record.train_loss for record in resumed.history] == [
        record.train_loss for record in training.history
    ]
    for weight, expected in zip(same.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_a_loss_that_is_not_finite_ends_the_training(circles: Dataset, tmp_path: Path) -> None:
    from dataclasses import replace

    arrays = {name: np.array(array) for name, array in circles.arrays.items()}
    arrays["features"][:, 1] = np.nan
    with pytest.raises(ChapterflowError, match="loss is not finite after epoch 1"):
        fitted(replace(circles, arrays=arrays), tmp_path / "work")
