"""Digits of some classes, with few labels a class."""

import numpy as np
import pytest

from chapterflow.config.load import load_settings
from chapterflow.data.build import ensure_dataset
from chapterflow.environment import Project
from chapterflow.errors import ConfigError, DataError
from chapterflow.kinds.dataset import SPLITS, Dataset, open_dataset


def build(project: Project, name: str, *overrides: str) -> Dataset:
    settings = load_settings(project.params, overrides=overrides)
    ensure_dataset(project, name, settings.datasets[name], on_progress=lambda *_: None)
    return open_dataset(project.data / name)


def test_photos_are_the_digits_5_to_9_with_ten_labels_a_class(project: Project) -> None:
    from sklearn.datasets import load_digits

    dataset = build(project, "photos")
    assert dataset.card.classes == ["5", "6", "7", "8", "9"]
    by_split = {s: np.bincount(dataset.labels[dataset.indices(s)]).tolist() for s in SPLITS}
    assert by_split["train"] == by_split["validation"] == [10] * 5
    assert min(by_split["test"]) > 150
    digits = load_digits()
    kept = digits.target >= 5
    assert np.array_equal(dataset.arrays["images"][..., 0], digits.images[kept])
    assert np.array_equal(dataset.labels + 5, digits.target[kept])


def test_pretext_is_the_other_digits(project: Project) -> None:
    dataset = build(project, "pretext")
    assert dataset.card.classes == ["0", "1", "2", "3", "4"]
    assert dataset.count == 901
    assert dataset.card.counts == {"train": 721, "validation": 90, "test": 90}


def test_the_seed_draws_other_labels(project: Project) -> None:
    first = np.array(build(project, "photos").indices("train"))
    assert not np.array_equal(
        build(project, "photos", "datasets.photos.seed=6").indices("train"), first
    )


def test_too_many_labels_a_class_are_refused(project: Project) -> None:
    with pytest.raises(DataError, match="train_per_class = 170"):
        build(project, "photos", "datasets.photos.train_per_class=170")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("datasets.photos.test=0.2", "one of test and train_per_class"),
        ("datasets.photos.train_per_class=null", "one of test and train_per_class"),
        ("datasets.photos.classes=[5,5]", "ascending order"),
        ("datasets.photos.classes=[7,5]", "ascending order"),
        ("datasets.photos.classes=[5]", "at least 2"),
        ("datasets.photos.classes=[5,10]", "less than or equal to 9"),
    ],
)
def test_options_that_contradict_are_one_line(project: Project, override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        load_settings(project.params, overrides=[override])
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("datasets.photos")
