"""Cross-validation of a model of graphs under the two protocols of the literature.

They differ in who chooses the epoch, and that alone moves the accuracy of small sets by several
points, so every figure carries the name of its protocol:

- `inner`: a validation split drawn from the fold's training graphs chooses it; the test fold is
  looked at once (Errica et al., "A fair comparison of graph neural networks", ICLR 2020).
- `gin`: no validation split; the one epoch with the best mean accuracy over the test folds is
  reported (Xu et al., "How powerful are graph neural networks?", ICLR 2019). It is optimistic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.errors import DataError
from chapterflow.kinds.dataset import Dataset
from chapterflow.models.base import ChapterModel, ModelParams
from chapterflow.training.batches import epoch_order
from chapterflow.training.fit import learning_rate

#: Share of a fold's training graphs that chooses the epoch, as in Errica et al.
INNER = 0.1
#: Padded graphs are held in memory, all at once.
MAX_BYTES = 2 << 30


@dataclass(frozen=True)
class Curves:
    """What each epoch of one training showed, `(epochs,)` each."""

    validation_loss: NDArray[np.float64]
    validation_accuracy: NDArray[np.float64]
    test_accuracy: NDArray[np.float64]


def cross_validate(
    entry: ChapterModel[Any],
    params: ModelParams,
    dataset: Dataset,
    *,
    folds: int,
    seed: int,
    tell: Callable[[str], None] = lambda fold: None,
) -> dict[str, float]:
    """Train on all but one fold of all graphs, for each fold and protocol.

    Folds are stratified. The split of the dataset plays no part. All epochs are run; patience
    would look at the same curve.

    Args:
        dataset: Of the kind `graphs`.
        seed: Seed of folds, initial weights, order and dropout.
        tell: Told of each fold before it starts.

    Returns:
        `cv/inner/accuracy_mean` and `_std` over the folds, `cv/gin/...` likewise, and
        `cv/majority/accuracy_mean`, which the most frequent class of the training graphs scores.

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
            f"Received: {counts.tolist()} graphs by class"
        )
    trainer = _Trainer(entry, params, dataset)
    inner, gin, majority = [], [], []
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for fold, (rest, test) in enumerate(splitter.split(labels, labels)):
        tell(f"fold {fold + 1}/{folds}")
        fold_seed = int(np.random.SeedSequence([seed, fold]).generate_state(1)[0] >> 1)
        gin.append(trainer.curves(rest, rest[:1], test, seed=fold_seed).test_accuracy)
        train, validation = train_test_split(
            rest, test_size=INNER, stratify=labels[rest], random_state=fold_seed
        )
        curves = trainer.curves(train, validation, test, seed=fold_seed)
        inner.append(curves.test_accuracy[chosen_epoch(curves)])
        majority.append(np.mean(labels[test] == np.bincount(labels[rest]).argmax()))
    # One epoch for all folds.
    at_best = np.array(gin)[:, np.mean(gin, axis=0).argmax()]
    return {
        "cv/inner/accuracy_mean": float(np.mean(inner)),
        "cv/inner/accuracy_std": float(np.std(inner)),
        "cv/gin/accuracy_mean": float(at_best.mean()),
        "cv/gin/accuracy_std": float(at_best.std()),
        "cv/majority/accuracy_mean": float(np.mean(majority)),
    }


def chosen_epoch(curves: Curves) -> int:
    """Return the position of the epoch with the best validation accuracy; of equals, loss."""
    order = np.lexsort((curves.validation_loss, -curves.validation_accuracy))
    return int(order[0])


class _Trainer:
    """One compiled epoch over all graphs in memory; each training begins with new weights."""

    def __init__(self, entry: ChapterModel[Any], params: ModelParams, dataset: Dataset) -> None:
        import keras
        import tensorflow as tf

        sizes = np.diff(dataset.arrays["node_offsets"])
        needed = 4 * len(sizes) * int(sizes.max()) * (int(sizes.max()) + 1)
        if needed > MAX_BYTES:
            raise DataError(
                f"Cross-validation holds all graphs in memory, at most {MAX_BYTES:,} bytes. "
                f"Received: {len(sizes):,} graphs of up to {sizes.max():,} nodes, {needed:,} "
                "bytes. Set folds to 0."
            )
        keras.backend.clear_session()
        tf.config.experimental.enable_op_determinism()
        self.entry, self.params, self.spec = entry, params, dataset.card.input_spec
        everything = np.arange(dataset.count)
        self.inputs = {key: tf.constant(x) for key, x in dataset.inputs(everything).items()}
        self.targets = tf.constant(np.asarray(dataset.labels), tf.int64)
        self.model = entry.build(params, self.spec)
        self.epoch: Any = None

    def curves(
        self,
        train: NDArray[np.intp],
        validation: NDArray[np.intp],
        test: NDArray[np.intp],
        *,
        seed: int,
    ) -> Curves:
        """Train with new weights, and look at validation and test after every epoch."""
        import keras
        import tensorflow as tf

        keras.utils.set_random_seed(seed)
        fresh = self.entry.build(self.params, self.spec)
        self.model.set_weights(fresh.get_weights())
        for number, layer in enumerate(self.model._flatten_layers()):
            generator = getattr(layer, "seed_generator", None)
            if generator is not None:
                state = np.random.SeedSequence([seed, number]).generate_state(2)
                generator.state.assign(state.astype(generator.state.dtype))
        batch = self.params.batch_size
        if self.epoch is None:
            steps = -(-len(train) // batch)
            self.optimizer = keras.optimizers.Adam(learning_rate(self.params, steps))
            self.optimizer.build(self.model.trainable_variables)
            self.epoch = self._compiled()
        for variable in self.optimizer.variables:
            if variable.name != "learning_rate":
                variable.assign(tf.zeros_like(variable.value))
        seen = []
        for number in range(self.params.epochs):
            order = train[epoch_order(len(train), seed, number)]
            logits = np.asarray(self.epoch(tf.constant(order, tf.int64)), np.float64)
            losses, hits = _scores(logits, np.asarray(self.targets))
            seen.append((losses[validation].mean(), hits[validation].mean(), hits[test].mean()))
        return Curves(*np.array(seen).T)

    def _compiled(self) -> Any:
        import keras
        import tensorflow as tf

        cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model, optimizer, size = self.model, self.optimizer, self.params.batch_size

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])  # type: ignore[untyped-decorator]
        def epoch(order: Any) -> Any:
            count = tf.size(order)
            for start in tf.range(0, count, size):
                part = order[start : tf.minimum(start + size, count)]
                batch = {key: tf.gather(x, part) for key, x in self.inputs.items()}
                # No wider than the largest graph of the batch.
                widest = tf.reduce_max(batch["sizes"])
                batch["features"] = batch["features"][:, :widest]
                batch["adjacency"] = batch["adjacency"][:, :widest, :widest]
                with tf.GradientTape() as tape:
                    logits = model(batch, training=True)
                    loss = cross_entropy(tf.gather(self.targets, part), logits)
                    loss += tf.add_n(model.losses) if model.losses else 0.0
                gradients = tape.gradient(loss, model.trainable_variables)
                optimizer.apply(gradients, model.trainable_variables)
            return model(self.inputs, training=False)

        return epoch


def _scores(
    logits: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return cross-entropy and correctness of each example."""
    from scipy.special import log_softmax

    losses = -log_softmax(logits, axis=1)[np.arange(len(labels)), labels]
    return losses, logits.argmax(axis=1) == labels
