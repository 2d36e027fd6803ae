"""Roll back: give the alias `champion` to an earlier champion."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chapterflow.environment import Project
from chapterflow.errors import ConfigError, PromotionRefused, StoreError
from chapterflow.registry.aliases import Changed
from chapterflow.registry.gates import WITHDRAWN
from chapterflow.registry.ledger import Entry, open_ledger, who
from chapterflow.tracking.store import Note
from chapterflow.tracking.versions import (
    CHAMPION,
    PREVIOUS_CHAMPION,
    VERDICT,
    VERDICT_RUN,
    Version,
    challengers,
    check_registered,
    find_version,
    holder,
    model_file,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RolledBack:
    """The result of a rollback.

    Attributes:
        before: Version that lost the alias.
        after: Version that has the alias again.
        entry: Run in the ledger.
    """

    model: str
    before: str
    after: str
    reason: str
    entry: str


def roll_back(
    project: Project,
    model: str,
    *,
    to: str | None = None,
    reason: str = "",
    on_note: Note = _log.warning,
) -> RolledBack:
    """Make an earlier version champion again, and withdraw the current champion.

    A withdrawn version is not promoted again unless it is reinstated.

    Args:
        model: Registered model.
        to: Number of an earlier champion; by default the previous one.
        reason: Reason for the ledger.
        on_note: Receives a sentence for each open entry of the ledger that was settled first.

    Raises:
        ConfigError: If there is no champion or no previous one, or `to` was never champion.
        StoreError: If the files of the earlier champion are missing.
        PromotionRefused: If another process changed the champion in the meantime.
    """
    with open_ledger(project, on_note) as (client, ledger):
        check_registered(client, model)
        ledger.settle(model)
        champion = holder(client, model, CHAMPION)
        if champion is None:
            raise ConfigError(f"{model} has no champion to roll back.")
        entries = ledger.entries(model)
        target = _target(client, champion, entries, to)
        try:
            model_file(client, target)
        except StoreError as error:
            raise StoreError(f"{error}. Nothing was changed.") from None
        reason = reason or "no reason given"
        previous = _previous_champion(entries, target.uri())
        changes: dict[str, str | None] = {PREVIOUS_CHAMPION: previous, CHAMPION: target.number}
        waiting = challengers(client, model)
        changes |= {alias: None for alias, waits in waiting.items() if waits == target.number}
        # Rolling back to a version reinstates it, with the verdict of its promotion.
        tags: dict[str, dict[str, str | None]] = {
            champion.number: {WITHDRAWN: reason, VERDICT: "rolled back"},
            target.number: {WITHDRAWN: None, **_verdict_of(entries, target.uri())},
        }
        with ledger.entry(
            "rolled back",
            model=model,
            alias=CHAMPION,
            before=champion.uri(),
            after=target.uri(),
            by=who(project),
            reason=reason,
        ) as entry:
            note = ""
            try:
                ledger.move(
                    entry, model, CHAMPION, champion.number, changes, tags, marked=champion.number
                )
            except Changed as changed:
                note = f"{model}@champion has changed to version {changed.number}"
                ledger.refuse(entry, reason=note)
        if note:
            raise PromotionRefused(
                f"{note}; nothing was changed. Run `chapterflow history` and decide again."
            )
    return RolledBack(model, champion.uri(), target.uri(), reason, entry)


def _target(
    client: MlflowClient, champion: Version, entries: list[Entry], to: str | None
) -> Version:
    name = champion.name
    if to is None:
        target = holder(client, name, PREVIOUS_CHAMPION)
        if target is None:
            raise ConfigError(
                f"{name} has no champion before {champion.uri()}: there is nothing to roll back to."
            )
    else:
        number = to.removeprefix(f"{name}/")
        if not number.isdecimal():
            raise ConfigError(f"--to must be a version number of {name}. Received: {to!r}")
        target = find_version(client, f"{name}/{number}")
        champions = list(dict.fromkeys(entry.after for entry in entries if _made_champion(entry)))
        if target.uri() not in champions:
            raise ConfigError(
                f"--to must be an earlier champion. Received: {target.uri()}, which was never "
                f"promoted. Earlier champions: {', '.join(champions) or 'none'}. `chapterflow "
                f"promote {target.uri()}` judges it."
            )
    if target.number == champion.number:
        raise ConfigError(f"{champion.uri()} is already the champion.")
    return target


def _made_champion(entry: Entry) -> bool:
    return entry.done and entry.alias == CHAMPION and entry.action != "refused"


def _previous_champion(entries: list[Entry], uri: str) -> str | None:
    """Return the number of the champion before a version's last promotion; None for the first."""
    for entry in reversed(entries):
        if _made_champion(entry) and entry.action == "promoted" and entry.after == uri:
            return entry.before.rpartition("/")[2] if entry.before else None
    return None


def _verdict_of(entries: list[Entry], uri: str) -> dict[str, str | None]:
    """Return the tags of a version's last promotion."""
    for entry in reversed(entries):
        if _made_champion(entry) and entry.action == "promoted" and entry.after == uri:
            return {VERDICT: "promoted", VERDICT_RUN: entry.run_id}
    return {}
