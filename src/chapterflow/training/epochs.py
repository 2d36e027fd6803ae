"""The training loop: epochs of one model, resumed where an earlier process stopped."""

from __future__ import annotations

import math
import re
import shutil
import time
import zipfile
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chapterflow.errors import SMALL_RUN, ChapterflowError, ConfigError, check_space
from chapterflow.kinds.dataset import Dataset
from chapterflow.models.base import ChapterModel, InputSpec, ModelParams
from chapterflow.training.batches import (
    FORWARD_BATCH,
    Source,
    epoch_order,
    faults_of,
    input_spec,
    reads_edges,
    sized_for,
    source_of,
    sparse_inputs,
)
from chapterflow.training.history import (
    CHECKPOINTS,
    MODEL_FILE,
    EpochRecord,
    Training,
    append_records,
    best_epoch,
    is_over,
    read_history,
)
from chapterflow.training.model_checks import check_layers, check_logits, check_scaled_once
from chapterflow.training.seeds import epoch_seeds, seed_epoch, seeded

if TYPE_CHECKING:
    import keras

#: Purpose of the seeds of initial weights and random layers.
WEIGHTS = "weights"
HISTORY = "history.jsonl"
#: Largest number of weights in a variable that shares the step of Adam with others.
SMALL_VARIABLE = 4096
#: Largest size of a whole graph, in bytes, that is a constant of the compiled epoch.
IN_GRAPH = 8 << 20


def train(
    entry: ChapterModel[Any],
    params: ModelParams,
    dataset: Dataset,
    *,
    seed: int,
    work: Path,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
) -> Training:
    """Train the model that `entry.build` returns and save it as `work/model.keras`.

    The result is bit-identical for a seed on the same machine: initial weights, order of the
    examples and random layers depend only on the seed and the epoch, and operations are
    deterministic. An interrupted training resumes from its last checkpoint in `work` and ends with
    the weights of an uninterrupted one.

    Args:
        work: Folder that only this training uses.
        on_epoch: Called after each epoch is recorded; a resumed training first calls it for the
            earlier epochs.

    Raises:
        ChapterflowError: If the model cannot be built for the data, or training diverges.
        ConfigError: If the model cannot be trained; the message names the layer.
    """
    import keras

    dataset = sized_for(entry, params, dataset)
    reset_keras()
    model = checked(entry, params, dataset, seed)
    way = (WholeGraph if dataset.kind.whole else Batches)(model, params, dataset, seed)
    of_graphs = dataset.kind.joined or dataset.kind.whole
    with as_traced() if of_graphs else nullcontext():
        history, resumed_from = run_epochs(way, params, seed=seed, work=work, on_epoch=on_epoch)
    # Save without the optimizer: its state would triple the file and prediction does not need it.
    keras.Model(model.input, model.output, name=model.name).save(work / MODEL_FILE)
    return Training(
        history=history,
        chosen_epoch=(best_epoch(history) if params.patience else history[-1]).epoch,
        resumed_from=resumed_from,
        seconds=sum(record.seconds for record in history),
        images=len(history) * len(dataset.indices("train")),
    )


class Way(Protocol):
    """A way to get batches for an epoch.

    Attributes:
        learner: The model, its loss and its optimizer.
        record: Class of the records of epochs.
        checkpoint_seconds: Minimum time between two checkpoints; 0 saves one after every epoch.
    """

    learner: Learner
    record: type[EpochRecord] = EpochRecord
    checkpoint_seconds: float = 0.0

    @abstractmethod
    def run_several(self, first: int, most: int, seed: int) -> list[dict[str, Any]]:
        """Train and validate once or more; return for each epoch what its record holds.

        That is losses, accuracies and the learning rate, by their name in the record.

        Args:
            first: Number of the first epoch, from 0.
            most: Maximum number of epochs.
            seed: Seed of random layers.
        """


