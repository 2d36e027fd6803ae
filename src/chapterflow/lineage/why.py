"""Where a registered model comes from: each link checked."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from chapterflow.config.settings import Settings
from chapterflow.environment import Project
from chapterflow.errors import StoreError
from chapterflow.lineage.provenance import evidence, read_json
from chapterflow.lineage.tree import Lineage, Link, State
from chapterflow.tracking import runs
from chapterflow.tracking.session import Session
from chapterflow.tracking.versions import (
    CHAMPION,
    VERDICT,
    VERDICT_FILE,
    VERDICT_RUN,
    OnVersion,
    Version,
    find_version,
    holder,
    ignore,
    model_file,
)
from chapterflow.types import Tell, silent

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def gates(client: MlflowClient, version: Version) -> Link:
    """Return the link to the gates: what judged a version, or that nothing has.

    A version need not have been judged. The champion must: nobody should have made it that by
    hand.
    """
    from mlflow.exceptions import MlflowException

    champion = holder(client, version.name, CHAMPION)
    reigns = champion is not None and champion.number == version.number
    tags = client.get_model_version(version.name, version.number).tags
    verdict, run_id = tags.get(VERDICT), tags.get(VERDICT_RUN)
    if run_id is None:
        if reigns:
            return _broken("it is the champion, and no gate has judged it")
        return Link(name="gates", told="not judged yet")
    try:
        client.get_run(run_id)
        found = read_json(run_id, VERDICT_FILE)
    except (MlflowException, StoreError) as error:
        return _broken(f"judged ({verdict}) in run {run_id}, whose verdict is gone: {error}")
    below = [_gate(gate) for gate in found.get("gates", [])]
    passed = sum(link.state == "ok" for link in below)
    told = f"{verdict}"
    if found.get("when"):
        told += f" {found['when']}"
    if found.get("who"):
        told += f" by {found['who']}"
    told += f": {passed} of {len(below)} gates passed (run {run_id})"
    if reigns and verdict == "refused":
        return Link(name="gates", told=f"{told}; it is champion", state="broken", below=below)
    if verdict in ("promoted", "refused") and found.get("verdict") != verdict:
        told += f"; the ledger says {found.get('verdict')}, the version's tag {verdict}"
        return Link(name="gates", told=told, state="broken", below=below)
    return Link(name="gates", told=told, below=below)


def _broken(told: str) -> Link:
    return Link(name="gates", told=told, state="broken")


def _gate(gate: Mapping[str, Any]) -> Link:
    passed = bool(gate.get("passed"))
    figures = [
        f"{side} {_number(gate[side])}"
        for side in ("champion", "challenger", "threshold")
        if gate.get(side) is not None
    ]
    told = ", ".join(["passed" if passed else "not passed", *figures])
    if gate.get("note"):
        told += f"; {gate['note']}"
    state: State = "ok" if passed else "warning"
    return Link(name=str(gate.get("name", "gate")), told=told, state=state)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def why(
    project: Project,
    settings: Settings,
    reference: str,
    *,
    on_version: OnVersion = ignore,
    tell: Tell = silent,
) -> Lineage:
    """Follow the links from a registered model back to what made it, and check each.

    Nothing is changed, and no model is loaded.

    Args:
        project: The project.
        settings: Its settings.
        reference: `NAME`, `NAME/VERSION` or `NAME@ALIAS`, or a run's id or its beginning.
        on_version: Called with the version that the reference names.
        tell: Hears which link is looked at.

    Raises:
        ConfigError: If no such version is in the registry, and no such run in the store.
    """
    with Session(project, settings) as session:
        client = session.client
        version = find_version(client, reference, experiment_id=session.experiment_id)
        on_version(version)
        tell("why", str(version))
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
        note=version.notice() if version.fallback else None,
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
