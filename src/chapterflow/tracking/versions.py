"""Versions of registered models: which one a reference names, and its files."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from chapterflow.config.load import load_settings
from chapterflow.environment import Project
from chapterflow.errors import ConfigError, StoreError, nearest
from chapterflow.files import hashes, sha256_file
from chapterflow.kinds.dataset import DatasetCard
from chapterflow.models.catalog import model_names
from chapterflow.tracking.artifacts import Artifacts
from chapterflow.tracking.reader import refusals
from chapterflow.tracking.records import SCORES
from chapterflow.tracking.runs import (
    DATASET,
    FILES_SHA256,
    MODEL,
    MODEL_SHA256,
    MODEL_VERSION,
    find_runs,
)
from chapterflow.tracking.store import open_client

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

#: Aliases of registered models; what they mean: `docs/promotion.md`.
CHAMPION, CHALLENGER, PREVIOUS_CHAMPION = "champion", "challenger", "previous-champion"
#: Tags of a version that was judged: the last verdict on it, and the entry of the ledger that holds
#: all of it, as the artifact `artifacts.PROMOTION`.
VERDICT, VERDICT_RUN = "chapterflow.verdict", "chapterflow.verdict_run"
#: Beginning of the tags of a version that have its scores on the test split.
SCORE_TAG = "chapterflow.test_"
#: File of a logged model: the SHA-256 of each of its files. The tag `FILES_SHA256` covers it.
MANIFEST = "files.json"
#: Name and version, which MLflow's own commands write into a model's folder when they load it.
MLFLOW_NOTE = "registered_model_meta"
#: `NAME`, `NAME/VERSION` or `NAME@ALIAS`.
_REFERENCE = re.compile(r"(?P<name>[^@/]+)(?:/(?P<version>\d+)|@(?P<alias>[^@/]+))?")
#: The beginning of a run's id; shorter ones are too easily something else.
_RUN_ID = re.compile(r"[0-9a-f]{4,32}")


def challenger_alias(project: Project, role: str, dataset: str) -> str:
    """Return the alias of challengers that learnt a dataset.

    It is `challenger` for the data that `params.yaml` and `datasets.yaml` give the role, without
    options of a command, and `challenger-DATASET` for others: `--data`, `--profile`, `--set`.
    """
    configured = load_settings(project.params, models=False)
    usual = configured.roles.get(role, {}).get(configured.profile)
    return CHALLENGER if dataset == usual else f"{CHALLENGER}-{dataset}"


def challengers(client: MlflowClient, name: str) -> dict[str, str]:
    """Return the aliases of a model's challengers, each with the number of its version."""
    return {
        alias: number
        for alias, number in check_registered(client, name).items()
        if is_challenger(alias)
    }


def is_challenger(alias: str) -> bool:
    """Tell whether an alias is one of challengers, on whatever data."""
    return alias == CHALLENGER or alias.startswith(f"{CHALLENGER}-")


@dataclass(frozen=True)
class Version:
    """One version of a registered model.

    Attributes:
        alias: Alias through which it was found.
        run_id: Run that trained it.
        model: Chapter model; differs from `name` in the registered model of a role.
        source: Logged model, `models:/m-...`.
        fallback: Why a bare `NAME` that has no champion means this version.
    """

    name: str
    number: str
    alias: str | None
    run_id: str
    model: str
    source: str
    fallback: Literal["challenger", "newest"] | None = None

    def __str__(self) -> str:
        """Return the version in words: `cnn@champion (version 3)`, `cnn/3`."""
        return f"{self.name}@{self.alias} (version {self.number})" if self.alias else self.uri()

    def uri(self) -> str:
        """Return name and number, `cnn/3`."""
        return f"{self.name}/{self.number}"

    def notice(self) -> str:
        """Return the sentence in which every command says which version it took."""
        reason = f"{self.fallback}; no champion yet" if self.fallback else self.alias
        return f"{self.name}: version {self.number}" + (f" ({reason})" if reason else "")


