"""A user's own data: a path and its kind -> a block that `params.yaml` could hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chapterflow.data.csv_header import series_options
from chapterflow.data.idx import read_idx
from chapterflow.data.planetoid import read_one_hot
from chapterflow.data.sources.voxels import read_classes
from chapterflow.errors import ConfigError
from chapterflow.settings import nearest


def _silent(said: str) -> None:
    """Say nothing."""


#: Nodes for early stopping in the split of Kipf & Welling (2017).
USUAL_NODES = 500


@dataclass(frozen=True)
class Wish:
    """What a user says about data of their own.

    Attributes:
        path: File or folder, absolute.
        seed: Seed of drawn splits.
        validation: Share for early stopping; None where nothing is said.
        test: Share held out for evaluation; None where nothing is said.
        title: Title on the card; None where nothing is said.
        say: Told of what was chosen for the user, a line at a time.
    """

    path: Path
    seed: int
    validation: float | None = None
    test: float | None = None
    title: str | None = None
    say: Callable[[str], None] = _silent


def build_block(kind: str, wish: Wish) -> dict[str, Any]:
    """Return the block of `datasets:` for data of a user.

    Args:
        kind: `images`, `idx`, `csv`, `voxels`, `tu` or `planetoid`.
        wish: Where the data are, and what else was said.

    Raises:
        ConfigError: If the kind is unknown, the path does not lead to data of the kind, or a share
            is given for data whose splits are given.
        DataError: If a file that tells about the data cannot be read.
    """
    kind = SYNONYMS.get(kind, kind)
    if kind not in BUILDERS:
        raise ConfigError(f"Unknown kind: {kind!r}.{nearest(kind, BUILDERS)}")
    _check_shares(wish)
    if not wish.path.exists():
        raise ConfigError(f"There must be a file or folder. Received: {wish.path}")
    return BUILDERS[kind](wish)


def _check_shares(wish: Wish) -> None:
    for option, share in (("--validation", wish.validation), ("--test", wish.test)):
        if share is not None and not 0 < share < 1:
            raise ConfigError(f"{option} is a share between 0 and 1. Received: {share:g}")
    held_out = (wish.validation or 0) + (wish.test or 0)
    if held_out >= 1:
        raise ConfigError(
            "--validation and --test must leave something to train on: together less than 1. "
            f"Received: {held_out:g}"
        )


def _image_folder(wish: Wish) -> dict[str, Any]:
    block = {"kind": "image-folder", "seed": wish.seed}
    if wish.path.is_dir():
        return block | {"path": str(wish.path)} | _shares(wish) | _title(wish)
    return block | _file(wish, ".zip") | _shares(wish) | _title(wish)


def _idx(wish: Wish) -> dict[str, Any]:
    _refuse_shares(wish, "idx", "the test files are the test set", validation=False)
    _need_folder(wish, "the four IDX files")
    names = [path.name for path in sorted(wish.path.iterdir()) if path.is_file()]
    files = {
        f"{part}_{what}": {"name": _only(names, tells, what, wish.path)}
        for part, tells in (("train", ("train",)), ("test", ("test", "t10k")))
        for what in ("images", "labels")
    }
    labels = read_idx(wish.path / files["train_labels"]["name"], dims=1)
    return {
        "kind": "idx",
        "seed": wish.seed,
        "upstream": [str(wish.path)],
        "files": files,
        "classes": int(labels.max()) + 1,
        **_shares(wish, test=False),
        **_title(wish),
    }


def _only(names: Sequence[str], tells: Iterable[str], what: str, folder: Path) -> str:
    """Return the one name that holds one of the words, and says what is in it."""
    found = [
        name
        for name in names
        if what in name.lower() and any(word in name.lower() for word in tells)
    ]
    if len(found) != 1:
        raise ConfigError(
            f"{folder} must hold one file with {' or '.join(tells)!r} and {what!r} in its name. "
            f"Received: {', '.join(found) or 'none'}"
        )
    return found[0]


def _csv_series(wish: Wish) -> dict[str, Any]:
    place, shares = _file(wish, ".csv"), _shares(wish)
    options = series_options(wish.path, seed=wish.seed, shares=shares, say=wish.say)
    return {"kind": "csv-series", "seed": wish.seed} | place | options | shares | _title(wish)


def _voxels(wish: Wish) -> dict[str, Any]:
    _refuse_shares(wish, "voxels", "the archive holds the splits")
    return {
        "kind": "voxels",
        **_file(wish, ".npz"),
        "classes": [str(number) for number in range(read_classes(wish.path))],
        "title": wish.title or wish.path.stem,
    }


def _tu(wish: Wish) -> dict[str, Any]:
    if wish.path.is_file():
        _file(wish, ".zip")
    elif not list(wish.path.rglob("*_graph_indicator.txt")):
        raise ConfigError(
            f"{wish.path} must hold the files of one TU dataset (NAME_A.txt, "
            "NAME_graph_indicator.txt, NAME_graph_labels.txt). Received: no "
            "NAME_graph_indicator.txt"
        )
    block = {"kind": "tu", "seed": wish.seed, "path": str(wish.path)}
    return block | _shares(wish) | {"title": wish.title or wish.path.name.removesuffix(".zip")}


def _planetoid(wish: Wish) -> dict[str, Any]:
    _refuse_shares(wish, "planetoid", "the files hold the splits")
    _need_folder(wish, "files ind.NAME.x and so on")
    names = [path.name.split(".")[1] for path in sorted(wish.path.glob("ind.*.allx"))]
    if len(names) != 1:
        raise ConfigError(
            f"{wish.path} must hold the files ind.NAME.* of one dataset. "
            f"Received: {', '.join(names) or 'none'}"
        )
    block = {"kind": "planetoid", "path": str(wish.path), "name": names[0]}
    return block | _few_nodes(wish, names[0]) | {"title": wish.title or names[0]}


def _few_nodes(wish: Wish, name: str) -> dict[str, int]:
    """Return how many nodes are for early stopping, where there are fewer than the usual 500."""
    known = len(read_one_hot(wish.path / f"ind.{name}.ally"))
    train = len(read_one_hot(wish.path / f"ind.{name}.y"))
    if not 0 < known - train < USUAL_NODES:
        return {}
    wish.say(f"The {known - train} labelled nodes that are not for training are for validation.")
    return {"validation_nodes": known - train}


#: What makes the block, by the kind that a user names.
BUILDERS: dict[str, Callable[[Wish], dict[str, Any]]] = {
    "images": _image_folder,
    "idx": _idx,
    "csv": _csv_series,
    "voxels": _voxels,
    "tu": _tu,
    "planetoid": _planetoid,
}
#: What cards call the forms of data that these kinds of files become.
SYNONYMS = {
    "photos": "images",
    "curves": "csv",
    "volumes": "voxels",
    "graphs": "tu",
    "citations": "planetoid",
}


def _file(wish: Wish, suffix: str) -> dict[str, Any]:
    if not wish.path.is_file() or wish.path.suffix.lower() != suffix:
        raise ConfigError(f"PATH must name a {suffix} file. Received: {wish.path}")
    return {"upstream": [str(wish.path.parent)], "file": {"name": wish.path.name}}


def _need_folder(wish: Wish, what: str) -> None:
    if not wish.path.is_dir():
        raise ConfigError(f"PATH must name a folder with {what}. Received: {wish.path}")


def _shares(wish: Wish, *, test: bool = True) -> dict[str, float]:
    shares = {"validation": 0.1 if wish.validation is None else wish.validation}
    return shares | ({"test": 0.2 if wish.test is None else wish.test} if test else {})


def _refuse_shares(wish: Wish, kind: str, why: str, *, validation: bool = True) -> None:
    given = [("--test", wish.test), ("--validation", wish.validation if validation else None)]
    for option, share in given:
        if share is not None:
            raise ConfigError(f"{option} is not for {kind}: {why}. Received: {share:g}")


def _title(wish: Wish) -> dict[str, str]:
    return {"title": wish.title} if wish.title else {}
