"""What models read of photos: raw RGB at their size, decoded a batch at a time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chapterflow.config.load import load_settings
from chapterflow.data.build import ensure_dataset
from chapterflow.environment import Project
from chapterflow.errors import DataError
from chapterflow.kinds.dataset import CARD, Dataset, open_dataset
from chapterflow.kinds.photos import Data
from tests.photos import photo_folder

REPOSITORY = Path(__file__).resolve().parents[2]


def build(project: Project, folder: Path) -> Dataset:
    (project.root / "datasets.yaml").write_text(
        f"datasets:\n  mine: {{kind: image-folder, seed: 5, path: '{folder}'}}\n"
    )
    settings = load_settings(project.params)
    ensure_dataset(
        project, "mine", settings.datasets["mine"], on_progress=lambda *_: None, rebuild=True
    )
    return open_dataset(project.data / "mine")


@pytest.fixture
def photos(project: Project, tmp_path: Path) -> Data:
    actual = build(project, photo_folder(tmp_path / "pets"))
    assert isinstance(actual, Data)
    return actual


def test_messages_name_the_splits_in_their_order(photos: Data) -> None:
    counts = json.loads((photos.folder / CARD).read_text())["counts"]
    assert [*counts] == ["test", "train", "validation"]
    assert [*photos.card.counts] == ["train", "validation", "test"]
    assert photos.card.counts == counts


def test_inputs_are_raw_rgb_in_the_given_order(photos: Data) -> None:
    chosen = np.array([30, 2, 17])
    batch = photos.inputs(chosen)
    assert (batch.dtype, batch.shape) == (np.float32, (3, 224, 224, 3))
    assert photos.input_shapes() == ((None, 224, 224, 3), "float32")
    assert photos.card.shape == [None, None, 3]
    assert photos.card.input_spec.shape == (None, None, 3)
    for pixels, position in zip(batch, chosen, strict=True):
        with Image.open(photos.path(position)) as image:
            expected = image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
        assert np.array_equal(pixels, np.asarray(expected))
    assert batch.max() > 200
    assert photos.targets(chosen).tolist() == [1, 0, 0]


def test_the_model_decides_the_size(photos: Data) -> None:
    small = photos.sized(20, 30)
    assert small.inputs(np.array([0])).shape == (1, 20, 30, 3)
    assert small.input_shapes() == ((None, 20, 30, 3), "float32")
    assert photos.inputs(np.array([0])).shape == (1, 224, 224, 3)
    assert list(small.content("test")) == list(photos.content("test"))
    same = photos.sized(48, 64).inputs(np.array([0]))[0]
    assert np.array_equal(same, np.asarray(Image.open(photos.path(0))))


def test_content_changes_with_a_byte_or_a_label_and_not_with_another_split(
    photos: Data, project: Project, tmp_path: Path
) -> None:
    before = photos.card.test_digest
    position = photos.indices("test")[0]
    original = tmp_path / "pets" / Path(*photos.path(position).parts[-2:])
    content = original.read_bytes()
    # A comment changes no pixel; the bytes are what counts.
    with Image.open(original) as image:
        image.save(original, compress_level=1)
    assert build(project, tmp_path / "pets").card.test_digest != before
    original.write_bytes(content)
    assert build(project, tmp_path / "pets").card.test_digest == before
    train = tmp_path / "pets" / Path(*photos.path(photos.indices("train")[0]).parts[-2:])
    with Image.open(train) as image:
        image.save(train, compress_level=1)
    assert build(project, tmp_path / "pets").card.test_digest == before


def test_the_error_names_a_damaged_photo(photos: Data) -> None:
    photos.path(3).write_bytes(b"no photo")
    with pytest.raises(DataError, match=r"photos/.*\.png must be"):
        photos.inputs(np.array([2, 3]))
    photos.path(3).unlink()
    with pytest.raises(DataError, match="No such file"):
        photos.inputs(np.array([3]))


MEASURE = """
import sys
from pathlib import Path
import numpy as np
import PIL.Image, PIL.PngImagePlugin
from chapterflow.config.load import load_settings
from chapterflow.data.build import ensure_dataset
from chapterflow.kinds.dataset import open_dataset
from chapterflow.environment import Project
from chapterflow.kinds.photos import rows
import imagehash, sklearn.model_selection, pandas

def peak():
    # Not ru_maxrss: that begins with the memory of the process that started this one.
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024

project = Project(Path(sys.argv[1]))
start = peak()
params = load_settings(project.params).datasets["mine"]
ensure_dataset(project, "mine", params, on_progress=lambda *_: None)
dataset = open_dataset(project.data / "mine")
read = 0
for at in range(0, dataset.count, 8):
    read += dataset.inputs(np.arange(at, min(at + 8, dataset.count))).nbytes
decoded = int((lambda r: (r["height"] * r["width"] * 3).sum())(rows(dataset)))
print(start, peak(), read / 2**20, decoded / 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_memory_is_bounded_for_large_photos(project: Project, tmp_path: Path) -> None:
    folder = photo_folder(tmp_path / "pets", 0)
    for number in range(80):
        blocks = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(blocks).resize((1500, 1500), Image.Resampling.NEAREST)
        image.save(folder / ("cat", "dog")[number % 2] / f"{number}.png")
    (project.root / "datasets.yaml").write_text(
        f"datasets:\n  mine: {{kind: image-folder, seed: 5, path: '{folder}'}}\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(project.root)],
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}"},
        capture_output=True,
        text=True,
        check=True,
    )
    start, peak, read, decoded = map(float, result.stdout.split())
    assert decoded > 500
    assert read > 45
    # A few threads, each with a photo and its statistics; not the 500 MB of all of them.
    assert peak - start < 300, result.stdout
