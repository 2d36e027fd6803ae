"""Why is this model here? From its name in the registry back to data, code, checks and gates."""

from __future__ import annotations

import zipfile
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from chapterflow.environment import Project
from chapterflow.errors import StoreError
from chapterflow.lineage.evidence import evidence
from chapterflow.lineage.gates import gates
from chapterflow.lineage.reference import find
from chapterflow.lineage.tree import Lineage, Link, State
from chapterflow.records import Tell, silent
from chapterflow.settings import Settings
from chapterflow.tracking import runs
from chapterflow.tracking.registry import Version, model_file
from chapterflow.tracking.session import Session

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def why(project: Project, settings: Settings, reference: str, *, tell: Tell = silent) -> Lineage:
    """Follow the links from a registered model back to what made it, and check each.

    Nothing is changed, and no model is loaded.

    Args:
        project: The project.
        settings: Its settings.
        reference: `NAME`, `NAME/VERSION` or `NAME@ALIAS`; the champion of a name alone, or else
            its challenger, or else its newest version.
        tell: Hears which link is looked at.

    Raises:
        ConfigError: If no such version is in the registry.
    """
    with Session(project, settings) as session:
        client = session.client
        asked = find(client, reference)
        version = asked.version
        tell("why", version.told())
        run = _run(client, version)
        root = _version(
            client,
            version,
            [
                _model_files(client, version),
                _run_link(client, project, version, run, tell),
                gates(client, version),
            ],
        )
        if version.alias:
            told = f"{version.name}@{version.alias} is version {version.number}"
            root = Link(name="alias", told=told, below=[root])
    return Lineage(
        asked=reference,
        version=version.uri(),
        run_id=version.run_id,
        note=asked.note,
        root=root,
    )


def _version(client: MlflowClient, version: Version, below: list[Link]) -> Link:
    found = client.get_model_version(version.name, version.number)
    told = f"{version.uri()}"
    if version.model != version.name:
        told += f", a {version.model}"
    made = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
    told += f", registered {made:%Y-%m-%d %H:%M} UTC"
    others = [alias for alias in found.aliases if alias != version.alias]
    if others:
        told += f"; also {', '.join(sorted(others))}"
    ready = found.status == "READY"
    if not ready:
        told += f"; it is not ready: {found.status}"
    state: State = "ok" if ready else "broken"
    return Link(name="version", told=told, state=state, below=below)


def _model_files(client: MlflowClient, version: Version) -> Link:
    """Check that the logged model is this run's, and its file whole."""
    from mlflow.exceptions import MlflowException

    model_id = version.source.rpartition("/")[2]
    try:
        logged = client.get_logged_model(model_id)
        if logged.source_run_id != version.run_id:
            told = f"{model_id} is of run {logged.source_run_id}, not of {version.run_id}"
            return Link(name="model files", told=told, state="broken")
        file = model_file(client, version)
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except StoreError as error:
        return Link(name="model files", told=str(error), state="broken")
    except (MlflowException, zipfile.BadZipFile, OSError) as error:
        told = f"{model_id} is not in the store, or damaged: {error}"
        return Link(name="model files", told=told, state="broken")
    if damaged is not None:
        told = f"{file.name} of {model_id} is damaged at {damaged}"
        return Link(name="model files", told=told, state="broken")
    size = file.stat().st_size / 1e6
    return Link(name="model files", told=f"{model_id}: {file.name}, {size:.1f} MB, whole")


def _run(client: MlflowClient, version: Version) -> Run | None:
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(version.run_id)
    except MlflowException:
        return None
    return run if run.info.lifecycle_stage == "active" else None


def _run_link(
    client: MlflowClient, project: Project, version: Version, run: Run | None, tell: Tell
) -> Link:
    if run is None:
        told = f"{version.run_id} is not in the store: what it held cannot be checked"
        return Link(name="run", told=told, state="broken")
    info, tags = run.info, run.data.tags
    told = f"{info.run_id}, {info.status.lower()}"
    if info.end_time:
        told += f" {datetime.fromtimestamp(info.end_time / 1000, UTC):%Y-%m-%d %H:%M} UTC"
    score = next((f"test/{n}" for n in ("accuracy", "rmse") if f"test/{n}" in run.data.metrics), "")
    if score:
        told += f", {score} {run.data.metrics[score]:.4f}"
    faults = []
    if info.status != "FINISHED":
        faults.append("it did not finish")
    if tags.get(runs.MODEL) != version.model:
        faults.append(f"it trained {tags.get(runs.MODEL)!r}, not {version.model!r}")
    if not _names_back(client, version, run):
        faults.append(f"it does not name {version.uri()} as the version that it made")
    return Link(
        name="run",
        told="; ".join([told, *faults]),
        state="broken" if faults else "ok",
        below=evidence(project, run, tell),
    )


def _names_back(client: MlflowClient, version: Version, run: Run) -> bool:
    """Tell whether the version that the run says it made is this one.

    Of a role's model, which is another entry for the same thing, the logged model decides.
    """
    from mlflow.exceptions import MlflowException

    tags = run.data.tags
    try:
        own = client.get_model_version(tags[runs.MODEL], tags[runs.MODEL_VERSION])
    except (MlflowException, KeyError):
        return False
    return str(own.source) == version.source