#: Called with the version that a reference names, before anything is done with it.
OnVersion = Callable[[Version], None]


def ignore(_version: Version) -> None:
    """Do nothing with the version that a reference names."""


def find_version(
    client: MlflowClient, reference: str, *, experiment_id: str | None = None
) -> Version:
    """Return the version that `MODEL` names; every command that reads a version asks here.

    `NAME/VERSION` and `NAME@ALIAS` name one version. `NAME` is the champion; before the first
    promotion it is the challenger, and without a challenger the newest version.

    Args:
        client: MLflow client.
        reference: `NAME`, `NAME/VERSION` or `NAME@ALIAS`.
        experiment_id: Experiment whose finished model runs the reference may name too, by their
            id or its beginning. A registered model of that name takes precedence.

    Raises:
        ConfigError: If there is no such version, with a list of those that exist.
        StoreError: If the run's version is no longer in the registry.
    """
    parts = _REFERENCE.fullmatch(reference)
    if parts is None:
        raise ConfigError(
            "MODEL must be NAME, NAME/VERSION or NAME@ALIAS of a registered model. "
            f"Received: {reference!r}"
        )
    name, number, alias = parts["name"], parts["version"], parts["alias"]
    try:
        aliases = check_registered(client, name)
    except ConfigError:
        if experiment_id is None or not _RUN_ID.fullmatch(reference):
            raise
        (run,) = find_runs(client, experiment_id, [reference])
        return version_of_run(client, run)
    try:
        if number:
            return version_of(client.get_model_version(name, number))
        if alias:
            # Search results carry no aliases in MLflow 3.
            return version_of(client.get_model_version_by_alias(name, alias), alias)
        if CHAMPION in aliases:
            return version_of(client.get_model_version(name, aliases[CHAMPION]), CHAMPION)
        if CHALLENGER in aliases:
            challenger = client.get_model_version(name, aliases[CHALLENGER])
            return version_of(challenger, CHALLENGER, fallback="challenger")
        (newest,) = client.search_model_versions(
            f"name = '{name}'", order_by=["version_number DESC"], max_results=1
        )
        return version_of(newest, fallback="newest")
    except refusals(ValueError):
        numbers = sorted(int(v.version) for v in client.search_model_versions(f"name = '{name}'"))
        noun = "version" if len(numbers) == 1 else "versions"
        existing = f"{noun} {', '.join(map(str, numbers))}" if numbers else "no versions"
        hint = f" `chapterflow promote {name}` promotes one." if alias == CHAMPION else ""
        raise ConfigError(
            f"{reference!r} is not in the registry. {name} has {existing}; aliases: "
            f"{', '.join(sorted(aliases)) or 'none'}.{hint}"
        ) from None


def registered_models() -> dict[str, dict[str, str]]:
    """Return name and tags of all registered models of the store that was opened last."""
    models = _all_pages(open_client().search_registered_models)
    return {str(model.name): dict(model.tags) for model in models}


def all_versions(client: MlflowClient) -> list[ModelVersion]:
    """Return all versions of all registered models."""
    return _all_pages(client.search_model_versions)


def _all_pages(search: Callable[..., Any]) -> list[Any]:
    page = search()
    listed = list(page)
    while page.token:
        page = search(page_token=page.token)
        listed += page
    return listed


def check_registered(client: MlflowClient, name: str) -> dict[str, str]:
    """Return the aliases of a registered model, each with the number of its version.

    Raises:
        ConfigError: If no registered model has this name.
    """
    try:
        # A database gives numbers, a server texts.
        aliases = client.get_registered_model(name).aliases
        return {str(alias): str(number) for alias, number in aliases.items()}
    except refusals():
        if name in model_names():
            raise ConfigError(
                f"No version of {name} is registered yet. `chapterflow run {name}` registers one."
            ) from None
        names = {*registered_models(), *model_names()}
        hint = nearest(name, names)
        raise ConfigError(f"No registered model is called {name!r}.{hint}") from None


