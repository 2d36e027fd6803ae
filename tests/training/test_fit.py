"""A training takes the steps that it should, ends where it should, and repeats bit for bit."""

import math
import signal
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import log_softmax

from chapterflow.errors import ChapterflowError, ConfigError
from chapterflow.kinds.dataset import Dataset
from chapterflow.models.base import ModelParams
from chapterflow.models.catalog import get_model
from chapterflow.training import batches
from chapterflow.training.batches import InMemory
from chapterflow.training.history import EpochRecord, best_epoch, read_history
from tests.digits import with_arrays

pytestmark = pytest.mark.usefixtures("tensorflow")

SLOWER = [(16, 1), (16, 2), (7, 4), (7, 10), (100, 16)]
ParamsOf = Callable[..., ModelParams]
WeightsOf = Callable[[Path], list[NDArray[Any]]]


def train(
    name: str,
    params: ModelParams,
    dataset: Dataset,
    work: Path,
    *,
    seed: int = 5,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
) -> Any:
    from chapterflow.training.fit import fit

    return fit(get_model(name), params, dataset, seed=seed, work=work, on_epoch=on_epoch)


def equal(first: list[NDArray[Any]], second: list[NDArray[Any]]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("batch_size", "steps_per_execution"),
    [(16, 3), (16, 16), *(pytest.param(*x, marks=pytest.mark.slow) for x in SLOWER)],
)
def test_the_optimizer_takes_the_steps_of_whole_epochs(
    dataset: Dataset,
    params_of: ParamsOf,
    optimizer_steps: Callable[[Path], int],
    tmp_path: Path,
    batch_size: int,
    steps_per_execution: int,
) -> None:
    # Keras with `steps_per_epoch` rounds up to a multiple of `steps_per_execution`.
    params = params_of(
        "dnn", epochs=3, batch_size=batch_size, steps_per_execution=steps_per_execution
    )
    training = train("dnn", params, dataset, tmp_path)
    assert optimizer_steps(tmp_path) == 3 * math.ceil(70 / batch_size)
    assert training.images == 3 * 70
    # Cosine decay has come to its end exactly then.
    assert training.history[-1].learning_rate == pytest.approx(0, abs=1e-9)


