"""A reproduction compares the facts of a run with today's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chapterflow.environment import THREADS, Project, machine
from chapterflow.lineage.reproduce import facts
from chapterflow.tracking import runs

NOTHING: dict[str, Any] = {"libraries": {}, "sources": {}}
MACHINE, _, THREADS_TODAY = machine().partition(THREADS)


@pytest.mark.parametrize(
    ("recorded", "states"),
    [
        (f"{MACHINE}{THREADS}{THREADS_TODAY}", ("passed", "passed")),
        (f"{MACHINE}{THREADS}64 intra-op, 64 inter-op, 64 usable cores", ("passed", "warning")),
        # Older runs recorded no threads.
        (MACHINE, ("passed", "unknown")),
        ("Abacus, 1 cores, Linux x86_64", ("warning", "unknown")),
        (None, ("unknown", "unknown")),
    ],
)
def test_machine_and_threads_are_two_facts(
    tmp_path: Path, recorded: str | None, states: tuple[str, str]
) -> None:
    tags = {} if recorded is None else {runs.MACHINE: recorded}
    compared = {fact.name: fact for fact in facts(Project(tmp_path), tags, NOTHING)}
    assert (compared["machine"].state, compared["threads"].state) == states
    assert compared["threads"].observed == THREADS_TODAY
    assert all(compared[name].details["decides"] for name in ("machine", "threads"))
