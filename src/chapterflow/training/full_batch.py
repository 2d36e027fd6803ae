"""Train on one graph whose nodes are the examples: the whole graph is one gradient step.

Features and adjacency stay sparse from the arrays to the last layer: Cora's features are 1.3 %
full, and dense ones take ten times as long.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.errors import ChapterflowError
from chapterflow.kinds.dataset import Dataset
from chapterflow.models.base import ChapterModel, ModelParams
from chapterflow.training.checks import check_layers, check_logits
from chapterflow.training.fit import Training, learning_rate
from chapterflow.training.history import EpochRecord, append_record, best_epoch, is_over


def fit_full_batch(
    entry: ChapterModel[Any],
    params: ModelParams,
    dataset: Dataset,
    *,
    seed: int,
    work: Path,
    on_epoch: Callable[[EpochRecord], None],
) -> Training:
    """Train a model of nodes and save it as `work/model.keras`.

    An epoch is one step of Adam on the cross-entropy of the train nodes plus what the model adds
    to the loss (weight decay), then the validation of the weights that it gave. The same for a
    seed, bit for bit, on one machine. A killed training starts anew: it takes seconds.

    Args:
        dataset: Of the kind `citations`.
        work: Folder of this training alone.
        on_epoch: Called for each epoch.

    Raises:
        ChapterflowError: If the loss is not finite.
        ConfigError: If the model does not end in logits.
    """
    import keras
    import tensorflow as tf

    work.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(work / "checkpoints", ignore_errors=True)
    (work / "history.jsonl").unlink(missing_ok=True)
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    model = entry.build(params, dataset.card.input_spec)
    check_layers(model)
    check_logits(model, len(dataset.card.classes))
    optimizer = keras.optimizers.Adam(learning_rate(params, 1))
    optimizer.build(model.trainable_variables)
    epoch = _compiled_epoch(model, optimizer, dataset)
    history: list[EpochRecord] = []
    best: list[NDArray[Any]] | None = None
    while not is_over(history, epochs=params.epochs, patience=params.patience):
        started = time.perf_counter()
        values = [float(value) for value in epoch()]
        record = EpochRecord(
            epoch=len(history) + 1,
            train_loss=values[0],
            train_accuracy=values[1],
            validation_loss=values[2],
            validation_accuracy=values[3],
            learning_rate=float(np.asarray(optimizer.learning_rate)),
            seconds=time.perf_counter() - started,
        )
        if not math.isfinite(record.train_loss) or not math.isfinite(record.validation_loss):
            raise ChapterflowError(
                f"The loss is not finite after epoch {record.epoch}: training diverged. Lower "
                f"learning_rate. Received: train {record.train_loss}, validation "
                f"{record.validation_loss}"
            )
        history.append(record)
        append_record(work / "history.jsonl", record)
        if params.patience and best_epoch(history) is record:
            best = model.get_weights()
        on_epoch(record)
    chosen = history[-1]
    if best is not None:
        chosen = best_epoch(history)
        model.set_weights(best)
    model.save(work / "model.keras")
    return Training(
        history=history,
        chosen_epoch=chosen.epoch,
        resumed_from=0,
        seconds=sum(record.seconds for record in history),
        images=len(history) * len(dataset.indices("train")),
    )


def sparse_inputs(dataset: Dataset) -> dict[str, Any]:
    """Return `features` `(n, f)` and `adjacency` `(n, n)` of the one graph as `tf.SparseTensor`.

    They hold what the dense `dataset.inputs` holds.
    """
    import tensorflow as tf

    features = np.asarray(dataset.arrays["features"])
    rows, columns = np.nonzero(features)
    edges = np.unique(np.asarray(dataset.arrays["edges"], np.int64), axis=0)
    edges = edges[edges[:, 0] != edges[:, 1]]
    count = dataset.count
    return {
        "features": tf.SparseTensor(
            np.stack([rows, columns], axis=1), features[rows, columns], features.shape
        ),
        "adjacency": tf.SparseTensor(edges, np.ones(len(edges), np.float32), (count, count)),
    }


def predict_full(model: Any, dataset: Dataset) -> NDArray[np.float32]:
    """Return a model's answers `(n, classes)` for all nodes, whatever their split."""
    return np.asarray(forward(model)(sparse_inputs(dataset)), np.float32)


def forward(model: Any) -> Callable[[Any], Any]:
    """Return a model as one compiled function of sparse inputs."""
    import tensorflow as tf

    found: Callable[[Any], Any] = tf.function(lambda inputs: model(inputs, training=False))
    return found


def _compiled_epoch(model: Any, optimizer: Any, dataset: Dataset) -> Any:
    """Return the function that trains and validates once: two losses and two accuracies."""
    import keras
    import tensorflow as tf

    inputs = sparse_inputs(dataset)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    chosen, targets = {}, {}
    for split in ("train", "validation"):
        indices = dataset.indices(split)
        chosen[split] = tf.constant(indices, tf.int64)
        targets[split] = tf.constant(dataset.targets(indices), tf.int64)

    def score(logits: Any, split: str) -> tuple[Any, Any]:
        found = tf.gather(logits, chosen[split])
        hits = tf.cast(tf.argmax(found, axis=1) == targets[split], tf.float32)
        return cross_entropy(targets[split], found), tf.reduce_mean(hits)

    @tf.function  # type: ignore[untyped-decorator]
    def epoch() -> tuple[Any, Any, Any, Any]:
        with tf.GradientTape() as tape:
            loss, accuracy = score(model(inputs, training=True), "train")
            loss += tf.add_n(model.losses) if model.losses else 0.0
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        validation = score(model(inputs, training=False), "validation")
        return loss, accuracy, *validation

    return epoch