def run_epochs(
    way: Way,
    params: ModelParams,
    *,
    seed: int,
    work: Path,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
) -> tuple[list[EpochRecord], int]:
    """Run epochs until all are done or validation no longer improves.

    Afterwards the model has the weights of its best epoch with `params.patience`, and of its last
    epoch without. Early stopping uses the history on disk, which a resumed training shares.

    Returns:
        The history, and the number of its epochs that an earlier process ran.

    Raises:
        ChapterflowError: If a loss is not finite.
    """
    model, optimizer = way.learner.model, way.learner.optimizer
    state = [*model.weights, *optimizer.variables]
    size = bytes_of(state)
    # Two checkpoints, the best weights, the model, and the logged model.
    check_space(work, 5 * size + SMALL_RUN, "training")
    checkpoints, best = Checkpoints(work / CHECKPOINTS), work / "best.npz"
    work.mkdir(parents=True, exist_ok=True)

    finished, arrays = checkpoints.newest()
    history = read_history(work / HISTORY, epochs=finished, record=way.record)
    lost_best = params.patience is not None and not best.is_file()
    if not finished or len(history) != finished or lost_best:
        # Part of the folder is missing (after a power cut or a cleanup), so the rest is unusable.
        shutil.rmtree(checkpoints.folder, ignore_errors=True)
        for file in (best, work / HISTORY):
            file.unlink(missing_ok=True)
        finished, history = 0, []
    else:
        assign(state, arrays)
    for record in history:
        on_epoch(record)

    saved = time.perf_counter()
    while not is_over(history, epochs=params.epochs, patience=params.patience):
        started = time.perf_counter()
        # Early stopping needs the weights after each epoch.
        most = 1 if params.patience else params.epochs - len(history)
        several = way.run_several(len(history), most, seed)
        seconds = (time.perf_counter() - started) / len(several)
        records = [
            way.record(epoch=epoch, seconds=seconds, **values)
            for epoch, values in enumerate(several, start=len(history) + 1)
        ]
        for record in records:
            if not math.isfinite(record.train_loss) or not math.isfinite(record.validation_loss):
                raise ChapterflowError(
                    f"The loss is not finite after epoch {record.epoch}: training diverged. "
                    f"Received: train {record.train_loss}, validation {record.validation_loss}. "
                    "Lower learning_rate"
                )
        check_space(work, 3 * size + (1 << 20), "a checkpoint")
        history.extend(records)
        append_records(work / HISTORY, records)
        if params.patience and best_epoch(history) is records[-1]:
            save_arrays(best, model.weights)
        over = is_over(history, epochs=params.epochs, patience=params.patience)
        if over or time.perf_counter() - saved >= way.checkpoint_seconds:
            checkpoints.save(len(history), state)
            saved = time.perf_counter()
        for record in records:
            on_epoch(record)

    if params.patience:
        assign(model.weights, read_arrays(best))
    return history, finished


def bytes_of(variables: Iterable[Any]) -> int:
    """Return the size of variables as float32."""
    return sum(int(np.prod(variable.shape)) * 4 for variable in variables)


def check_space_for(model: keras.Model, folder: Path, purpose: str) -> None:
    """Raise a `DiskFull` if a disk has too little space to save a model in any format.

    Args:
        folder: Folder that the model is saved to; it need not exist yet.
        purpose: What needs the space, such as `the joined model`.
    """
    # Keras and TensorFlow write a temporary copy first.
    check_space(folder, 2 * bytes_of(model.weights) + (1 << 20), purpose)


