"""Each mistake with photos is caught by the check that is meant for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chapterflow.config.load import load_settings
from chapterflow.errors import DataError
from chapterflow.kinds.dataset import CARD, SPLITS, DatasetCard, open_dataset
from chapterflow.kinds.photos import Data, PhotoExpectations, distance_to_other_splits, rows
from chapterflow.validation.validate import validate_dataset
from tests.kinds.suites import broken_checks
from tests.photos import picture

BOUNDS = PhotoExpectations(
    class_divergence=0.05,
    duplicates=0.01,
    min_side=32,
    aspect_ratio=5.0,
    value_use=0.9,
    near_distance=6,
)
#: Photos of a class in each split.
EACH = {"train": 10, "validation": 3, "test": 4}


@dataclasses.dataclass
class Photos:
    """A dataset in the making: pictures, labels and split codes."""

    images: list[Image.Image]
    labels: np.ndarray[Any, Any]
    split: np.ndarray[Any, Any]
    names: list[str]


def clean() -> Photos:
    images, labels, split, names = [], [], [], []
    for code, name in enumerate(SPLITS):
        for label, kind in enumerate(("cat", "dog")):
            for number in range(EACH[name]):
                images.append(picture(len(images)))
                labels.append(label)
                split.append(code)
                names.append(f"photos/{name}/{kind}/{number}.png")
    return Photos(images, np.array(labels), np.array(split), names)


def write(photos: Photos, folder: Path) -> Data:
    """Write a dataset whose card says what the clean one's says."""
    for image, name in zip(photos.images, photos.names, strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, format="JPEG" if name.endswith(".jpg") else "PNG")
    for name, array in (
        ("labels", photos.labels),
        ("split", photos.split),
        ("files", np.array(photos.names)),
    ):
        np.save(folder / f"{name}.npy", array)
    card = DatasetCard(
        name="pets",
        kind="photos",
        title="Pets",
        source="test",
        licence="none",
        shape=[None, None, 3],
        classes=["cat", "dog"],
        value_max=255,
        counts={name: 2 * each for name, each in EACH.items()},
        files={},
        test_digest="0" * 64,
        facts={},
        recipe={},
    )
    (folder / CARD).write_text(card.to_json())
    actual = open_dataset(folder)
    assert isinstance(actual, Data)
    return actual


def first(photos: Photos, split: str) -> int:
    return int(np.flatnonzero(photos.split == SPLITS.index(split))[0])


def blank(p: Photos) -> None:
    p.images[1] = Image.new("RGB", (64, 48), (120, 30, 30))


def thumbnail(p: Photos) -> None:
    p.images[2] = p.images[2].resize((40, 31))


def banner(p: Photos) -> None:
    p.images[3] = picture(3, 400, 64)


