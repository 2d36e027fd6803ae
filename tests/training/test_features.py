"""Features are computed once, kept whole, bounded in size, and refused where they are wrong."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chapterflow.errors import ChapterflowError, DataError
from chapterflow.kinds.dataset import Dataset
from tests.conftest import FORKS
from tests.small_images import colours

pytestmark = pytest.mark.usefixtures("tensorflow")


class Frozen:
    """A little frozen part that counts its calls."""

    def __init__(self, scale: float = 1 / 255, softmax: bool = False) -> None:
        import keras
        from keras import layers

        from chapterflow.models.layers.preprocessing import BackboneInput

        keras.backend.clear_session()
        keras.utils.set_random_seed(5)
        inputs = keras.Input((8, 8, 3))
        x = BackboneInput("tiny", 0.0, 1.0)(layers.Rescaling(scale)(inputs))
        x = layers.Conv2D(4, 3, activation="softmax" if softmax else None)(x)
        self.model = keras.Model(inputs, x)
        self.calls = 0

    def __call__(self, inputs: Any, training: bool = False) -> Any:
        self.calls += 1
        return self.model(inputs, training=training)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return colours(tmp_path / "data" / "colours", count=80)


def features(frozen: Any, dataset: Dataset, folder: Path, **options: Any) -> Any:
    from chapterflow.training.frozen import cached_features

    return cached_features(frozen, dataset, dataset.indices("train"), folder, **options)


def test_computed_once_in_batches(dataset: Dataset, tmp_path: Path) -> None:
    frozen = Frozen()
    first = features(frozen, dataset, tmp_path / "f")
    assert frozen.calls == 2  # 40 examples in batches of 32
    assert isinstance(first, np.memmap)
    expected = np.asarray(frozen.model(dataset.inputs(dataset.indices("train"))))
    np.testing.assert_allclose(first, expected, atol=1e-6)
    again = Frozen()
    np.testing.assert_array_equal(features(again, dataset, tmp_path / "f"), first)
    assert again.calls == 0


@pytest.mark.fault("Cached features cut off or changed", "Verified and computed again")
@pytest.mark.parametrize("damage", ["cut off", "changed", "not sealed"])
def test_damaged_features_are_computed_again(
    dataset: Dataset, tmp_path: Path, damage: str, record_property: Any
) -> None:
    folder = tmp_path / "f"
    first = np.array(features(Frozen(), dataset, folder))
    (file,) = folder.glob("*/features.npy")
    if damage == "cut off":
        os.truncate(file, 100)
    elif damage == "changed":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    else:  # killed before the end, or from an earlier version
        file.parent.with_name(f"{file.parent.name}.sha256").unlink()
    again = Frozen()
    np.testing.assert_array_equal(features(again, dataset, folder), first)
    assert again.calls == 2
    record_property("saw", f"{damage}: computed again, equal values")


def test_other_weights_data_or_pass_are_other_features(dataset: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "f"
    features(Frozen(), dataset, folder)
    other = Frozen()
    other.model.layers[-1].set_weights([w + 1 for w in other.model.layers[-1].get_weights()])
    features(other, dataset, folder)
    preprocessed = Frozen(scale=0.9 / 255)
    features(preprocessed, dataset, folder)
    changed = Frozen()
    features(changed, dataset, folder, change=lambda batch: batch / 2, change_key="half")
    elsewhere = Frozen()
    features(elsewhere, colours(tmp_path / "data" / "more", count=84), folder)
    for frozen in (other, preprocessed, changed, elsewhere):
        assert frozen.calls == 2
    assert len(list(folder.glob("*/features.npy"))) == 5


def test_the_least_recently_used_go_first(dataset: Dataset, tmp_path: Path) -> None:
    from chapterflow.training.frozen import evict, prune

    folder, size = tmp_path / "f", 0
    for number in range(3):
        change = {"change": lambda batch, number=number: batch, "change_key": str(number)}
        features(Frozen(), dataset, folder, **change)
        newest = max(folder.glob("*/features.npy"), key=lambda path: path.parent.stat().st_mtime_ns)
        os.utime(newest.parent, (number + 1, number + 1))
        size = newest.stat().st_size
    features(Frozen(), dataset, folder, change=lambda batch: batch, change_key="0")  # used again
    evict(folder, 2 * size)
    used = Frozen()
    features(used, dataset, folder, change=lambda batch: batch, change_key="0")
    assert used.calls == 0
    gone = Frozen()
    kept = features(
        gone, dataset, folder, change=lambda batch: batch, change_key="1", limit=size // 2
    )
    assert gone.calls == 2
    # Larger than the limit, it is there all the same, and alone.
    assert len(list(folder.glob("*/features.npy"))) == 1
    assert prune(folder) == size
    assert not list(folder.glob("*/features.npy"))
    assert np.isfinite(kept).all()  # whoever reads it goes on reading


def test_wrong_features_leave_nothing(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="check_not_probabilities"):
        features(Frozen(softmax=True), dataset, tmp_path / "f")
    with pytest.raises(DataError, match="check_backbone_input"):
        features(Frozen(scale=1 / 255**2), dataset, tmp_path / "f")
    assert not list((tmp_path / "f").glob("*/features.npy"))


def test_a_folder_that_cannot_be_written(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a file")
    with pytest.raises(ChapterflowError, match="Cannot cache features in"):
        features(Frozen(), dataset, tmp_path / "f")


KILLED = """
import sys, time
from pathlib import Path
from chapterflow.environment import load_tensorflow
load_tensorflow()
from chapterflow.kinds.dataset import open_dataset
from tests.training.test_features import Frozen, features

class Slow(Frozen):
    def __call__(self, inputs, training=False):
        if self.calls == 1:
            print("half", flush=True)
            time.sleep(60)
        return super().__call__(inputs, training)

features(Slow(), open_dataset(Path(sys.argv[1])), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_killed_while_writing(dataset: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "f"
    with subprocess.Popen(
        [FORKS.python, "-c", KILLED, str(dataset.folder), str(folder)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)  # The fork has ended, too.
    assert list(folder.glob("*.part/features.npy"))  # it really was in the middle
    assert not [p for p in folder.glob("*/features.npy") if p.parent.suffix != ".part"]
    frozen = Frozen()
    result = features(frozen, dataset, folder)  # no lock is left behind that it would wait for
    assert frozen.calls == 2
    expected = np.asarray(frozen.model(dataset.inputs(dataset.indices("train"))))
    np.testing.assert_allclose(result, expected, atol=1e-6)
    assert not list(folder.glob("*.part"))
