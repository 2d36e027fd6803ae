"""A decision as a document, as a page and in a terminal."""

from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console

from chapterflow.cli.promote import print_decision
from chapterflow.registry.decision import Candidate, Decision, render_page
from chapterflow.registry.gates import gate

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def decision() -> Decision:
    return Decision(
        model="cnn",
        alias="champion",
        challenger="cnn/5",
        challenger_run="r5",
        champion="cnn/3",
        champion_run="r3",
        dataset="digits",
        profile="embedded",
        test_digest="t" * 64,
        when="2026-01-01T00:00:00+00:00",
        who="Ada",
        reason=HOSTILE,
        commit=None,
        dry_run=False,
        verdict="refused",
        gates=[
            gate("floor", "Accuracy, at least", passed=True, threshold=0.9, challenger=0.95),
            gate("code", "Trained at a commit", passed=False, note="with uncommitted changes"),
        ],
        candidates=[Candidate(version="cnn/5", alias="challenger", validation=0.97)],
    )


def test_the_document_keeps_its_keys_and_is_read_back(decision: Decision) -> None:
    document = json.loads(decision.to_json())
    assert document["gates"][1] == {
        "name": "code",
        "title": "Trained at a commit",
        "passed": False,
        "threshold": None,
        "champion": None,
        "challenger": None,
        "note": "with uncommitted changes",
    }
    assert Decision.model_validate_json(decision.to_json()) == decision


def test_the_page_has_failed_gates_first_and_runs_nothing(decision: Decision) -> None:
    page = render_page(decision)
    assert re.findall(r'<span class="name">([\w-]+)</span>', page) == ["code", "floor"]
    for text in ("✗ cnn/5 is refused as cnn@champion: code.", "with uncommitted changes", "0.95"):
        assert text in page
    assert "cnn/5 (challenger) is the best on the validation split: 0.9700" in page
    assert HOSTILE not in page
    assert HOSTILE.replace("<", "&lt;").replace(">", "&gt;") in page


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_shows_every_gate_and_why_one_failed(decision: Decision, width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    print_decision(console, decision)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for part in ("floor", "0.95", "FAILED", "with uncommitted changes", "is refused as"):
        assert part in text
    assert max(map(len, text.splitlines())) <= width
