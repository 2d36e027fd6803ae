"""Train one chapter model to its end, from wherever an earlier process left it."""

from __future__ import annotations

import importlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from chapterflow.errors import ChapterflowError, ConfigError
from chapterflow.kinds.dataset import Dataset
from chapterflow.models.base import ChapterModel, InputSpec, ModelParams
from chapterflow.training.batches import (
    FORWARD_BATCH,
    TrainBatches,
    input_spec,
    sized_for,
    split_batches,
    steps_per_epoch,
)
from chapterflow.training.checks import check_layers, check_logits, check_scaled_once
from chapterflow.training.history import EpochRecord, best_epoch, is_over, read_history
from chapterflow.types import Strict

if TYPE_CHECKING:
    import keras


class Training(Strict):
    """The outcome of a training.

    Attributes:
        chosen_epoch: Epoch whose weights the model has: the best one on validation with early
            stopping, the last one without.
        resumed_from: Epochs that an earlier, killed process had done.
        images: Training images seen, over all epochs.
    """

    history: list[EpochRecord]
    chosen_epoch: int
    resumed_from: int
    seconds: float
    images: int


def fit(
    entry: ChapterModel[Any],
    params: ModelParams,
    dataset: Dataset,
    *,
    seed: int,
    work: Path,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    scratch: Path | None = None,
) -> Training:
    """Train a model and save it as `work/model.keras`.

    Every epoch leaves a checkpoint in `work`; called again there, the training goes on from it and
    ends with the weights of an undisturbed one. Bit for bit the same on one machine: seeds are
    set, operations are deterministic, and the order of examples and the dropout masks depend on
    seed and epoch alone.

    Args:
        work: Folder of this training alone.
        on_epoch: Called for each epoch once its checkpoint is on disk; for a resumed training
            first for the epochs that were done already.
        scratch: Folder of kept features and backbones; by default the one that holds the folder
            of `work`.
    """
    import keras
    import tensorflow as tf

    from chapterflow.training import callbacks as cb

    dataset = sized_for(entry, params, dataset)
    work.mkdir(parents=True, exist_ok=True)
    scratch = scratch or work.parent.parent
    # Found by name, so that the fingerprints of models that need none of it do not cover it.
    if entry.frozen is not None:
        frozen = importlib.import_module("chapterflow.training.frozen")
        params, part = frozen.frozen_part(entry, params, dataset, scratch, seed)
        if part is not None:
            return cast(
                Training,
                frozen.fit_frozen(
                    *(part, entry, params, dataset),
                    seed=seed,
                    work=work,
                    scratch=scratch,
                    on_epoch=on_epoch,
                ),
            )
    if dataset.kind.whole:
        whole = importlib.import_module("chapterflow.training.full_batch")
        return cast(
            Training,
            whole.fit_full_batch(entry, params, dataset, seed=seed, work=work, on_epoch=on_epoch),
        )
    checkpoints, best = work / "checkpoints", work / "best.weights.h5"
    finished = cb.finished_epochs(checkpoints)
    history = read_history(work / "history.jsonl", epochs=finished)
    lost_best = params.patience is not None and not best.is_file()
    if not finished or len(history) != finished or lost_best:
        # Nothing to go on from, or only part of it (a power cut, a tidy hand), which is of no use.
        shutil.rmtree(checkpoints, ignore_errors=True)
        for file in (best, work / "history.jsonl"):
            file.unlink(missing_ok=True)
        finished, history = 0, []
    for record in history:
        on_epoch(record)

    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    model = compiled(entry, params, dataset)
    batches = TrainBatches(dataset, batch_size=params.batch_size, seed=seed)
    reporter = cb.EpochReporter(
        history,
        work / "history.jsonl",
        epochs=params.epochs,
        patience=params.patience,
        on_epoch=on_epoch,
    )
    backup = cb.AtomicBackupAndRestore(checkpoints)
    if is_over(history, epochs=params.epochs, patience=params.patience):
        backup.set_model(model)
        backup.on_train_begin()
    else:
        model.fit(
            batches.as_tf(),
            validation_data=split_batches(dataset, "validation", batch_size=FORWARD_BATCH),
            shuffle=False,  # TrainBatches does
            initial_epoch=finished,
            epochs=params.epochs,
            verbose=0,
            callbacks=[
                cb.EpochSeeds(seed, batches),
                *([cb.best_weights(best, history)] if params.patience else []),
                reporter,
                backup,
                reporter.pass_on(),
            ],
        )
    chosen = history[-1]
    if params.patience:
        chosen = best_epoch(history)
        model.load_weights(best)
    # Without the optimizer, whose state would triple the file and is of no use to who predicts.
    keras.Model(model.input, model.output, name=model.name).save(work / "model.keras")
    return Training(
        history=history,
        chosen_epoch=chosen.epoch,
        resumed_from=finished,
        seconds=sum(record.seconds for record in history),
        images=len(history) * len(dataset.indices("train")),
    )


