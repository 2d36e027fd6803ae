"""Photos in folders, one for each class."""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from chapterflow.data.archive import extract_zip
from chapterflow.data.fetch import MIRROR
from chapterflow.data.source import Fetch, Source, SourceData, UserData
from chapterflow.data.splits import stratified_split
from chapterflow.errors import DataError
from chapterflow.kinds.dataset import SPLITS, Split
from chapterflow.kinds.photos import EXTENSIONS, few_bits, in_threads, open_photo
from chapterflow.types import FolderOrArchive, Seed, SplitShare


class ImageFolder(FolderOrArchive):
    """A folder for each class, within folders for train, validation and test where there are any.

    Attributes:
        test_from: Which given split is held out for evaluation. `validation` is for data that come
            with two splits of which the second was meant for watching the training: it becomes the
            test set, and validation is drawn from train.
        validation: Share for early stopping, drawn where the folder has no validation split: of
            what is not given as another split.
        test: Share held out for evaluation, drawn where the folder has no test split, in the same
            way.
        seed: Seed of what is drawn.
    """

    kind: Literal["image-folder"]
    seed: Seed
    test_from: Literal["test", "validation"] = "test"
    validation: SplitShare = 0.1
    test: SplitShare = 0.2
    title: Annotated[str, Field(min_length=1)] = "Photos"
    licence: str = "unknown"


#: Names that folders of splits have, in any case.
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}
#: Files that operating systems leave in folders, apart from those that begin with a dot.
LITTER = {"thumbs.db", "desktop.ini", "__macosx"}
#: Names that a message lists before it gives a count.
NAMED = 5
#: Files by class, and classes by split; everything under `train` where there are no splits.
Tree = dict[Split, dict[str, list[Path]]]


def read_tree(root: Path) -> Tree:
    """Return the files of each class of each split, both in the order of their names.

    Folders around the only folder are stepped into, as archives have them. Names of classes are
    NFC: one that was typed on two systems is one class.

    Raises:
        DataError: If there are no classes or only one, a class is empty or is missing in a split,
            two names differ in letter case only, or a class holds something else than photos.
    """
    top = _innermost(root)
    folders = _folders(top)
    given = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES]
    if given and len(given) < len(folders):
        others = [folder.name for folder in folders if folder not in given]
        raise DataError(
            f"{top} must hold folders of splits (train, validation, test) or folders of classes, "
            f"not both. Received: {listed([folder.name for folder in given])} together with "
            f"{listed(others)}"
        )
    if not given:
        return {"train": _classes(top)}
    tree: Tree = {}
    for folder in given:
        split = SPLIT_NAMES[folder.name.lower()]
        if split in tree:
            raise DataError(f"{top} must hold one folder for each split. Received two for {split}")
        tree[split] = _classes(folder)
    if "train" not in tree:
        raise DataError(f"{top} must hold a folder train. Received: {listed(sorted(tree))} only")
    _same_classes(top, tree)
    return {split: tree[split] for split in SPLITS if split in tree}


def listed(names: Sequence[str]) -> str:
    """Return names for a message: the first few, then how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _innermost(folder: Path) -> Path:
    while True:
        inside = _folders(folder)
        if len(inside) != 1 or inside[0].name.lower() in SPLIT_NAMES or not _folders(inside[0]):
            return folder
        folder = inside[0]


def _visible(folder: Path) -> list[Path]:
    try:
        paths = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from None
    return [p for p in paths if not p.name.startswith(".") and p.name.lower() not in LITTER]


def _folders(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_dir()]


def _classes(folder: Path) -> dict[str, list[Path]]:
    classes = _folders(folder)
    stray = [path.name for path in _visible(folder) if path.suffix.lower() in EXTENSIONS]
    names = [nfc(path.name) for path in classes]
    if len(set(names)) < 2:
        raise DataError(
            f"{folder} must hold a folder for each class, two or more. Received: "
            f"{listed([path.name for path in classes]) or 'no folder'}"
            + (f", and {len(stray):,} photos in none" if stray else "")
            + (
                ". Names that differ only in the form of their Unicode are one class"
                if len(set(names)) < len(names)
                else ""
            )
        )
    if stray:
        raise DataError(
            f"{folder}: every photo must lie in the folder of its class. Received: {listed(stray)}"
        )
    _one_case(folder, names)
    photos: dict[str, list[Path]] = {name: [] for name in sorted(names)}
    for name, path in zip(names, classes, strict=True):
        photos[name] += _photos(path)
    for name, paths in photos.items():
        _one_name(folder / name, paths)
        paths.sort(key=lambda path: nfc(path.name))
    return photos


def nfc(name: str) -> str:
    """Return a name in Unicode's composed form, which Windows and Linux use; macOS may not."""
    return unicodedata.normalize("NFC", name)


