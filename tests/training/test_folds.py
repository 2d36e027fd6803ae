"""Cross-validation names its protocols, and each looks at what it may look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chapterflow.errors import DataError
from chapterflow.kinds.dataset import Dataset
from chapterflow.kinds.edges import sorted_edges
from chapterflow.models.catalog import get_model
from chapterflow.training import folds as cv
from chapterflow.training.epochs import Checkpoints
from tests.graphs import rings_and_stars

pytestmark = pytest.mark.usefixtures("tensorflow")

READOUTS = ("mean", "sum", "max")


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return rings_and_stars(tmp_path_factory.mktemp("data") / "graphs")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv, "THREADS", 1)


def params(**options: Any) -> Any:
    options = {"epochs": 6, "learning_rate": 0.03, "width": 8, "depth": 2, "dense": 8} | options
    return get_model("gcn").params(role="graphs", **options)


@pytest.mark.slow
def test_rings_and_stars_are_reported_apart_and_a_seed_decides(
    graphs: Dataset, tmp_path: Path
) -> None:
    options = params(convolution="gin", batch_size=4, epochs=15)
    actual = cv.cross_validate(
        get_model("gcn"), options, graphs, folds=2, seed=5, work=tmp_path / "first"
    )
    assert set(actual) == {
        "cv/inner/accuracy_mean",
        "cv/inner/accuracy_std",
        "cv/gin/accuracy_mean",
        "cv/gin/accuracy_std",
        "cv/majority/accuracy_mean",
    }
    assert actual["cv/gin/accuracy_mean"] >= 0.8
    assert actual["cv/majority/accuracy_mean"] == 0.5
    again = cv.cross_validate(
        get_model("gcn"), options, graphs, folds=2, seed=5, work=tmp_path / "again"
    )
    assert again == actual


class Scripted:
    """Curves that no training made: of each fold, what its three curves show."""

    def __init__(self, validation: list[float], test: dict[int, list[float]]) -> None:
        self.validation, self.test = validation, test
        self.calls: list[tuple[Any, Any, Any]] = []

    def initial(self, seed: int) -> list[Any]:
        return []

    def fit(self, train: Any, validation: Any, test: Any, **_: Any) -> list[cv.FoldRecord]:
        fold = len(self.calls) // 2
        self.calls.append((train, validation, test))
        return [
            record(epoch, 1 - accuracy, accuracy, tested)
            for epoch, (accuracy, tested) in enumerate(
                zip(self.validation, self.test[fold], strict=True), start=1
            )
        ]


def record(epoch: int, loss: float, accuracy: float, test_accuracy: float) -> cv.FoldRecord:
    return cv.FoldRecord(
        epoch=epoch,
        train_loss=1.0,
        validation_loss=loss,
        validation_accuracy=accuracy,
        test_accuracy=test_accuracy,
        learning_rate=0.1,
        seconds=0.1,
    )


def test_protocols_choose_their_epoch(
    graphs: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Validation prefers epoch 2; the mean of the test folds epoch 3 (0.75); each fold alone
    # another one.
    script = Scripted([0.5, 0.9, 0.6], {0: [1.0, 0.4, 0.7], 1: [0.0, 0.6, 0.8]})
    monkeypatch.setattr(cv, "GraphsInMemory", lambda *_: script)
    actual = cv.cross_validate(get_model("gcn"), params(), graphs, folds=2, seed=5, work=tmp_path)
    assert actual["cv/inner/accuracy_mean"] == pytest.approx(0.5)
    assert actual["cv/inner/accuracy_std"] == pytest.approx(0.1)
    assert actual["cv/gin/accuracy_mean"] == pytest.approx(0.75)
    assert actual["cv/gin/accuracy_std"] == pytest.approx(0.05)


def test_the_inner_protocol_trains_on_no_graph_that_chooses_or_is_tested(
    graphs: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = Scripted([0.5], {fold: [0.5] for fold in range(4)})
    monkeypatch.setattr(cv, "GraphsInMemory", lambda *_: script)
    cv.cross_validate(get_model("gcn"), params(), graphs, folds=4, seed=5, work=tmp_path)
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


def test_each_fold_begins_with_weights_of_its_own_seed(graphs: Dataset, tmp_path: Path) -> None:
    memory = cv.GraphsInMemory(get_model("gcn"), params(epochs=2), graphs)
    train, validation, test = (graphs.indices(s) for s in ("train", "validation", "test"))

    def losses(name: str, seed: int) -> list[float]:
        history = memory.fit(train, validation, test, seed=seed, work=tmp_path / name)
        return [record.validation_loss for record in history]

    first, other, again = losses("first", 1), losses("other", 2), losses("again", 1)
    assert first == again
    assert first != other


def four_epochs(graphs: Dataset, work: Path) -> dict[str, float]:
    return cv.cross_validate(
        get_model("gcn"), params(epochs=4, dropout=0.3), graphs, folds=2, seed=5, work=work
    )


@pytest.fixture(scope="module")
def undisturbed(
    graphs: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, float], Path]:
    """What one thread trains in calls of one epoch, and its folder."""
    work = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cv, "THREADS", 1)
        patch.setattr(cv.Fold, "checkpoint_seconds", 0.0)
        return four_epochs(graphs, work), work


def test_folds_at_a_time_are_each_fold_alone(
    graphs: Dataset,
    undisturbed: tuple[dict[str, float], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither other threads nor the number of epochs per call change a bit."""
    monkeypatch.setattr(cv, "THREADS", 2)
    together = four_epochs(graphs, tmp_path)
    assert together == undisturbed[0]
    assert_equal_weights(undisturbed[1], tmp_path)


