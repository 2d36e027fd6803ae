"""Tables: every model has its row, every error is told once."""

import io
import re
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from chapterflow.evaluation.significance import Difference
from chapterflow.kinds.dataset import CLASSIFICATION, REGRESSION
from chapterflow.language import Language, speaking
from chapterflow.loop.tables import (
    DIFFERENCE_HEADINGS,
    beside_table,
    difference_row,
    folds_table,
    markdown,
    print_differences,
    print_results,
    print_seeds,
    results_markdown,
    results_table,
)
from chapterflow.tracking.records import Outcome

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


@pytest.mark.parametrize("width", [60, 160])
def test_balanced_accuracy_is_next_to_an_accuracy_that_hides_a_class(
    width: int, console: Console
) -> None:
    def scored(balanced: float) -> Outcome:
        metrics = METRICS | {"test/balanced_accuracy": balanced}
        return outcome("cnn").model_copy(update={"metrics": metrics})

    console.width = width
    print_results(console, [scored(0.9851)])
    assert "balanced" not in console.export_text()
    print_results(console, [scored(0.9851), scored(0.6123), outcome("old")])
    text = console.export_text()
    assert "balanced" in text
    assert "0.6123" in text


def test_a_row_of_results() -> None:
    headings, (row,) = results_table([outcome("cnn")], CLASSIFICATION)
    assert dict(zip(headings, row, strict=True)) == {
        "model": "cnn",
        "dataset": "digits",
        "status": "trained",
        "accuracy": "0.9877",
        "95 % interval": "0.971-0.995",
        "log-loss": "0.046",
        "train s": "12.3",
        "params": "421,642",
        "ms/example": "0.51",
        "run": "01234567",
    }


def test_a_failed_model_has_a_row_without_figures() -> None:
    failed = outcome("cnn", "failed", error="No luck.")
    headings, (row,) = results_table([failed], CLASSIFICATION)
    assert row == ["cnn", "digits", "failed", *[""] * (len(headings) - 3)]
    failed = outcome("cnn", "failed", error="No luck.", run_id="abcdefgh1234")
    _, (row,) = results_table([failed], CLASSIFICATION)
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
    headings, _ = results_table(outcomes, CLASSIFICATION)
    assert rows[0] == headings
    assert [row[0] for row in rows[2:]] == ["cnn", "dnn", "lenet5"]
    assert [row[2] for row in rows[2:]] == ["trained", "reused", "failed"]
    assert {len(row) for row in rows} == {len(headings)}
    assert errors == "**lenet5** failed:\n\n````\none line\nand another\n````\n"
    assert results_markdown(outcomes[:2]) == text.partition("| lenet5")[0]


def test_results_on_the_terminal(console: Console) -> None:
    print_results(console, [outcome("cnn"), outcome("dnn", "failed", error="No [luck].")])
    text = console.export_text()
    lines = text.splitlines()
    assert "Results on the test split" in lines[0]
    (row,) = [line for line in lines if "│ cnn" in line]
    _, (cells,) = results_table([outcome("cnn")], CLASSIFICATION)
    for cell in cells:
        assert cell in row
    assert sum("│ dnn" in line for line in lines) == 1
    # Told as it is, not read as markup.
    assert lines[-1] == "dnn failed: No [luck]."


def test_an_error_that_models_share_is_reported_once(console: Console) -> None:
    print_results(
        console,
        [
            outcome("dnn", "failed", error="The data are bad."),
            outcome("cnn"),
            outcome("lenet5", "failed", error="No memory."),
            outcome("vgg", "failed", error="The data are bad."),
        ],
    )
    result = [line for line in console.export_text().splitlines() if "failed: " in line]
    assert result == ["dnn, vgg failed: The data are bad.", "lenet5 failed: No memory."]


def test_a_long_error_is_not_broken_into_lines(console: Console) -> None:
    error = "word " * 100 + "end"
    print_results(console, [outcome("dnn", "failed", error=error)])
    assert f"dnn failed: {error}" in console.export_text()


def test_no_errors_without_failures(console: Console) -> None:
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


def test_some_of_the_pairs_say_what_their_p_is_adjusted_for(console: Console) -> None:
    pairs = [difference(), difference(a="cnn", b="vgg"), difference(a="x", b="y", dataset="mnist")]
    print_differences(console, pairs)
    assert "adjusted" not in console.export_text()
    print_differences(console, [pairs[0], pairs[2]], among=pairs)
    digits, mnist = console.export_text().split("test examples of mnist")
    assert "adjusted (Holm) for all 2 pairs of models that ran on digits" in digits
    assert "adjusted" not in mnist


def test_no_differences_print_nothing(console: Console) -> None:
    print_differences(console, [])
    assert console.export_text() == ""


