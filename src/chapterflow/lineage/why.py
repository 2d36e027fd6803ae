"""Trace a registered model back to its origins: a tree of links, each checked."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from chapterflow.checks import Check, Keys, State, text
from chapterflow.config.settings import Settings
from chapterflow.environment import Project
from chapterflow.errors import StoreError
from chapterflow.tracking import runs
from chapterflow.tracking.artifacts import PROMOTION, Artifacts
from chapterflow.tracking.provenance import links
from chapterflow.tracking.reader import refusals
from chapterflow.tracking.session import Session
from chapterflow.tracking.versions import (
    CHAMPION,
    VERDICT,
    VERDICT_RUN,
    OnVersion,
    Version,
    find_version,
    holder,
    ignore,
    model_file,
)
from chapterflow.types import Strict, Tell, silent

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


#: A link in the tree of `chapterflow why --json`.
LINK = Keys(
    {"name": "name", "told": "observed", "state": "state", "below": "checks"},
    {"passed": "ok", "warning": "warning", "failed": "broken"},
)


class Lineage(Strict):
    """The origins of a version of a registered model.

    Attributes:
        asked: Reference that the user gave.
        version: Name and number, `cnn/3`.
        note: Which version was chosen, if the reference does not say.
        root: The first link, with the links that it leads to below it.
    """

    asked: str
    version: str
    run_id: str
    note: str | None
    root: Check

    @property
    def broken(self) -> list[str]:
        """Names of the broken links."""
        return [link.name for _, link in self.root.walk() if link.state == "failed"]

    @property
    def warnings(self) -> list[str]:
        """Names of the links that pass with a reservation."""
        return [link.name for _, link in self.root.walk() if link.state == "warning"]

    def document(self) -> dict[str, Any]:
        """Return the document for `--json`."""
        return {
            **self.model_dump(mode="json", exclude={"root"}),
            "sound": not self.broken,
            "broken": self.broken,
            "warnings": self.warnings,
            "tree": LINK.write(self.root),
        }


def gates(client: MlflowClient, version: Version) -> Check:
    """Return the link to the gates that judged a version.

    Only the champion must have been judged: otherwise somebody set the alias by hand.
    """
    name = "gates"
    champion = holder(client, version.name, CHAMPION)
    is_champion = champion is not None and champion.number == version.number
    tags = client.get_model_version(version.name, version.number).tags
    verdict, run_id = tags.get(VERDICT), tags.get(VERDICT_RUN)
    if run_id is None:
        if is_champion:
            observed = "champion, but never judged by the gates"
            return Check(name=name, state="failed", observed=observed)
        return Check(name=name, state="passed", observed="not judged yet")
    try:
        entry = client.get_run(run_id)
        if verdict == "rolled back":
            state: State = "failed" if is_champion else "passed"
            observed = f"rolled back: {entry.info.run_name} (run {run_id})"
            observed += "; it is champion nevertheless" if is_champion else ""
            return Check(name=name, state=state, observed=observed)
        decision = Artifacts(run_id).document(PROMOTION)
    except refusals(StoreError) as error:
        observed = f"judged ({verdict}) in run {run_id}, but its verdict is missing: {error}"
        return Check(name=name, state="failed", observed=observed)
    below = [_gate(gate) for gate in decision.get("gates", [])]
    observed = f"{verdict}"
    if decision.get("when"):
        observed += f" {decision['when']}"
    if decision.get("who"):
        observed += f" by {decision['who']}"
    passed = sum(check.passed for check in below)
    observed += f": {passed} of {len(below)} gates passed (run {run_id})"
    state = "passed"
    if is_champion and verdict == "refused":
        state, observed = "failed", f"{observed}; it is champion nevertheless"
    elif verdict in ("promoted", "refused") and decision.get("verdict") != verdict:
        state = "failed"
        observed += f"; the ledger says {decision.get('verdict')}, the version's tag says {verdict}"
    return Check(name=name, state=state, observed=observed, checks=below)


def _gate(gate: Mapping[str, Any]) -> Check:
    """Return a gate of a `promotion/verdict.json`; a failed gate is not a broken link."""
    passed = bool(gate.get("passed"))
    figures = [
        f"{side} {text(gate[side])}"
        for side in ("champion", "challenger", "threshold")
        if gate.get(side) is not None
    ]
    observed = ", ".join(["passed" if passed else "not passed", *figures])
    if gate.get("note"):
        observed += f"; {gate['note']}"
    return Check(
        name=str(gate.get("name", "gate")),
        state="passed" if passed else "warning",
        observed=observed,
    )


def why(
    project: Project,
    settings: Settings,
    reference: str,
    *,
    on_version: OnVersion = ignore,
    tell: Tell = silent,
) -> Lineage:
    """Trace a registered model back to its origins, and check every link.

    Nothing is changed, and no model is loaded.

    Args:
        project: The project.
        settings: Its settings.
        reference: `NAME`, `NAME/VERSION`, `NAME@ALIAS`, or the id of a run or its beginning.
        on_version: Called with the version that the reference names.
        tell: Called with each link before it is checked.

    Raises:
        ConfigError: If neither the registry nor the store contains the reference.
    """
    with Session(project, settings, reading=True) as session:
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
            observed = f"{version.name}@{version.alias} is version {version.number}"
            root = Check(name="alias", state="passed", observed=observed, checks=[root])
    return Lineage(
        asked=reference,
        version=version.uri(),
        run_id=version.run_id,
        note=version.notice() if version.fallback else None,
        root=root,
    )


def _version(client: MlflowClient, version: Version, below: list[Check]) -> Check:
    registered = client.get_model_version(version.name, version.number)
    observed = f"{version.uri()}"
    if version.model != version.name:
        observed += f", a {version.model}"
    created = datetime.fromtimestamp(registered.creation_timestamp / 1000, UTC)
    observed += f", registered {created:%Y-%m-%d %H:%M} UTC"
    others = [alias for alias in registered.aliases if alias != version.alias]
    if others:
        observed += f"; also {', '.join(sorted(others))}"
    ready = registered.status == "READY"
    if not ready:
        observed += f"; not ready: {registered.status}"
    return Check(
        name="version", state="passed" if ready else "failed", observed=observed, checks=below
    )


def _model_files(client: MlflowClient, version: Version) -> Check:
    """Check that the logged model belongs to the run and that its file is intact."""
    model_id = version.source.rpartition("/")[2]
    try:
        logged = client.get_logged_model(model_id)
        if logged.source_run_id != version.run_id:
            fault = f"{model_id} belongs to run {logged.source_run_id}, not to {version.run_id}"
        else:
            file = model_file(client, version)
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
            fault = f"{file.name} of {model_id} is damaged: {damaged}" if damaged else ""
    except StoreError as error:
        fault = str(error)
    except refusals(zipfile.BadZipFile, OSError) as error:
        fault = f"{model_id} is missing from the store, or damaged: {error}"
    if fault:
        return Check(name="model files", state="failed", observed=fault)
    size = file.stat().st_size / 1e6
    observed = f"{model_id}: {file.name}, {size:.1f} MB, intact"
    return Check(name="model files", state="passed", observed=observed)


def _run(client: MlflowClient, version: Version) -> Run | None:
    try:
        run = client.get_run(version.run_id)
    except refusals():
        return None
    return run if run.info.lifecycle_stage == "active" else None


def _run_link(
    client: MlflowClient, project: Project, version: Version, run: Run | None, tell: Tell
) -> Check:
    if run is None:
        observed = f"{version.run_id} is missing from the store, so its artifacts cannot be checked"
        return Check(name="run", state="failed", observed=observed)
    info, tags = run.info, run.data.tags
    observed = f"{info.run_id}, {info.status.lower()}"
    if info.end_time:
        observed += f" {datetime.fromtimestamp(info.end_time / 1000, UTC):%Y-%m-%d %H:%M} UTC"
    score = next((f"test/{n}" for n in ("accuracy", "rmse") if f"test/{n}" in run.data.metrics), "")
    if score:
        observed += f", {score} {run.data.metrics[score]:.4f}"
    faults = []
    if info.status != "FINISHED":
        faults.append("did not finish")
    if tags.get(runs.MODEL) != version.model:
        faults.append(f"trained {tags.get(runs.MODEL)!r}, not {version.model!r}")
    if not _names_back(client, version, run):
        faults.append(f"does not name {version.uri()} as its version")
    return Check(
        name="run",
        state="failed" if faults else "passed",
        observed="; ".join([observed, *faults]),
        checks=links(project, run, tell),
    )


def _names_back(client: MlflowClient, version: Version, run: Run) -> bool:
    """Return whether the run names this version as its result.

    The logged model decides: a role's version is a second entry for the same logged model.
    """
    tags = run.data.tags
    try:
        own = client.get_model_version(tags[runs.MODEL], tags[runs.MODEL_VERSION])
    except refusals(KeyError):
        return False
    return str(own.source) == version.source
