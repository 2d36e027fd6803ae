"""A user's own data: a path and its kind -> a block that `params.yaml` could hold."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from chapterflow.data.idx import read_idx
from chapterflow.errors import ConfigError
from chapterflow.models.parts.base import Kind
from chapterflow.settings import Settings, nearest

#: Canonical form of what each kind of source gives.
CANONICAL: dict[str, Kind] = {
    "sklearn-digits": "images",
    "idx": "images",
    "image-folder": "photos",
    "csv-series": "curves",
    "voxels": "volumes",
    "tu": "graphs",
    "planetoid": "citations",
}


@dataclass(frozen=True)
class Wish:
    """What a user says about data of their own.

    Attributes:
        path: File or folder, absolute.
        seed: Seed of drawn splits.
        validation: Share for early stopping; None where nothing is said.
        test: Share held out for evaluation; None where nothing is said.
        title: Title on the card; None where nothing is said.
    """

    path: Path
    seed: int
    validation: float | None = None
    test: float | None = None
    title: str | None = None


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
    if kind not in BUILDERS:
        raise ConfigError(f"Unknown kind: {kind!r}.{nearest(kind, BUILDERS)}")
    if not wish.path.exists():
        raise ConfigError(f"There must be a file or folder. Received: {wish.path}")
    return BUILDERS[kind](wish)


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
    block = {"kind": "csv-series", "seed": wish.seed, **_file(wish, ".csv")}
    try:
        with wish.path.open(encoding="utf-8-sig", newline="") as file:
            lines = (line for line in file if line.strip() and not line.startswith("#"))
            header = next(csv.reader(lines), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{wish.path} must be a CSV file in UTF-8. Received: {error}") from None
    columns = [name.strip() for name in header]
    if len(columns) < 2 or not all(columns):
        raise ConfigError(
            f"{wish.path} must begin with the names of its columns, first that of the time. "
            f"Received: {','.join(header)!r}"
        )
    return block | {"time": columns[0], "values": columns[1:]} | _shares(wish) | _title(wish)


def _voxels(wish: Wish) -> dict[str, Any]:
    _refuse_shares(wish, "voxels", "the archive holds the splits")
    return {"kind": "voxels", **_file(wish, ".npz"), "title": wish.title or wish.path.stem}


def _tu(wish: Wish) -> dict[str, Any]:
    if wish.path.is_file():
        _file(wish, ".zip")
    name = wish.path.name.removesuffix(".zip")
    block = {"kind": "tu", "seed": wish.seed, "upstream": [str(wish.path.parent)], "name": name}
    return block | _shares(wish) | _title(wish)


def _planetoid(wish: Wish) -> dict[str, Any]:
    _refuse_shares(wish, "planetoid", "the files hold the splits")
    _need_folder(wish, "files ind.NAME.x and so on")
    names = [path.name.split(".")[1] for path in sorted(wish.path.glob("ind.*.allx"))]
    if len(names) != 1:
        raise ConfigError(
            f"{wish.path} must hold the files ind.NAME.* of one dataset. "
            f"Received: {', '.join(names) or 'none'}"
        )
    return {"kind": "planetoid", "upstream": [str(wish.path)], "name": names[0], **_title(wish)}


#: What makes the block, by the kind that a user names.
BUILDERS: dict[str, Callable[[Wish], dict[str, Any]]] = {
    "images": _image_folder,
    "idx": _idx,
    "csv": _csv_series,
    "voxels": _voxels,
    "tu": _tu,
    "planetoid": _planetoid,
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


def role_kinds(settings: Settings, role: str) -> set[Kind]:
    """Return the canonical forms that a role's datasets have; empty where none is known."""
    sources = {settings.datasets[name].kind for name in settings.roles[role].values()}
    return {CANONICAL[source] for source in sources if source in CANONICAL}


def check_fits(settings: Settings, dataset: str, role: str, who: str) -> None:
    """Refuse a dataset that has not the form that a role's datasets have.

    Args:
        who: What would read it, for the message.

    Raises:
        ConfigError: If it does not fit.
    """
    kind = CANONICAL.get(settings.datasets[dataset].kind)
    expected = role_kinds(settings, role)
    if kind is not None and expected and kind not in expected:
        raise ConfigError(
            f"{who} takes {' or '.join(sorted(expected))}. Received: {dataset!r}, which is of the "
            f"kind {kind}"
        )


def role_overrides(settings: Settings, models: Sequence[str], dataset: str) -> list[str]:
    """Return the overrides of `params.yaml` that let models learn from another dataset.

    Raises:
        ConfigError: If the dataset is unknown, or is not of a kind that one of the models takes.
    """
    settings.check_names([dataset], settings.datasets, "dataset")
    roles = {model: settings.params(model).role for model in models}
    for model, role in roles.items():
        check_fits(settings, dataset, role, f"The model {model!r}")
    value = dataset if yaml.safe_load(dataset) == dataset else f'"{dataset}"'
    return [f"roles.{role}.{settings.profile}={value}" for role in dict.fromkeys(roles.values())]
