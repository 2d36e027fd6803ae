"""The training history on disk: one line per epoch, which a resumed training continues."""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from chapterflow.files import staged
from chapterflow.types import Strict

#: The trained model, in the folder of its training.
MODEL_FILE = "model.keras"
#: The folder of its checkpoints, there.
CHECKPOINTS = "checkpoints"


class EpochRecord(Strict):
    """Losses and accuracies of one epoch.

    Attributes:
        epoch: Number of finished epochs, from 1.
        train_accuracy: None if the target is not a class, like `validation_accuracy`.
        seconds: Wall time of the epoch including validation.
    """

    epoch: int
    train_loss: float
    train_accuracy: float | None = None
    validation_loss: float
    validation_accuracy: float | None = None
    learning_rate: float
    seconds: float

    @property
    def summary(self) -> str:
        """Short text of the validation result."""
        if self.validation_accuracy is None:
            return f"loss {self.validation_loss:.4g}"
        return f"accuracy {self.validation_accuracy:.3f}"


class Training(Strict):
    """The outcome of a training.

    Attributes:
        chosen_epoch: Epoch whose weights the model has: the best one on validation with early
            stopping, the last one without.
        resumed_from: Number of epochs that an earlier process finished.
        seconds: Wall time of all epochs.
        images: Training examples processed over all epochs.
    """

    history: list[EpochRecord]
    chosen_epoch: int
    resumed_from: int
    seconds: float
    images: int


def read_history(
    path: Path, *, epochs: int, record: type[EpochRecord] = EpochRecord
) -> list[EpochRecord]:
    """Return the records of the first `epochs` epochs, and remove later ones from the file.

    The record of an epoch is written before its checkpoint; a process that is killed between them
    leaves extra records and possibly a partial line. An unreadable record ends the history.

    Args:
        record: Class of the records.
    """
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines()[:epochs]:
        try:
            records.append(record.model_validate_json(line))
        except ValidationError:
            break
    with staged(path) as new:
        new.write_text("".join(f"{item.model_dump_json()}\n" for item in records), encoding="utf-8")
    return records


def append_records(path: Path, records: Sequence[EpochRecord]) -> None:
    """Append the records of some epochs."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(record.model_dump()) + "\n" for record in records)


def best_epoch(history: Sequence[EpochRecord]) -> EpochRecord:
    """Return the record with the lowest validation loss; ties go to the first."""
    return min(history, key=lambda record: record.validation_loss)


def is_over(history: Sequence[EpochRecord], *, epochs: int, patience: int | None) -> bool:
    """Return whether all epochs are done, or the last `patience` epochs brought no improvement."""
    if len(history) >= epochs:
        return True
    if not history or patience is None:
        return False
    return history[-1].epoch - best_epoch(history).epoch >= patience