def registered_model(client: MlflowClient, name: str) -> RegisteredModel | None:
    """Return MLflow's record of a registered model; None if there is no such model."""
    try:
        return client.get_registered_model(name)
    except refusals() as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def score_of(tags: Mapping[str, str]) -> str:
    """Return the score of a version in words, from its tags; empty without one."""
    for score in SCORES:
        if value := tags.get(f"{SCORE_TAG}{score}"):
            return f"{'RMSE' if score == 'rmse' else score} {value} on {tags.get(DATASET, 'test')}"
    return ""


def version_of_run(client: MlflowClient, run: Run) -> Version:
    """Return the version that a finished model run registered.

    Raises:
        StoreError: If it is no longer in the registry.
    """
    tags = run.data.tags
    try:
        return version_of(client.get_model_version(tags[MODEL], tags[MODEL_VERSION]))
    except refusals(KeyError):
        raise StoreError(
            f"Run {run.info.run_id} has no version in the registry. "
            f"Received: {tags.get(MODEL)}/{tags.get(MODEL_VERSION)}, which does not exist"
        ) from None


def unregistered(model: str, run_id: str, model_id: str) -> Version:
    """Return the logged model of a run as a version that the registry does not have yet."""
    return Version(model, "unregistered", None, run_id, model, f"models:/{model_id}")


def version_of(
    record: ModelVersion,
    alias: str | None = None,
    *,
    fallback: Literal["challenger", "newest"] | None = None,
) -> Version:
    """Return MLflow's record of a version as one of ours."""
    return Version(
        str(record.name),
        str(record.version),
        alias,
        str(record.run_id),
        model=record.tags.get(MODEL, str(record.name)),
        source=str(record.source),
        fallback=fallback,
    )


def holder(client: MlflowClient, name: str, alias: str) -> Version | None:
    """Return the version that has an alias; None if there is no such alias or model."""
    try:
        # Search results carry no aliases in MLflow 3.
        return version_of(client.get_model_version_by_alias(name, alias), alias)
    except refusals() as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def write_manifest(folder: Path) -> str:
    """Write the hash of each file of a saved model into it; return the SHA-256 of that file."""
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps(_logged(folder), indent=2), encoding="utf-8")
    return sha256_file(manifest)