def test_streamed_examples_train_equal_weights_and_the_test_split_is_never_read(
    dataset: Dataset,
    params_of: ParamsOf,
    weights_of: WeightsOf,
    watched: type[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    params = params_of("dnn", epochs=2)
    for name in ("in-memory", "streamed"):
        images = watched(dataset.arrays["images"])
        train("dnn", params, with_arrays(dataset, images=images), tmp_path / name, seed=9)
        read = np.unique(np.concatenate(images.read))
        np.testing.assert_array_equal(read, np.setdiff1d(np.arange(120), dataset.indices("test")))
        monkeypatch.setattr(batches, "IN_MEMORY", 0)
        monkeypatch.setattr(batches, "BLOCK", 3 * 16 * 68)
    assert equal(weights_of(tmp_path / "in-memory"), weights_of(tmp_path / "streamed"))
    # No thread reads more than a block at once: three batches.
    assert max(map(len, images.read)) == 48


def test_an_interrupt_ends_a_long_pass_within_seconds(dataset: Dataset) -> None:
    import tensorflow as tf

    from chapterflow.training.epochs import Pass

    def slow(inputs: Any, targets: Any) -> Any:
        """Take 50 ms for a step: the whole pass would take 50 s."""
        sums = tf.numpy_function(lambda: time.sleep(0.05) or np.zeros(3, np.float32), [], "float32")
        sums.set_shape([3])
        return sums

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    source = InMemory(dataset, np.resize(dataset.indices("train"), 1000), 1)
    before = signal.signal(signal.SIGALRM, interrupt)
    started = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            Pass(source, slow)(np.arange(1000))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_cross_entropy_is_that_of_keras(weighted: bool, smoothing: float) -> None:
    import keras
    import tensorflow as tf

    from chapterflow.training.epochs import cross_entropy

    rng = np.random.default_rng(5)
    logits = tf.constant(rng.normal(size=(6, 4)).astype(np.float32) * 3)
    targets = rng.integers(0, 4, 6).astype(np.int32)
    weights = rng.random(6).astype(np.float32) if weighted else None
    theirs = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        actual = 2 * cross_entropy(targets, logits, weights, smoothing)
        expected = 2 * theirs(np.eye(4)[targets], logits, sample_weight=weights)
    assert float(actual) == pytest.approx(float(expected), rel=1e-5)
    np.testing.assert_allclose(
        tape.gradient(actual, logits), tape.gradient(expected, logits), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    "shapes", [[(3, 2), (), (2,), (70, 80), (9, 5)], [(70, 80), (5000,)], [(3, 2), (2,)]]
)
def test_adam_takes_the_steps_of_keras(shapes: list[tuple[int, ...]]) -> None:
    """Small variables have one step together, large ones each their own."""
    import keras
    import tensorflow as tf

    from chapterflow.training.epochs import adam

    rng = np.random.default_rng(5)
    steps = [
        [rng.normal(size=shape).astype(np.float32) * 3**-step for shape in shapes]
        for step in range(5)
    ]
    results = []
    for make in (adam, keras.optimizers.Adam):
        variables = [keras.Variable(np.ones(shape, np.float32)) for shape in shapes]
        optimizer = make(keras.optimizers.schedules.CosineDecay(0.1, 5), beta_2=0.9)
        optimizer.build(variables)
        for gradients in steps:
            optimizer.apply([tf.constant(gradient) for gradient in gradients], variables)
        results.append([np.asarray(variable) for variable in variables])
        assert int(optimizer.iterations) == len(steps)
    for ours, theirs in zip(*results, strict=True):
        assert np.all(ours != 1)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_adam_leaves_a_variable_without_a_gradient() -> None:
    import keras
    import tensorflow as tf

    from chapterflow.training.epochs import adam

    shapes = [(2,), (3,), (70, 80), (70, 80)]
    variables = [keras.Variable(np.ones(shape, np.float32)) for shape in shapes]
    optimizer = adam(0.1, 0.9)
    optimizer.build(variables)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([None, tf.ones(3), None, tf.ones((70, 80))], variables)
    values = [np.unique(np.asarray(variable)) for variable in variables]
    np.testing.assert_allclose(values, [[1], [0.9], [1], [0.9]], rtol=1e-5)


def test_label_smoothing_changes_the_training_loss_only(params_of: ParamsOf) -> None:
    import keras

    from chapterflow.training.epochs import Learner

    inputs = keras.Input((3,))
    model = keras.Model(inputs, inputs)
    params = params_of("dnn", label_smoothing=0.3)
    logits = np.array([[2, 0, -1], [0.5, 1, 3]], np.float32)
    targets = np.array([0, 1], np.int32)
    learner = Learner(model, params, steps=1, classes=True)
    logs = log_softmax(logits.astype(np.float64), axis=1)
    plain = -logs[[0, 1], targets]
    # 0.3 of the target is spread over all three classes.
    spread = 0.7 * plain - 0.3 * logs.mean(axis=1)
    _, sums = learner.gradients(logits, targets)
    assert np.asarray(sums) == pytest.approx([spread.sum(), 1, 2], rel=1e-5)
    assert np.asarray(learner.validate(logits, targets)) == pytest.approx(
        [plain.sum(), 1, 2], rel=1e-5
    )
    with pytest.raises(ConfigError, match=r"label_smoothing must be 0 .* Received: 0\.3"):
        Learner(model, params, steps=1, classes=False)


@pytest.fixture(scope="module")
def dnn_then_cnn(
    tensorflow: None,
    dataset: Dataset,
    params_of: ParamsOf,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with a training of one epoch of each, in this order."""
    folder = tmp_path_factory.mktemp("dnn-then-cnn")
    for name in ("dnn", "cnn"):
        train(name, params_of(name, epochs=1), dataset, folder / name)
    return folder


def test_bfloat16_trains_weights_of_float32(
    dataset: Dataset,
    dnn_then_cnn: Path,
    params_of: ParamsOf,
    weights_of: WeightsOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import keras

    from chapterflow.training import epochs

    params = params_of("cnn", epochs=1, precision="bfloat16")
    for available in (True, False):
        monkeypatch.setattr(epochs, "has_bfloat16", lambda available=available: available)
        train("cnn", params, dataset, tmp_path / str(available))
    mixed, fallback = (weights_of(tmp_path / name) for name in ("True", "False"))
    plain = weights_of(dnn_then_cnn / "cnn")
    assert equal(fallback, plain)
    assert not equal(mixed, plain)
    for ours, theirs in zip(mixed, plain, strict=True):
        assert np.abs(ours - theirs).mean() < 0.005
    model = keras.saving.load_model(tmp_path / "True" / "model.keras", compile=False)
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}


def test_equal_seeds_give_equal_weights_whatever_was_trained_between(
    dataset: Dataset,
    dnn_then_cnn: Path,
    params_of: ParamsOf,
    weights_of: WeightsOf,
    tmp_path: Path,
) -> None:
    for folder, seed in (("other", 6), ("again", 5)):
        train("dnn", params_of("dnn", epochs=1), dataset, tmp_path / folder, seed=seed)
    first = weights_of(dnn_then_cnn / "dnn")
    again, other = (weights_of(tmp_path / name) for name in ("again", "other"))
    assert equal(first, again)
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True) if np.ptp(a))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn", "lenet5"])
def test_convolutions_repeat_bit_for_bit(
    name: str,
    dataset: Dataset,
    params_of: ParamsOf,
    weights_of: WeightsOf,
    tmp_path: Path,
) -> None:
    for folder in ("first", "again"):
        train(name, params_of(name), dataset, tmp_path / folder)
    assert equal(weights_of(tmp_path / "first"), weights_of(tmp_path / "again"))


def test_dropout_masks_depend_on_seed_epoch_and_layer(dataset: Dataset) -> None:
    import keras

    from chapterflow.training.seeds import seed_epoch

    inputs = keras.Input((8,))
    inner = keras.layers.Dropout(0.5)(keras.layers.Dropout(0.5)(inputs))
    nested = keras.Model(inputs, inner)
    model = keras.Model(inputs, keras.layers.Dropout(0.5)(nested(inputs)))
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.Dropout)]
    assert len(layers) == 3

    def states(seed: int, epoch: int) -> list[tuple[int, ...]]:
        seed_epoch(model, seed, epoch)
        return [tuple(np.asarray(layer.seed_generator.state).tolist()) for layer in layers]

    first = states(5, 0)
    model(np.ones((2, 8), np.float32), training=True)
    assert states(5, 1) != first
    assert states(5, 0) == first
    every = [state for seed in (5, 6) for epoch in (0, 1) for state in states(seed, epoch)]
    assert len(set(every)) == 2 * 2 * 3


def test_cosine_schedule_warms_up_and_ends_at_nothing(params_of: ParamsOf) -> None:
    from chapterflow.training.epochs import learning_rate

    params = params_of("dnn", epochs=10, learning_rate=0.01, warmup=0.2)
    rate = learning_rate(params, 5)
    assert float(rate(0)) == 0
    assert float(rate(5)) == pytest.approx(0.005)
    assert float(rate(10)) == pytest.approx(0.01)
    assert float(rate(30)) == pytest.approx(0.005)
    assert float(rate(20)) == pytest.approx(0.01 * (1 + math.cos(math.pi / 4)) / 2)
    assert float(rate(50)) == pytest.approx(0, abs=1e-9)
    values = [float(rate(step)) for step in range(51)]
    assert max(values) == pytest.approx(0.01)
    assert values[10:] == sorted(values[10:], reverse=True)


@pytest.mark.parametrize("warmup", [0.0, 0.01])
def test_without_warm_up_the_peak_comes_first(params_of: ParamsOf, warmup: float) -> None:
    from chapterflow.training.epochs import learning_rate

    rate = learning_rate(params_of("dnn", epochs=4, learning_rate=0.01, warmup=warmup), 5)
    assert float(rate(0)) == pytest.approx(0.01)
    assert float(rate(20)) == pytest.approx(0, abs=1e-9)


def test_the_shortest_training_has_a_schedule(params_of: ParamsOf) -> None:
    from chapterflow.training.epochs import learning_rate

    rate = learning_rate(params_of("dnn", epochs=1, learning_rate=0.01, warmup=0.9), 1)
    assert all(math.isfinite(float(rate(step))) for step in (0, 1, 2))


@pytest.fixture(scope="module")
def usual(
    tensorflow: None,
    dataset: Dataset,
    params_of: ParamsOf,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Any, Path, list[EpochRecord]]:
    """A training without early stopping, its folder, and the epochs that it told of."""
    result: list[EpochRecord] = []
    work = tmp_path_factory.mktemp("usual")
    return train("dnn", params_of("dnn"), dataset, work, on_epoch=result.append), work, result


def test_the_history_is_that_of_the_training(
    dataset: Dataset, usual: tuple[Any, Path, list[EpochRecord]]
) -> None:
    training, work, result = usual
    assert result == training.history == read_history(work / "history.jsonl", epochs=4)
    assert [record.epoch for record in result] == [1, 2, 3, 4]
    assert result[-1].train_loss < result[0].train_loss
    assert training.seconds == pytest.approx(sum(record.seconds for record in result))
    assert training.chosen_epoch == 4
    assert training.resumed_from == 0
    # Validation of the saved model, computed here, is that of the last epoch.
    loss, accuracy = validation_of(work, dataset)
    assert loss == pytest.approx(result[-1].validation_loss, rel=1e-4)
    assert accuracy == pytest.approx(result[-1].validation_accuracy)


def validation_of(work: Path, dataset: Dataset) -> tuple[float, float]:
    """Return loss and accuracy of a saved model on the validation split, without Keras' own."""
    import keras

    model = keras.saving.load_model(work / "model.keras", compile=False)
    chosen = dataset.indices("validation")
    labels = dataset.labels[chosen]
    logits = np.asarray(model(dataset.arrays["images"][chosen].astype(np.float32)), np.float64)
    losses = -log_softmax(logits, axis=1)[np.arange(len(labels)), labels]
    return float(losses.mean()), float((logits.argmax(axis=1) == labels).mean())


def test_early_stopping_keeps_the_best_epoch(
    dataset: Dataset, params_of: ParamsOf, tmp_path: Path
) -> None:
    # A rate far too high: validation gets worse soon.
    params = params_of("dnn", epochs=40, learning_rate=0.3, schedule="constant", patience=3)
    training = train("dnn", params, dataset, tmp_path)
    best = best_epoch(training.history)
    assert len(training.history) == best.epoch + 3 < 40
    assert [record.learning_rate for record in training.history] == pytest.approx(
        [0.3] * len(training.history)
    )
    assert training.chosen_epoch == best.epoch
    assert training.images == len(training.history) * 70
    loss, accuracy = validation_of(tmp_path, dataset)
    assert loss == pytest.approx(best.validation_loss, rel=1e-4)
    assert accuracy == pytest.approx(best.validation_accuracy)
    assert best.validation_loss < training.history[-1].validation_loss


@pytest.mark.slow
def test_patience_that_is_never_needed_keeps_the_best_epoch_too(
    dataset: Dataset, params_of: ParamsOf, tmp_path: Path
) -> None:
    params = params_of("dnn", epochs=6, learning_rate=0.3, schedule="constant", patience=6)
    training = train("dnn", params, dataset, tmp_path)
    assert len(training.history) == 6
    best = best_epoch(training.history)
    assert training.chosen_epoch == best.epoch
    assert validation_of(tmp_path, dataset)[0] == pytest.approx(best.validation_loss, rel=1e-4)


def test_a_diverging_training_is_reported_and_leaves_no_model(
    dataset: Dataset, params_of: ParamsOf, tmp_path: Path
) -> None:
    params = params_of("dnn", warmup=0.0).model_copy(update={"learning_rate": 1e36})
    with pytest.raises(ChapterflowError, match="loss is not finite after epoch 1") as caught:
        train("dnn", params, dataset, tmp_path)
    assert "Received: train " in str(caught.value)
    assert "Lower learning_rate" in str(caught.value)
    assert not (tmp_path / "model.keras").exists()
    assert not list((tmp_path / "checkpoints").glob("epoch-*"))
    assert read_history(tmp_path / "history.jsonl", epochs=9) == []


def test_the_saved_model_holds_no_optimizer(
    usual: tuple[Any, Path, list[EpochRecord]], tmp_path: Path
) -> None:
    import h5py
    import keras

    _, work, _ = usual
    model = keras.saving.load_model(work / "model.keras")
    assert getattr(model, "optimizer", None) is None
    assert model.name == "dnn"
    with zipfile.ZipFile(work / "model.keras") as archive:
        archive.extract("model.weights.h5", tmp_path)
    with h5py.File(tmp_path / "model.weights.h5") as file:
        assert "optimizer" not in file
        sizes: list[int] = []
        file.visititems(lambda _, item: sizes.append(getattr(item, "size", 0)))
    # Nothing beyond the parameters and dropout's random state.
    assert sum(sizes) <= model.count_params() + 2


def test_inputs_that_are_too_small_are_reported_in_one_line(
    dataset: Dataset, params_of: ParamsOf, tmp_path: Path
) -> None:
    card = dataset.card.model_copy(update={"shape": [3, 3, 1]})
    tiny = replace(
        with_arrays(dataset, images=np.zeros((len(dataset.labels), 3, 3, 1), np.uint8)), card=card
    )
    with pytest.raises(ChapterflowError, match=r"^cnn cannot be built .* \(3, 3, 1\)") as caught:
        train("cnn", params_of("cnn"), tiny, tmp_path)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
