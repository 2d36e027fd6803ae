"""A user's own data: built and validated in a scratch folder, then added to the project."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock
from pydantic import TypeAdapter, ValidationError

from chapterflow.config.load import OWN, load_settings, read_own
from chapterflow.config.settings import PROFILES, Profile, Settings
from chapterflow.data.build import (
    accept_bounds,
    ensure_dataset,
    record_version,
    refuse_damaged_data,
)
from chapterflow.data.source import UserData, get_source, own_sources
from chapterflow.data.versioning import can_version
from chapterflow.environment import Project
from chapterflow.errors import ConfigError, ValidationFailed, nearest
from chapterflow.files import publish, staged
from chapterflow.kinds.dataset import DatasetCard, Kind, get_kind, open_dataset
from chapterflow.kinds.rows import bound_of
from chapterflow.tracking.fingerprint import validation_folder
from chapterflow.types import Bound, Name, Tell, silent

if TYPE_CHECKING:
    from chapterflow.validation.verdict import Verdict


def kind_of(settings: Settings, dataset: str) -> str:
    """Return the name of the kind of data that a dataset's source gives."""
    return get_source(settings.datasets[dataset].kind).gives


def role_kinds(settings: Settings, role: str) -> set[str]:
    """Return the kinds of data that a role's datasets have, over all profiles."""
    return {kind_of(settings, name) for name in settings.roles[role].values()}


def check_fits(settings: Settings, dataset: str, role: str, model: str | None = None) -> None:
    """Refuse a dataset of another kind than a role's datasets.

    Args:
        model: Model of the role that would read it; without one, the message is about roles.

    Raises:
        ConfigError: If it does not fit; with the models or roles that take it.
    """
    kind = kind_of(settings, dataset)
    expected = role_kinds(settings, role)
    if kind in expected:
        return
    if model:
        who, noun, fitting = f"model {model!r}", "Models", fitting_models(settings, dataset)
    else:
        who, noun = f"role {role!r}", "Roles"
        fitting = [name for name in settings.roles if kind in role_kinds(settings, name)]
    raise ConfigError(
        f"The {who} takes {' or '.join(sorted(expected))}. Received: {dataset!r}, which is of the "
        f"kind {kind}. {noun} that take it: {', '.join(fitting) or 'none'}."
    )


def fitting_profile(settings: Settings, models: Sequence[str], dataset: str) -> Profile:
    """Return the profile whose parameters suit a dataset.

    That is the profile whose own data, for the roles of all the models, come from the same source;
    otherwise one with data of the same kind; otherwise the active one. The active profile wins a
    tie.

    Raises:
        ConfigError: If the dataset or a model is unknown.
    """
    settings.check_names([dataset], settings.datasets, "dataset")
    settings.check_names(models, settings.models, "model")
    profiles = sorted(PROFILES, key=lambda profile: profile != settings.profile)
    source, kind = settings.datasets[dataset].kind, kind_of(settings, dataset)
    learnt = {
        profile: [settings.roles[settings.models[model][profile].role][profile] for model in models]
        for profile in profiles
    }
    for profile in profiles:
        if all(settings.datasets[name].kind == source for name in learnt[profile]):
            return profile
    for profile in profiles:
        if all(kind_of(settings, name) == kind for name in learnt[profile]):
            return profile
    return settings.profile


def fitting_models(settings: Settings, dataset: str) -> list[str]:
    """Return the models that can learn a dataset, in the profile that suits it."""
    models = []
    for model in settings.models:
        profile = fitting_profile(settings, [model], dataset)
        role = settings.models[model][profile].role
        if kind_of(settings, dataset) in role_kinds(settings, role):
            models.append(model)
    return models


