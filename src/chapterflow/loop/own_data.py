"""A user's own data: a path and its source -> built and checked aside -> part of the project."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from filelock import FileLock
from pydantic import TypeAdapter, ValidationError

from chapterflow.config.load import OWN, load_settings, read_own
from chapterflow.config.settings import PROFILES, Profile, Settings
from chapterflow.data.build import ensure_dataset
from chapterflow.data.sources.csv_series import CsvSeries, read_rows, read_series
from chapterflow.data.sources.idx import read_idx
from chapterflow.data.sources.planetoid import read_one_hot
from chapterflow.data.sources.voxels import read_classes
from chapterflow.data.versioning import can_version, record_version
from chapterflow.environment import Project
from chapterflow.errors import ConfigError, DataError, ValidationFailed, nearest
from chapterflow.kinds.dataset import DatasetCard, open_dataset
from chapterflow.models.base import Kind
from chapterflow.tracking.fingerprint import validation_folder
from chapterflow.tracking.records import Prepared
from chapterflow.types import Name, Tell, silent

#: Most samples in a window, and fewest: below, there is nothing to smooth.
LONGEST, SHORTEST = 32, 8
#: Train windows of one column that are enough; longer series have theirs further apart.
ENOUGH = 2000


def series_options(
    path: Path, *, seed: int, shares: Mapping[str, float], say: Callable[[str], None]
) -> dict[str, Any]:
    """Return columns, step, window and stride for a CSV file, having read all of it.

    The first column holds the times. Columns of words, and columns that miss values where others
    have them, are left out, which is said.

    Args:
        shares: Shares `validation` and `test` of the time span.
        say: Told of what is left out or taken for granted.

    Raises:
        DataError: If the file is no CSV with a header, has no whole column of numbers, a damaged
            value, times that do not increase, or fewer rows than three windows need.
    """
    found: dict[str, Any] = _columns(path, say)

    def series(step: str) -> Any:
        return CsvSeries.model_validate(
            {"kind": "csv-series", "seed": seed, "upstream": [str(path.parent)]}
            | {"file": {"name": path.name}, **found, **shares, "step": step}
        )

    # Reading without a claim tells every other fault; then each claim is tried.
    times = read_series(path, series("irregular")).times
    found["step"] = "irregular"
    for step in ("regular", "month"):
        try:
            read_series(path, series(step))
        except DataError:
            continue
        found["step"] = step
        break
    else:
        steps = np.diff(times) / np.median(np.diff(times))
        say(
            f"{path.name}: the times are not equally far apart (steps of {steps.min():.3g} to "
            f"{steps.max():.3g} times the usual one); they are taken as they are "
            "(`step: irregular`)."
        )
    windows = _windows(path.name, len(times), shares)
    say(
        f"{path.name}: cut into windows of {windows['window']} rows. In each a part is hidden and "
        "predicted from the rest, for the clean curve is not known. Windows to train on begin "
        f"every {windows['stride']} rows; those that validate and test do not overlap, so they are "
        "few."
    )
    return found | windows


def _columns(path: Path, say: Callable[[str], None]) -> dict[str, Any]:
    rows = read_rows(path)
    _, header = next(rows, (0, []))
    names = [name.strip() for name in header]
    if len(names) < 2 or not all(names):
        advice = " Its fields seem to be separated by semicolons." if ";" in "".join(names) else ""
        raise DataError(
            f"{path.name} must begin with the names of its columns, first that of the time, with "
            f"commas between them. Received: {','.join(header)!r}.{advice}"
        )
    if all(_is_number(name) for name in names[1:]) and (_is_number(names[0]) or _is_date(names[0])):
        raise DataError(
            f"{path.name} must begin with the names of its columns, first that of the time. "
            f"Received: a row of values, {','.join(header)!r}. Write a row of names above it."
        )
    # Rows of a wrong length are told, with their line, when the series is read.
    body = [(line, row) for line, row in rows if len(row) == len(names)]
    values, left_out = [], []
    for position, name in enumerate(names[1:], start=1):
        texts = [(line, row[position].strip()) for line, row in body if row[position].strip()]
        if any(_is_number(text) for _, text in texts):
            values.append(name)
            continue
        for line, text in islice(texts, 1):
            if _is_number(text.replace(".", "").replace(",", ".")):
                raise DataError(
                    f"{path.name}, line {line}, column {name!r}: numbers must have a decimal "
                    f"point. Received: {text!r}"
                )
        left_out.append(name)
    if not values:
        raise DataError(
            f"{path.name} must have a column of numbers beside that of the time ({names[0]!r}). "
            f"Received: {', '.join(left_out)}"
        )
    if left_out:
        say(f"{path.name}: left out, as no numbers are in them: {', '.join(left_out)}.")
    kept = {name: names.index(name) for name in values}
    blank = {line for line, row in body if not any(row[column].strip() for column in kept.values())}
    gaps = {
        name: [line for line, row in body if line not in blank and not row[column].strip()]
        for name, column in kept.items()
    }
    # Where no column is whole, the first missing value is told when the series is read.
    if any(gaps.values()) and not all(gaps.values()):
        places = ", ".join(
            f"{name} ({len(lines)} missing, the first in line {lines[0]})"
            for name, lines in gaps.items()
            if lines
        )
        say(
            f"{path.name}: left out, as values are missing in them: {places}. Fill them, or delete "
            "the rows, to have them too."
        )
        values = [name for name in values if not gaps[name]]
    if blank:
        say(f"{path.name}: {len(blank):,} rows without any value are passed over.")
    return {
        "time": names[0],
        "values": values,
        "blank_rows": "skip" if blank else "refuse",
    }


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _windows(name: str, count: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Return the longest window that fits into every split, and how far apart windows begin."""
    held_out = [round(share * count) for share in shares.values()]
    shortest = min(*held_out, count - sum(held_out))
    if shortest < SHORTEST:
        raise DataError(
            f"{name} is too short: train, validation and test each need {SHORTEST} rows or more. "
            f"Received: {count} rows, of which the smallest of them gets {max(0, shortest)}. "
            "Give more rows, or larger --validation and --test."
        )
    window = min(LONGEST, shortest)
    stride = max(window // 8, -(-count // ENOUGH))
    return {"window": window, "stride": min(window, stride)}


#: Canonical form of what each kind of source gives.
CANONICAL: dict[str, Kind] = {
    "sklearn-digits": "images",
    "idx": "images",
    "image-folder": "photos",
    "curves": "curves",
    "csv-series": "curves",
    "solids": "volumes",
    "voxels": "volumes",
    "random-graphs": "graphs",
    "tu": "graphs",
    "karate": "citations",
    "planetoid": "citations",
}


def role_kinds(settings: Settings, role: str) -> set[Kind]:
    """Return the canonical forms that a role's datasets have, over all profiles."""
    return {CANONICAL[settings.datasets[name].kind] for name in settings.roles[role].values()}


def check_fits(settings: Settings, dataset: str, role: str, who: str) -> None:
    """Refuse a dataset that has not the form that a role's datasets have.

    Args:
        who: What would read it, for the message.

    Raises:
        ConfigError: If it does not fit.
    """
    kind = CANONICAL[settings.datasets[dataset].kind]
    expected = role_kinds(settings, role)
    if kind not in expected:
        raise ConfigError(
            f"{who} takes {' or '.join(sorted(expected))}. Received: {dataset!r}, which is of the "
            f"kind {kind}"
        )


def fitting_profile(settings: Settings, models: Sequence[str], dataset: str) -> Profile:
    """Return the profile whose parameters are made for data like a dataset.

    It is the one whose own data, for the roles of all the models, come from the same kind of
    source; or else are of the same canonical form; or else the active one, which also goes first
    where several fit.

    Raises:
        ConfigError: If the dataset or a model is unknown.
    """
    settings.check_names([dataset], settings.datasets, "dataset")
    settings.check_names(models, settings.models, "model")
    source = settings.datasets[dataset].kind
    profiles = sorted(PROFILES, key=lambda profile: profile != settings.profile)
    for profile in profiles:
        if all(kind == source for kind in _sources(settings, models, profile)):
            return profile
    for profile in profiles:
        if all(CANONICAL[k] == CANONICAL[source] for k in _sources(settings, models, profile)):
            return profile
    return settings.profile


def _sources(settings: Settings, models: Sequence[str], profile: Profile) -> Iterator[str]:
    """Yield the kinds of source of what models learn in a profile."""
    for model in models:
        role = settings.models[model][profile].role
        yield settings.datasets[settings.roles[role][profile]].kind


def fitting_models(settings: Settings, dataset: str) -> list[str]:
    """Return the models that can learn a dataset, in the profile that is made for it."""
    found = []
    for model in settings.models:
        profile = fitting_profile(settings, [model], dataset)
        try:
            check_fits(settings, dataset, settings.models[model][profile].role, model)
        except ConfigError:
            continue
        found.append(model)
    return found


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


_HEAD = """\
# Datasets of your own, beside those of params.yaml. `chapterflow data add` writes this file, and
# keeps no comments in it.
"""


@dataclass(frozen=True)
class Added:
    """A dataset that was added.

    Attributes:
        card: Its card.
        checks: Number of expectations that it met.
        models: Models that can learn it.
    """

    card: DatasetCard
    checks: int
    models: list[str]


def check_name(project: Project, name: str, *, force: bool) -> None:
    """Refuse a name that is no name, or is taken.

    Raises:
        ConfigError: If so.
    """
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise ConfigError(
            f"NAME must be of lower-case letters, digits and dashes. Received: {name!r}"
        ) from None
    if name in load_settings(project.params, own={"datasets": {}, "roles": {}}).datasets:
        raise ConfigError(f"{name!r} is a dataset of params.yaml. Choose another name.")
    if name in read_own(project.root / OWN)["datasets"] and not force:
        raise ConfigError(f"{name!r} is in {OWN} already. --force replaces it.")


def add_dataset(
    project: Project,
    name: str,
    block: Mapping[str, Any],
    *,
    role: str | None = None,
    force: bool = False,
    tell: Tell = silent,
) -> Added:
    """Build a dataset aside, validate it, and add it to `data/` and `datasets.yaml`.

    Where anything fails, project and data are as they were; the page of a failed validation stays.

    Args:
        name: Its name.
        block: What `params.yaml` would say of it (`chapterflow.loop.own_data.build_block`).
        role: Role that it fills in the book profile from now on.
        force: Replace a dataset of the same name in `datasets.yaml`.

    Raises:
        ConfigError: If name, block or role are wrong.
        DataError: If the data are damaged or not of their kind.
        ValidationFailed: If they break an expectation.
    """
    locks = project.scratch / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / "adding.lock"):
        check_name(project, name, force=force)
        own = read_own(project.root / OWN)
        own["datasets"] = own["datasets"] | {name: dict(block)}
        settings = load_settings(project.params, own=own)
        if role is not None:
            settings.check_names([role], settings.roles, "role")
            check_fits(settings, name, role, f"The role {role!r}")
            own["roles"] = own["roles"] | {role: {"book": name}}
            settings = load_settings(project.params, own=own)
        trial = Project(project.scratch / "adding" / name)
        shutil.rmtree(trial.root, ignore_errors=True)
        try:
            card, checks = _build_and_check(project, trial, settings, name, tell)
            with FileLock(locks / f"data-{name}.lock"):
                _move(trial.data / name, project.data / name, trial.root / "old")
        finally:
            shutil.rmtree(trial.root, ignore_errors=True)
        _write(project.root / OWN, own)
    if can_version(project):
        tell("data", "versioning data/ with DVC")
        record_version(project)
    return Added(card, checks, fitting_models(settings, name))


