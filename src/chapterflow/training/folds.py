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
from chapterflow.training.batches import JoinedGraphs, epoch_order
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
        tell: Called with the name of each fold before it starts.

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
        self.dataset = dataset
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
        """Return a function that trains on a state of batches, then scores the graphs held out."""
        import tensorflow as tf

        source = JoinedGraphs(self.dataset, np.arange(0), 1)
        step = tf.autograph.experimental.do_not_convert(
            lambda state, number: learner.step(*source.batch(state, number))
        )

        @tf.function(input_signature=[source.specs(), source.specs()])  # type: ignore[untyped-decorator]
        def epoch(state: Any, held: Any) -> tuple[Any, Any]:
            sums = tf.zeros(3)
            for number in tf.range(tf.shape(state["cuts"])[0] - 1):
                sums += step(state, number)
            inputs = {name: held[name] for name in ("features", "edges", "sizes")}
            return sums, learner.model(inputs, training=False)

        return epoch


class Fold(Way):
    """The graphs of one training; validation and test are scored after every epoch."""

    record = FoldRecord
    #: An epoch takes only milliseconds, no longer than a checkpoint.
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
        self._train = JoinedGraphs(graphs.dataset, train, graphs.params.batch_size)
        held = np.concatenate([validation, test])
        self._held = JoinedGraphs(graphs.dataset, held, len(held)).start(np.arange(len(held)))
        self._validated = len(validation)

    def run(self, epoch: int) -> dict[str, float | None]:
        """Train on the graphs in the order of the epoch, then score those held out."""
        order = epoch_order(self._train.count, self.seed, epoch)
        sums, logits = self.graphs.epoch(self._train.start(order), self._held)
        labels = np.asarray(self._held["targets"])
        losses, hits = _scores(np.asarray(logits, np.float64), labels)
        return {
            **self.learner.means("train", sums),
            "validation_loss": float(losses[: self._validated].mean()),
            "validation_accuracy": float(hits[: self._validated].mean()),
            "test_accuracy": float(hits[self._validated :].mean()),
        }


def _scores(
    logits: NDArray[np.float64], labels: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return cross-entropy and correctness of each example."""
    from scipy.special import log_softmax

    losses = -log_softmax(logits, axis=1)[np.arange(len(labels)), labels]
    return losses, logits.argmax(axis=1) == labels
