"""Small datasets of images in a folder, as the flow writes them."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.files import sha256_file
from chapterflow.kinds.dataset import SPLITS, Dataset, DatasetCard, FileRecord, open_dataset


def write_images(
    folder: Path,
    images: NDArray[np.uint8],
    labels: NDArray[Any],
    split: NDArray[Any],
    value_max: float = 255,
) -> Dataset:
    """Write a dataset of the kind `images`, and open it."""
    folder.mkdir(parents=True)
    arrays = {"images": images, "labels": labels.astype(np.uint8), "split": split.astype(np.uint8)}
    files = {}
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        np.save(path, array)
        files[path.name] = FileRecord(bytes=path.stat().st_size, sha256=sha256_file(path))
    card = DatasetCard(
        name=folder.name,
        kind="images",
        title="test",
        source="test",
        licence="none",
        shape=list(images.shape[1:]),
        classes=[str(number) for number in range(int(labels.max()) + 1)],
        value_max=value_max,
        counts={name: int(np.sum(split == code)) for code, name in enumerate(SPLITS)},
        files=files,
        test_digest="0" * 64,
        facts={},
        recipe={},
    )
    (folder / "dataset.json").write_text(card.to_json())
    return open_dataset(folder)


def colours(folder: Path, count: int = 24, side: int = 8) -> Dataset:
    """Write reddish and bluish noise, two classes, half of it for training."""
    rng = np.random.default_rng(5)
    labels = np.arange(count) % 2
    images = rng.integers(0, 156, (count, side, side, 3))
    images[labels == 0, ..., 0] += 100
    images[labels == 1, ..., 2] += 100
    split = np.repeat([0, 1, 2], (count // 2, count // 4, count - count // 2 - count // 4))
    return write_images(folder, images.astype(np.uint8), labels, split)


def digits(folder: Path, wanted: range, train: int, validation: int, test: int) -> Dataset:
    """Write scikit-learn's digits of some classes: so many of each class in each split."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    chosen, split = [], []
    for number in wanted:
        places = np.flatnonzero(raw.target == number)[: train + validation + test]
        chosen.extend(places)
        split.extend(np.repeat([0, 1, 2], (train, validation, test)))
    images = raw.images[chosen].astype(np.uint8)[..., np.newaxis]
    labels = raw.target[chosen] - wanted.start
    return write_images(folder, images, labels, np.array(split), value_max=16)
