"""A training that was killed at any moment ends as if nothing had happened."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from chapterflow.kinds.dataset import Dataset
from chapterflow.models.base import ModelParams
from chapterflow.models.catalog import get_model
from chapterflow.training.history import EpochRecord, append_records, read_history
from tests.conftest import FORKS

pytestmark = pytest.mark.usefixtures("tensorflow")

Weights = list[NDArray[Any]]
WeightsOf = Callable[[Path], Weights]


class Killed(BaseException):
    """The end of a process, in a test."""


class Case:
    """One training, undisturbed in `calm`, to compare disturbed ones with."""

    def __init__(
        self, dataset: Dataset, params: ModelParams, calm: Path, weights_of: WeightsOf
    ) -> None:
        self.dataset = dataset
        self.params = params
        self.weights_of = weights_of
        self.calm = calm
        self.training = self.fit(calm)
        self.weights = weights_of(calm)

    def fit(self, work: Path, on_epoch: Callable[[EpochRecord], None] = lambda _: None) -> Any:
        from chapterflow.training.fit import fit

        entry = get_model("dnn")  # which has dropout
        return fit(entry, self.params, self.dataset, seed=5, work=work, on_epoch=on_epoch)

    def kill_after(self, epochs: int, work: Path) -> None:
        """Train until so many epochs are done, then die.

        What a fresh training leaves is kept and copied: many tests start from the same.
        """

        def die(record: EpochRecord) -> None:
            if record.epoch == epochs:
                raise Killed

        kept = self.calm.with_name(f"{self.calm.name}-killed-after-{epochs}")
        if any(work.iterdir()):
            kept = work
        if kept == work or not kept.exists():
            with pytest.raises(Killed):
                self.fit(kept, die)
        if kept != work:
            shutil.copytree(kept, work, dirs_exist_ok=True)
        assert [path.name for path in (work / "checkpoints").iterdir()] == [
            f"epoch-{epochs:04d}.npz"
        ]
        assert not (work / "model.keras").exists()

    def check(self, work: Path, *, resumed_from: int) -> None:
        """Train on, and compare with the undisturbed training, bit for bit."""
        result: list[EpochRecord] = []
        training = self.fit(work, result.append)
        assert training.resumed_from == resumed_from
        assert result == training.history
        assert training.chosen_epoch == self.training.chosen_epoch
        assert training.images == self.training.images
        assert timeless(training.history) == timeless(self.training.history)
        on_disk = read_history(work / "history.jsonl", epochs=len(result) + 5)
        assert on_disk == training.history
        for resumed, calm in zip(self.weights_of(work), self.weights, strict=True):
            np.testing.assert_array_equal(resumed, calm)


def timeless(history: list[EpochRecord]) -> list[dict[str, Any]]:
    return [record.model_dump(exclude={"seconds"}) for record in history]


@pytest.fixture(scope="module")
def plain(
    dataset: Dataset,
    params_of: Callable[..., ModelParams],
    weights_of: WeightsOf,
    tmp_path_factory: pytest.TempPathFactory,
) -> Case:
    """Four epochs of a cosine schedule, with the weights of the last."""
    params = params_of("dnn", steps_per_execution=1)
    return Case(dataset, params, tmp_path_factory.mktemp("plain"), weights_of)


@pytest.fixture(scope="module")
def patient(
    dataset: Dataset,
    params_of: Callable[..., ModelParams],
    weights_of: WeightsOf,
    tmp_path_factory: pytest.TempPathFactory,
) -> Case:
    """Stopped early, two epochs behind the best one."""
    params = params_of("dnn", epochs=30, learning_rate=0.1, schedule="constant", patience=2)
    case = Case(dataset, params, tmp_path_factory.mktemp("patient"), weights_of)
    chosen = case.training.chosen_epoch
    assert chosen >= 2, "the training should improve before it gets worse"
    assert len(case.training.history) == chosen + 2
    return case


@pytest.mark.parametrize(
    "epochs", [2, *(pytest.param(epochs, marks=pytest.mark.slow) for epochs in (1, 3, 4))]
)
def test_killed_after_an_epoch(plain: Case, tmp_path: Path, epochs: int) -> None:
    plain.kill_after(epochs, tmp_path)
    plain.check(tmp_path, resumed_from=epochs)


@pytest.mark.slow
def test_killed_again_and_again(plain: Case, tmp_path: Path) -> None:
    plain.kill_after(2, tmp_path)
    plain.kill_after(3, tmp_path)
    plain.check(tmp_path, resumed_from=3)


@pytest.mark.parametrize(
    "before_the_end", [1, *(pytest.param(epochs, marks=pytest.mark.slow) for epochs in (0, 2, 3))]
)
def test_patience_counts_on_after_a_kill(
    patient: Case, tmp_path: Path, before_the_end: int
) -> None:
    epochs = len(patient.training.history) - before_the_end
    patient.kill_after(epochs, tmp_path)
    patient.check(tmp_path, resumed_from=epochs)


def test_killed_in_the_first_epoch(plain: Case, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "staging-epoch-0001.npz").write_bytes(b"half")
    append_records(tmp_path / "history.jsonl", [plain.training.history[0]])
    plain.check(tmp_path, resumed_from=0)


def test_killed_while_writing_the_history_and_before_that_while_dropping_a_checkpoint(
    plain: Case, tmp_path: Path
) -> None:
    plain.kill_after(2, tmp_path)
    (tmp_path / "checkpoints" / "epoch-0001.npz").write_bytes(b"half")
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"epoch": 3, "train_loss": 1.2')
    plain.check(tmp_path, resumed_from=2)


@pytest.mark.fault(
    "Training killed while it writes a checkpoint", "Resumes from the one before; equal weights"
)
def test_killed_while_writing_the_checkpoint(plain: Case, tmp_path: Path) -> None:
    plain.kill_after(2, tmp_path)
    append_records(tmp_path / "history.jsonl", [plain.training.history[2]])
    whole = tmp_path / "checkpoints" / "epoch-0002.npz"
    staging = tmp_path / "checkpoints" / "staging-epoch-0003.npz"
    staging.write_bytes(whole.read_bytes()[:1000])
    plain.check(tmp_path, resumed_from=2)


@pytest.mark.slow
def test_killed_before_the_checkpoint_got_its_name(
    plain: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, unlink = Path.replace, Path.unlink

    def die(self: Path, target: Path) -> Path:
        if Path(target).name == "epoch-0003.npz":
            raise Killed
        return replace(self, target)

    def keep(self: Path, missing_ok: bool = False) -> None:
        # A killed process does not clean up.
        if self.name != "staging-epoch-0003.npz":
            unlink(self, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        patch.setattr(Path, "unlink", keep)
        with pytest.raises(Killed):
            plain.fit(tmp_path)
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"staging-epoch-0003.npz", "epoch-0002.npz"}
    plain.check(tmp_path, resumed_from=2)


def test_killed_while_writing_the_best_weights(patient: Case, tmp_path: Path) -> None:
    epochs = patient.training.chosen_epoch - 1
    patient.kill_after(epochs, tmp_path)
    best = tmp_path / "best.npz"
    best.write_bytes(best.read_bytes()[:1000])
    patient.check(tmp_path, resumed_from=epochs)


@pytest.mark.parametrize(
    "lost",
    [
        "history.jsonl",
        "checkpoints/epoch-0002.npz",
        pytest.param("checkpoints", marks=pytest.mark.slow),
    ],
)
def test_training_restarts_if_part_of_its_folder_is_lost(
    plain: Case, tmp_path: Path, lost: str
) -> None:
    plain.kill_after(2, tmp_path)
    if (tmp_path / lost).is_dir():
        shutil.rmtree(tmp_path / lost)
    else:
        (tmp_path / lost).unlink()
    plain.check(tmp_path, resumed_from=0)


@pytest.mark.fault("Checkpoint that lost its bytes", "Noticed; training restarts")
@pytest.mark.parametrize("size", [0, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_checkpoint_that_lost_its_bytes(plain: Case, tmp_path: Path, size: int) -> None:
    # As a machine may leave it that lost power: the name is on disk, the content is not.
    plain.kill_after(2, tmp_path)
    os.truncate(tmp_path / "checkpoints" / "epoch-0002.npz", size)
    plain.check(tmp_path, resumed_from=0)


def test_lost_best_weights(patient: Case, tmp_path: Path) -> None:
    epochs = len(patient.training.history) - 1  # nothing better comes
    patient.kill_after(epochs, tmp_path)
    (tmp_path / "best.npz").unlink()
    patient.check(tmp_path, resumed_from=0)


@pytest.mark.parametrize("damage", ["cut", pytest.param("empty", marks=pytest.mark.slow)])
def test_a_damaged_record_of_a_finished_epoch(plain: Case, tmp_path: Path, damage: str) -> None:
    # As a machine leaves it that lost power: the checkpoint is there, the last line is not whole.
    plain.kill_after(2, tmp_path)
    history = tmp_path / "history.jsonl"
    text = history.read_text()
    history.write_text(text[:-20] if damage == "cut" else text.splitlines()[0] + "\n\n")
    plain.check(tmp_path, resumed_from=0)


def test_restarting_keeps_unrelated_files(plain: Case, tmp_path: Path) -> None:
    # Whose folder it is (the id of a tracking run, say) stands in it before the training starts.
    plain.kill_after(2, tmp_path)
    (tmp_path / "run_id").write_text("abc")
    (tmp_path / "history.jsonl").write_text("")  # killed while the file was written anew
    plain.check(tmp_path, resumed_from=0)
    assert (tmp_path / "run_id").read_text() == "abc"


@pytest.mark.parametrize("name", ["plain", "patient"])
def test_a_finished_folder_is_not_trained_again(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    case: Case = request.getfixturevalue(name)
    shutil.copytree(case.calm, tmp_path, dirs_exist_ok=True)
    checkpoint = next((tmp_path / "checkpoints").iterdir())
    before = (checkpoint.name, checkpoint.stat().st_mtime_ns)
    (tmp_path / "model.keras").unlink()
    case.check(tmp_path, resumed_from=len(case.training.history))
    checkpoint = next((tmp_path / "checkpoints").iterdir())
    assert (checkpoint.name, checkpoint.stat().st_mtime_ns) == before


SCRIPT = """
import sys
from pathlib import Path
from chapterflow.environment import load_tensorflow
load_tensorflow()
from chapterflow.kinds.dataset import open_dataset
from chapterflow.models.catalog import get_model
from chapterflow.training.fit import fit
entry = get_model("dnn")
params = entry.params.model_validate_json(sys.argv[3])
work, done = Path(sys.argv[2]), lambda record: print(record.epoch, flush=True)
fit(entry, params, open_dataset(Path(sys.argv[1])), seed=5, work=work, on_epoch=done)
"""


@pytest.mark.fault("Training killed again and again", "Equal weights")
@pytest.mark.slow
def test_processes_killed_at_any_moment(
    plain: Case, params_of: Callable[..., ModelParams], weights_of: WeightsOf, tmp_path: Path
) -> None:
    from chapterflow.training.epochs import Checkpoints

    dataset, data = plain.dataset, tmp_path / "data"
    data.mkdir()
    for name in ("images", "labels", "split"):
        np.save(data / f"{name}.npy", dataset.arrays[name])
    (data / "dataset.json").write_text(dataset.card.to_json())
    params = params_of("dnn", epochs=40, learning_rate=0.003, patience=30)
    calm = Case(dataset, params, tmp_path / "calm", weights_of)
    work, random = tmp_path / "work", np.random.default_rng()
    arguments = [str(data), str(work), params.model_dump_json()]
    kills = 0
    while kills < 4 and not (work / "model.keras").exists():
        earlier, _ = Checkpoints(work / "checkpoints").newest()
        with subprocess.Popen(
            [FORKS.python, "-c", SCRIPT, *arguments], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:  # old epochs are told first
                if int(line) > earlier + 1:
                    break
            time.sleep(float(random.uniform(0, 0.3)))
            process.kill()
            process.communicate()  # The fork has ended, too.
        kills += 1
    assert kills >= 2
    training = calm.fit(work)
    assert training.resumed_from > 0
    assert timeless(training.history) == timeless(calm.training.history)
    for resumed, undisturbed in zip(weights_of(work), calm.weights, strict=True):
        np.testing.assert_array_equal(resumed, undisturbed)