def test_a_narrow_terminal_gets_fewer_columns_and_whole_numbers() -> None:
    narrow = Console(record=True, file=io.StringIO(), width=60)
    print_results(narrow, [outcome("lenet5")])
    text = narrow.export_text()
    assert "…" not in text
    assert "0.971-0.995" in text
    assert "log-loss" not in text


def test_curves_have_a_table_of_their_own(console: Console) -> None:
    curve = Outcome(
        model="conv1d",
        dataset="curves",
        status="trained",
        run_id="fedcba98",
        metrics={
            "test/rmse": 0.04321,
            "test/rmse_low": 0.04,
            "test/rmse_high": 0.05,
            "baseline/savitzky_golay/rmse": 0.1,
            "baseline/moving_average/rmse": 0.2,
            "train/seconds": 9.0,
            "cost/parameters": 5000.0,
            "cost/latency_ms_median": 1.0,
        },
    )
    headings, (row,) = results_table([outcome("cnn"), curve], REGRESSION)
    assert dict(zip(headings, row, strict=True)) == {
        "model": "conv1d",
        "dataset": "curves",
        "status": "trained",
        "RMSE": "0.0432",
        "95 % interval": "0.0400-0.0500",
        "SG filter": "0.1000",
        "mean filter": "0.2000",
        "train s": "9.0",
        "params": "5,000",
        "ms/example": "1.00",
        "run": "fedcba98",
    }
    print_results(console, [outcome("cnn"), curve])
    text = console.export_text()
    assert text.index("│ cnn") < text.index("│ conv1d")
    assert text.count("┏") == 2
    assert results_markdown([outcome("cnn"), curve]).count("\n| --- ") == 2


def test_folds_have_a_table_with_both_protocols(console: Console) -> None:
    folds = {
        "cv/inner/accuracy_mean": 0.7761,
        "cv/inner/accuracy_std": 0.0782,
        "cv/gin/accuracy_mean": 0.829,
        "cv/gin/accuracy_std": 0.09,
        "cv/majority/accuracy_mean": 0.665,
        "cost/flops": 4e6,
        "beside/blind/accuracy": 0.7,
        "beside/blind/train_seconds": 1.0,
        "beside/blind/parameters": 10.0,
        "beside/blind/flops": 1e6,
        "beside/blind/cv_inner_accuracy_mean": 0.71,
        "beside/blind/cv_inner_accuracy_std": 0.05,
        "beside/blind/cv_gin_accuracy_mean": 0.72,
        "beside/blind/cv_gin_accuracy_std": 0.06,
        "beside/blind/cv_majority_accuracy_mean": 0.665,
    }
    model = outcome("gcn")
    model = model.model_copy(update={"metrics": model.metrics | folds})
    assert folds_table([outcome("cnn"), model]) == [
        ["gcn", "", "0.776 +- 0.078", "0.829 +- 0.090", "0.665"],
        ["gcn", "blind", "0.710 +- 0.050", "0.720 +- 0.060", "0.665"],
    ]
    print_results(console, [model])
    assert "Cross-validation" in console.export_text()
    assert "| gcn | blind | 0.710 +- 0.050 |" in results_markdown([model])
    # The mean over all graphs comes before the score on a small test split.
    assert model.summary() == "accuracy 0.7761 +- 0.0782 over the folds"
    headings, (row,) = results_table([model], CLASSIFICATION)
    cells = dict(zip(headings, row, strict=True))
    assert (cells["accuracy"], cells["95 % interval"]) == ("0.7761", "+- 0.078 (folds)")
    assert "no better" not in results_markdown([model])
    equal = {"beside/blind/cv_inner_accuracy_mean": 0.78}
    model = model.model_copy(update={"metrics": model.metrics | equal})
    note = "gcn (0.776 over the folds) is no better than its variant blind (0.780)."
    assert note in results_markdown([model])
    print_results(console, [model])
    assert note in console.export_text()