def role_overrides(settings: Settings, models: Sequence[str], dataset: str) -> list[str]:
    """Return the overrides of `params.yaml` that let models learn from another dataset.

    Raises:
        ConfigError: If the dataset is unknown, or is not of a kind that one of the models takes.
    """
    settings.check_names([dataset], settings.datasets, "dataset")
    roles = {model: settings.params(model).role for model in models}
    for model, role in roles.items():
        check_fits(settings, dataset, role, model)
    try:
        is_text = yaml.safe_load(dataset) == dataset
    except (ValueError, yaml.YAMLError):  # such as 2001-99-99, which looks like a date
        is_text = False
    value = dataset if is_text else f'"{dataset}"'
    return [f"roles.{role}.{settings.profile}={value}" for role in dict.fromkeys(roles.values())]


def build_block(source: str, data: UserData) -> dict[str, Any]:
    """Return the block of `datasets:` for a user's own data.

    Args:
        source: `images`, `idx`, `csv`, `voxels`, `tu`, `planetoid` or another one of
            `own_sources`; or the kind of data that one of them gives.
        data: Where the data are, and how to split them.

    Raises:
        ConfigError: If the source is unknown, the path does not lead to data of the source, or a
            share is given for data whose splits are given.
        DataError: If a file that says how the data are laid out cannot be read.
    """
    sources = own_sources()
    by_kind = {entry.gives: entry for entry in sources.values()}
    entry = sources.get(source) or by_kind.get(source)
    if entry is None or entry.own is None:
        raise ConfigError(f"Unknown source: {source!r}.{nearest(source, sources)}")
    _check_shares(data)
    if not data.path.exists():
        raise ConfigError(f"PATH must be an existing file or folder. Received: {data.path}")
    if data.names and data.path.suffix.lower() != ".zip":
        raise ConfigError(f"--names is for zip archives. Received: {data.path}")
    block = entry.own(data)
    if data.directed and "directed" not in block:
        raise ConfigError(f"--directed is for graphs whose edges are given. Received: {source}")
    return block


def _check_shares(data: UserData) -> None:
    for option, share in (("--validation", data.validation), ("--test", data.test)):
        if share is not None and not 0 < share < 1:
            raise ConfigError(f"{option} must be between 0 and 1. Received: {share:g}")
    held_out = (data.validation or 0) + (data.test or 0)
    if held_out >= 1:
        raise ConfigError(
            "--validation and --test must leave something to train on: together less than 1. "
            f"Received: {held_out:g}"
        )


def read_accepted(options: Sequence[str], kind: Kind) -> tuple[dict[str, Bound], list[str]]:
    """Return the bounds that `--accept` sets, by setting, and the names without a value.

    Args:
        options: `CHECK=VALUE` or `CHECK`.
        kind: Kind of the data.

    Raises:
        ConfigError: If a check has no bound, or a value is no number.
    """
    settings = kind.bounds.model_fields
    given: dict[str, Bound] = {}
    measured = []
    for option in options:
        check, equals, text = option.partition("=")
        setting = bound_of(check)
        if setting not in settings:
            raise ConfigError(
                f"--accept takes a check with a bound, or its setting. Received: {check!r}."
                f"{nearest(check, settings)}"
            )
        if not equals:
            measured.append(setting)
            continue
        try:
            given[setting] = parse_bound(text)
        except ValueError:
            raise ConfigError(
                f"--accept {check} takes a number, or two with a comma for [lowest, highest]. "
                f"Received: {text!r}"
            ) from None
    return given, measured


def parse_bound(text: str) -> Bound:
    """Return a bound as users write it: `0.2`, `32`, or `0.01,0.7`.

    Raises:
        ValueError: If it is none.
    """
    numbers = [float(part) for part in text.split(",")]
    if len(numbers) > 1:
        return numbers
    return int(text) if text.strip().isdigit() else numbers[0]


