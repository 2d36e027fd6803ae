"""Checks under the keys of a document, and as a table."""

from __future__ import annotations

import io
from typing import Annotated, Any

import pytest
from pydantic import BeforeValidator, PlainSerializer, ValidationError
from rich.console import Console

from chapterflow.checks import Check, Keys, markdown, print_checks, text
from chapterflow.types import Strict

KEYS = Keys(
    {"id": "name", "good": "state", "limit": "expected", "unit": "unit", "parts": "checks"},
    {"passed": True, "failed": False},
)
DOCUMENT: dict[str, Any] = {"id": "size", "good": False, "limit": 2.0, "unit": "MB", "parts": []}
CHECK = Check(name="size", state="failed", expected=2.0, details={"unit": "MB"})


class Record(Strict):
    checks: list[Annotated[Check, BeforeValidator(KEYS.read), PlainSerializer(KEYS.write)]]


def test_a_document_has_its_own_keys_and_is_read_back() -> None:
    record = Record(checks=[CHECK])
    assert record.model_dump() == {"checks": [DOCUMENT]}
    assert Record.model_validate(record.model_dump()) == record
    assert KEYS.write(Check(name="all", state="passed", checks=[CHECK]))["parts"] == [DOCUMENT]


@pytest.mark.parametrize(
    "changed",
    [{"good": "yes"}, {"good": 1}, {"good": None}, {"limit": []}, {"id": None}, {"surplus": 1}],
)
def test_what_is_no_such_document_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Record.model_validate({"checks": [DOCUMENT | changed]})
    for key in DOCUMENT:
        with pytest.raises(ValidationError, match=key):
            Record.model_validate({"checks": [{k: v for k, v in DOCUMENT.items() if k != key}]})


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1e7, "10,000,000"),
        (12345, "12,345"),
        (-2.0, "-2"),
        (0.0391234, "0.03912"),
        (12345.6, "12,346"),
        (1e300, "1e+300"),
        (float("nan"), "nan"),
        (True, "True"),
        (None, "-"),
        ("cnn/3", "cnn/3"),
    ],
)
def test_a_whole_number_has_all_its_digits(value: Any, shown: str) -> None:
    assert text(value) == shown


def test_reasons_follow_a_narrow_table() -> None:
    checks = [
        Check(name="a", state="passed", observed=0.25, reason="as it should be"),
        Check(name="b", state="warning", checks=[Check(name="c", state="failed", reason="why")]),
        Check(name="d", state="unknown", reason="why"),
    ]
    columns = {"name": "check", "observed": "value", "reason": "reason"}
    texts = {}
    for width in (80, 120):
        console = Console(file=io.StringIO(), width=width)
        print_checks(console, checks, columns, title="Checks")
        assert isinstance(console.file, io.StringIO)
        texts[width] = console.file.getvalue()
    assert texts[80].splitlines()[-1] == "c, d: why"
    assert texts[80].splitlines()[2].split()[1] == "state"
    assert "as it should be" not in texts[80]
    assert "as it should be" in texts[120]
    assert all("  c" in text and "0.25" in text for text in texts.values())
    assert markdown(checks, {"name": "check", "observed": "value"}).splitlines()[2:] == [
        "| a | 0.25 |",
        "| b | - |",
        "| d | - |",
    ]