def _photos(folder: Path) -> list[Path]:
    files = _visible(folder)
    strangers = [
        f"{path.name}/" if path.is_dir() else path.name
        for path in files
        if path.is_dir() or path.suffix.lower() not in EXTENSIONS
    ]
    special = [path.name for path in files if path.exists() and not path.is_file()]
    if special and not strangers:
        raise DataError(
            f"{folder} must hold regular files only. Received: {listed(special)}, which is a named "
            "pipe, a socket or a device. Remove it."
        )
    if strangers:
        raise DataError(
            f"{folder} must hold photos only ({', '.join(sorted(EXTENSIONS))}). "
            f"Received: {listed(strangers)}. Move them away, or convert them."
        )
    if not files:
        raise DataError(f"{folder} must hold photos of its class. Received: an empty folder")
    for path in files:
        if not path.name.isprintable() or "\\" in path.name:
            raise DataError(
                f"Names of photos must be printable text. Received: {path.name!r} in {folder}"
            )
    return files


def _one_case(folder: Path, names: Iterable[str]) -> None:
    """Refuse names that are one on machines where letter case does not count."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise DataError(
                f"{folder}: names must differ in more than letter case. "
                f"Received: {other!r} and {name!r}"
            )


def _one_name(folder: Path, files: list[Path]) -> None:
    """Refuse photos of a class that have one name."""
    _one_case(folder, (nfc(path.name) for path in files))
    names = Counter(nfc(path.name) for path in files)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise DataError(f"{folder}: photos must have different names. Received: {listed(twice)}")


def _same_classes(top: Path, tree: Tree) -> None:
    names = {split: set(classes) for split, classes in tree.items()}
    _one_case(top, sorted(set[str]().union(*names.values())))
    for split, classes in names.items():
        if classes != names["train"]:
            differing = sorted(classes ^ names["train"])
            raise DataError(
                f"{top}: train and {split} must have the same classes. "
                f"Received in one of them only: {listed(differing)}"
            )


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
        message = str(error).replace(f"{folder}/", f"{params.file.name}/")
        raise DataError(message.replace(str(folder), params.file.name)) from None
    classes = sorted(tree["train"])
    labels: list[int] = []
    paths: list[Path] = []
    parts = []
    for split, given in _arranged(tree, params).items():
        numbers = np.repeat(np.arange(len(classes)), [len(given[name]) for name in classes])
        parts.append(
            _drawn(numbers, params, tree, classes) if split == "train" else _all(numbers, split)
        )
        labels += numbers.tolist()
        paths += [path for name in classes for path in given[name]]
    codes = np.concatenate(parts)
    names = [
        f"photos/{SPLITS[code]}/{classes[label]}/{nfc(path.name)}"
        for code, label, path in zip(codes, labels, paths, strict=True)
    ]
    return SourceData(
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
    """Return the folder that `path` names, or unpack the archive next to the fetched file."""
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
    extract_zip(archive, unpacked, **params.unpacking)
    return unpacked


#: Width and height to which large photos are decoded to see whether they are whole.
GLANCE = (64, 64)


def _check_files(paths: list[Path]) -> None:
    """Decode every photo; name the damaged ones, all of them up to a few."""
    results = list(in_threads(_fault_or_largest, paths))
    faults = [result for result in results if isinstance(result, str)]
    if faults:
        more = len(faults) - NAMED
        raise DataError(
            "\n".join(faults[:NAMED])
            + (f"\nand {more:,} more" if more > 0 else "")
            + f"\n{len(faults):,} of {len(paths):,} photos cannot be read. Mend or remove them: "
            "none is left out in silence."
        )
    deep = [(path, value) for path, value in zip(paths, results, strict=True) if value is not None]
    largest = max((int(value) for _, value in deep), default=None)
    if largest is not None and few_bits(largest):
        raise DataError(
            f"16-bit photos must use 16 bits: read as such, these are nearly black. Received: no "
            f"value above {largest:,} of 65,535 ({largest.bit_length()} bits) in {len(deep):,} "
            f"photos, such as {deep[0][0]}. Multiply their values by "
            f"{1 << 16 - largest.bit_length():,}, or save them with 8 bits."
        )


def _fault_or_largest(path: Path) -> str | int | None:
    """Return why a photo cannot be read, or else the largest of its values of 16 bits."""
    facts: dict[str, Any] = {}
    try:
        open_photo(path, size=GLANCE, facts=facts)
    except DataError as fault:
        return str(fault)
    largest: int | None = facts["largest"]
    return largest


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


def _drawn(
    numbers: NDArray[np.intp], params: ImageFolder, tree: Tree, classes: list[str]
) -> NDArray[np.uint8]:
    """Return the splits of what was given to train on: those that were not given are drawn."""
    given = _arranged(tree, params)
    return stratified_split(
        numbers.astype(np.int64),
        validation=0.0 if "validation" in given else params.validation,
        test=0.0 if "test" in given else params.test,
        seed=params.seed,
        classes=classes,
    )


def _all(numbers: NDArray[np.intp], split: Split) -> NDArray[np.uint8]:
    return np.full(len(numbers), SPLITS.index(split), np.uint8)


def own(data: UserData) -> dict[str, Any]:
    """Return the block for a folder of photos, or a `.zip` archive of one."""
    place = {"path": str(data.path)} if data.path.is_dir() else data.file(".zip")
    block = {"kind": "image-folder", "seed": data.seed} | place | data.encoding()
    return block | data.shares() | data.titled()


SOURCE = Source("image-folder", ImageFolder, "photos", read, own, option="images")
