"""Promote a version: carry out the decision in registry and ledger."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from chapterflow.environment import Project
from chapterflow.registry.aliases import Changed, swap
from chapterflow.registry.decision import FOLDER, PAGE, Decision, render_page
from chapterflow.registry.gates import gate
from chapterflow.registry.judge import Judged, Request, judge_request
from chapterflow.registry.ledger import Ledger, open_ledger
from chapterflow.registry.rollback import clear_withdrawn
from chapterflow.tracking import runs
from chapterflow.tracking.artifacts import PROMOTION
from chapterflow.tracking.runs import MODEL
from chapterflow.tracking.versions import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS_CHAMPION,
    VERDICT,
    VERDICT_RUN,
    OnVersion,
    Version,
    find_version,
    holder,
    ignore,
)
from chapterflow.types import Tell, silent

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Tag of a version: the number of gates that it passed.
GATES = "chapterflow.gates"
#: Tag of a role's version: the model's version that it was made from.
MEMBER = "chapterflow.member"


def previous(alias: str) -> str:
    """Return the alias for the previous holder of an alias."""
    return PREVIOUS_CHAMPION if alias == CHAMPION else f"previous-{alias}"


def promote(
    project: Project, request: Request, *, on_version: OnVersion = ignore, tell: Tell = silent
) -> Decision:
    """Judge a version and, if all gates pass, give it the alias.

    Args:
        on_version: Called with the version to judge.

    Raises:
        ConfigError: If the request names a model, version or role that does not exist.
        NothingToJudge: If no version challenges the holder of the alias.
    """
    judged = judge_request(project, request, on_version=on_version, tell=tell)
    return judged.decision if request.dry_run else carry_out(project, judged, tell=tell)


def carry_out(project: Project, judged: Judged, *, tell: Tell = silent) -> Decision:
    """Record a decision in the ledger and, if it is positive, move the aliases.

    Returns:
        The decision; `refused` if another process changed the alias in the meantime.
    """
    decision = judged.decision
    with open_ledger(project) as (client, ledger):
        tell("promote", "writing the verdict")
        accepted = decision.verdict == "promoted"
        version = _in_registry(client, judged) if accepted else judged.version
        entry = ledger.open(
            decision.verdict,
            model=judged.target,
            alias=decision.alias,
            before=decision.champion,
            after=version.uri(),
            by=decision.who,
            reason=decision.reason,
            gates=_counts(decision),
            more={MEMBER: judged.version.uri()},
        )
        if accepted:
            try:
                _move(client, judged, version.number)
            except Changed as changed:
                decision = _refused_because_changed(decision, changed)
                note = decision.failures[-1].reason
                ledger.close(entry, action="refused", reason=note, gates=_counts(decision))
        _log_decision(client, ledger, entry, decision, version)
        if decision.verdict == judged.decision.verdict:
            ledger.close(entry)
    return decision


def _counts(decision: Decision) -> str:
    failed = ", ".join(gate.name for gate in decision.failures)
    return decision.counts + (f"; failed: {failed}" if failed else "")


def _move(client: MlflowClient, judged: Judged, number: str) -> None:
    alias = judged.decision.alias
    changes: dict[str, str | None] = {}
    if judged.champion is not None:
        changes[previous(alias)] = judged.champion
    changes[alias] = number
    challenger = holder(client, judged.target, CHALLENGER)
    if challenger is not None and challenger.number == number and alias == CHAMPION:
        changes[CHALLENGER] = None
    swap(client, judged.target, alias, judged.champion, changes)


def _refused_because_changed(decision: Decision, changed: Changed) -> Decision:
    current = f"version {changed.number}" if changed.number else "no version"
    unchanged = gate(
        "unchanged",
        "The alias still names the version that the challenger was compared with",
        passed=False,
        threshold=decision.champion or "none",
        champion=changed.number or "none",
        note=f"{decision.model}@{decision.alias} has changed to {current}: judge again",
    )
    return decision.model_copy(update={"verdict": "refused", "gates": [*decision.gates, unchanged]})


def _in_registry(client: MlflowClient, judged: Judged) -> Version:
    """Return the version that receives the alias; for a role, register it for the role first."""
    member, role = judged.version, judged.target
    if member.name == role:
        return member
    from chapterflow.tracking.versions import register

    for registered in client.search_model_versions(f"name = '{role}'"):
        if registered.source == member.source:
            return find_version(client, f"{role}/{registered.version}")
    tags = client.get_model_version(member.name, member.number)
    number = register(
        member.source,
        role,
        tags={**tags.tags, MODEL: member.model, MEMBER: member.uri()},
        description=f"{member.uri()}. {tags.description or ''}".strip(),
        about=f"The best model of the role **{role}**, of any architecture. Each version is a "
        "version of a chapter model, promoted over the previous champion.",
        about_tags={runs.ROLE: role},
    )
    return find_version(client, f"{role}/{number}")


def _log_decision(
    client: MlflowClient,
    ledger: Ledger,
    entry: str,
    decision: Decision,
    version: Version,
) -> None:
    """Log a decision and its page in the ledger and in the model's run, and tag the version."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / PAGE
        page.write_text(render_page(decision), encoding="utf-8")
        ledger.attach(entry, decision, page)
        run_id = decision.challenger_run
        client.log_text(run_id, decision.to_json(), PROMOTION)
        client.log_artifact(run_id, str(page), FOLDER)
    if version.name == decision.model:  # A model refused for a role has no version under the role.
        tags = {VERDICT: decision.verdict, VERDICT_RUN: entry, GATES: _counts(decision)}
        for key, value in tags.items():
            client.set_model_version_tag(version.name, version.number, key, value)
        if decision.verdict == "promoted":
            clear_withdrawn(client, version)
