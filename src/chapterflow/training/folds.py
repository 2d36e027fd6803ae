"""Cross-validation of a graph model under the two protocols of the literature.

The protocols differ in how the epoch is chosen, which alone changes the accuracy on small datasets
by several points. Each metric therefore includes the name of its protocol:

- `inner`: a validation split of the fold's training graphs chooses the epoch; the test fold is
  used once (Errica et al., "A fair comparison of graph neural networks", ICLR 2020).
- `gin`: no validation split; the epoch with the best mean accuracy over the test folds is
  reported (Xu et al., "How powerful are graph neural networks?", ICLR 2019). The result is
  optimistic.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from chapterflow.errors import DataError
from chapterflow.kinds.dataset import Dataset
from chapterflow.models.base import ChapterModel, ModelParams
from chapterflow.training.batches import JoinedGraphs, epoch_order, joined
from chapterflow.training.epochs import (
    Learner,
    ShortEpochs,
    assign,
    built,
    class_weights,
    compiled_epochs,
    reset_keras,
    run_epochs,
)
from chapterflow.training.history import EpochRecord

#: Share of a fold's training graphs used for validation, as in Errica et al.
INNER = 0.1
#: Trainings at a time.
THREADS = os.cpu_count() or 1
#: Maximum size of all graphs in memory, in bytes.
MAX_BYTES = 2 << 30


class FoldRecord(EpochRecord):
    """An epoch of a fold, with the accuracy on the test fold."""

    test_accuracy: float


def cross_validate(
    entry: ChapterModel[Any],
    params: ModelParams,
    dataset: Dataset,
    *,
    folds: int,
    seed: int,
    work: Path,
    tell: Callable[[str], None] = lambda fold: None,
) -> dict[str, float]:
    """Cross-validate a model on all graphs under both protocols.

    Folds are stratified and ignore the dataset's own split. An interrupted cross-validation resumes
    within its fold.

    Args:
        dataset: A dataset of the kind `graphs`.
        seed: Seed of folds, initial weights, order and dropout.
        work: Folder that only this cross-validation uses; each training has a subfolder.
        tell: Called with the name of each fold while it is trained.

    Returns:
        `cv/inner/accuracy_mean` and `_std` over the folds, `cv/gin/...` likewise, and
        `cv/majority/accuracy_mean`, the accuracy of the most frequent training class.

    Raises:
        DataError: If a class has fewer graphs than there are folds, or the graphs do not fit into
            memory.
    """
    from sklearn.model_selection import StratifiedKFold, train_test_split

    labels = np.asarray(dataset.labels, np.int64)
    counts = np.bincount(labels)
    if counts[counts > 0].min() < folds:
        raise DataError(
            f"Every class must have a graph for each of {folds} folds. "
            f"Received: {counts.tolist()} graphs by class. Lower folds"
        )
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    splits = list(splitter.split(labels, labels))
    steps = -(-len(splits[0][0]) // params.batch_size)
    inner, gin, majority = [], [], []
    with Trainings(partial(GraphsInMemory, entry, params, dataset, steps)) as trainings:
        results = []
        seeds = [
            int(np.random.SeedSequence([seed, fold]).generate_state(1)[0] >> 1)
            for fold in range(folds)
        ]
        # All before the first training: setting a seed makes TensorFlow optimize its compiled
        # functions again, which takes as long as many epochs.
        initial = [trainings.initial(fold_seed) for fold_seed in seeds]
        for fold, (rest, test) in enumerate(splits, start=1):
            fold_seed, weights = seeds[fold - 1], initial[fold - 1]
            train, validation = train_test_split(
                rest, test_size=INNER, stratify=labels[rest], random_state=fold_seed
            )
            folder = work / f"fold-{fold}"
            parts = {"gin": (rest, rest[:1], test), "inner": (train, validation, test)}
            results += [
                trainings.start(*indices, seed=fold_seed, work=folder / name, initial=weights)
                for name, indices in parts.items()
            ]
            majority.append(np.mean(labels[test] == np.bincount(labels[rest]).argmax()))
        for fold in range(folds):
            tell(f"fold {fold + 1}/{folds}")
            gin.append([record.test_accuracy for record in results[2 * fold].result()])
            inner.append(chosen_epoch(results[2 * fold + 1].result()).test_accuracy)
    # The protocol chooses one epoch for all folds.
    at_best = np.array(gin)[:, np.mean(gin, axis=0).argmax()]
    return {
        "cv/inner/accuracy_mean": float(np.mean(inner)),
        "cv/inner/accuracy_std": float(np.std(inner)),
        "cv/gin/accuracy_mean": float(at_best.mean()),
        "cv/gin/accuracy_std": float(at_best.std()),
        "cv/majority/accuracy_mean": float(np.mean(majority)),
    }


def chosen_epoch(history: Sequence[FoldRecord]) -> FoldRecord:
    """Return the epoch with the best validation accuracy; ties go to the lowest loss."""
    return min(
        history, key=lambda record: (-(record.validation_accuracy or 0), record.validation_loss)
    )


class Trainings:
    """Trainings of folds, as many at a time as there are cores.

    A training of small graphs keeps one core busy. Its result does not depend on the others: each
    thread has a model, an optimizer and compiled functions of its own.

    Args:
        graphs: Returns what a thread trains with.
    """

    def __init__(self, graphs: Callable[[], GraphsInMemory]) -> None:
        # Keras counts layers, and draws seeds, for each thread.
        self._free: SimpleQueue[GraphsInMemory] = SimpleQueue()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="fold")
        self._all = [graphs() for _ in range(THREADS)]
        for graphs_of_thread in self._all:
            self._free.put(graphs_of_thread)

    def initial(self, seed: int) -> list[NDArray[Any]]:
        """Return the initial weights for a seed."""
        return self._all[0].initial(seed)

    def start(self, *parts: NDArray[np.intp], **options: Any) -> Future[list[FoldRecord]]:
        """Start a training with the arguments of `GraphsInMemory.fit` when a core is free."""
        return self._pool.submit(self._fit, *parts, **options)

    def _fit(self, *parts: NDArray[np.intp], **options: Any) -> list[FoldRecord]:
        graphs = self._free.get()
        try:
            return graphs.fit(*parts, **options)
        finally:
            self._free.put(graphs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for graphs in self._all:
            graphs.stopped = True
        self._pool.shutdown(cancel_futures=True)


class Stopped(Exception):
    """A training ended because another one failed, or the process is to end."""


class GraphsInMemory:
    """All graphs of a dataset and compiled epochs over them, shared by the trainings of folds.

    Tracing takes longer than a training, so trainings share a model and reset its weights.

    Args:
        steps: Steps of an epoch, for the schedule of the learning rate; by default those of the
            first training.

    Attributes:
        stopped: Whether trainings shall end.
    """

    def __init__(
        self,
        entry: ChapterModel[Any],
        params: ModelParams,
        dataset: Dataset,
        steps: int | None = None,
    ) -> None:
        needed = dataset.arrays["features"].nbytes + dataset.arrays["edges"].nbytes
        if needed > MAX_BYTES:
            raise DataError(
                f"Cross-validation needs all graphs in memory, at most {MAX_BYTES:,} bytes. "
                f"Received: {dataset.count:,} graphs of {needed:,} bytes. Set folds to 0"
            )
        reset_keras()
        # Run all epochs: the protocols, not early stopping, choose the epoch.
        self.params = params.model_copy(update={"patience": None})
        self._built = partial(built, entry, params, dataset.card.input_spec)
        self._model = self._built()
        self.dataset = dataset
        self.learner: Learner | None = None
        self.stopped = False
        self._steps = steps
        self._weights = partial(class_weights, params, dataset)

    def initial(self, seed: int) -> list[NDArray[Any]]:
        """Return the initial weights for a seed."""
        return [np.asarray(weight) for weight in self._built(seed=seed).weights]

    def fit(
        self,
        train: NDArray[np.intp],
        validation: NDArray[np.intp],
        test: NDArray[np.intp],
        *,
        seed: int,
        work: Path,
        initial: list[NDArray[Any]] | None = None,
    ) -> list[FoldRecord]:
        """Train on some graphs from the seed's initial weights, and return the epochs.

        Args:
            initial: What `initial` returns for the seed.
        """
        initial = initial or self.initial(seed)
        if self.learner is None:
            steps = self._steps or -(-len(train) // self.params.batch_size)
            self.learner = Learner(
                self._model,
                self.params,
                steps=steps,
                classes=True,
                class_weights=self._weights(train),
            )
            self.start = [np.asarray(variable) for variable in self.learner.optimizer.variables]
            self.epochs = self._compiled(self.learner)
        if self.learner.class_weights is not None:
            self.learner.class_weights.assign(self._weights(train))
        assign(self.learner.model.weights, initial)
        assign(self.learner.optimizer.variables, self.start)
        way = Fold(self, self.learner, train, validation, test, seed)
        history, _ = run_epochs(way, self.params, seed=seed, work=work)
        return cast(list[FoldRecord], history)

    def _compiled(self, learner: Learner) -> Any:
        """Return compiled epochs; each trains, then scores the graphs held out."""
        import tensorflow as tf

        source = JoinedGraphs(self.dataset, np.arange(0), 1)
        specs = {
            "train": source.specs(),
            "first": tf.TensorSpec((None,), tf.int32),
            "held": source.specs(),
            "validation": tf.TensorSpec((), tf.int32),
        }

        def epoch(state: Any, number: Any) -> Any:
            def step(batch: Any, sums: Any) -> tuple[Any, Any]:
                return batch + 1, sums + learner.step(*source.batch(state["train"], batch))

            end = state["first"][number + 1]
            _, sums = tf.while_loop(
                lambda batch, _: batch < end, step, [state["first"][number], tf.zeros(3)]
            )
            with tf.control_dependencies([sums]):
                inputs, targets = source.batch(state["held"], 0)
                # One pass over validation and test takes half the operations of two.
                outputs, count = learner.model(inputs, training=False), state["validation"]
                scores = [
                    learner.sums(outputs[:count], targets[:count]),
                    learner.sums(outputs[count:], targets[count:]),
                ]
            return tf.concat([sums, *scores], axis=0)

        return compiled_epochs(learner, epoch, specs)


class Fold(ShortEpochs):
    """The graphs of one training; validation and test are scored after every epoch."""

    record = FoldRecord

    def __init__(
        self,
        graphs: GraphsInMemory,
        learner: Learner,
        train: NDArray[np.intp],
        validation: NDArray[np.intp],
        test: NDArray[np.intp],
        seed: int,
    ) -> None:
        self.graphs, self.learner, self.seed = graphs, learner, seed
        self._epochs = graphs.epochs
        self._train, self._size = train, graphs.params.batch_size
        self.steps = -(-len(train) // self._size)
        self._held = joined(graphs.dataset, [np.concatenate([validation, test])])
        self._validation = len(validation)

    def state(self, epochs: Sequence[int]) -> Any:
        """Return the batches of the epochs, one after the other, and where each epoch begins."""
        import tensorflow as tf

        if self.graphs.stopped:
            raise Stopped
        batches = []
        for epoch in epochs:
            order = self._train[epoch_order(len(self._train), self.seed, epoch)]
            batches += [
                order[start : start + self._size] for start in range(0, len(order), self._size)
            ]
        first = np.arange(len(epochs) + 1) * self.steps
        return {
            "train": joined(self.graphs.dataset, batches),
            "first": tf.constant(first, tf.int32),
            "held": self._held,
            "validation": tf.constant(self._validation, tf.int32),
        }

    def values(self, sums: NDArray[np.float64]) -> dict[str, float | None]:
        """Return losses and accuracies."""
        return {
            **self.learner.means("train", sums[:3]),
            **self.learner.means("validation", sums[3:6]),
            "test_accuracy": sums[7] / sums[8],
        }