def test_variants_are_listed_with_their_model(console: Console) -> None:
    beside = {
        "cost/flops": 4e6,
        "beside/from_scratch/accuracy": 0.9,
        "beside/from_scratch/train_seconds": 3.21,
        "beside/from_scratch/parameters": 421642.0,
        "beside/from_scratch/flops": 4e6,
        "beside/wide/parameters": 1e6,
        "beside/wide/flops": 16e6,
    }
    model = outcome("cnn")
    model = model.model_copy(update={"metrics": model.metrics | beside})
    assert beside_table([model]) == [
        ["cnn", "from scratch", "0.9000 / 0.9877", "3.2", "421,642 / 421,642", "4.00 / 4.00"],
        ["cnn", "wide", "not trained", "", "1,000,000 / 421,642", "16.00 / 4.00"],
    ]
    print_results(console, [model])
    assert "Beside the models" in console.export_text()
    assert "| cnn | wide | not trained |" in results_markdown([model])


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (140, ["accuracy B-A", "only A / B right", "McNemar p (Holm)", "time B/A", "verdict"]),
        (120, ["accuracy B-A", "95 % interval", "McNemar p (Holm)", "verdict"]),
        (80, ["B-A", "95 % interval", "p (Holm)", "better"]),
    ],
)
def test_difference_interval_p_and_verdict_fit(width: int, columns: list[str]) -> None:
    narrow = Console(record=True, file=io.StringIO(), width=width)
    pair = difference(a="googlenet", b="gcn-node2", p_value=0.00342, p_adjusted=0.000977)
    print_differences(narrow, [pair, difference(b="googlenet", verdict="b better")])
    text = narrow.export_text()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    rows = [line for line in text.splitlines() if "┃" in line or "│" in line]
    assert len(rows) == 3  # nothing wraps
    assert all(f" {name} " in rows[0] for name in columns)
    assert ("time B/A" in rows[0]) == (width == 140)
    assert "+0.001 to +0.011" in rows[1]
    assert ("none shown" if width == 80 else "no difference shown") in rows[1]
    assert rows[2].rstrip("│ ").endswith("googlenet" if width == 80 else "googlenet is better")


def test_results_lose_times_first() -> None:
    for width, lost in ((120, []), (105, ["ms/example"]), (80, ["ms/example", "train s"])):
        narrow = Console(record=True, file=io.StringIO(), width=width)
        print_results(narrow, [outcome("googlenet")])
        text = narrow.export_text()
        assert max(map(len, text.splitlines())) <= width
        assert [name for name in ("ms/example", "train s") if name not in text] == lost
        assert "95 % interval" in text


def test_piped_tables_are_whole(console: Console) -> None:
    piped = Console(record=True, file=io.StringIO(), width=124)
    print_differences(piped, [difference(a="lenet5", p_value=0.00342, p_adjusted=0.0103)])
    assert "│ no difference shown │" in piped.export_text()


@pytest.mark.parametrize("width", [80, 120])
def test_korean_tables_align_and_keep_the_verdict(width: int) -> None:
    console = Console(record=True, file=io.StringIO(), width=width)
    names = ["test/rmse", "test/rmse_low", "test/rmse_high"]
    names += ["baseline/savitzky_golay/rmse", "baseline/moving_average/rmse"]
    curves = {k: v for k, v in METRICS.items() if "accuracy" not in k} | dict.fromkeys(names, 0.05)
    outcomes = [
        outcome("cnn"),
        outcome("gcn", "reused"),
        outcome("dnn", "failed", error="No luck."),
        Outcome(model="conv1d", dataset="curves", status="trained", run_id="01234", metrics=curves),
    ]
    with speaking(Language.ko):
        print_results(console, outcomes)
        print_differences(console, [difference(), difference(verdict="b better")])
    text = console.export_text()
    wide = ("확인된 차이 없음", "cnn 우세") if width == 120 else ("확인 안 됨", "나은 쪽")
    for word in ("모델", "정확도", "95 % 신뢰 구간", *wide):
        assert word in text
    boxes = re.findall(r"(?:^[┏┃┡│└├].*\n)+", text, re.MULTILINE)
    assert len(boxes) == 3
    for box in boxes:
        assert len({cell_len(line) for line in box.splitlines()}) == 1, box
        assert cell_len(box.splitlines()[0]) <= width
    words = set(re.findall("[A-Za-z][a-z]+", text))
    names = {"cnn", "gcn", "dnn", "conv", "digits", "graphs", "curves", "failed", "No", "luck"}
    assert words - names <= {"Savitzky", "Golay", "ms"}


def test_seeds_and_their_comparison_fit_80_columns() -> None:
    document = {
        "dataset": "cats-and-dogs",
        "score": "accuracy",
        "seeds": list(range(10)),
        "values": [0.5] * 10,
        "mean": 0.98123,
        "std": 0.00456,
        "low": 0.97801,
        "high": 0.98452,
        "runs": dict.fromkeys(map(str, range(10)), "a" * 32),
        "errors": {},
    }
    nothing = dict.fromkeys(document) | {"runs": {}, "errors": {"6": "no memory"}}
    results = {
        "seeds": [
            document | {"model": "googlenet"},
            document | {"model": "transfer"},
            nothing | {"model": "dnn"},
        ],
        "seed_differences": [
            {
                "a": "googlenet",
                "b": "transfer",
                "difference": -0.0123,
                "low": -0.0200,
                "high": -0.0050,
                "p_adjusted": 0.00123,
                "verdict": "a better",
            }
        ],
    }
    out = io.StringIO()
    print_seeds(Console(file=out, width=80), results)
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    for cell in ("0.9812", "0.0046", "0.9780-0.9845", "-0.0200 to -0.0050", "0.00123"):
        assert cell in text
    assert text.count("googlenet") == 3
    assert "dnn, seed 6, failed: no memory" in text