def divided_by_255(p: Photos) -> None:
    p.images = [Image.fromarray(np.asarray(i) // 128) for i in p.images]


def same_photo_in_test(p: Photos) -> None:
    p.images[first(p, "test")] = p.images[4]


def same_pixels_in_another_container(p: Photos) -> None:
    at = first(p, "validation")
    p.images[at] = p.images[4]
    p.names[at] = p.names[at].replace("0.png", "other.png")


def half_the_size_in_test(p: Photos) -> None:
    p.images[4] = picture(4, 128, 96)
    p.images[first(p, "test")] = p.images[4].resize((64, 48))


def compressed_anew_in_validation(p: Photos) -> None:
    at = first(p, "validation")
    p.images[at], p.names[at] = p.images[4], p.names[at].replace("png", "jpg")


def grey_in_test(p: Photos) -> None:
    p.images[first(p, "test")] = p.images[4].convert("L")


def repeated_in_train(p: Photos) -> None:
    p.images[5] = p.images[4]


def shifted_labels(p: Photos) -> None:
    p.labels = np.roll(p.labels, 1)


def unknown_label(p: Photos) -> None:
    p.labels[3] = 2


def moved_to_train(p: Photos) -> None:
    p.split[first(p, "test")] = 0


def code_of_no_split(p: Photos) -> None:
    p.split[0] = 7


def rare_class(p: Photos) -> None:
    for at in np.flatnonzero((p.split == 0) & (p.labels == 1))[:8]:
        p.labels[at] = 0
        p.names[at] = p.names[at].replace("dog/", "cat/x")


def moved_to_test(p: Photos) -> None:
    p.split[first(p, "validation")] = 2


MISTAKES: dict[Callable[[Photos], None], set[str]] = {
    blank: {"not-blank"},
    thumbnail: {"min-side"},
    banner: {"aspect-ratio"},
    divided_by_255: {"value-use"},
    same_photo_in_test: {"one-split", "near-duplicates"},
    same_pixels_in_another_container: {"one-split", "near-duplicates"},
    half_the_size_in_test: {"near-duplicates"},
    compressed_anew_in_validation: {"near-duplicates"},
    grey_in_test: {"near-duplicates"},
    repeated_in_train: {"repeats"},
    shifted_labels: {"folder"},
    unknown_label: {"label-set"},
    moved_to_train: {"folder", "count-train", "count-test"},
    code_of_no_split: {"split-names", "count-train"},
    moved_to_test: {"folder", "count-validation", "count-test"},
    rare_class: {"class-balance-train"},
}


@pytest.mark.parametrize("mistake", [pytest.param(m, id=m.__name__) for m in MISTAKES])
def test_mistake_is_caught_by_its_check(mistake: Callable[[Photos], None], tmp_path: Path) -> None:
    photos = clean()
    mistake(photos)
    assert broken_checks(write(photos, tmp_path / "pets"), BOUNDS) == MISTAKES[mistake]


def test_clean_photos_pass_and_every_check_has_its_own_name(tmp_path: Path) -> None:
    verdict = validate_dataset(write(clean(), tmp_path / "pets"), BOUNDS, tmp_path / "out")
    assert verdict.failures == []
    names = [result.name for result in verdict.results]
    assert len({*names}) == len(names) == 20


@pytest.mark.usefixtures("without_data_docs")
def test_near_duplicates_are_named_on_both_sides_with_their_distance(tmp_path: Path) -> None:
    photos = clean()
    compressed_anew_in_validation(photos)
    verdict = validate_dataset(write(photos, tmp_path / "pets"), BOUNDS, tmp_path / "out")
    (failure,) = verdict.failures
    assert failure.examples == [
        photos.names[at].removeprefix("photos/") for at in (4, first(photos, "validation"))
    ]
    assert "unexpected in 2 of 34 examples (5.88%): " in failure.observed


def test_rows_describe_the_files(tmp_path: Path) -> None:
    photos = clean()
    photos.images[0] = picture(0, 100, 50).convert("L")
    photos.names[1] = photos.names[1].replace("png", "jpg")
    actual = rows(write(photos, tmp_path / "pets"))
    grey, jpeg = actual.iloc[0], actual.iloc[1]
    assert (grey["id"], grey["file"]) == ("train/cat/0.png", "photos/train/cat/0.png")
    assert (grey["height"], grey["width"], grey["min_side"], grey["aspect_ratio"]) == (
        50,
        100,
        50,
        2,
    )
    assert (grey["mode"], grey["format"]) == ("L", "PNG")
    assert (jpeg["mode"], jpeg["format"]) == ("RGB", "JPEG")
    assert grey["bytes"] == (tmp_path / "pets" / grey["file"]).stat().st_size
    pixels = np.asarray(photos.images[0]).astype(float)
    assert (grey["min"], grey["max"]) == (pixels.min(), pixels.max())
    assert (grey["mean"], grey["std"]) == pytest.approx((pixels.mean(), pixels.std()))
    assert not grey["blank"]
    assert len(grey["perceptual_hash"]) == 16
    assert actual["near_distance"].min() > 6
    assert not actual["nearest"].iloc[0].startswith("photos/train")


def test_a_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    dataset = write(clean(), tmp_path / "pets")
    dataset.path(8).write_bytes(b"no photo")
    with pytest.raises(DataError, match=r"train/cat/8\.png must be an intact"):
        rows(dataset)


def test_files_must_be_names(tmp_path: Path) -> None:
    dataset = write(clean(), tmp_path / "pets")
    wrong = dataclasses.replace(dataset, arrays={**dataset.arrays, "files": np.arange(34)})
    with pytest.raises(DataError, match="files must be 34 names"):
        rows(wrong)


def test_distances_equal_a_brute_force_search() -> None:
    random = np.random.default_rng(5)
    hashes = random.integers(0, 2**64, 250, dtype=np.uint64)
    split = random.integers(0, 3, 250)
    distance, nearest = distance_to_other_splits(hashes, split)
    for at in range(250):
        bits = {
            other: (int(hashes[at]) ^ int(hashes[other])).bit_count()
            for other in range(250)
            if split[other] != split[at]
        }
        assert distance[at] == min(bits.values()) == bits[int(nearest[at])]
    alone, _ = distance_to_other_splits(hashes, np.zeros(250))
    assert np.isnan(alone).all()


@pytest.mark.slow
def test_the_books_cats_and_dogs_pass(
    tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch, project: Any
) -> None:
    from chapterflow.data.build import ensure_dataset

    monkeypatch.setenv("CHAPTERFLOW_MIRROR", str(mirror))
    settings = load_settings(project.params)
    ensure_dataset(
        project, "catanddog", settings.datasets["catanddog"], on_progress=lambda *_: None
    )
    dataset = open_dataset(project.data / "catanddog")
    verdict = validate_dataset(dataset, settings.validation.photos, tmp_path / "out")
    assert verdict.failures == []
    # The nearest two photos that are not copies: what the bound was chosen by.
    assert rows(dataset)["near_distance"].min() == 12
