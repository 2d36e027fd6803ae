"""A folder of photos -> its splits, classes and files, or what is wrong with how it is laid out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from chapterflow.data.card import SPLITS, Split
from chapterflow.data.photo_files import EXTENSIONS
from chapterflow.errors import DataError

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
#: Files that operating systems leave in folders, beside those that begin with a dot.
LITTER = {"thumbs.db", "desktop.ini", "__macosx"}
#: Names that a message lists before it gives a count.
NAMED = 5

#: Files by class, and classes by split; everything under `train` where there are no splits.
Tree = dict[Split, dict[str, list[Path]]]


def read_tree(root: Path) -> Tree:
    """Return the files of each class of each split, both in the order of their names.

    Folders around the only folder are stepped into, as archives have them.

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
            f"not both. Received: {listed([folder.name for folder in given])} beside "
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
        found = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from None
    return [p for p in found if not p.name.startswith(".") and p.name.lower() not in LITTER]


def _folders(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_dir()]


def _classes(folder: Path) -> dict[str, list[Path]]:
    classes = _folders(folder)
    stray = [path.name for path in _visible(folder) if path.suffix.lower() in EXTENSIONS]
    if len(classes) < 2:
        raise DataError(
            f"{folder} must hold a folder for each class, two or more. Received: "
            f"{listed([path.name for path in classes]) or 'no folder'}"
            + (f", and {len(stray):,} photos in none" if stray else "")
        )
    if stray:
        raise DataError(
            f"{folder}: every photo must lie in the folder of its class. Received: {listed(stray)}"
        )
    _one_case(folder, (path.name for path in classes))
    return {path.name: _photos(path) for path in classes}


def _photos(folder: Path) -> list[Path]:
    files = _visible(folder)
    strangers = [
        f"{path.name}/" if path.is_dir() else path.name
        for path in files
        if path.is_dir() or path.suffix.lower() not in EXTENSIONS
    ]
    if strangers:
        raise DataError(
            f"{folder} must hold photos only ({', '.join(sorted(EXTENSIONS))}). "
            f"Received: {listed(strangers)}. Move them away, or convert them."
        )
    if not files:
        raise DataError(f"{folder} must hold photos of its class. Received: an empty folder")
    _one_case(folder, (path.name for path in files))
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


def _same_classes(top: Path, tree: Tree) -> None:
    names = {split: set(classes) for split, classes in tree.items()}
    _one_case(top, sorted(set[str]().union(*names.values())))
    for split, found in names.items():
        if found != names["train"]:
            differing = sorted(found ^ names["train"])
            raise DataError(
                f"{top}: train and {split} must have the same classes. "
                f"Received in one of them only: {listed(differing)}"
            )
