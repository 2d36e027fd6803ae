"""Versions of registered models: found by number or alias, and read back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chapterflow.data.card import DatasetCard
from chapterflow.errors import ConfigError, StoreError
from chapterflow.settings import nearest

if TYPE_CHECKING:
    import keras
    from mlflow import MlflowClient

#: `NAME`, `NAME/VERSION` or `NAME@ALIAS`.
_REFERENCE = re.compile(r"(?P<name>[^@/]+)(?:/(?P<version>\d+)|@(?P<alias>[^@/]+))?")


@dataclass(frozen=True)
class Version:
    """One version of a registered model.

    Attributes:
        alias: Alias by which it was asked for.
        run_id: Run that trained it.
    """

    name: str
    number: str
    alias: str | None
    run_id: str

    def told(self) -> str:
        """Return what it is called: `cnn@champion (version 3)`, `cnn/3`."""
        return f"{self.name}@{self.alias} (version {self.number})" if self.alias else self.uri()

    def uri(self) -> str:
        """Return name and number, `cnn/3`."""
        return f"{self.name}/{self.number}"


def find_version(client: MlflowClient, reference: str) -> Version:
    """Return the version that `NAME`, `NAME/VERSION` or `NAME@ALIAS` names; NAME is the newest.

    Raises:
        ConfigError: If there is none, with what is there.
    """
    from mlflow.exceptions import MlflowException

    parts = _REFERENCE.fullmatch(reference)
    if parts is None:
        raise ConfigError(
            "MODEL must be NAME, NAME/VERSION or NAME@ALIAS of a registered model. "
            f"Received: {reference!r}"
        )
    name, number, alias = parts["name"], parts["version"], parts["alias"]
    try:
        registered = client.get_registered_model(name)
    except MlflowException:
        names = sorted(model.name for model in client.search_registered_models())
        hint = nearest(name, names) if names else " `chapterflow run` registers models."
        raise ConfigError(f"No registered model is called {name!r}.{hint}") from None
    try:
        if alias:
            # Search results carry no aliases in MLflow 3.
            found = client.get_model_version_by_alias(name, alias)
        elif number:
            found = client.get_model_version(name, number)
        else:
            versions = client.search_model_versions(f"name = '{name}'")
            found = max(versions, key=lambda version: int(version.version))
    except (MlflowException, ValueError):
        numbers = sorted(int(v.version) for v in client.search_model_versions(f"name = '{name}'"))
        there = f"versions {', '.join(map(str, numbers))}" if numbers else "no versions"
        aliases = ", ".join(sorted(registered.aliases)) or "none"
        raise ConfigError(
            f"{reference!r} is not in the registry. {name} has {there}; aliases: {aliases}."
        ) from None
    return Version(name, str(found.version), alias, str(found.run_id))


def read_version(client: MlflowClient, version: Version) -> tuple[keras.Model, DatasetCard]:
    """Return the model of a version, and the card of the data that it learnt.

    Raises:
        StoreError: If its files are not in the store, or not those of a model of this project.
    """
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    from chapterflow.training.pipeline import load_model

    try:
        folder = Path(
            mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.number}")
        )
        card = Path(client.download_artifacts(version.run_id, "dataset.json"))
    except (MlflowException, OSError) as error:
        raise StoreError(
            f"The files of {version.uri()} are not in the tracking store. Received: {error}"
        ) from None
    (file,) = folder.rglob("*.keras")
    return load_model(file), DatasetCard.model_validate_json(card.read_text(encoding="utf-8"))
