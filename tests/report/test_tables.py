"""Tables: every model has its row, every error is told once."""

import io
from typing import Any

import pytest
from rich.console import Console

from chapterflow.evaluation.compare import Difference
from chapterflow.records import Outcome
from chapterflow.report.tables import (
    COLUMNS,
    DIFFERENCE_HEADINGS,
    HEADINGS,
    difference_row,
    markdown,
    print_differences,
    print_results,
    results_markdown,
    results_row,
)

METRICS = {
    "test/accuracy": 0.98765,
    "test/accuracy_low": 0.9712,
    "test/accuracy_high": 0.9951,
    "test/log_loss": 0.04567,
    "train/seconds": 12.345,
    "cost/parameters": 421642.0,
    "cost/latency_ms_median": 0.512,
    "another/metric": 1.0,
}


def outcome(model: str, status: Any = "trained", **fields: Any) -> Outcome:
    if status == "failed":
        return Outcome(model=model, dataset="digits", status=status, exit_code=3, **fields)
    return Outcome(
        model=model,
        dataset="digits",
        status=status,
        run_id="0123456789abcdef",
        metrics=METRICS,
        **fields,
    )


def difference(**fields: Any) -> Difference:
    values: dict[str, Any] = {
        "a": "dnn",
        "b": "cnn",
        "dataset": "digits",
        "examples": 1449,
        "only_a": 3,
        "only_b": 12,
        "accuracy_difference": 0.0062,
        "low": 0.001,
        "high": 0.0114,
        "p_value": 0.0352,
        "p_adjusted": 0.10547,
        "training_time_ratio": 2.5,
        "verdict": "no difference shown",
    }
    return Difference(**(values | fields))


@pytest.fixture
def console() -> Console:
    return Console(record=True, file=io.StringIO(), width=160)


def test_a_row_of_results() -> None:
    assert dict(zip(HEADINGS, results_row(outcome("cnn")), strict=True)) == {
        "model": "cnn",
        "dataset": "digits",
        "status": "trained",
        "accuracy": "0.9877",
        "95 % interval": "0.971-0.995",
        "log-loss": "0.046",
        "train s": "12.3",
        "params": "421,642",
        "ms/image": "0.51",
        "run": "01234567",
    }


def test_a_failed_model_has_a_row_without_figures() -> None:
    row = results_row(outcome("cnn", "failed", error="No luck."))
    assert row == ["cnn", "digits", "failed", *[""] * len(COLUMNS), ""]
    row = results_row(outcome("cnn", "failed", error="No luck.", run_id="abcdefgh1234"))
    assert row[-1] == "abcdefgh"


@pytest.mark.parametrize(
    ("verdict", "shown"),
    [
        ("a better", "dnn is better"),
        ("b better", "cnn is better"),
        ("no difference shown", "no difference shown"),
    ],
)
def test_a_row_of_differences_names_the_better_model(verdict: str, shown: str) -> None:
    row = difference_row(difference(verdict=verdict))
    assert dict(zip(DIFFERENCE_HEADINGS, row, strict=True)) == {
        "A": "dnn",
        "B": "cnn",
        "accuracy B-A": "+0.0062",
        "95 % interval": "+0.001 to +0.011",
        "only A / B right": "3 / 12",
        "McNemar p (Holm)": "0.0352 (0.105)",
        "time B/A": "2.50",
        "verdict": shown,
    }
    assert difference_row(difference(accuracy_difference=-0.01))[2] == "-0.0100"


def test_a_markdown_table() -> None:
    assert markdown(["a", "b"], [["1", "2"], ["3", ""]]) == (
        "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 |  |\n"
    )
    assert markdown(["a"], []) == "| a |\n| --- |\n"