def _logged(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a model by its path, but not of the manifest."""
    files = hashes(folder)
    return {name: files[name] for name in files if name not in (MANIFEST, MLFLOW_NOTE)}


def model_folder(client: MlflowClient, version: Version) -> Path:
    """Return the folder of a version's files, on this machine, as they were logged.

    Every command that reads or executes a file of a logged model takes the folder from here.

    Raises:
        StoreError: If they are not in the store, or differ from the files that were logged.
    """
    try:
        model_id = version.source.rpartition("/")[2]
        tags = client.get_logged_model(model_id).tags
        folder = Path(client.download_model(model_id))
    except refusals(OSError) as error:
        raise _lost(version, error) from None
    # Python executes these without a look at the source next to them, and makes them again.
    for cache in list(folder.rglob("__pycache__")):
        shutil.rmtree(cache, ignore_errors=True)
    # Versions that were logged before there were manifests have only the hash of the model.
    if (expected := tags.get(FILES_SHA256)) is not None:
        _check_manifest(version, folder, expected)
    elif (expected := tags.get(MODEL_SHA256)) is not None:
        for file in folder.rglob("*.keras"):
            _check_file(version, file.name, sha256_file(file), expected)
    return folder


def _check_manifest(version: Version, folder: Path, expected: str) -> None:
    manifest = folder / MANIFEST
    received = sha256_file(manifest) if manifest.is_file() else None
    _check_file(version, MANIFEST, received, expected)
    logged = json.loads(manifest.read_text(encoding="utf-8"))
    actual = _logged(folder)
    for name in sorted({*logged, *actual}):
        _check_file(version, name, actual.get(name), logged.get(name))


def _check_file(version: Version, name: str, received: str | None, logged: str | None) -> None:
    if received == logged:
        return
    fault = (
        "was not logged with it" if logged is None
        else "is missing" if received is None
        else "is not the file that was logged: it was damaged or replaced"
    )  # fmt: skip
    raise StoreError(
        f"{name} of {version.uri()} {fault}. Received: "
        f"{f'SHA-256 {received[:12]}' if received else 'no file'}, logged was "
        f"{logged[:12] if logged else 'no such file'}. "
        f"`chapterflow run {version.model} --force` makes a new version"
    )


def model_file(client: MlflowClient, version: Version, folder: Path | None = None) -> Path:
    """Return the path of a version's `.keras` file on this machine.

    Args:
        folder: Folder of the version's files, if `model_folder` has returned it.

    Raises:
        StoreError: If it is not in the store, or a file differs from the file that was logged.
    """
    files = list((folder or model_folder(client, version)).rglob("*.keras"))
    if len(files) != 1:
        raise _lost(version, "no .keras file" if not files else f"{len(files)} .keras files")
    return files[0]


def card_of(client: MlflowClient, version: Version) -> DatasetCard:
    """Return the card of the data that a version was trained on, without reading its model.

    Raises:
        StoreError: If it is not in the store.
    """
    try:
        return Artifacts(version.run_id).card()
    except StoreError as error:
        raise _lost(version, error) from None


def _lost(version: Version, error: Exception | str) -> StoreError:
    return StoreError(
        f"The files of {version.uri()} are not in the tracking store. Received: {error}"
    )


#: Between the state of a registered model, which promotions change, and what it is.
_RULE = "\n\n---\n\n"


def described(state: str, about: str) -> str:
    """Return the description of a registered model: its champion and score, then what it is.

    Args:
        state: Its champion and the last verdict.
        about: What it is, or an earlier description, of which the state is replaced.
    """
    return state + _RULE + about.rpartition(_RULE)[2]


def register(
    model_uri: str,
    name: str,
    *,
    run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    description: str | None = None,
    about: str | None = None,
    about_tags: Mapping[str, str] | None = None,
    is_new: bool = False,
) -> str:
    """Make a logged model the next version of a registered model, and return the version.

    A logged model has one version: if it is registered already, because the process that did so
    was killed, that version is returned. The registered model is created if it is missing; several
    processes may do so at once.

    Args:
        model_uri: The logged model.
        name: Name of the registered model.
        run_id: Run that logged the model, where the caller knows it.
        tags: Tags of the version.
        description: Description of the version.
        about: Description of the registered model, set when it is created.
        about_tags: Tags of the registered model, set when it is created.
        is_new: Whether the logged model is known to have no version, which is not looked up.

    Raises:
        StoreError: If the version does not become ready.
    """
    client = open_client()
    model_id = model_uri.rpartition("/")[2]
    run_id = run_id or client.get_logged_model(model_id).source_run_id
    try:
        client.create_registered_model(name, tags=dict(about_tags or {}), description=about)
    except refusals() as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        same = f"name = '{name}' and run_id = '{run_id}'"
        for registered in () if is_new else client.search_model_versions(same):
            if registered.source == model_uri and registered.status == "READY":
                return str(registered.version)
    # Waits until the version is ready.
    record = client.create_model_version(
        name,
        source=model_uri,
        run_id=run_id,
        tags=dict(tags or {}),
        description=description,
        model_id=model_id,
    )
    if record.status != "READY":
        raise StoreError(
            f"Version {record.version} of the model {name!r} must become READY. "
            f"Received: {record.status} ({record.status_message})"
        )
    return str(record.version)
