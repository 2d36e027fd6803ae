"""Which version or run people mean."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, get_args

from chapterflow.config.settings import Profile, Settings
from chapterflow.environment import Project
from chapterflow.errors import ConfigError, StoreError
from chapterflow.lineage.provenance import evidence, read_json
from chapterflow.lineage.tree import Lineage, Link, State
from chapterflow.tracking import runs
from chapterflow.tracking.session import Session
from chapterflow.tracking.versions import (
    CHALLENGER,
    CHAMPION,
    VERDICT,
    VERDICT_FILE,
    VERDICT_RUN,
    Version,
    find_version,
    holder,
    model_file,
    version_of,
)
from chapterflow.types import Tell, silent

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

#: How a run's id begins; fewer characters could be meant as anything.
_RUN = re.compile(r"[0-9a-f]{4,32}")


@dataclass(frozen=True)
class Asked:
    """A version that was asked for.

    Attributes:
        note: Which version was taken, where the reference did not say.
    """

    version: Version
    note: str | None = None


def find(client: MlflowClient, reference: str) -> Asked:
    """Return the version that `NAME`, `NAME/VERSION` or `NAME@ALIAS` names.

    NAME alone is the champion; before there is one, the challenger, or else the newest version.

    Raises:
        ConfigError: If there is none.
    """
    if "@" in reference or "/" in reference:
        return Asked(find_version(client, reference))
    if champion := holder(client, reference, CHAMPION):
        return Asked(champion)
    if challenger := holder(client, reference, CHALLENGER):
        return Asked(challenger, f"{reference} has no champion; this is its challenger.")
    newest = find_version(client, reference)
    return Asked(newest, f"{reference} has no champion and no challenger; this is its newest.")


def find_run(client: MlflowClient, experiment_id: str, reference: str) -> tuple[Run, Asked]:
    """Return the finished model run that a reference names, and the version that it made.

    Args:
        client: MlflowClient.
        experiment_id: Where runs are looked for.
        reference: A run's id or how it begins, or what `find` takes.

    Raises:
        ConfigError: If there is none, or several begin so.
        StoreError: If a version's run, or a run's version, is gone.
    """
    from mlflow.exceptions import MlflowException

    fitting = []
    if _RUN.fullmatch(reference) and not _is_registered(client, reference):
        fitting = [
            run
            for profile in get_args(Profile)
            for run in runs.finished_model_runs(client, experiment_id, profile)
            if run.info.run_id.startswith(reference)
        ]
        if len(fitting) > 1:
            raise ConfigError(
                f"The id of a run must be given in full, or as far as it is one run's. "
                f"Received: {reference!r}, with which {len(fitting)} runs begin"
            )
    if not fitting:
        asked = find(client, reference)
        try:
            run = client.get_run(asked.version.run_id)
        except MlflowException:
            run = None
        if run is None or run.info.lifecycle_stage != "active":
            raise StoreError(
                f"{asked.version.told()} was made by a run that the store must still have. "
                f"Received: no run {asked.version.run_id}"
            )
        return run, asked
    (run,) = fitting
    tags = run.data.tags
    try:
        made = client.get_model_version(tags[runs.MODEL], tags[runs.MODEL_VERSION])
    except (MlflowException, KeyError):
        raise StoreError(
            f"Run {run.info.run_id} must have a version in the registry: its model is compared "
            f"with. Received: {tags.get(runs.MODEL)}/{tags.get(runs.MODEL_VERSION)}, which is gone"
        ) from None
    return run, Asked(version_of(made))


def _is_registered(client: MlflowClient, name: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException:
        return False
    return True


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