def test_results_in_markdown_with_the_errors_below() -> None:
    outcomes = [
        outcome("cnn"),
        outcome("dnn", "reused"),
        outcome("lenet5", "failed", error="one line\nand another"),
    ]
    text = results_markdown(outcomes)
    table, _, errors = text.partition("\n\n")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert rows[0] == HEADINGS
    assert [row[0] for row in rows[2:]] == ["cnn", "dnn", "lenet5"]
    assert [row[2] for row in rows[2:]] == ["trained", "reused", "failed"]
    assert {len(row) for row in rows} == {len(HEADINGS)}
    assert errors == "**lenet5** failed:\n\n````\none line\nand another\n````\n"
    assert results_markdown(outcomes[:2]) == text.partition("| lenet5")[0]


def test_results_on_the_terminal(console: Console) -> None:
    print_results(console, [outcome("cnn"), outcome("dnn", "failed", error="No [luck].")])
    text = console.export_text()
    lines = text.splitlines()
    assert "Results on the test split" in lines[0]
    (row,) = [line for line in lines if "│ cnn" in line]
    for cell in results_row(outcome("cnn")):
        assert cell in row
    assert sum("│ dnn" in line for line in lines) == 1
    # Told as it is, not read as markup.
    assert lines[-1] == "dnn failed: No [luck]."


def test_an_error_that_models_share_is_told_once(console: Console) -> None:
    print_results(
        console,
        [
            outcome("dnn", "failed", error="The data are bad."),
            outcome("cnn"),
            outcome("lenet5", "failed", error="No memory."),
            outcome("vgg", "failed", error="The data are bad."),
        ],
    )
    told = [line for line in console.export_text().splitlines() if "failed: " in line]
    assert told == ["dnn, vgg failed: The data are bad.", "lenet5 failed: No memory."]


def test_a_long_error_is_not_broken_into_lines(console: Console) -> None:
    error = "word " * 100 + "end"
    print_results(console, [outcome("dnn", "failed", error=error)])
    assert f"dnn failed: {error}" in console.export_text()


def test_nothing_failed_and_nothing_told(console: Console) -> None:
    print_results(console, [outcome("dnn"), outcome("cnn", "reused")])
    assert "failed" not in console.export_text()


def test_one_table_of_differences_for_each_dataset(console: Console) -> None:
    print_differences(
        console,
        [
            difference(),
            difference(a="x", b="y", dataset="mnist", examples=10_000, verdict="b better"),
            difference(a="cnn", b="lenet5"),
        ],
    )
    text = console.export_text()
    assert "1,449 test examples of digits" in text
    assert "10,000 test examples of mnist" in text
    digits, mnist = text.split("10,000 test examples of mnist")
    assert "│ cnn │ lenet5" in digits
    assert "y is better" in mnist
    assert "y is better" not in digits
    assert text.count("Is the difference real?") == 2


def test_no_differences_print_nothing(console: Console) -> None:
    print_differences(console, [])
    assert console.export_text() == ""


def test_a_narrow_terminal_gets_fewer_columns_and_whole_numbers() -> None:
    narrow = Console(record=True, file=io.StringIO(), width=60)
    print_results(narrow, [outcome("lenet5")])
    text = narrow.export_text()
    assert "…" not in text
    assert results_row(outcome("lenet5"))[HEADINGS.index("95 % interval")] in text
    assert "log-loss" not in text


def test_a_narrow_terminal_gets_the_verdict_whole() -> None:
    narrow = Console(record=True, file=io.StringIO(), width=72)
    print_differences(narrow, [difference(), difference(b="lenet5", verdict="b better")])
    text = narrow.export_text()
    assert "…" not in text
    assert "no difference shown" in text
    assert "lenet5 is better" in text
    assert "+0.001 to +0.011" in text


def test_piped_tables_are_whole(console: Console) -> None:
    piped = Console(record=True, file=io.StringIO(), width=124)
    print_differences(piped, [difference(a="lenet5", p_value=0.00342, p_adjusted=0.0103)])
    assert "│ no difference shown │" in piped.export_text()