def assert_equal_weights(first: Path, second: Path) -> None:
    """Compare what two cross-validations of two folds and four epochs have trained."""
    for folder in ("fold-1/gin", "fold-1/inner", "fold-2/gin", "fold-2/inner"):
        expected, actual = (
            Checkpoints(work / folder / "checkpoints").newest() for work in (first, second)
        )
        assert expected[0] == actual[0] == 4
        for mine, theirs in zip(expected[1], actual[1], strict=True):
            np.testing.assert_array_equal(mine, theirs)


class Killed(BaseException):
    """The end of a process, in a test."""


@pytest.mark.fault("Cross-validation killed", "Resumes within its fold")
@pytest.mark.parametrize("epochs", [3, pytest.param(9, marks=pytest.mark.slow)])
def test_a_killed_cross_validation_resumes_within_its_fold(
    graphs: Dataset,
    undisturbed: tuple[dict[str, float], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    epochs: int,
) -> None:
    monkeypatch.setattr(cv.Fold, "checkpoint_seconds", 0.0)
    run, ran = cv.Fold.run_several, []

    def die(self: cv.Fold, epoch: int, most: int, seed: int) -> Any:
        if len(ran) >= epochs:
            raise Killed
        ran.append(epoch)
        return run(self, epoch, most, seed)

    with monkeypatch.context() as patch:
        patch.setattr(cv.Fold, "run_several", die)
        with pytest.raises(Killed):
            four_epochs(graphs, tmp_path)
    left: list[int] = []
    monkeypatch.setattr(
        cv.Fold,
        "run_several",
        lambda self, epoch, *rest: (left.append(epoch), run(self, epoch, *rest))[1],
    )
    resumed = four_epochs(graphs, tmp_path)
    assert len(left) == 2 * 2 * 4 - epochs
    assert left[0] == epochs % 4
    assert resumed == undisturbed[0]
    assert_equal_weights(undisturbed[1], tmp_path)


def test_equal_accuracies_are_decided_by_the_loss() -> None:
    history = [record(1, 3.0, 0.8, 0.0), record(2, 2.0, 0.8, 0.0), record(3, 1.0, 0.7, 0.0)]
    assert cv.chosen_epoch(history).epoch == 2


def test_too_many_folds_are_refused(graphs: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"for each of 21 folds. Received: \[20, 20\]"):
        cv.cross_validate(get_model("gcn"), params(), graphs, folds=21, seed=5, work=tmp_path)


def test_graphs_that_do_not_fit_into_memory_are_refused(
    graphs: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cv, "MAX_BYTES", 1000)
    with pytest.raises(DataError, match="Set folds to 0"):
        cv.cross_validate(get_model("gcn"), params(), graphs, folds=2, seed=5, work=tmp_path)


@pytest.mark.parametrize(
    ("convolution", "readout", "normalize"),
    [
        *((way, readout, False) for way in ("gcn", "gin", "none") for readout in READOUTS),
        ("gin", "sum", True),
    ],
)
def test_a_graph_is_judged_alone_whatever_its_batch_and_order(
    convolution: str, readout: str, normalize: bool, graphs: Dataset, tmp_path: Path
) -> None:
    import keras

    entry = get_model("gcn")
    keras.utils.set_random_seed(5)
    options = params(convolution=convolution, readout=readout, normalize=normalize)
    model = entry.build(options, graphs.card.input_spec)
    chosen = np.arange(6)
    model(graphs.inputs(chosen), training=True)  # moves the averages of the normalisation
    together = np.asarray(model(graphs.inputs(chosen)))
    assert together.shape == (6, 2)
    for place in chosen:
        given = graphs.inputs(chosen[place : place + 1])
        order = np.random.default_rng(5).permutation(int(given["sizes"][0]))
        given["features"] = given["features"][order]
        given["edges"] = sorted_edges(np.argsort(order)[given["edges"]])
        np.testing.assert_allclose(model(given)[0], together[place], rtol=1e-3, atol=1e-4)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(graphs.inputs(chosen)), together)
