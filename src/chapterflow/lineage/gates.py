"""The last link: who judged a version by which gates, and with what verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from chapterflow.errors import StoreError
from chapterflow.lineage.artifacts import read_json
from chapterflow.lineage.tree import Link, State
from chapterflow.tracking.registry import (
    CHAMPION,
    VERDICT,
    VERDICT_FILE,
    VERDICT_RUN,
    Version,
    holder,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient


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
