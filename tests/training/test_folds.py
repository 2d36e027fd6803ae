"""Cross-validation names its protocols, and each looks at what it may look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chapterflow.errors import DataError
from chapterflow.kinds.dataset import Dataset
from chapterflow.models.catalog import get_model
from chapterflow.training import folds as cv
from tests.graphs import rings_and_stars

pytestmark = pytest.mark.usefixtures("tensorflow")


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return rings_and_stars(tmp_path_factory.mktemp("data") / "graphs")


def params(**options: Any) -> Any:
    options = {"epochs": 6, "learning_rate": 0.03, "width": 8, "depth": 2, "dense": 8} | options
    return get_model("gcn").params(role="graphs", **options)


def test_rings_and_stars_are_told_apart_and_a_seed_decides(graphs: Dataset) -> None:
    options = params(convolution="gin", batch_size=4, epochs=10)
    found = cv.cross_validate(get_model("gcn"), options, graphs, folds=2, seed=5)
    assert set(found) == {
        "cv/inner/accuracy_mean",
        "cv/inner/accuracy_std",
        "cv/gin/accuracy_mean",
        "cv/gin/accuracy_std",
        "cv/majority/accuracy_mean",
    }
    assert found["cv/gin/accuracy_mean"] >= 0.8
    assert found["cv/majority/accuracy_mean"] == 0.5
    again = cv.cross_validate(get_model("gcn"), options, graphs, folds=2, seed=5)
    assert again == found


class Scripted:
    """Curves that no training made: of each fold, what its three curves show."""

    def __init__(self, validation: list[float], test: dict[int, list[float]]) -> None:
        self.validation, self.test = validation, test
        self.calls: list[tuple[Any, Any, Any]] = []

    def curves(self, train: Any, validation: Any, test: Any, *, seed: int) -> cv.Curves:
        fold = len(self.calls) // 2
        self.calls.append((train, validation, test))
        accuracy = np.array(self.validation)
        return cv.Curves(1 - accuracy, accuracy, np.array(self.test[fold]))


def test_protocols_choose_their_epoch(graphs: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    # Validation prefers epoch 2; the mean of the test folds epoch 3 (0.75); each fold alone
    # another one.
    script = Scripted([0.5, 0.9, 0.6], {0: [1.0, 0.4, 0.7], 1: [0.0, 0.6, 0.8]})
    monkeypatch.setattr(cv, "_Trainer", lambda *_: script)
    found = cv.cross_validate(get_model("gcn"), params(), graphs, folds=2, seed=5)
    assert found["cv/inner/accuracy_mean"] == pytest.approx(0.5)
    assert found["cv/inner/accuracy_std"] == pytest.approx(0.1)
    assert found["cv/gin/accuracy_mean"] == pytest.approx(0.75)
    assert found["cv/gin/accuracy_std"] == pytest.approx(0.05)


def test_the_inner_protocol_trains_on_no_graph_that_chooses_or_is_tested(
    graphs: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Scripted([0.5], {fold: [0.5] for fold in range(4)})
    monkeypatch.setattr(cv, "_Trainer", lambda *_: script)
    cv.cross_validate(get_model("gcn"), params(), graphs, folds=4, seed=5)
    tested = []
    for gin, inner in zip(script.calls[::2], script.calls[1::2], strict=True):
        train, validation, test = map(set, inner)
        assert not train & validation
        assert not (train | validation) & test
        assert len(train | validation | test) == graphs.count
        assert set(gin[0]) == train | validation
        assert set(gin[2]) == test
        tested += sorted(test)
    assert sorted(tested) == list(range(graphs.count))


def test_each_fold_begins_with_weights_of_its_own_seed(graphs: Dataset) -> None:
    trainer = cv._Trainer(get_model("gcn"), params(epochs=2), graphs)
    train, validation, test = (graphs.indices(s) for s in ("train", "validation", "test"))
    first = trainer.curves(train, validation, test, seed=1)
    other = trainer.curves(train, validation, test, seed=2)
    again = trainer.curves(train, validation, test, seed=1)
    np.testing.assert_array_equal(first.validation_loss, again.validation_loss)
    assert not np.array_equal(first.validation_loss, other.validation_loss)


def test_equal_accuracies_are_decided_by_the_loss() -> None:
    curves = cv.Curves(np.array([3.0, 2.0, 1.0]), np.array([0.8, 0.8, 0.7]), np.zeros(3))
    assert cv.chosen_epoch(curves) == 1


def test_too_many_folds_are_refused(graphs: Dataset) -> None:
    with pytest.raises(DataError, match=r"for each of 21 folds. Received: \[20, 20\]"):
        cv.cross_validate(get_model("gcn"), params(), graphs, folds=21, seed=5)


def test_graphs_that_do_not_fit_into_memory_are_refused(
    graphs: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv, "MAX_BYTES", 1000)
    with pytest.raises(DataError, match="Set folds to 0"):
        cv.cross_validate(get_model("gcn"), params(), graphs, folds=2, seed=5)


@pytest.mark.parametrize("convolution", ["gcn", "gin", "none"])
@pytest.mark.parametrize("readout", ["mean", "sum", "max"])
def test_a_graph_is_judged_alone_whatever_its_padding_and_order(
    convolution: str, readout: str, graphs: Dataset, tmp_path: Path
) -> None:
    import keras

    entry = get_model("gcn")
    keras.utils.set_random_seed(5)
    model = entry.build(params(convolution=convolution, readout=readout), graphs.card.input_spec)
    chosen = np.arange(6)
    together = np.asarray(model(graphs.inputs(chosen)))
    assert together.shape == (6, 2)
    for place in chosen:
        given = graphs.inputs(chosen[place : place + 1])
        order = np.random.default_rng(5).permutation(int(given["sizes"][0]))
        given["features"] = given["features"][:, order]
        given["adjacency"] = given["adjacency"][:, order][:, :, order]
        np.testing.assert_allclose(model(given)[0], together[place], rtol=1e-3, atol=1e-4)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(graphs.inputs(chosen)), together)