def _build_and_check(
    project: Project, trial: Project, settings: Settings, name: str, tell: Tell
) -> tuple[DatasetCard, int]:
    from chapterflow.validation.docs import PAGE
    from chapterflow.validation.validate import validate_dataset

    tell("data", "reading")
    card, _ = ensure_dataset(
        trial, name, settings.datasets[name], on_progress=lambda file, *_: tell("fetch", file)
    )
    tell("validate", name)
    prepared = Prepared(dataset=name, digest=card.digest, built=True, version=None)
    # Where `steps.validate` looks for it: the first run need not validate again.
    out = (
        project.scratch
        / "validation"
        / validation_folder(trial, settings, prepared.dataset, prepared.digest).name
    )
    bounds = settings.validation.bounds(card.kind)
    verdict = validate_dataset(open_dataset(trial.data / name), bounds, out)
    try:
        verdict.raise_for_failure()
    except ValidationFailed as failure:
        raise ValidationFailed(
            f"{failure}\n  All of it on one page: {out / PAGE}\n  Nothing was added."
        ) from None
    return card, len(verdict.results)


def _move(fresh: Path, place: Path, old: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        place.rename(old)
    fresh.rename(place)


def _write(path: Path, own: Mapping[str, dict[str, Any]]) -> None:
    """Replace the file as a whole."""
    kept = {key: blocks for key, blocks in own.items() if blocks}
    text = _HEAD + yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
