"""The history on disk, and when a training has ended."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chapterflow.training.history import (
    EpochRecord,
    append_records,
    best_epoch,
    is_over,
    read_history,
)


def records(*losses: float) -> list[EpochRecord]:
    """Return a history with these validation losses."""
    return [
        EpochRecord(
            epoch=number,
            train_loss=loss / 3,
            train_accuracy=0.5,
            validation_loss=loss,
            validation_accuracy=0.25,
            learning_rate=1e-3,
            seconds=0.1,
        )
        for number, loss in enumerate(losses, start=1)
    ]


def write(path: Path, history: list[EpochRecord]) -> Path:
    append_records(path, history)
    return path


def test_what_is_written_is_read_again_exactly(tmp_path: Path) -> None:
    history = records(0.1, 1 / 3, 1e-300)
    path = write(tmp_path / "history.jsonl", history)
    assert len(path.read_text().splitlines()) == 3
    assert read_history(path, epochs=3) == history


@pytest.mark.parametrize("tail", ["", "\n", '{"epoch": 4, "train_lo', "rubbish\n", "{}\n{}\n"])
def test_what_no_checkpoint_covers_is_dropped_from_the_file(tmp_path: Path, tail: str) -> None:
    history = records(3, 2, 1)
    path = write(tmp_path / "history.jsonl", history)
    path.write_text(path.read_text() + tail)
    assert read_history(path, epochs=2) == history[:2]
    append_records(path, [history[2]])
    assert read_history(path, epochs=3) == history
    assert len(path.read_text().splitlines()) == 3


def test_a_record_that_cannot_be_read_ends_the_history(tmp_path: Path) -> None:
    history = records(3, 2, 1)
    path = write(tmp_path / "history.jsonl", history)
    first, _, third = path.read_text().splitlines()
    path.write_text(f"{first}\n\n{third}\n")
    assert read_history(path, epochs=3) == history[:1]
    assert len(path.read_text().splitlines()) == 1


def test_no_file_and_no_epochs(tmp_path: Path) -> None:
    assert read_history(tmp_path / "history.jsonl", epochs=3) == []
    assert not (tmp_path / "history.jsonl").exists()
    path = write(tmp_path / "history.jsonl", records(1, 2))
    assert read_history(path, epochs=0) == []
    assert path.read_text() == ""


def test_the_best_epoch_is_the_first_of_equals() -> None:
    assert best_epoch(records(3, 1, 2, 1)).epoch == 2


@pytest.mark.parametrize(
    ("losses", "epochs", "patience", "over"),
    [
        ((), 3, 1, False),
        ((1, 2), 3, None, False),
        ((1, 2, 3), 3, None, True),
        ((3, 2, 1), 4, 1, False),
        ((1, 2), 9, 1, True),
        ((1, 2), 9, 2, False),
        ((1, 2, 3), 9, 2, True),
        ((2, 3, 1), 9, 2, False),
        ((1, 1), 9, 1, True),
        ((5, 4, 5, 3, 4), 9, 2, False),
    ],
)
def test_when_a_training_is_over(
    losses: tuple[float, ...], epochs: int, patience: int | None, over: bool
) -> None:
    assert is_over(records(*losses), epochs=epochs, patience=patience) is over


@given(st.lists(st.floats(0, 10), min_size=1, max_size=12), st.integers(1, 12), st.integers(1, 4))
def test_the_end_is_where_patience_ends(losses: list[float], epochs: int, patience: int) -> None:
    history = records(*losses)
    best = losses.index(min(losses))
    expected = len(losses) >= epochs or len(losses) - 1 - best >= patience
    assert is_over(history, epochs=epochs, patience=patience) is expected