class Checkpoints:
    """The state after the newest checkpointed epoch: `epoch-0007.npz` covers seven epochs.

    A checkpoint is written under a temporary name and renamed when complete, so a process killed
    at any moment leaves the previous or the new checkpoint. A power cut may leave a truncated file,
    which is skipped.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def newest(self) -> tuple[int, list[NDArray[Any]]]:
        """Return the epochs that the newest readable checkpoint covers, and its arrays."""
        for path in sorted(self.folder.glob("epoch-*.npz"), reverse=True):
            try:
                return int(path.stem.removeprefix("epoch-")), read_arrays(path)
            except (OSError, ValueError, EOFError, zipfile.BadZipFile):
                continue
        return 0, []

    def save(self, epochs: int, state: Sequence[Any]) -> None:
        """Write the checkpoint after a number of epochs, then remove older checkpoints."""
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"epoch-{epochs:04d}.npz"
        save_arrays(path, state)
        for other in self.folder.glob("epoch-*.npz"):
            if other != path:
                other.unlink()


def save_arrays(path: Path, variables: Sequence[Any]) -> None:
    """Write the values of variables, in order; the file appears when it is complete."""
    # Not `files.publish`, which waits for the disk: checkpoints are frequent, and one that a power
    # cut damages is skipped.
    staging = path.with_name(f"staging-{path.name}")
    try:
        np.savez(staging, *[np.asarray(variable) for variable in variables])
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)  # on a full disk, part of it would keep the disk full


def read_arrays(path: Path) -> list[NDArray[Any]]:
    """Return the arrays of `save_arrays`, in order."""
    with np.load(path, allow_pickle=False) as file:
        return [file[name] for name in file.files]


def assign(variables: Sequence[Any], arrays: Sequence[NDArray[Any]]) -> None:
    """Set variables to the values of `read_arrays`."""
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


class Learner:
    """A model with its loss and its optimizer, Adam (Kingma & Ba 2015).

    The loss is cross-entropy of logits for classes, and squared error otherwise.

    Args:
        model: Built, not compiled.
        steps: Gradient steps in an epoch.
        classes: Whether the targets are class numbers.
        class_weights: `(classes,)`, the weight of each class in the loss; None for equal weights.
    """

    def __init__(
        self,
        model: keras.Model,
        params: ModelParams,
        *,
        steps: int,
        classes: bool,
        class_weights: NDArray[np.float32] | None = None,
    ) -> None:
        import keras
        import tensorflow as tf

        self.model = model
        self.classes = classes
        # A variable, because the folds of a cross-validation share a compiled step.
        self.class_weights = None if class_weights is None else tf.Variable(class_weights)
        if params.label_smoothing and not classes:
            raise ConfigError(
                "label_smoothing must be 0 for data without classes. "
                f"Received: {params.label_smoothing}. Remove label_smoothing from the model's block"
            )
        self._smoothing = params.label_smoothing
        self._error = keras.losses.MeanSquaredError()
        self._rate = learning_rate(params, steps)
        self.optimizer = adam(self._rate, params.beta_2)
        self._bfloat16 = params.precision == "bfloat16" and has_bfloat16()
        # If the first step created these variables, TensorFlow would trace that step twice, which
        # takes a large part of a short training.
        self.optimizer.build(model.trainable_variables)

    def step(self, inputs: Any, targets: Any, weights: Any = None, *, rows: Any = None) -> Any:
        """Take a gradient step and return its sums; the arguments are those of `gradients`."""
        gradients, sums = self.gradients(inputs, targets, weights, rows=rows)
        self.optimizer.apply(gradients, self.model.trainable_variables)
        return sums

    def gradients(
        self, inputs: Any, targets: Any, weights: Any = None, *, rows: Any = None
    ) -> tuple[list[Any], Any]:
        """Return the gradients of a batch and its sums.

        The loss includes the model's penalties and any label smoothing.

        Args:
            inputs: Inputs of the model.
            targets: `(batch, ...)`.
            weights: Weight of each target, in the shape of the targets; None for equal weights.
            rows: Rows of the model's output that have targets; None for all.
        """
        import tensorflow as tf

        with tf.GradientTape() as tape:
            with in_bfloat16(self.model) if self._bfloat16 else nullcontext():
                outputs = self.model(inputs, training=True)
            loss, hits = self._score(outputs, targets, weights, rows, self._smoothing)
            for penalty in self.model.losses:
                loss += tf.cast(penalty, loss.dtype)
        return tape.gradient(loss, self.model.trainable_variables), _sums(loss, hits, targets)

    def validate(self, inputs: Any, targets: Any, weights: Any = None, *, rows: Any = None) -> Any:
        """Return the sums of a batch without a step; the loss is plain."""
        return self.sums(self.model(inputs, training=False), targets, weights, rows=rows)

    def sums(self, outputs: Any, targets: Any, weights: Any = None, *, rows: Any = None) -> Any:
        """Return the sums of a batch from the outputs of the model; the loss is plain."""
        return _sums(*self._score(outputs, targets, weights, rows), targets)

    def _score(
        self, outputs: Any, targets: Any, weights: Any, rows: Any, smoothing: float = 0.0
    ) -> tuple[Any, Any]:
        """Return the mean loss of a batch and the number of correct answers."""
        import tensorflow as tf

        if rows is not None:
            outputs = rows_of(outputs, rows)
        if self.class_weights is not None:
            weights = tf.gather(self.class_weights, targets)
        if not self.classes:
            return self._error(targets, outputs, sample_weight=weights), tf.constant(0.0)
        loss = cross_entropy(targets, outputs, weights, smoothing)
        hits = tf.argmax(outputs, axis=-1) == tf.cast(targets, tf.int64)
        return loss, tf.reduce_sum(tf.cast(hits, tf.float32))

    def rate(self, steps: int) -> float:
        """Return the learning rate after a number of steps."""
        return self._rate.at(steps) if callable(self._rate) else float(np.float32(self._rate))

    def means(self, split: str, sums: Any) -> dict[str, float | None]:
        """Return loss and accuracy of a split, by their names in the record of an epoch."""
        loss, hits, count = np.asarray(sums, np.float64)
        return {
            f"{split}_loss": loss / count,
            f"{split}_accuracy": hits / count if self.classes else None,
        }


def _sums(loss: Any, hits: Any, targets: Any) -> Any:
    """Return the sum of losses, the correct answers and the examples of a batch, `(3,)`."""
    import tensorflow as tf

    count = tf.cast(targets.shape[0] or tf.shape(targets)[0], tf.float32)
    return tf.stack([loss * count, hits, count])


class Batches(Way):
    """Batches of a dataset of stored examples or cached features."""

    def __init__(
        self, model: keras.Model, params: ModelParams, dataset: Dataset, seed: int
    ) -> None:
        self._seed = seed
        train = source_of(dataset, "train", batch_size=params.batch_size)
        validation = source_of(dataset, "validation", batch_size=FORWARD_BATCH)
        self.learner = Learner(
            model,
            params,
            steps=train.steps,
            classes=dataset.card.task.classes,
            class_weights=class_weights(params, dataset, dataset.indices("train")),
        )
        self._train = Pass(train, self.learner.step, params.steps_per_execution)
        self._validate = Pass(validation, self.learner.validate, params.steps_per_execution)

    def run_several(self, first: int, most: int, seed: int) -> list[dict[str, Any]]:
        """Train on all batches in the order of one epoch, then validate."""
        seed_epoch(self.learner.model, seed, first)
        train, validation = self._train.source.count, self._validate.source.count
        order = epoch_order(train, self._seed, first)
        return [
            {
                **self.learner.means("train", self._train(order)),
                **self.learner.means("validation", self._validate(np.arange(validation))),
                "learning_rate": self.learner.rate((first + 1) * self._train.source.steps),
            }
        ]


class Pass:
    """A pass over the batches of a source: many steps per call into TensorFlow.

    Each call from Python costs time, and Python sees a signal such as Ctrl-C only between calls, so
    a call takes about half a second. The result does not depend on the number of calls.

    Args:
        function: Takes the arrays of a batch and returns its sums, `(3,)`.
        limit: Maximum number of steps per call; None for no limit.
    """

    #: Seconds of a call.
    SECONDS = 0.5

    def __init__(
        self, source: Source, function: Callable[..., Any], limit: int | None = None
    ) -> None:
        import tensorflow as tf

        self.source = source
        self._limit = limit or source.steps
        self._per_call = min(16, self._limit)

        def step(state: Any, number: Any, sums: Any) -> tuple[Any, Any]:
            batch_sums = function(*source.batch(state, number))
            return number + 1, sums + tf.cast(batch_sums, tf.float64)

        # Autograph takes a fifth of the time to trace the loop.
        @tf.function(autograph=False)  # type: ignore[untyped-decorator]
        def steps(state: Any, first: Any, last: Any, sums: Any) -> Any:
            return tf.while_loop(
                lambda number, _: number < last,
                lambda number, sums: step(state, number, sums),
                [first, sums],
            )[1]

        self._steps = steps

    def __call__(self, order: NDArray[np.intp]) -> NDArray[np.float64]:
        """Read all examples in an order and return the sums of their batches."""
        import tensorflow as tf

        sums = np.zeros(3)
        first = 0
        with faults_of(self.source):
            state = self.source.start(order)
            while first < self.source.steps:
                begun = time.perf_counter()
                last = min(first + self._per_call, self.source.steps)
                bounds = tf.constant(first, tf.int64), tf.constant(last, tf.int64)
                sums = np.asarray(self._steps(state, *bounds, tf.constant(sums)))
                # The first call compiles the function, so the number may grow slowly.
                wanted = self.SECONDS * (last - first) / (time.perf_counter() - begun)
                self._per_call = max(1, min(int(wanted), 4 * self._per_call, self._limit))
                first = last
        return sums


class ShortEpochs(Way):
    """Epochs of a few milliseconds: a compiled loop runs many of them per call into TensorFlow.

    The result does not depend on the number of calls. A subclass calls `compile` in its `__init__`.
    """

    #: An epoch takes only milliseconds, no longer than a checkpoint.
    checkpoint_seconds = 1.0
    #: Seconds of a call: a signal such as Ctrl-C is seen between calls only.
    seconds = 0.5
    #: Gradient steps of an epoch.
    steps = 1
    _per_call = 1

    def state(self, epochs: Sequence[int]) -> Any:
        """Return tensors that the compiled epochs read."""
        return {}

    @abstractmethod
    def values(self, sums: NDArray[np.float64]) -> dict[str, float | None]:
        """Return losses and accuracies of an epoch, from the sums of its compiled function."""

    def run_several(self, first: int, most: int, seed: int) -> list[dict[str, Any]]:
        """Run as many epochs as half a second allows."""
        import tensorflow as tf

        limit = most if self.checkpoint_seconds else 1
        epochs = range(first, first + min(limit, self._per_call))
        begun = time.perf_counter()
        seeds = [states for _, states in epoch_seeds(self.learner.model, seed, epochs)]
        rows = self._epochs(self.state(epochs), seeds, tf.constant(len(epochs)))
        wanted = self.seconds * len(epochs) / (time.perf_counter() - begun)
        self._per_call = max(1, min(int(wanted), 4 * len(epochs)))
        return [
            {**self.values(row), "learning_rate": self.learner.rate((epoch + 1) * self.steps)}
            for epoch, row in zip(epochs, np.asarray(rows, np.float64), strict=True)
        ]

    def compile(self, epoch: Callable[[Any, Any], Any], specs: Any) -> None:
        """Compile a loop over epochs.

        Args:
            epoch: Takes the state and the position of an epoch in it, runs the epoch, and returns
                its sums, `(k,)`.
            specs: Specs of the state.
        """
        self._epochs = compiled_epochs(self.learner, epoch, specs)


def compiled_epochs(learner: Learner, epoch: Callable[[Any, Any], Any], specs: Any) -> Any:
    """Return a compiled loop over epochs: state, seeds of each epoch, count -> rows `(count, k)`.

    A row is what `epoch` returns; see `ShortEpochs`.
    """
    import tensorflow as tf

    seeded = [variable for variable, _ in epoch_seeds(learner.model, 0, range(1))]
    signature = [
        specs,
        [tf.TensorSpec((None, 2), variable.dtype) for variable in seeded],
        tf.TensorSpec((), tf.int32),
    ]

    def row(state: Any, seeds: Any, number: Any) -> Any:
        for variable, states in zip(seeded, seeds, strict=True):
            variable.assign(tf.gather(states, number))
        return tf.cast(epoch(state, number), tf.float32)

    # Autograph takes a fifth of the time to trace the loop.
    @tf.function(input_signature=signature, autograph=False)  # type: ignore[untyped-decorator]
    def epochs(state: Any, seeds: Any, count: Any) -> Any:
        _, rows = tf.while_loop(
            lambda number, _: number < count,
            lambda number, rows: (number + 1, rows.write(number, row(state, seeds, number))),
            [tf.constant(0), tf.TensorArray(tf.float32, size=count)],
        )
        return rows.stack()

    return epochs


class WholeGraph(ShortEpochs):
    """A graph whose nodes are the examples: an epoch is one gradient step on the whole graph."""

    def __init__(
        self, model: keras.Model, params: ModelParams, dataset: Dataset, seed: int
    ) -> None:
        import tensorflow as tf

        self.learner = Learner(
            model,
            params,
            steps=1,
            classes=dataset.card.task.classes,
            class_weights=class_weights(params, dataset, dataset.indices("train")),
        )
        inputs = _in_graph(sparse_inputs(dataset))
        rows, targets = {}, {}
        for split in ("train", "validation"):
            indices = dataset.indices(split)
            rows[split] = tf.constant(indices, tf.int64)
            targets[split] = tf.constant(dataset.targets(indices))

        def epoch(state: Any, number: Any) -> Any:
            # Validation uses the weights after the step.
            whole = inputs()
            train = self.learner.step(whole, targets["train"], rows=rows["train"])
            with tf.control_dependencies([train]):
                validation = self.learner.validate(
                    whole, targets["validation"], rows=rows["validation"]
                )
            return tf.concat([train, validation], axis=0)

        self.compile(epoch, {})

    def values(self, sums: NDArray[np.float64]) -> dict[str, float | None]:
        """Return losses and accuracies."""
        return {
            **self.learner.means("train", sums[:3]),
            **self.learner.means("validation", sums[3:]),
        }


def _in_graph(inputs: Any) -> Callable[[], Any]:
    """Return a function of the inputs, which are constants of the compiled epoch if they are small.

    TensorFlow then computes the degrees, the scaled features and other operations on inputs alone
    while it compiles.
    """
    import tensorflow as tf

    parts = tf.nest.flatten(inputs, expand_composites=True)
    arrays = [part.numpy() for part in parts]
    if sum(array.nbytes for array in arrays) > IN_GRAPH:
        return lambda: inputs
    # Tensors from outside are arguments of a compiled function; those made inside are constants.
    return lambda: tf.nest.pack_sequence_as(
        inputs, [tf.constant(array) for array in arrays], expand_composites=True
    )


def cross_entropy(targets: Any, logits: Any, weights: Any = None, smoothing: float = 0.0) -> Any:
    """Return the mean cross-entropy; Keras's, with its gradient, is 150 operations instead of 20.

    Args:
        targets: Class numbers, `(batch, ...)`.
        logits: `(batch, ..., classes)`.
        weights: Weight of each target, in the shape of the targets; None for equal weights.
        smoothing: Share of the target that is spread over all classes.
    """
    import tensorflow as tf

    logits = tf.cast(logits, tf.float32)
    classes = logits.shape[-1]
    rest = smoothing / classes
    wanted = tf.one_hot(targets, classes, 1 - smoothing + rest, rest)
    share = 1 / tf.cast(tf.size(targets), tf.float32)
    if weights is not None:
        share = (share * tf.cast(weights, tf.float32))[..., None]

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def mean(logits: Any) -> Any:
        logs = tf.nn.log_softmax(logits)
        loss = -tf.reduce_sum(wanted * logs * share)
        return loss, lambda gradient: (tf.exp(logs) - wanted) * (share * gradient)

    return mean(logits)


def rows_of(x: Any, rows: Any) -> Any:
    """Return different rows of a matrix; TensorFlow's own gradient is three times the operations.

    Args:
        x: `(n, f)`.
        rows: Positions, `(k,)`.
    """
    import tensorflow as tf

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def gathered(x: Any) -> Any:
        return tf.gather(x, rows), lambda gradient: tf.math.unsorted_segment_sum(
            gradient, rows, x.shape[0] or tf.shape(x)[0]
        )

    return gathered(x)


def adam(rate: Any, beta_2: float) -> keras.optimizers.Adam:
    """Return Adam whose step takes few operations.

    Keras composes the step of a dozen operations per variable, which take a quarter of a dense
    network's training and half of the time to compile it. Here a large variable has one operation.
    Small variables have one step together: TensorFlow's operation spreads even a bias over threads,
    and 19 variables of a graph network waited 0.25 ms for them, an eighth of the step.

    Args:
        rate: Learning rate or its schedule.
        beta_2: Decay of the mean of squared gradients.
    """
    import keras
    import tensorflow as tf

    class FusedAdam(keras.optimizers.Adam):  # type: ignore[misc]
        def build(self, variables: list[Any]) -> None:
            if self.built:
                return
            super(keras.optimizers.Adam, self).build(variables)  # without a state per variable
            # Not in attributes: Keras would count the model's variables as the optimizer's, and
            # resetting the optimizer would reset the model.
            small, large = self._by_size()
            self._states = dict(
                zip(
                    map(self._var_key, large),
                    zip(
                        *self.add_optimizer_variables(large, ["momentum", "velocity"]),
                        strict=True,
                    ),
                    strict=True,
                )
            )
            total = sum(math.prod(variable.shape) for variable in small)
            self._joined = [
                self.add_variable((total,), "zeros", "float32", name=name)
                for name in ("momentums", "velocities")
            ]

        def _by_size(self) -> tuple[list[Any], list[Any]]:
            small: list[Any] = []
            large: list[Any] = []
            for variable in self._trainable_variables:
                size = math.prod(variable.shape)
                (small if size <= SMALL_VARIABLE else large).append(variable)
            return small, large

        def _backend_update_step(self, grads: Any, trainable_variables: Any, rate: Any) -> None:
            small, large = self._by_size()
            rate, step = tf.cast(rate, tf.float32), tf.cast(self.iterations + 1, tf.float32)
            # Once for all variables: reading the number of the step for each took a tenth of a
            # small network's step.
            powers = tf.pow(self.beta_1, step), tf.pow(self.beta_2, step)
            gradients = {
                self._var_key(variable): tf.convert_to_tensor(gradient)
                for variable, gradient in zip(trainable_variables, grads, strict=True)
            }
            for variable in large:
                gradient = gradients.get(self._var_key(variable))
                if gradient is not None:
                    momentum, velocity = self._states[self._var_key(variable)]
                    tf.raw_ops.ResourceApplyAdam(
                        var=variable.value.handle,
                        m=momentum.value.handle,
                        v=velocity.value.handle,
                        beta1_power=powers[0],
                        beta2_power=powers[1],
                        lr=rate,
                        beta1=self.beta_1,
                        beta2=self.beta_2,
                        epsilon=self.epsilon,
                        grad=gradient,
                    )
            if not small:
                return
            # A variable that the loss does not depend on has no gradient; zeros leave it as it is.
            flat = tf.concat(
                [
                    tf.zeros(math.prod(variable.shape))
                    if (gradient := gradients.get(self._var_key(variable))) is None
                    else _reshaped(gradient, (math.prod(variable.shape),))
                    for variable in small
                ],
                axis=0,
            )
            before = [tf.convert_to_tensor(state.value) for state in self._joined]
            momentum = before[0] + (flat - before[0]) * (1 - self.beta_1)
            velocity = before[1] + (tf.square(flat) - before[1]) * (1 - self.beta_2)
            rate *= tf.sqrt(1 - powers[1]) / (1 - powers[0])
            falls = tf.split(
                rate * momentum / (tf.sqrt(velocity) + self.epsilon),
                [math.prod(variable.shape) for variable in small],
            )
            for state, value in zip(self._joined, (momentum, velocity), strict=True):
                tf.raw_ops.AssignVariableOp(resource=state.value.handle, value=value)
            for variable, fall in zip(small, falls, strict=True):
                tf.raw_ops.AssignSubVariableOp(
                    resource=variable.value.handle, value=_reshaped(fall, variable.shape)
                )

    return FusedAdam(rate, beta_2=beta_2)


def _reshaped(x: Any, shape: Sequence[int]) -> Any:
    """Return a tensor in a shape, without an operation if it has that shape."""
    import tensorflow as tf

    return x if x.shape == tuple(shape) else tf.reshape(x, shape)


def has_bfloat16() -> bool:
    """Tell whether this machine multiplies numbers of bfloat16 natively; others take far longer."""
    import tensorflow as tf

    graphics = tf.config.list_physical_devices("GPU")
    if graphics:
        details = [tf.config.experimental.get_device_details(device) for device in graphics]
        return all(detail.get("compute_capability", (0, 0)) >= (8, 0) for detail in details)
    try:
        return "_bf16" in Path("/proc/cpuinfo").read_text()  # avx512_bf16, amx_bf16
    except OSError:
        return False


@contextmanager
def in_bfloat16(model: keras.Model) -> Iterator[None]:
    """Let the layers of a model compute in bfloat16, except those that return its output.

    Weights stay in float32, and so do validation and the saved model (Micikevicius et al. 2018,
    "Mixed precision training").
    """
    outputs = {operation.name for operation in model._operations if _is_last(model, operation)}
    layers = [layer for layer in model._flatten_layers() if layer.name not in outputs]
    before = [layer.dtype_policy for layer in layers]
    try:
        for layer in layers:
            layer.dtype_policy = "mixed_bfloat16"
        yield
    finally:
        for layer, policy in zip(layers, before, strict=True):
            layer.dtype_policy = policy


def _is_last(model: keras.Model, operation: Any) -> bool:
    return any(operation is tensor._keras_history.operation for tensor in model.outputs)


def class_weights(
    params: ModelParams, dataset: Dataset, train: NDArray[np.intp]
) -> NDArray[np.float32] | None:
    """Return the weight of each class in the loss, `(classes,)`; None for equal weights.

    The mean weight of the train examples is 1. A class without train examples weighs 1.

    Args:
        train: Positions of the examples that are trained on.

    Raises:
        ConfigError: If the data have no classes to balance.
    """
    if params.class_weight == "none":
        return None
    if not dataset.card.task.classes:
        raise ConfigError(
            "class_weight must be none for data without classes. "
            f"Received: {params.class_weight!r} for {dataset.card.name}, of the kind "
            f"{dataset.card.kind}. Remove class_weight from the model's block"
        )
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.asarray(dataset.labels)[train]
    present = np.unique(labels)
    weights = np.ones(len(dataset.card.classes), np.float32)
    weights[present] = compute_class_weight(params.class_weight, classes=present, y=labels)
    return weights


def learning_rate(params: ModelParams, steps: int) -> Any:
    """Return the learning rate, or its schedule over `params.epochs` epochs of `steps` steps."""
    import keras
    import tensorflow as tf

    if params.schedule == "constant":
        return params.learning_rate
    total = steps * params.epochs
    warmup = round(total * params.warmup)
    decay = np.clip((np.arange(total + 1) - warmup) / max(1, total - warmup), 0, 1)
    factors = (1 + np.cos(np.pi * decay)) / 2
    factors[:warmup] = np.arange(warmup) / max(1, warmup)
    table = (params.learning_rate * factors).astype(np.float32)
    rates = tf.constant(table)

    # Keras's own schedule is two dozen operations in every step.
    class Table(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
        def __call__(self, step: Any) -> Any:
            return tf.gather(rates, tf.minimum(tf.cast(step, tf.int32), total))

        def at(self, step: int) -> float:
            # An epoch of a small graph takes hardly longer than three operations of TensorFlow.
            return float(table[min(step, total)])

    return Table()


def reset_keras() -> None:
    """Start a new Keras session, and make every operation deterministic.

    Keras numbers layer names within a session; they must not depend on earlier models.
    """
    import keras
    import tensorflow as tf

    keras.backend.clear_session()
    tf.config.experimental.enable_op_determinism()


@contextmanager
def as_traced() -> Iterator[None]:
    """Compile functions as they are traced, without TensorFlow's optimizers of graphs.

    They take half of the time to compile, and small operations on graphs hardly gain by them.
    """
    import tensorflow as tf

    options = tf.config.optimizer
    before = options.get_experimental_options()["disable_meta_optimizer"]
    options.set_experimental_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        options.set_experimental_options({"disable_meta_optimizer": before})


def checked(
    entry: ChapterModel[Any], params: ModelParams, dataset: Dataset, seed: int
) -> keras.Model:
    """Return a chapter model for a dataset, with initial weights, ready to train.

    Raises:
        ChapterflowError: If it cannot be built for the data.
        ConfigError: If it does not output logits, scales pixels twice, or could not be loaded
            from a file.
    """
    spec = input_spec(entry, params, dataset)
    model = built(entry, params, spec, seed=seed)
    try:
        check_layers(model)
        check_scaled_once(model, spec)
        if dataset.card.task.classes:
            check_logits(model, spec.classes)
    except (
        ConfigError
    ) as fault:  # Keras's own name of the model, such as `functional`, says nothing.
        raise ConfigError(f"{entry.name}: {fault}") from None
    return model


def built(
    entry: ChapterModel[Any], params: ModelParams, spec: InputSpec, *, seed: int = 0
) -> keras.Model:
    """Return a chapter model for the data that `spec` describes.

    Args:
        seed: Seed of the initial weights.

    Raises:
        ChapterflowError: If it cannot be built for the data.
    """
    import keras

    try:
        with seeded(seed, WEIGHTS):
            model = entry.build(params, spec)
            if not isinstance(model, keras.Model):
                raise ConfigError(
                    f"build of {entry.name} must return a keras.Model. "
                    f"Received: {type(model).__name__}"
                )
            if not isinstance(model, keras.Sequential):
                return reads_edges(model)
            if not model.built:  # it has no Input layer
                model.build((None, *spec.shape))
        # A Sequential does not expose its input, which explanations and costs need.
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    except ValueError as error:
        # Keras adds terminal colours to its messages.
        reason = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
        raise ChapterflowError(
            f"{entry.name} cannot be built for inputs of shape {spec.shape}: {reason}"
        ) from error
