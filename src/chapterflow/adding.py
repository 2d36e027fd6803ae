"""Adding a user's own data: built and checked aside, and only then made part of the project."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock
from pydantic import TypeAdapter, ValidationError

from chapterflow.config import load_settings
from chapterflow.config.files import OWN, read_own
from chapterflow.data.build import ensure_dataset
from chapterflow.data.card import DatasetCard, open_dataset
from chapterflow.data.fitting import check_fits, fitting_models
from chapterflow.data.versioning import can_version, record_version
from chapterflow.environment import Project
from chapterflow.errors import ConfigError, ValidationFailed
from chapterflow.records import Prepared, Tell, silent
from chapterflow.settings import Settings
from chapterflow.settings.types import Name
from chapterflow.tracking.fingerprint import validation_folder

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
        block: What `params.yaml` would say of it (`chapterflow.data.add.build_block`).
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
    from chapterflow.validation.page import PAGE
    from chapterflow.validation.run import validate_dataset

    tell("data", "reading")
    card, _ = ensure_dataset(
        trial, settings, name, on_progress=lambda file, *_: tell("fetch", file)
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
