"""Photos: one row for each file, and what must hold for files, labels and splits."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from chapterflow.data.card import SPLITS, Dataset, DatasetCard
from chapterflow.data.kinds.photos import Data, in_threads
from chapterflow.data.photo_files import FORMATS, open_photo
from chapterflow.errors import DataError
from chapterflow.validation.checks import check
from chapterflow.validation.near import distance_to_other_splits, perceptual_hash
from chapterflow.validation.rows import example_rows, value_facts
from chapterflow.validation.suite import copy_checks, count_checks, label_checks

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.expectations.expectation import Expectation

    from chapterflow.settings.bounds_photos import PhotoExpectations


def expectations(card: DatasetCard, bounds: PhotoExpectations) -> list[Expectation]:
    """Return the expectations that `rows` of a dataset must meet.

    Args:
        card: What the dataset says about itself: counts, classes, value range.
        bounds: Tolerances from `params.yaml`.
    """
    return [
        *count_checks(card),
        *file_checks(card, bounds),
        *label_checks(card, bounds.class_divergence),
        *copy_checks(bounds.duplicates),
        check(
            "ExpectColumnValuesToBeBetween",
            "near-duplicates",
            f"more than {bounds.near_distance} of 64 bits to any photo of another split",
            "No photo of one split is nearly a photo of another, resized, cut or compressed anew: "
            "the test score would reward memory.",
            column="near_distance",
            min_value=bounds.near_distance + 1,
        ),
    ]


def rows(dataset: Dataset) -> pd.DataFrame:
    """Describe every photo, decoded from its file as training decodes it, but in its own size.

    Args:
        dataset: Photos; only a few are in memory at a time.

    Returns:
        A frame of n rows, in the order of the arrays, with the columns
        `id` (split, class and file, `train/cat/cat.1.jpg`), `file`, `split`, `label`,
        `height`, `width` and `min_side` (pixels), `aspect_ratio` (longer over shorter side),
        `mode` (of the file, in Pillow's words: RGB, L, CMYK), `format`, `bytes`,
        `min`, `max`, `mean`, `std` (of the RGB values), `blank` (all pixels are equal),
        `content_hash` (of the pixels), `perceptual_hash`, `near_distance` (bits that differ from
        the hash of the nearest photo of another split) and `nearest` (that photo's file),
        `folder` (as expected of split and label, or the one that differs),
        `in_other_split` and `repeats` (the same pixels elsewhere).

    Raises:
        DataError: If a file is missing or damaged, or the arrays are not of this kind.
    """
    photos = _checked(dataset)
    found = list(in_threads(lambda at: _facts(photos, at), range(photos.count)))
    columns: dict[str, Any] = {
        "file": [str(name) for name in photos.arrays["files"]],
        "label": np.asarray(photos.labels),
        "folder": [_folder_fault(photos, at) for at in range(photos.count)],
        **{name: [facts[name] for facts in found] for name in found[0]},
    }
    hashes = np.array(columns["perceptual_hash"], np.uint64)
    distance, nearest = distance_to_other_splits(hashes, np.asarray(photos.split))
    columns["perceptual_hash"] = [f"{value:016x}" for value in columns["perceptual_hash"]]
    columns["near_distance"] = distance
    columns["nearest"] = [columns["file"][at] for at in nearest]
    frame = example_rows(photos.split, columns)
    # People know their photos by name.
    frame["id"] = [name.removeprefix("photos/") for name in columns["file"]]
    return frame


def _checked(dataset: Dataset) -> Data:
    if not isinstance(dataset, Data) or not dataset.count:
        raise DataError(f"{dataset.folder}: must hold photos. Received: {dataset.count} examples")
    files = dataset.arrays["files"]
    if files.dtype.kind != "U" or files.shape != dataset.split.shape:
        raise DataError(
            f"{dataset.folder}: files must be {dataset.count} names, one for each photo. "
            f"Received: {files.dtype} {files.shape}"
        )
    return dataset


def _facts(photos: Data, position: int) -> dict[str, Any]:
    """Return what there is to say about one file."""
    path = photos.path(position)
    facts: dict[str, Any] = {}
    image = open_photo(path, facts=facts)
    values = value_facts(np.asarray(image)[np.newaxis])
    del values["nan"]  # 8-bit values are finite.
    # One colour is blank too, though its three values differ.
    pixels = np.asarray(image).reshape(-1, 3)
    values["blank"] = [bool((pixels == pixels[0]).all())]
    return {
        "height": image.height,
        "width": image.width,
        "min_side": min(image.size),
        "aspect_ratio": max(image.size) / min(image.size),
        **facts,
        "bytes": path.stat().st_size,
        **{name: value[0] for name, value in values.items()},
        "perceptual_hash": perceptual_hash(image),
    }


def _folder_fault(photos: Data, position: int) -> str:
    """Return `as expected`, or the folder where a photo lies that split or label deny."""
    path = PurePosixPath(str(photos.arrays["files"][position]))
    code, label, classes = photos.split[position], photos.labels[position], photos.card.classes
    known = code in range(len(SPLITS)) and label in range(len(classes))
    # What is no split or class at all is the matter of split-names and label-set.
    if not known or path.parts[1:-1] == (SPLITS[int(code)], classes[int(label)]):
        return "as expected"
    return path.parent.as_posix()


def file_checks(card: DatasetCard, bounds: PhotoExpectations) -> list[Expectation]:
    """Return what must hold for files: format, size, shape, values, and the folder they lie in."""
    return [
        check(
            "ExpectColumnValuesToBeInSet",
            "format",
            ", ".join(FORMATS),
            "Every file is of a format that is decoded in the same way everywhere.",
            column="format",
            value_set=[*FORMATS, "MPO"],
        ),
        check(
            "ExpectColumnValuesToBeInSet",
            "folder",
            "the folder of its split and class",
            "Every photo lies in the folder that its split and its label name: labels were not "
            "shifted against the files.",
            column="folder",
            value_set=["as expected"],
        ),
        check(
            "ExpectColumnValuesToBeBetween",
            "min-side",
            f"at least {bounds.min_side} pixels",
            "No photo is a thumbnail or an icon, which would be blown up to the models' size.",
            column="min_side",
            min_value=bounds.min_side,
        ),
        check(
            "ExpectColumnValuesToBeBetween",
            "aspect-ratio",
            f"at most {bounds.aspect_ratio:g} to 1",
            "No photo is a banner or a strip: models see it squeezed into a square.",
            column="aspect_ratio",
            max_value=bounds.aspect_ratio,
        ),
        check(
            "ExpectColumnMaxToBeBetween",
            "value-use",
            f"at least {bounds.value_use * card.value_max:.4g}",
            f"The brightest pixel comes near {card.value_max:g}: photos that were divided by their "
            "largest value before they were saved stay far below.",
            column="max",
            min_value=bounds.value_use * card.value_max,
        ),
        check(
            "ExpectColumnValuesToBeInSet",
            "not-blank",
            "no photo of one colour only",
            "Every photo shows something: pixels that are all equal are a placeholder or a failed "
            "conversion.",
            column="blank",
            value_set=[False],
        ),
    ]
