"""A full disk: one line, no crash, and what was finished is kept."""

import contextlib
import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chapterflow.config.load import load_settings
from chapterflow.environment import Project
from chapterflow.errors import DiskFull, check_space, disk_full
from chapterflow.kinds.dataset import Dataset
from chapterflow.models.base import ModelParams
from chapterflow.models.catalog import get_model
from chapterflow.tracking import runs
from chapterflow.tracking.session import Session
from chapterflow.training.history import EpochRecord
from tests.conftest import REPOSITORY


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own; only a superuser may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Leave no byte free on a disk; return the file that fills it."""
    path = disk / "filler"
    with path.open("wb") as file, contextlib.suppress(OSError):
        while True:
            os.write(file.fileno(), bytes(1 << 12))
    return path


@pytest.mark.fault(
    "Disk full from the second epoch on", "One line; finished epochs are kept; equal weights later"
)
@pytest.mark.usefixtures("tensorflow")
def test_a_training_stops_and_resumes(
    disk: Path,
    tmp_path: Path,
    dataset: Dataset,
    params_of: Callable[..., ModelParams],
    weights_of: Callable[[Path], Any],
    record_property: Any,
) -> None:
    from chapterflow.training.fit import fit

    params, fillers = params_of("dnn"), []

    def fill_up(record: EpochRecord) -> None:
        if record.epoch == 2 and not fillers:
            fillers.append(fill(disk))

    def train(work: Path, on_epoch: Callable[[EpochRecord], None]) -> Any:
        return fit(get_model("dnn"), params, dataset, seed=5, work=work, on_epoch=on_epoch)

    with pytest.raises(DiskFull) as failure:
        train(disk / "work", fill_up)
    assert f"The disk at {disk} is full. Received: 0.0 MB free" in str(failure.value)
    assert "are safe" in str(failure.value)
    assert "\n" not in str(failure.value)
    fillers[0].unlink()
    training = train(disk / "work", lambda record: None)
    assert training.resumed_from == 2
    train(tmp_path / "calm", lambda record: None)
    for resumed, calm in zip(weights_of(disk / "work"), weights_of(tmp_path / "calm"), strict=True):
        np.testing.assert_array_equal(resumed, calm)
    record_property("saw", "stopped after 2 epochs with one line; equal weights after a resume")


@pytest.mark.fault("Disk full when a run is logged", "One line without SQL; the store is intact")
def test_the_store_reports_one_line(
    disk: Path, caplog: pytest.LogCaptureFixture, record_property: Any
) -> None:
    (disk / "params.yaml").write_bytes((REPOSITORY / "params.yaml").read_bytes())
    project = Project(disk)
    session = Session(project, load_settings(project.params))
    run_id = runs.open_run(session.client, session.experiment_id, name="x", tags={})
    filler = fill(disk)

    def log() -> None:
        with session.ending_on_error(run_id):
            for number in range(2000):  # until the pages of the database are full, too
                runs.set_tags(session.client, run_id, {f"tag{number}": "x" * 4000})

    with caplog.at_level(logging.DEBUG), pytest.raises(DiskFull, match=f"The disk at {disk} is"):
        log()
    assert "SQL" not in caplog.text
    filler.unlink()
    runs.close_run(session.client, run_id, "FINISHED")
    assert session.client.get_run(run_id).info.status == "FINISHED"
    record_property("saw", "one line; the run was ended after space was freed")


def test_too_little_space_is_found_before_training(disk: Path) -> None:
    check_space(disk / "not" / "there", 1000, "training")
    with pytest.raises(DiskFull, match=r"training needs 1000 MB. Free at least 1000 MB"):
        check_space(disk / "not" / "there", 10**9, "training")


@pytest.mark.fault("Disk full when a backbone is saved or exported", "One line; nothing is written")
@pytest.mark.usefixtures("tensorflow")
def test_a_backbone_is_not_saved_in_part(disk: Path, record_property: Any) -> None:
    import keras

    from chapterflow.training import weights
    from chapterflow.training.epochs import check_space_for

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    check_space_for(model, disk, "the model")
    fill(disk)
    with pytest.raises(DiskFull, match="the SavedModel of a backbone needs 1 MB"):
        weights.export(model, disk / "hub" / "export")
    with pytest.raises(DiskFull, match="the backbone small needs 1 MB"):
        weights.save_backbone(model, disk / "backbones" / weights.WEIGHTS)
    assert sorted(path.name for path in disk.iterdir()) == ["filler"]
    record_property("saw", "refused with one line, no file written")


def test_errors_of_libraries_that_mean_a_full_disk() -> None:
    for text in (
        "[Errno 28] Can't write data (file write failed: No space left on device)",
        "(sqlite3.OperationalError) database or disk is full",
    ):
        error = ValueError("saving failed")
        error.__cause__ = RuntimeError(text)
        assert isinstance(disk_full(error), DiskFull)
    assert disk_full(ValueError("the set is full")) is None
