"""Building, verifying and versioning datasets."""

import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from chapterflow.config.load import load_settings
from chapterflow.data.build import ensure_dataset, verify_dataset
from chapterflow.data.splits import stratified_split
from chapterflow.environment import Project
from chapterflow.errors import DataError
from chapterflow.kinds.dataset import SPLITS, open_dataset
from tests.conftest import call

REPOSITORY = Path(__file__).resolve().parents[2]


def quiet(name: str, received: int, total: int | None) -> None:
    """Hear of progress."""


def build_digits(project: Project, *overrides: str, **keywords: bool) -> bool:
    settings = load_settings(project.params, overrides=overrides)
    return ensure_dataset(
        project, "digits", settings.datasets["digits"], on_progress=quiet, **keywords
    )[1]


def dvc_hash(folder: Path) -> str:
    """Return the hash that DVC gives a folder: md5 over the list of its files' md5s."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listing = [
        {
            "md5": hashlib.md5(path.read_bytes()).hexdigest(),
            "relpath": path.relative_to(folder).as_posix(),
        }
        for path in files
    ]
    listing.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"


def test_the_embedded_data_are_the_bytes_that_data_dvc_names(fetched_once: Path) -> None:
    data = fetched_once / "data"
    recorded = yaml.safe_load((REPOSITORY / "data.dvc").read_text())["outs"][0]
    assert dvc_hash(data) == recorded["md5"]
    assert sum(1 for path in data.rglob("*") if path.is_file()) == recorded["nfiles"]


def test_digits_are_the_real_ones_and_every_split_is_stratified(project: Project) -> None:
    build_digits(project)
    dataset = open_dataset(project.data / "digits")
    assert dataset.arrays["images"].shape == (1797, 8, 8, 1)
    assert dataset.arrays["images"].max() == dataset.card.value_max == 16
    for split in SPLITS:
        shares = np.bincount(dataset.labels[dataset.indices(split)], minlength=10)
        assert shares.min() > 0.85 * shares.max()
    assert len(dataset.indices("test")) == 449


def test_a_dataset_is_built_once_and_again_when_its_recipe_changes(project: Project) -> None:
    assert build_digits(project)
    assert not build_digits(project)
    assert not build_digits(project, "seed=99")
    assert build_digits(project, "datasets.digits.seed=99")
    assert build_digits(project, "datasets.digits.seed=99", rebuild=True)


def test_without_leave_to_build_a_missing_dataset_is_an_error(project: Project) -> None:
    with pytest.raises(DataError, match="chapterflow data fetch"):
        build_digits(project, build=False)


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "split.npy"])
def test_a_flipped_byte_is_found_and_its_file_named(project: Project, name: str) -> None:
    build_digits(project)
    folder = project.data / "digits"
    assert verify_dataset(folder) == []
    content = bytearray((folder / name).read_bytes())
    content[-7] ^= 1
    (folder / name).write_bytes(content)
    (fault,) = verify_dataset(folder)
    assert name in fault


def test_missing_truncated_and_strange_files_are_named(project: Project) -> None:
    build_digits(project)
    folder = project.data / "digits"
    (folder / "labels.npy").unlink()
    (folder / "images.npy").write_bytes(b"\x93NUMPY")
    (folder / "notes.txt").write_text("mine")
    faults = "\n".join(verify_dataset(folder))
    assert "labels.npy: missing" in faults
    assert "images.npy: 6 bytes" in faults
    assert "notes.txt: not on the card" in faults
    with pytest.raises(DataError, match=r"images\.npy cannot be read"):
        open_dataset(folder)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"name": "x"'])
def test_a_damaged_card_is_reported(project: Project, text: str) -> None:
    build_digits(project)
    (project.data / "digits" / "dataset.json").write_text(text)
    with pytest.raises(DataError, match="not a dataset card"):
        open_dataset(project.data / "digits")


#: Builds a dataset in a process that may write small files only.
LITTLE_SPACE = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
import sys
sys.argv = ["chapterflow", "data", "fetch", "digits"]
from chapterflow.cli import main
main()
"""


def test_a_full_disk_leaves_nothing_behind(project: Project) -> None:
    result = call(project.root, "python", "-c", LITTLE_SPACE, PYTHONPATH=os.pathsep.join(sys.path))
    assert result.returncode == 1
    assert "cannot be written" in result.stderr
    assert "free some space" in result.stderr
    assert not (project.data / "digits").exists()
    assert list((project.scratch / "staging").iterdir()) == []
    assert build_digits(project)


@given(
    st.lists(st.integers(0, 4), min_size=60, max_size=200),
    st.sampled_from([0.0, 0.1, 0.3]),
    st.sampled_from([0.0, 0.2]),
    st.integers(0, 5),
)
def test_splits_are_a_deterministic_partition(
    labels: list[int], validation: float, test: float, seed: int
) -> None:
    array = np.array(labels, np.uint8)
    if np.bincount(array)[np.unique(array)].min() < 8:
        return
    first = stratified_split(array, validation=validation, test=test, seed=seed)
    again = stratified_split(array, validation=validation, test=test, seed=seed)
    assert (first == again).all()
    counts = np.bincount(first, minlength=3)
    assert counts[SPLITS.index("test")] == round(test * len(labels))
    assert counts[SPLITS.index("validation")] == round(validation * len(labels))


@pytest.mark.parametrize("share", [0.0001, 0.003, 0.899])
def test_a_share_that_leaves_a_class_without_examples(project: Project, share: float) -> None:
    with pytest.raises(DataError, match="an example of each of the 10 classes"):
        build_digits(project, f"datasets.digits.test={share}")
    assert not (project.data / "digits").exists()


def test_mnist_keeps_its_test_images(project: Project, mirror: Path) -> None:
    settings = load_settings(project.params)
    card, built = ensure_dataset(project, "mnist", settings.datasets["mnist"], on_progress=quiet)
    assert built
    assert card.counts == {"train": 54_000, "validation": 6_000, "test": 10_000}
    dataset = open_dataset(project.data / "mnist")
    assert (dataset.indices("test") == np.arange(60_000, 70_000)).all()
    # The first test image is a seven (LeCun et al. 1998, figure 4).
    assert dataset.labels[60_000] == 7
    assert verify_dataset(project.data / "mnist") == []
    assert not (project.scratch / "downloads" / "mnist").exists()
