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

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from chapterflow.errors import DataError
from chapterflow.kinds.dataset import Dataset
from chapterflow.models.base import ChapterModel, ModelParams
from chapterflow.training.batches import epoch_order
from chapterflow.training.epochs import (
    Learner,
    Way,
    assign,
    built,
    class_weights,
    reset_keras,
    run_epochs,
)
from chapterflow.training.history import EpochRecord

#: Share of a fold's training graphs used for validation, as in Errica et al.
INNER = 0.1
#: Maximum size of all padded graphs in memory, in bytes.
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
        tell: Called with the name of each fold before it starts.

    Returns:
        `cv/inner/accuracy_mean` and `_std` over the folds, `cv/gin/...` likewise, and
        `cv/majority/accuracy_mean`, the accuracy of the most frequent training class.

    Raises:
        DataError: If a class has fewer graphs than there are folds, or padded graphs would not
            fit into memory.
    """
    from sklearn.model_selection import StratifiedKFold, train_test_split

    labels = np.asarray(dataset.labels, np.int64)
    counts = np.bincount(labels)
    if counts[counts > 0].min() < folds:
        raise DataError(
            f"Every class must have a graph for each of {folds} folds. "
            f"Received: {counts.tolist()} graphs by class. Lower folds"
        )
    graphs = GraphsInMemory(entry, params, dataset)
    inner, gin, majority = [], [], []
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for fold, (rest, test) in enumerate(splitter.split(labels, labels), start=1):
        tell(f"fold {fold}/{folds}")
        fold_seed = int(np.random.SeedSequence([seed, fold - 1]).generate_state(1)[0] >> 1)
        train, validation = train_test_split(
            rest, test_size=INNER, stratify=labels[rest], random_state=fold_seed
        )

        folder = work / f"fold-{fold}"
        history = graphs.fit(rest, rest[:1], test, seed=fold_seed, work=folder / "gin")
        gin.append([record.test_accuracy for record in history])
        history = graphs.fit(train, validation, test, seed=fold_seed, work=folder / "inner")
        inner.append(chosen_epoch(history).test_accuracy)
        majority.append(np.mean(labels[test] == np.bincount(labels[rest]).argmax()))
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


class GraphsInMemory:
    """All graphs of a dataset and a compiled epoch over them, shared by the trainings of all folds.

    Tracing takes longer than a training, so all folds share a model and reset its weights.
    """

    def __init__(self, entry: ChapterModel[Any], params: ModelParams, dataset: Dataset) -> None:
        import tensorflow as tf

        sizes = np.diff(dataset.arrays["node_offsets"])
        needed = 4 * len(sizes) * int(sizes.max()) * (int(sizes.max()) + 1)
        if needed > MAX_BYTES:
            raise DataError(
                f"Cross-validation needs all graphs in memory, at most {MAX_BYTES:,} bytes. "
                f"Received: {len(sizes):,} graphs of up to {sizes.max():,} nodes, {needed:,} "
                "bytes. Set folds to 0"
            )
        reset_keras()
        # Run all epochs: the protocols, not early stopping, choose the epoch.
        self.params = params.model_copy(update={"patience": None})
        self._built = partial(built, entry, params, dataset.card.input_spec)
        self.inputs = {
            key: tf.constant(x) for key, x in dataset.inputs(np.arange(dataset.count)).items()
        }
        self.targets = tf.constant(np.asarray(dataset.labels), tf.int64)
        self.learner: Learner | None = None
        self._weights = partial(class_weights, params, dataset)

    def fit(
        self,
        train: NDArray[np.intp],
        validation: NDArray[np.intp],
        test: NDArray[np.intp],
        *,
        seed: int,
        work: Path,
    ) -> list[FoldRecord]:
        """Train on some graphs from the seed's initial weights, and return the epochs."""
        initial = self._built(seed=seed)
        if self.learner is None:
            steps = -(-len(train) // self.params.batch_size)
            self.learner = Learner(
                initial, self.params, steps=steps, classes=True, class_weights=self._weights(train)
            )
            self.start = [np.asarray(variable) for variable in self.learner.optimizer.variables]
            self.epoch = self._compiled(self.learner)
        if self.learner.class_weights is not None:
            self.learner.class_weights.assign(self._weights(train))
        assign(self.learner.model.weights, [np.asarray(weight) for weight in initial.weights])
        assign(self.learner.optimizer.variables, self.start)
        way = Fold(self, self.learner, train, validation, test, seed)
        history, _ = run_epochs(way, self.params, seed=seed, work=work)
        return cast(list[FoldRecord], history)

    def _compiled(self, learner: Learner) -> Any:
        """Return a function that trains in an order and returns sums and all graphs' new logits."""
        import tensorflow as tf

        size = self.params.batch_size
        step = tf.autograph.experimental.do_not_convert(learner.step)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])  # type: ignore[untyped-decorator]
        def epoch(order: Any) -> tuple[Any, Any]:
            sums = tf.zeros(3)
            count = tf.size(order)
            for start in tf.range(0, count, size):
                part = order[start : tf.minimum(start + size, count)]
                batch = {key: tf.gather(x, part) for key, x in self.inputs.items()}
                # Cut the padding to the largest graph of the batch, which saves time.
                widest = tf.reduce_max(batch["sizes"])
                batch["features"] = batch["features"][:, :widest]
                batch["adjacency"] = batch["adjacency"][:, :widest, :widest]
                sums += step(batch, tf.gather(self.targets, part))
            return sums, learner.model(self.inputs, training=False)

        return epoch


class Fold(Way):
    """The graphs of one training; validation and test are scored after every epoch."""

    record = FoldRecord
    #: An epoch takes only milliseconds, as long as a checkpoint.
    checkpoint_seconds = 1.0

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
        self.train, self.validation, self.test = train, validation, test

    def run(self, epoch: int) -> dict[str, float | None]:
        """Train on the graphs in the order of the epoch, then score all of them."""
        import tensorflow as tf

        order = self.train[epoch_order(len(self.train), self.seed, epoch)]
        sums, logits = self.graphs.epoch(tf.constant(order, tf.int64))
        losses, hits = _scores(np.asarray(logits, np.float64), np.asarray(self.graphs.targets))
        return {
            **self.learner.means("train", sums),
            "validation_loss": float(losses[self.validation].mean()),
            "validation_accuracy": float(hits[self.validation].mean()),
            "test_accuracy": float(hits[self.test].mean()),
        }


def _scores(
    logits: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return cross-entropy and correctness of each example."""
    from scipy.special import log_softmax

    losses = -log_softmax(logits, axis=1)[np.arange(len(labels)), labels]
    return losses, logits.argmax(axis=1) == labels
