"""Rows describe arrays correctly, whatever they contain."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from chapterflow.errors import DataError
from chapterflow.kinds import rows as rows_module
from chapterflow.kinds.dataset import Dataset, examples_of, read_array, release
from chapterflow.kinds.images import rows as image_rows
from tests.digits import with_arrays

Corrupt = Callable[[Callable[[Any], None]], Dataset]


def test_facts_agree_with_the_arrays(digits: Dataset) -> None:
    rows = image_rows(digits)
    pixels = np.asarray(digits.arrays["images"], dtype=float).reshape(
        len(digits.arrays["images"]), -1
    )
    assert len(rows) == 1797
    for column in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(rows[column], getattr(pixels, column)(axis=1), rtol=1e-12)
    assert rows["label"].tolist() == digits.labels.tolist()
    assert rows["split"].value_counts().to_dict() == digits.card.counts
    assert set(rows["shape"]) == {"8x8x1"}
    assert rows[["height", "width", "channels"]].drop_duplicates().values.tolist() == [[8, 8, 1]]
    assert set(rows["dtype"]) == {"uint8"}
    assert rows["id"][12] == "train/00012"
    assert rows["id"].is_unique
    assert rows[["nan", "blank", "in_other_split", "repeats"]].to_numpy().sum() == 0


def test_chunks_change_nothing(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = image_rows(digits)
    # 7 images of 64 bytes at a time, the last chunk smaller; then less than one image.
    for size in (7 * 64, 1):
        monkeypatch.setattr(rows_module, "CHUNK_BYTES", size)
        pd.testing.assert_frame_equal(image_rows(digits), whole)


def test_pixels_that_are_not_finite_are_counted_and_left_out(
    corrupt: Corrupt, digits: Dataset
) -> None:
    def change(arrays: Any) -> None:
        arrays.images = arrays.images.astype(np.float32)
        arrays.images[1, 0, :3] = [[np.nan], [np.inf], [-np.inf]]
        arrays.images[2] = np.nan
        arrays.images[3] = 5
        arrays.images[3, 0, 0] = np.nan  # damaged, but another kind of damage than blank

    rows = image_rows(corrupt(change))
    rest = np.asarray(digits.arrays["images"][1], dtype=float).ravel()[3:]
    assert rows["nan"][:4].tolist() == [0, 3, 64, 1]
    assert rows.loc[1, "min"] == rest.min()
    assert rows.loc[1, "max"] == rest.max()
    assert rows.loc[1, "mean"] == pytest.approx(rest.mean())
    assert rows.loc[1, "std"] == pytest.approx(rest.std())
    assert rows.loc[2, ["min", "max", "mean", "std"]].isna().all()
    assert not rows["blank"].any()


def test_invalid_split_codes_and_labels_appear_in_rows(corrupt: Corrupt) -> None:
    def change(arrays: Any) -> None:
        arrays.split[:2] = [3, 255]
        arrays.labels[:2] = [-1, 10]

    rows = image_rows(corrupt(change))
    assert rows["id"][:3].tolist() == ["unknown/00000", "unknown/00001", "train/00002"]
    assert rows["label"][:2].tolist() == [-1, 10]


def test_copies_within_and_across_splits_are_distinguished(
    corrupt: Corrupt, digits: Dataset
) -> None:
    first_test = int(digits.indices("test")[0])

    def change(arrays: Any) -> None:
        arrays.images[[1, 2]] = arrays.images[0]
        arrays.images[first_test] = arrays.images[5]

    rows = image_rows(corrupt(change))
    assert rows.index[rows["repeats"]].tolist() == [1, 2]
    assert rows.index[rows["in_other_split"]].tolist() == [5, first_test]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((4, 0, 8, 1), np.uint8)}, r"images must be .*uint8 \(4, 0, 8, 1\)"),
        ({"images": np.zeros(4, np.uint8)}, r"images must be .*uint8 \(4,\)"),
        ({"images": np.full((4, 2, 2, 1), "a")}, r"images must be .*<U1"),
        ({"labels": np.zeros((1797, 10), np.uint8)}, r"labels must be 1797 numbers"),
        ({"labels": np.zeros(3, np.uint8)}, r"labels must be 1797 numbers.*uint8 \(3,\)"),
        ({"split": np.full(1797, "train")}, r"split must be 1797 numbers.*<U5"),
    ],
)
def test_arrays_of_wrong_form_are_refused(
    digits: Dataset, arrays: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        image_rows(with_arrays(digits, **arrays))


def test_no_examples_give_no_rows(corrupt: Corrupt) -> None:
    def change(arrays: Any) -> None:
        arrays.images, arrays.labels, arrays.split = (
            array[:0] for array in (arrays.images, arrays.labels, arrays.split)
        )

    assert len(image_rows(corrupt(change))) == 0


def test_large_arrays_are_read_without_their_mapping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = np.random.default_rng(5).integers(0, 256, (60, 4, 4, 1), np.uint8)
    np.save(tmp_path / "images.npy", stored)
    array = read_array(tmp_path, "images")
    monkeypatch.setattr("chapterflow.kinds.dataset.RESIDENT", 100)
    orders = [np.random.default_rng(6).permutation(60), np.arange(7, 31), np.array([3, 3, 2])]
    for chosen in [*orders, np.arange(0)]:
        np.testing.assert_array_equal(examples_of(array, chosen), stored[chosen])
    release(array)
    np.testing.assert_array_equal(array, stored)
    os.truncate(tmp_path / "images.npy", 500)
    with pytest.raises(DataError, match="has become shorter"):
        examples_of(array, orders[0])
