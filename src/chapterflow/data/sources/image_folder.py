"""Photos in folders, one for each class, from a folder or a zip archive of one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chapterflow.data.addresses import MIRROR
from chapterflow.data.archive import extract_zip
from chapterflow.data.card import SPLITS, Split
from chapterflow.data.image_tree import NAMED, Tree, read_tree
from chapterflow.data.kinds.photos import in_threads
from chapterflow.data.photo_files import decode
from chapterflow.data.source import Fetch, SourceData
from chapterflow.data.splits import stratified_split
from chapterflow.errors import DataError
from chapterflow.settings.datasets_photos import ImageFolder

#: Bounds of an archive: unpacked bytes, and files and folders.
MAX_BYTES = 64 << 30
MAX_MEMBERS = 2_000_000


def read(params: ImageFolder, fetch: Fetch) -> SourceData:
    """Read folders and files, decode each photo once to see that it is whole, and draw splits.

    The files themselves are not changed.

    Raises:
        DataError: If the folder is not laid out as it must be, photos are damaged (they are named),
            a split would be left without a class, or there is nowhere to get the archive from.
    """
    folder = _folder(params, fetch)
    try:
        tree = read_tree(folder)
        _check_files([path for classes in tree.values() for p in classes.values() for path in p])
    except DataError as error:
        if params.file is None:
            raise
        # The user knows the archive, and not the place where it was unpacked.
        told = str(error).replace(f"{folder}/", f"{params.file.name}/")
        raise DataError(told.replace(str(folder), params.file.name)) from None
    classes = sorted(tree["train"])
    labels: list[int] = []
    paths: list[Path] = []
    parts = []
    for split, given in _arranged(tree, params).items():
        numbers = np.repeat(np.arange(len(classes)), [len(given[name]) for name in classes])
        parts.append(_drawn(numbers, params, tree) if split == "train" else _all(numbers, split))
        labels += numbers.tolist()
        paths += [path for name in classes for path in given[name]]
    codes = np.concatenate(parts)
    names = [
        f"photos/{SPLITS[code]}/{classes[label]}/{path.name}"
        for code, label, path in zip(codes, labels, paths, strict=True)
    ]
    return SourceData(
        kind="photos",
        arrays={
            "labels": np.array(labels, np.min_scalar_type(len(classes) - 1)),
            "split": codes,
            "files": np.array(names, np.str_),
        },
        shape=(None, None, 3),
        classes=classes,
        value_max=255,
        title=params.title,
        source=f"image folder: {params.title}",
        licence=params.licence,
        files=dict(zip(names, paths, strict=True)),
    )


def _folder(params: ImageFolder, fetch: Fetch) -> Path:
    """Return the folder that `path` names, or unpack the archive beside where it was fetched to."""
    if params.path is not None:
        folder = Path(params.path).expanduser()
        if not folder.is_dir():
            raise DataError(f"`path` must name a folder of photos. Received: {params.path}")
        return folder
    file = params.file
    if file is None:
        raise DataError("An image folder needs `path` or `file`. Received: neither")
    if not params.upstream and (params.mirror is None or not os.environ.get(MIRROR)):
        where = f"{params.mirror}/{file.name}" if params.mirror else file.name
        raise DataError(
            f"{params.title}: {file.name} has no address to fetch it from. If you have it, put it "
            f"at {where} in a folder of yours and set {MIRROR} to that folder. For photos of your "
            "own: `chapterflow data add NAME --kind images PATH`."
        )
    archive = fetch(file)
    # The whole folder of downloads is removed when the dataset is built.
    unpacked = archive.with_name(f"{archive.name}.unpacked")
    shutil.rmtree(unpacked, ignore_errors=True)
    extract_zip(archive, unpacked, max_bytes=MAX_BYTES, max_members=MAX_MEMBERS)
    return unpacked


def _check_files(paths: list[Path]) -> None:
    """Decode every photo; name the damaged ones, all of them up to a few."""
    faults = [fault for fault in in_threads(_fault_of, paths) if fault]
    if faults:
        more = len(faults) - NAMED
        raise DataError(
            "\n".join(faults[:NAMED])
            + (f"\nand {more:,} more" if more > 0 else "")
            + f"\n{len(faults):,} of {len(paths):,} photos cannot be read. Mend or remove them: "
            "none is left out in silence."
        )


def _fault_of(path: Path) -> str | None:
    try:
        decode(path)
    except DataError as fault:
        return str(fault)
    return None


def _arranged(tree: Tree, params: ImageFolder) -> Tree:
    """Return the given splits by what they are used for."""
    if params.test_from == "test":
        return tree
    if tree.keys() != {"train", "validation"}:
        raise DataError(
            "test_from: validation is for photos in folders train and validation. "
            f"Received: {', '.join(tree) if len(tree) > 1 else 'no folders of splits'}"
        )
    return {"train": tree["train"], "test": tree["validation"]}


def _drawn(numbers: NDArray[np.intp], params: ImageFolder, tree: Tree) -> NDArray[np.uint8]:
    """Return the splits of what was given to train on: those that were not given are drawn."""
    given = _arranged(tree, params)
    return stratified_split(
        numbers.astype(np.int64),
        validation=0.0 if "validation" in given else params.validation,
        test=0.0 if "test" in given else params.test,
        seed=params.seed,
    )


def _all(numbers: NDArray[np.intp], split: Split) -> NDArray[np.uint8]:
    return np.full(len(numbers), SPLITS.index(split), np.uint8)
