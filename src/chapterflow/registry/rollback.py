"""Roll back: give `champion` to an earlier champion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from chapterflow.environment import Project
from chapterflow.errors import ConfigError, PromotionRefused, StoreError
from chapterflow.registry.aliases import Changed, swap
from chapterflow.registry.gates import WITHDRAWN
from chapterflow.registry.ledger import Entry, opened, who
from chapterflow.tracking.versions import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS_CHAMPION,
    VERDICT,
    VERDICT_RUN,
    Version,
    check_registered,
    find_version,
    holder,
    model_file,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class RolledBack:
    """What a rollback did.

    Attributes:
        before: Version that lost the alias.
        after: Version that has the alias again.
        entry: Run of the ledger.
    """

    model: str
    before: str
    after: str
    reason: str
    entry: str


def roll_back(
    project: Project, model: str, *, to: str | None = None, reason: str = ""
) -> RolledBack:
    """Give `champion` back to the version that had it before, and withdraw the one that has it.

    A withdrawn version is not promoted again unless it is reinstated.

    Args:
        model: Registered model.
        to: Number of an earlier champion; the one before by default.
        reason: Why, for the ledger.

    Raises:
        ConfigError: If there is no champion or none before it, or `to` was never champion.
        StoreError: If the files of the earlier champion are gone.
        PromotionRefused: If another process changed the champion in between.
    """
    with opened(project) as (client, ledger):
        check_registered(client, model)
        champion = holder(client, model, CHAMPION)
        if champion is None:
            raise ConfigError(f"{model} has no champion to roll back.")
        past = ledger.entries(model)
        target = _target(client, champion, past, to)
        try:
            model_file(client, target)
        except StoreError as error:
            raise StoreError(f"{error}. Nothing was changed.") from None
        reason = reason or "no reason was given"
        entry = ledger.open(
            "rolled back",
            model=model,
            alias=CHAMPION,
            before=champion.uri(),
            after=target.uri(),
            by=who(project),
            reason=reason,
        )
        before_that = _before(past, target.uri())
        changes = {PREVIOUS_CHAMPION: before_that, CHAMPION: target.number}
        challenger = holder(client, model, CHALLENGER)
        if challenger is not None and challenger.number == target.number:
            changes[CHALLENGER] = None
        # First, so that a promotion at the same time does not promote it again.
        client.set_model_version_tag(model, champion.number, WITHDRAWN, reason)
        try:
            swap(client, model, CHAMPION, champion.number, changes)
        except Changed as changed:
            let_back(client, champion)
            note = f"{model}@champion became version {changed.number} meanwhile"
            ledger.close(entry, action="refused", reason=note)
            raise PromotionRefused(
                f"{note}; nothing was changed. Run `chapterflow history` and decide again."
            ) from None
        let_back(client, target)  # Naming it is the decision that it may be champion.
        client.set_model_version_tag(model, champion.number, VERDICT, "rolled back")
        client.set_model_version_tag(model, champion.number, VERDICT_RUN, entry)
        ledger.close(entry)
    return RolledBack(model, champion.uri(), target.uri(), reason, entry)


def _target(client: MlflowClient, champion: Version, past: list[Entry], to: str | None) -> Version:
    name = champion.name
    if to is None:
        target = holder(client, name, PREVIOUS_CHAMPION)
        if target is None:
            raise ConfigError(
                f"{name} has no champion before {champion.uri()}: there is nothing to go back to."
            )
    else:
        number = to.removeprefix(f"{name}/")
        if not number.isdecimal():
            raise ConfigError(f"--to takes the number of a version of {name}. Received: {to!r}")
        target = find_version(client, f"{name}/{number}")
        once = [entry.after for entry in past if _made_champion(entry)]
        if target.uri() not in once:
            champions = ", ".join(dict.fromkeys(once)) or "none"
            raise ConfigError(
                f"--to must be an earlier champion: no gate ever passed {target.uri()}. "
                f"Earlier champions: {champions}. `chapterflow promote {target.uri()}` judges it."
            )
    if target.number == champion.number:
        raise ConfigError(f"{champion.uri()} is the champion already.")
    return target


def _made_champion(entry: Entry) -> bool:
    return entry.done and entry.alias == CHAMPION and entry.action != "refused"


def _before(past: list[Entry], uri: str) -> str | None:
    """Return the number of the champion before a version's last promotion; None for the first."""
    for entry in reversed(past):
        if _made_champion(entry) and entry.action == "promoted" and entry.after == uri:
            return entry.before.rpartition("/")[2] if entry.before else None
    return None


def let_back(client: MlflowClient, version: Version) -> None:
    """Remove the mark that a version was rolled back."""
    if WITHDRAWN in client.get_model_version(version.name, version.number).tags:
        client.delete_model_version_tag(version.name, version.number, WITHDRAWN)