_HEAD = """\
# Your own datasets, in addition to those of params.yaml. `chapterflow data add` writes this file
# and keeps no comments in it.
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
    """Refuse an invalid or taken name.

    Raises:
        ConfigError: If the name is refused.
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
    accept: Sequence[str] = (),
    force: bool = False,
    tell: Tell = silent,
) -> Added:
    """Build and validate a dataset, then add it to `data/` and `datasets.yaml`.

    If a step fails, project and data are unchanged; the page of a failed validation stays.

    Args:
        name: Its name.
        block: Its block of `datasets:` (see `build_block`).
        role: Role that it fills in the book profile from now on.
        accept: Bounds of the validation for this dataset: `CHECK=VALUE`, or `CHECK` for the
            tightest bound that the data meet. CHECK is a check, or the setting that decides it.
        force: Replace a dataset of the same name in `datasets.yaml`.

    Raises:
        ConfigError: If name, block or role is wrong.
        DataError: If the data are damaged or not of their kind.
        ChapterflowError: If another dataset is damaged, so that no version can be recorded.
        ValidationFailed: If they break an expectation.
    """
    locks = project.scratch / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / "adding.lock"):
        check_name(project, name, force=force)
        if can_version(project):
            # Not only at the end, when it is recorded: a refusal must leave nothing.
            refuse_damaged_data(project, replaced=name)
        own = read_own(project.root / OWN)
        own["datasets"] = own["datasets"] | {name: dict(block)}
        settings = load_settings(project.params, own=own)
        kind = get_kind(kind_of(settings, name))
        given, measured = read_accepted(accept, kind)
        if given:
            own["datasets"][name]["accept"] = given
            settings = load_settings(project.params, own=own)
        if role is not None:
            settings.check_names([role], settings.roles, "role")
            check_fits(settings, name, role)
            own["roles"] = own["roles"] | {role: {"book": name}}
            settings = load_settings(project.params, own=own)
        trial = Project(project.scratch / "adding" / name)
        shutil.rmtree(trial.root, ignore_errors=True)
        try:
            card, checks = build_and_check(project, trial, settings, name, measured, tell)
            if card.accepted:
                own["datasets"][name]["accept"] = card.accepted
            with FileLock(locks / f"data-{name}.lock"):
                project.data.mkdir(exist_ok=True)
                publish(trial.data / name, project.data / name)
        finally:
            shutil.rmtree(trial.root, ignore_errors=True)
        _write(project.root / OWN, own)
    if can_version(project):
        tell("data", "versioning data/ with DVC")
        record_version(project)
    return Added(card, checks, fitting_models(settings, name))


def build_and_check(
    project: Project,
    trial: Project,
    settings: Settings,
    name: str,
    measured: Collection[str],
    tell: Tell,
) -> tuple[DatasetCard, int]:
    """Build and validate a dataset in a trial project; return its card and the number of checks.

    Args:
        measured: Checks, or their settings, whose bounds are set to what the data need.
    """
    from chapterflow.validation.docs import PAGE
    from chapterflow.validation.validate import validate_dataset

    tell("data", "reading")
    card, _ = ensure_dataset(
        trial, name, settings.datasets[name], on_progress=lambda file, *_: tell("fetch", file)
    )
    tell("validate", name)
    bounds = settings.validation.bounds(card.kind)

    def validated() -> tuple[Verdict, Path]:
        # The folder where `steps.validate` looks, so that the first run reuses the verdict.
        folder = validation_folder(trial, settings, name, card.digest)
        out = project.scratch / "validation" / folder.name
        return validate_dataset(open_dataset(trial.data / name), bounds, out), out

    verdict, out = validated()
    if needed := verdict.needed_bounds(measured):
        measured_bounds = {setting: parse_bound(text) for setting, text in needed.items()}
        card = accept_bounds(trial.data / name, card.accepted | measured_bounds)
        verdict, out = validated()
    try:
        verdict.raise_for_failure()
    except ValidationFailed as failure:
        raise ValidationFailed(
            f"{failure}\n  Details: {out / PAGE}\n  Nothing was changed."
        ) from None
    return card, len(verdict.results)


def _write(path: Path, own: Mapping[str, dict[str, Any]]) -> None:
    """Replace the file atomically."""
    kept = {key: blocks for key, blocks in own.items() if blocks}
    text = _HEAD + yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)
    with staged(path) as new:
        new.write_text(text, encoding="utf-8")