def with_files(
    entry: ChapterModel[Any], params: ModelParams, dataset: Dataset, scratch: Path
) -> ModelParams:
    """Return parameters in which names of weights have become files, fetched or trained now."""
    if entry.frozen is None:
        return params
    weights = importlib.import_module("chapterflow.training.backbones")
    return cast(ModelParams, weights.with_files(params, dataset, scratch))


def built(entry: ChapterModel[Any], params: ModelParams, spec: InputSpec) -> keras.Model:
    """Return a chapter model for data as `spec` describes them.

    Raises:
        ChapterflowError: If it cannot be built for them.
    """
    import keras

    try:
        model = entry.build(params, spec)
        if not isinstance(model, keras.Model):
            raise ConfigError(
                f"build of {entry.name} must return a keras.Model. Received: {type(model).__name__}"
            )
        if not isinstance(model, keras.Sequential):
            return model
        if not model.built:  # it has no Input of its own
            model.build((None, *spec.shape))
        # A Sequential does not tell its input, which explanations and costs are taken from.
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    except ValueError as error:
        # Keras colours its messages.
        reason = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
        raise ChapterflowError(
            f"{entry.name} cannot be built for inputs of shape {spec.shape}: {reason}"
        ) from error


def compiled(entry: ChapterModel[Any], params: ModelParams, dataset: Dataset) -> keras.Model:
    """Return a chapter model for a dataset, ready to fit.

    It learns with Adam: classes from logits by cross-entropy, anything else by squared error.

    Raises:
        ConfigError: If it does not end in logits, or scales pixels twice.
    """
    import keras

    spec = input_spec(entry, params, dataset)
    model = built(entry, params, spec)
    check_layers(model)
    check_scaled_once(model, spec)
    if dataset.card.task.classes:
        check_logits(model, spec.classes)
    model.compile(
        optimizer=keras.optimizers.Adam(
            learning_rate(params, steps_per_epoch(dataset, params.batch_size))
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        if dataset.card.task.classes
        else keras.losses.MeanSquaredError(),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
        if dataset.card.task.classes
        else [],
        steps_per_execution=params.steps_per_execution,
        # XLA is slower for convolutions on CPUs.
        jit_compile=False,
    )
    # Built within the first step, its variables would make TensorFlow trace that step twice: a
    # large part of what a short training takes.
    model.optimizer.build(model.trainable_variables)
    return model


def learning_rate(params: ModelParams, steps: int) -> Any:
    """Return the learning rate, or its schedule over `params.epochs` epochs of `steps` steps."""
    import keras

    if params.schedule == "constant":
        return params.learning_rate
    total = steps * params.epochs
    warmup = round(total * params.warmup)
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else params.learning_rate,
        decay_steps=max(1, total - warmup),
        warmup_target=params.learning_rate if warmup else None,
        warmup_steps=warmup,
    )
