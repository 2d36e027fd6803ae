"""Which datasets fit which roles and models, and in which profile a model learns one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import yaml

from chapterflow.errors import ConfigError
from chapterflow.models.parts.base import Kind
from chapterflow.settings import PROFILES, Profile, Settings

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
