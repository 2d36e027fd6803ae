"""A rare class counts as much as a frequent one, whichever way a model is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from chapterflow.errors import ConfigError
from chapterflow.kinds.dataset import Dataset
from chapterflow.models.catalog import get_model
from tests.digits import with_arrays
from tests.graphs import rings_and_stars, two_circles

pytestmark = pytest.mark.usefixtures("tensorflow")


def rare(dataset: Dataset) -> Dataset:
    """Return a dataset with two classes, the second of them rare."""
    labels = (np.random.default_rng(3).random(dataset.count) < 0.3).astype(np.uint8)
    card = dataset.card.model_copy(update={"classes": ["often", "rarely"]})
    return replace(with_arrays(dataset, labels=labels), card=card)


def expected(labels: NDArray[Any], classes: int = 2) -> NDArray[np.float64]:
    """Return the weights: n / (classes x count), so that every class has the same sum."""
    return len(labels) / (classes * np.bincount(labels, minlength=classes))


@pytest.mark.parametrize("model", ["dnn", "transfer", "gcn", "gcn-node"])
def test_the_loss_weights_each_class_by_its_inverse_frequency(
    model: str, dataset: Dataset, tmp_path: Path
) -> None:
    from scipy.special import log_softmax

    from chapterflow.training.batches import load_model, predict
    from chapterflow.training.fit import fit

    data = {
        "gcn": lambda: rings_and_stars(tmp_path / "graphs"),
        "gcn-node": lambda: two_circles(tmp_path / "citations"),
    }.get(model, lambda: dataset)()
    data = rare(data)
    entry = get_model(model)
    options = {"backbone": "small", "weights": "none"} if model == "transfer" else {}
    params = entry.params(
        role="any", epochs=2, learning_rate=0.01, class_weight="balanced", **options
    )
    training = fit(entry, params, data, seed=5, work=tmp_path / "a" / "b" / "work")

    logits = predict(load_model(tmp_path / "a" / "b" / "work" / "model.keras"), data, "validation")
    labels = np.asarray(data.labels[data.indices("validation")])
    losses = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels]
    weights = expected(np.asarray(data.labels[data.indices("train")]))[labels]
    assert len({*weights}) == 2
    assert training.history[-1].validation_loss == pytest.approx(
        (losses * weights).mean(), rel=1e-4
    )


def test_each_fold_has_the_weights_of_its_own_training_graphs(tmp_path: Path) -> None:
    from chapterflow.training.folds import GraphsInMemory

    data = rare(rings_and_stars(tmp_path / "graphs"))
    entry = get_model("gcn")
    params = entry.params(role="graphs", epochs=1, class_weight="balanced")
    graphs = GraphsInMemory(entry, params, data)
    every = np.arange(data.count)
    for number, train in enumerate((every[:20], every[3:12])):
        graphs.fit(train, every[-2:], every[-2:], seed=5, work=tmp_path / str(number))
        assert graphs.learner is not None
        weights = np.asarray(graphs.learner.class_weights)
        assert weights == pytest.approx(expected(np.asarray(data.labels[train])))


def test_a_class_without_training_examples_and_data_without_classes(dataset: Dataset) -> None:
    from chapterflow.training.epochs import class_weights

    params = get_model("dnn").params(role="digits", class_weight="balanced")
    data = rare(dataset)
    data = replace(data, card=data.card.model_copy(update={"classes": ["a", "b", "c"]}))
    train = np.arange(50)
    assert class_weights(params, data, train) == pytest.approx(
        [*expected(np.asarray(data.labels[train])), 1.0]
    )
    assert class_weights(params.model_copy(update={"class_weight": "none"}), data, train) is None
    curves = replace(data, card=data.card.model_copy(update={"kind": "curves"}))
    with pytest.raises(ConfigError, match="class_weight must be none for data without classes"):
        class_weights(params, curves, train)
