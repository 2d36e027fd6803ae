"""Keras callbacks that make a training resumable to the same result, and tell of its epochs."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from chapterflow.errors import ChapterflowError
from chapterflow.training.batches import TrainBatches
from chapterflow.training.history import EpochRecord, append_record, is_over


class AtomicBackupAndRestore(keras.callbacks.BackupAndRestore):  # type: ignore[misc]
    """`keras.callbacks.BackupAndRestore`, safe against a kill at any moment.

    Keras writes the weights and then the epoch's number into the same two files; a process killed
    between (or within) the two writes would resume with weights and number of different epochs.
    Here each checkpoint is a folder of its own, renamed into place when it is whole.

    Args:
        folder: Where the checkpoints live: `epoch-0007` holds the state after seven epochs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.staging = folder / "staging"
        super().__init__(str(self.staging), delete_checkpoint=False)

    def on_train_begin(self, logs: Any = None) -> None:
        """Restore the newest whole checkpoint."""
        shutil.rmtree(self.staging, ignore_errors=True)
        if finished := finished_epochs(self.folder):
            shutil.copytree(_checkpoint(self.folder, finished), self.staging)
        super().on_train_begin(logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write a checkpoint, publish it, and drop the one before."""
        shutil.rmtree(self.staging, ignore_errors=True)
        super().on_epoch_end(epoch, logs)
        self.staging.rename(_checkpoint(self.folder, epoch + 1))
        shutil.rmtree(_checkpoint(self.folder, epoch), ignore_errors=True)


def _checkpoint(folder: Path, epochs: int) -> Path:
    return folder / f"epoch-{epochs:04d}"


def finished_epochs(folder: Path) -> int:
    """Return how many epochs the newest whole checkpoint covers; 0 where there is none."""
    return max(
        (int(path.name[6:]) for path in folder.glob("epoch-*") if _is_whole(path)), default=0
    )


def _is_whole(checkpoint: Path) -> bool:
    """Tell whether the weights can be read to their end: a power cut may have taken some."""
    import h5py

    try:
        with h5py.File(checkpoint / "latest.weights.h5"):
            return (checkpoint / "training_metadata.json").stat().st_size > 0
    except OSError:
        return False


class EpochSeeds(keras.callbacks.Callback):  # type: ignore[misc]
    """Make what is random in an epoch a function of seed and epoch: order and dropout masks.

    Keras keeps a layer's random state (that of dropout, say) out of the checkpoint; set anew at
    each epoch it need not be there.

    Args:
        seed: Seed of the run.
        batches: The input pipeline, told which epoch's order to take.
    """

    def __init__(self, seed: int, batches: TrainBatches) -> None:
        super().__init__()
        self.seed = seed
        self.batches = batches

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Choose the order, and reset the random state of the layers, each to its own."""
        self.batches.epoch = epoch
        for number, layer in enumerate(self.model._flatten_layers()):
            generator = getattr(layer, "seed_generator", None)
            if generator is not None:
                state = np.random.SeedSequence([self.seed, number, epoch]).generate_state(2)
                generator.state.assign(state.astype(generator.state.dtype))


class EpochReporter(keras.callbacks.Callback):  # type: ignore[misc]
    """Write the history, stop when validation no longer improves, and pass each epoch on.

    Early stopping lives here because it is decided on the history on disk, which a resumed
    training shares; `keras.callbacks.EarlyStopping` forgets what it saw before a kill.

    Args:
        history: Epochs done by an earlier process; continued in place.
        path: File of the history.
        on_epoch: Called with each record, after it is on disk.
    """

    def __init__(
        self,
        history: list[EpochRecord],
        path: Path,
        *,
        epochs: int,
        patience: int | None,
        on_epoch: Callable[[EpochRecord], None],
    ) -> None:
        super().__init__()
        self.history = history
        self.path = path
        self.epochs = epochs
        self.patience = patience
        self.on_epoch = on_epoch
        self._started = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Record the epoch; refuse to go on with a loss that is not finite."""
        values = {key: float(value) for key, value in (logs or {}).items()}
        if not math.isfinite(values["loss"]) or not math.isfinite(values["val_loss"]):
            raise ChapterflowError(
                f"The loss is not finite after epoch {epoch + 1}: training diverged. "
                f"Lower learning_rate. Received: train {values['loss']}, "
                f"validation {values['val_loss']}"
            )
        record = EpochRecord(
            epoch=epoch + 1,
            train_loss=values["loss"],
            train_accuracy=values.get("accuracy"),
            validation_loss=values["val_loss"],
            validation_accuracy=values.get("val_accuracy"),
            learning_rate=float(np.asarray(self.model.optimizer.learning_rate)),
            seconds=time.perf_counter() - self._started,
        )
        self.history.append(record)
        append_record(self.path, record)
        if is_over(self.history, epochs=self.epochs, patience=self.patience):
            self.model.stop_training = True

    def pass_on(self) -> keras.callbacks.Callback:
        """Return the callback that tells of the epoch: put it last, behind the checkpoint."""
        return keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: self.on_epoch(self.history[-1])
        )


def best_weights(path: Path, history: Sequence[EpochRecord]) -> keras.callbacks.ModelCheckpoint:
    """Return the callback that keeps the weights of the lowest validation loss in `path`."""
    return keras.callbacks.ModelCheckpoint(
        str(path),
        monitor="val_loss",
        save_best_only=True,
        save_weights_only=True,
        initial_value_threshold=min((r.validation_loss for r in history), default=None),
    )
