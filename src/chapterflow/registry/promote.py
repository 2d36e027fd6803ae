"""Promote a version: carry out the decision in registry and ledger."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from chapterflow.environment import Project
from chapterflow.registry.aliases import Changed
from chapterflow.registry.decision import Decision
from chapterflow.registry.gates import WITHDRAWN, gate
from chapterflow.registry.judge import Judged, Request, judge_request
from chapterflow.registry.ledger import PASSED_GATES, Ledger, open_ledger
from chapterflow.tracking import runs
from chapterflow.tracking.runs import MODEL
from chapterflow.tracking.store import Note
from chapterflow.tracking.versions import (
    CHAMPION,
    PREVIOUS_CHAMPION,
    VERDICT,
    OnVersion,
    Version,
    challengers,
    find_version,
    ignore,
)
from chapterflow.types import Tell, silent

if TYPE_CHECKING:
    from mlflow import MlflowClient

_log = logging.getLogger(__name__)
#: Tag of a role's version: the model's version that it was made from.
MEMBER = "chapterflow.member"


def previous(alias: str) -> str:
    """Return the alias for the previous holder of an alias."""
    return PREVIOUS_CHAMPION if alias == CHAMPION else f"previous-{alias}"


def promote(
    project: Project,
    request: Request,
    *,
    on_version: OnVersion = ignore,
    on_note: Note = _log.warning,
    tell: Tell = silent,
) -> Decision:
    """Judge a version and, if all gates pass, give it the alias.

    Args:
        on_version: Called with the version to judge.
        on_note: Receives a sentence for each open entry of the ledger that was settled first.

    Raises:
        ConfigError: If the request names a model, version or role that does not exist.
        NothingToJudge: If no version challenges the holder of the alias.
    """
    judged = judge_request(project, request, on_version=on_version, on_note=on_note, tell=tell)
    return judged.decision if request.dry_run else carry_out(project, judged, tell=tell)


def carry_out(project: Project, judged: Judged, *, tell: Tell = silent) -> Decision:
    """Record a decision in the ledger and, if it is positive, move the aliases.

    The entry with the verdict comes first, so that a killed process loses neither.

    Returns:
        The decision; `refused` if another process changed the alias in the meantime.
    """
    decision = judged.decision
    with open_ledger(project) as (client, ledger):
        tell("promote", "writing the verdict")
        accepted = decision.verdict == "promoted"
        version = _in_registry(client, judged) if accepted else judged.version
        with ledger.entry(
            decision.verdict,
            model=judged.target,
            alias=decision.alias,
            before=decision.champion,
            after=version.uri(),
            by=decision.who,
            reason=decision.reason,
            gates=_counts(decision),
            more={MEMBER: judged.version.uri()},
        ) as entry:
            ledger.attach(entry, decision)
            if accepted:
                try:
                    _move(client, ledger, entry, judged, version.number)
                except Changed as changed:
                    decision = _refused_because_changed(decision, changed)
                    note = decision.failures[-1].reason
                    ledger.attach(entry, decision)
                    ledger.refuse(entry, reason=note, gates=_counts(decision))
    return decision


def _counts(decision: Decision) -> str:
    failed = ", ".join(gate.name for gate in decision.failures)
    return decision.counts + (f"; failed: {failed}" if failed else "")


def _move(client: MlflowClient, ledger: Ledger, entry: str, judged: Judged, number: str) -> None:
    alias = judged.decision.alias
    changes: dict[str, str | None] = {}
    if judged.champion is not None:
        changes[previous(alias)] = judged.champion
    changes[alias] = number
    if alias == CHAMPION:
        waiting = challengers(client, judged.target)
        changes |= {other: None for other, waits in waiting.items() if waits == number}
    verdict = {VERDICT: "promoted", PASSED_GATES: _counts(judged.decision), WITHDRAWN: None}
    ledger.move(
        entry, judged.target, alias, judged.champion, changes, {number: verdict}, marked=number
    )


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
