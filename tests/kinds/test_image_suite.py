"""Every mistake is caught by the expectations that are meant for it, and by no others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chapterflow.kinds import images
from chapterflow.kinds.dataset import Dataset
from chapterflow.kinds.pixels import ImageExpectations
from chapterflow.validation import validate as run
from chapterflow.validation.validate import describe, validate_dataset
from chapterflow.validation.verdict import Verdict

Corrupt = Callable[[Callable[[Any], None]], Dataset]
ALL = 1797
FIRST_FIVE = [f"train/{position:05d}" for position in range(5)]


def divided_by_the_largest_value(a: Any) -> None:
    a.images = a.images.astype(np.float32) / 16


def divided_by_255(a: Any) -> None:
    a.images = (a.images / 255).astype(np.float64)


def divided_by_255_and_cast_back(a: Any) -> None:
    a.images = (a.images / 255).astype(np.uint8)


def centred(a: Any) -> None:
    a.images = a.images.astype(np.int16) - 8


def overexposed(a: Any) -> None:
    a.images = np.minimum(a.images + 9, 16)


def wrong_dtype(a: Any) -> None:
    a.images = a.images.astype(np.int32)


def wrong_shape(a: Any) -> None:
    a.images = a.images[:, :, :, 0]


def nan(a: Any) -> None:
    a.images = a.images.astype(np.float32)
    a.images[7, 2, 3] = np.nan
    a.images[40] = np.inf


def too_bright(a: Any) -> None:
    a.images[[11, 30], 4, 4] = 17


def blank(a: Any) -> None:
    a.images[21] = 0


def label_out_of_range(a: Any) -> None:
    a.labels[3], a.labels[9] = 10, -1


def label_missing(a: Any) -> None:
    a.labels = a.labels.astype(np.float64)
    a.labels[6] = np.nan


def copy_in_the_test_split(a: Any) -> None:
    a.images[np.flatnonzero(a.split == 2)[0]] = a.images[5]


def too_many_repeats(a: Any) -> None:
    a.split[99:118] = 0
    a.images[100:118] = a.images[99]  # 18 of 1797 are just above one in a hundred


def class_missing_in_training(a: Any) -> None:
    a.labels[(a.labels == 3) & (a.split == 0)] = 4


def class_rare_in_the_test_split(a: Any) -> None:
    test = np.flatnonzero(a.split == 2)
    a.labels[test[: len(test) // 2]] = 0


def example_lost(a: Any) -> None:
    a.images, a.labels, a.split = a.images[1:], a.labels[1:], a.split[1:]


def example_moved_to_validation(a: Any) -> None:
    a.split[0] = 1


def code_of_no_split(a: Any) -> None:
    a.split[[0, 2]] = 7


#: What the wrong pixels of a whole dataset have in common.
EVERY = (ALL, FIRST_FIVE)
MISTAKES: list[tuple[Callable[[Any], None], dict[str, tuple[int, list[str]] | None]]] = [
    (divided_by_the_largest_value, {"dtype": EVERY, "value-use": None, "mean-value": None}),
    (divided_by_255, {"dtype": EVERY, "value-use": None, "mean-value": None}),
    (
        divided_by_255_and_cast_back,
        {
            "not-blank": EVERY,
            "value-use": None,
            "mean-value": None,
            "one-split": EVERY,
            # All but the first of each split.
            "repeats": (ALL - 3, [f"train/{position:05d}" for position in range(1, 6)]),
        },
    ),
    (centred, {"dtype": EVERY, "value-min": EVERY, "value-use": None, "mean-value": None}),
    (overexposed, {"mean-value": None}),
    (wrong_dtype, {"dtype": EVERY}),
    (wrong_shape, {"shape": EVERY}),
    (nan, {"dtype": EVERY, "finite": (2, ["train/00007", "train/00040"])}),
    (too_bright, {"value-max": (2, ["train/00011", "train/00030"])}),
    (blank, {"not-blank": (1, ["train/00021"])}),
    (label_out_of_range, {"label-set": (2, ["train/00003", "train/00009"])}),
    (label_missing, {"label-present": (1, ["train/00006"])}),
    (copy_in_the_test_split, {"one-split": (2, ["train/00005", "test/00078"])}),
    (
        too_many_repeats,
        {
            "repeats": (18, [f"train/{position:05d}" for position in range(100, 105)]),
            "count-train": None,
            "count-validation": None,
            "count-test": None,
        },
    ),
    (class_missing_in_training, {"class-balance-train": None}),
    (class_rare_in_the_test_split, {"class-balance-test": None}),
    (example_lost, {"count": None, "count-train": None}),
    (example_moved_to_validation, {"count-train": None, "count-validation": None}),
    (
        code_of_no_split,
        {"split-names": (2, ["unknown/00000", "unknown/00002"]), "count-train": None},
    ),
]


@pytest.mark.usefixtures("without_data_docs")
@pytest.mark.parametrize(
    ("mistake", "expected"), [pytest.param(*case, id=case[0].__name__) for case in MISTAKES]
)
def test_mistake_is_caught_and_named(
    mistake: Callable[[Any], None],
    expected: dict[str, tuple[int, list[str]] | None],
    corrupt: Corrupt,
    bounds: ImageExpectations,
    tmp_path: Path,
) -> None:
    verdict = validate_dataset(corrupt(mistake), bounds, tmp_path / "out")
    actual = {
        result.name: (result.examples_count, result.examples)
        if result.examples_count is not None
        else None
        for result in verdict.failures
    }
    assert actual == expected
    assert not verdict.success
    assert len(verdict.results) == 21


def test_clean_data_pass(passed: tuple[Verdict, Path], digits: Dataset) -> None:
    verdict, _ = passed
    assert verdict.failures == []
    assert verdict.success
    assert (verdict.dataset, verdict.dataset_digest) == ("digits", digits.card.digest)
    assert verdict.examples == ALL


@pytest.mark.usefixtures("without_data_docs")
def test_repeats_within_the_bound_pass_and_are_listed(
    corrupt: Corrupt, bounds: ImageExpectations, tmp_path: Path
) -> None:
    def change(arrays: Any) -> None:
        train = np.flatnonzero(arrays.split == 0)
        arrays.images[train[1:18]] = arrays.images[train[0]]  # 17 of 1797 are 0.946 %

    verdict = validate_dataset(corrupt(change), bounds, tmp_path / "out")
    (repeats,) = [result for result in verdict.results if result.name == "repeats"]
    assert verdict.success
    assert repeats.examples_count == 17
    assert repeats.observed == "unexpected in 17 of 1,797 examples (0.946%)"


def test_observed_contains_the_unexpected_values(failed: tuple[Verdict, Path]) -> None:
    observed = {result.name: result.observed for result in failed[0].results}
    assert observed["count"] == "1,797 examples"
    assert observed["held-out"] == "some of each"
    assert observed["dtype"] == "unexpected in 1,797 of 1,797 examples (100%), such as float32"
    assert observed["finite"] == "unexpected in 1 of 1,797 examples (0.0556%)"
    assert observed["label-set"] == "unexpected in 7 of 1,797 examples (0.39%), such as 12"
    assert observed["value-use"] == "1"
    assert observed["mean-value"] == "0.3053"
    assert observed["shape"] == "all 1,797 examples as expected"
    assert observed["class-balance-train"].endswith(" (class 8: 9.7% to class 3: 10.2%)")


@pytest.mark.usefixtures("without_data_docs")
def test_examples_without_a_label_are_not_counted_as_well_labelled(
    corrupt: Corrupt, bounds: ImageExpectations, tmp_path: Path
) -> None:
    verdict = validate_dataset(corrupt(label_missing), bounds, tmp_path / "out")
    observed = {result.name: result.observed for result in verdict.results}
    assert observed["label-set"] == "all 1,796 examples as expected"


def test_an_expectation_that_cannot_be_computed_fails_with_a_reason(
    digits: Dataset, bounds: ImageExpectations
) -> None:
    import great_expectations as gx

    checks = images.expectations(digits.card, bounds)
    suite = gx.ExpectationSuite(name="images", expectations=checks)
    names = [(expectation.meta or {})["name"] for expectation in suite.expectations]
    rows = images.rows(digits).drop(columns="nan")
    results = [
        describe(outcome, rows, digits.card, bounds)
        for outcome in run._run_suite(suite, rows).results
    ]
    assert [result.name for result in results] == names
    (broken,) = [result for result in results if not result.passed]
    assert broken.name == "finite"
    assert broken.observed.startswith("nothing: ")
    assert '"nan"' in broken.observed


@pytest.mark.usefixtures("without_data_docs")
def test_an_empty_split_is_a_failure_not_a_crash(
    corrupt: Corrupt, bounds: ImageExpectations, tmp_path: Path
) -> None:
    def change(arrays: Any) -> None:
        arrays.split[arrays.split == 2] = 0

    verdict = validate_dataset(corrupt(change), bounds, tmp_path / "out")
    actual = {result.name: result.observed for result in verdict.failures}
    assert actual.keys() == {"count-train", "count-test", "held-out", "class-balance-test"}
    assert actual["held-out"] == "none of test"
    assert actual["count-test"] == "0 examples"
    assert actual["class-balance-test"] == "nothing to compute it from"


def test_expectations_have_unique_names_and_a_reason(
    digits: Dataset, bounds: ImageExpectations
) -> None:
    checks = images.expectations(digits.card, bounds)
    metas = [expectation.meta or {} for expectation in checks]
    assert len({meta["name"] for meta in metas}) == len(metas)
    for meta, expectation in zip(metas, checks, strict=True):
        assert meta["reason"].endswith(".")
        assert expectation.description == f"{meta['name']}: {meta['expected']}. {meta['reason']}"


def test_a_split_that_the_card_does_not_have_must_be_empty(
    digits: Dataset, bounds: ImageExpectations
) -> None:
    card = digits.card.model_copy(update={"counts": {"train": 3}})
    metas = [e.meta or {} for e in images.expectations(card, bounds)]
    expected = {meta["name"]: meta["expected"] for meta in metas}
    assert expected["count"] == "3 examples"
    assert expected["count-test"] == "0 examples"
    assert "class-balance-train" in expected
    assert "class-balance-test" not in expected
