"""`chapterflow promote`, `rollback` and `history`: who may be champion, and who was."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chapterflow.cli.common import (
    AllowDirtyOption,
    JsonOption,
    ProfileOption,
    SetOption,
    WithoutChampionOption,
    print_json,
    say,
    say_version,
    start,
)
from chapterflow.errors import PromotionRefused

if TYPE_CHECKING:
    from chapterflow.registry.decision import Decision
    from chapterflow.registry.ledger import Entry

ReasonOption = Annotated[str, typer.Option("--reason", help="Reason, for the ledger.")]


def print_decision(console: Console, decision: Decision) -> None:
    """Print every gate, and the decision."""
    from chapterflow.checks import print_checks

    if decision.selection:
        console.print(Text(f"{decision.selection}."), soft_wrap=True)
    print_checks(
        console, decision.gates, {**decision.columns, "reason": "note"}, title=decision.title
    )
    style = "green" if decision.verdict == "promoted" else "red"
    console.print(Text(decision.summary, style=style), soft_wrap=True)


def print_history(console: Console, model: str, past: Sequence[Entry]) -> None:
    """Print the ledger of a model, oldest first."""
    if not past:
        console.print(
            f"{model} has not been judged yet. `chapterflow promote {model}` judges it.",
            soft_wrap=True,
        )
        return
    from chapterflow.checks import WIDE

    table = Table(title=f"History of {model}")
    wide = console.width >= WIDE
    table.add_column("when (UTC)", width=len("2026-11-27 11:02" if wide else "2026-11-27"))
    table.add_column("who")
    table.add_column("what", min_width=len("promoted"), max_width=None if wide else 12)
    table.add_column("alias: from, to", max_width=None if wide else 15)
    for heading in ("gates", "reason") if wide else ("gates, reason",):
        table.add_column(heading, overflow="fold")
    styles = {"promoted": "green", "refused": "red", "rolled back": "yellow"}
    for entry in past:
        action = entry.action if entry.done else f"{entry.action}: not carried out"
        notes = [entry.gates or "-", entry.reason or "-"]
        if not wide:
            notes = ["\n".join(filter(None, (entry.gates, entry.reason))) or "-"]
        table.add_row(
            entry.when[:16].replace("T", " "),
            Text(entry.who.partition(" <")[0]),
            Text(action, style=styles[entry.action]),
            Text(f"{entry.alias}: {entry.before or '-'}, {entry.after}"),
            *map(Text, notes),
        )
    console.print(table)


def promote(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME[/VERSION|@ALIAS]",
            help="Registered model: its challenger is judged, or the given version. Or a role: its "
            "best model is judged.",
        ),
    ],
    to: Annotated[
        str, typer.Option(metavar="ALIAS", help="Alias that the version gets.")
    ] = "champion",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge only; change nothing.")] = False,
    allow_dirty: AllowDirtyOption = False,
    without_champion: WithoutChampionOption = False,
    reinstate: Annotated[
        bool, typer.Option("--reinstate", help="Accept a version that was rolled back.")
    ] = False,
    reason: ReasonOption = "",
    profile: ProfileOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a challenger the champion, if it passes every gate.

    Challenger and champion are scored now, on the same test data. The exit code is 4 if the
    promotion is refused.
    """
    project, _ = start(profile, set_)
    from chapterflow.loop import progress as live
    from chapterflow.registry.judge import NothingToJudge, Request
    from chapterflow.registry.promote import promote as promote_version

    request = Request(
        model=model,
        alias=to,
        reason=reason,
        allow_dirty=allow_dirty,
        reinstate=reinstate,
        without_champion=without_champion,
        dry_run=dry_run,
        overrides=tuple(set_ or ()),
        profile=profile,
    )
    console = live.console(stderr=as_json)
    try:
        with live.shown(console, [model]):
            decision = promote_version(
                project,
                request,
                on_version=say_version,
                on_note=say,
                tell=live.tell_about(model),
            )
    except NothingToJudge as nothing:
        if as_json:
            print_json({"model": model, "verdict": "nothing to judge", "reason": str(nothing)})
        else:
            say(str(nothing))
        return
    if as_json:
        print_json(decision.model_dump())
    else:
        print_decision(console, decision)
    if decision.verdict == "refused":
        sys.exit(PromotionRefused.exit_code)


def rollback(
    model: Annotated[str, typer.Argument(metavar="NAME", help="Registered model.")],
    to: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="An earlier champion; by default the previous one."),
    ] = None,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Make an earlier champion the champion again.

    The ledger records the reason. The version that was champion is withdrawn: only `promote
    --reinstate` promotes it again.
    """
    project, _ = start(models=False)
    from chapterflow.loop.progress import console
    from chapterflow.registry.rollback import roll_back

    done = roll_back(project, model, to=to, reason=reason, on_note=say)
    if as_json:
        print_json(
            {
                "model": done.model,
                "from": done.before,
                "to": done.after,
                "reason": done.reason,
                "entry": done.entry,
            }
        )
        return
    console().print(
        Text(f"{done.after} is {done.model}@champion again, instead of {done.before}."),
        soft_wrap=True,
    )


def history(
    model: Annotated[str, typer.Argument(metavar="NAME", help="Registered model.")],
    as_json: JsonOption = False,
) -> None:
    """Show who promoted, refused or rolled back what, when and why."""
    project, _ = start(models=False)
    from chapterflow.loop.progress import console
    from chapterflow.registry.ledger import history as entries

    past = entries(project, model, on_note=say)
    if as_json:
        print_json([entry.model_dump() for entry in past])
    else:
        print_history(console(), model, past)
