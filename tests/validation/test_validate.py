"""Validating is repeatable, quiet, whole or not at all, and stops a run."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chapterflow.errors import DataError, ValidationFailed
from chapterflow.kinds.dataset import Dataset
from chapterflow.kinds.pixels import ImageExpectations
from chapterflow.validation import validate as run
from chapterflow.validation.validate import validate_dataset
from chapterflow.validation.verdict import Verdict, read_verdict
from tests.conftest import HUNG
from tests.digits import digits_card

SCRIPT = """
import os
import sys
from pathlib import Path
from chapterflow.validation.validate import validate_dataset
assert not {"great_expectations", "pandas", "jinja2"} & set(sys.modules), "imported too early"
from chapterflow.kinds.pixels import ImageExpectations
from chapterflow.kinds.dataset import open_dataset
bounds = ImageExpectations.model_validate_json(sys.argv[3])
validate_dataset(open_dataset(Path(sys.argv[1])), bounds, Path(sys.argv[2]))
assert os.environ["GX_ANALYTICS_ENABLED"] == "false"
"""


@pytest.mark.slow
def test_another_process_writes_the_same_bytes_quietly_and_nothing_else(
    passed: tuple[Verdict, Path], digits: Dataset, bounds: ImageExpectations, tmp_path: Path
) -> None:
    here, home, temporary, results = (
        tmp_path / name for name in ("here", "home", "tmp", "results")
    )
    for folder in (here, home, temporary):
        folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, digits.folder, results / "out", bounds.model_dump_json()],
        capture_output=True,
        cwd=here,
        # A small environment: nothing that silences the library comes from outside.
        env={
            "PYTHONHASHSEED": "7",
            "HOME": str(home),
            "TMPDIR": str(temporary),
            "TZ": "Asia/Tokyo",
        },
        timeout=HUNG,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    for name in ("verdict.json", "index.html"):
        assert (results / "out" / name).read_bytes() == (passed[1] / name).read_bytes()
    assert [path.name for path in results.iterdir()] == ["out"]
    assert [*here.iterdir(), *home.iterdir(), *temporary.iterdir()] == []


def test_results_replace_older_ones_as_a_whole(
    digits: Dataset, bounds: ImageExpectations, tmp_path: Path, passed: tuple[Verdict, Path]
) -> None:
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    (out / "stale.html").write_text("old")
    validate_dataset(digits, bounds, out)
    assert not (out / "stale.html").exists()
    assert (out / "verdict.json").read_bytes() == (passed[1] / "verdict.json").read_bytes()
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_failure_on_the_way_leaves_the_older_results(
    digits: Dataset, bounds: ImageExpectations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "verdict.json").write_text("old")

    def disk_full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(run, "write_offline_docs", disk_full)
    with pytest.raises(OSError, match="No space"):
        validate_dataset(digits, bounds, out)
    assert (out / "verdict.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_threads_may_validate_the_same_dataset(
    digits: Dataset, bounds: ImageExpectations, tmp_path: Path
) -> None:
    verdicts: list[Verdict] = []
    threads = [
        threading.Thread(
            target=lambda: verdicts.append(validate_dataset(digits, bounds, tmp_path / "out"))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [verdict.success for verdict in verdicts] == [True, True]
    assert read_verdict(tmp_path / "out") == verdicts[0]


def test_the_verdict_can_be_read_back(passed: tuple[Verdict, Path]) -> None:
    verdict, out = passed
    assert read_verdict(out / "verdict.json") == verdict
    assert read_verdict(out) == verdict


def test_a_success_stops_nothing(passed: tuple[Verdict, Path]) -> None:
    passed[0].raise_for_failure()


def test_a_failure_stops_the_run_and_names_what_is_wrong(failed: tuple[Verdict, Path]) -> None:
    verdict, _ = failed
    with pytest.raises(ValidationFailed) as caught:
        verdict.raise_for_failure()
    first, *lines, way_on = str(caught.value).splitlines()
    assert caught.value.exit_code == 3
    assert first == "digits: 5 of 21 expectations failed"
    assert [line.split()[0].rstrip(":") for line in lines] == [
        result.name for result in verdict.failures
    ]
    assert (
        "  label-set (label): expected 0 to 9. Received: unexpected in 7 of 1,797 examples "
        "(0.39%), such as 12. Labels number the 10 classes from 0: other labels are off by one, "
        "text parsed as a number, or classes without an output in the model. Examples: "
        "train/00000, train/00001, train/00002, train/00003, train/00004 and 2 more."
    ) in lines
    assert (
        "  value-use (max): expected at least 14.4. Received: 1. The setting value_use decides, "
        "0.9 for digits; 0.062 accepts it."
    ) in lines
    assert "`chapterflow data add digits ... --accept value_use=0.062" in way_on
    assert "`accept: {value_use: 0.062, " in way_on


def test_a_bound_of_the_dataset_accepts_it_and_is_named_wherever_the_verdict_is(
    digits: Dataset, bounds: ImageExpectations, tmp_path: Path, without_data_docs: None
) -> None:
    # Classes 0 and 1 only, one to three: 0.131 nats from equal shares.
    chosen = np.concatenate(
        [np.flatnonzero(digits.labels == 0)[:56], np.flatnonzero(digits.labels == 1)[:168]]
    )
    split = np.tile([0, 0, 1, 2], 56).astype(np.uint8)
    card = digits_card(split).model_copy(update={"classes": ["0", "1"]})
    arrays = {"images": digits.arrays["images"][chosen], "labels": digits.labels[chosen]}
    rare = replace(digits, card=card, arrays={**arrays, "split": split})
    verdict = validate_dataset(rare, bounds, tmp_path / "out")
    assert [check.name for check in verdict.failures] == [
        f"class-balance-{name}" for name in ("train", "validation", "test")
    ]
    assert verdict.needed_bounds() == {"class_divergence": "0.14"}
    assert verdict.needed_bounds(["class-balance-test"]) == {"class_divergence": "0.14"}
    assert verdict.needed_bounds(["duplicates"]) == {}

    card = card.model_copy(update={"recipe": {"accept": {"class_divergence": 0.14}}})
    verdict = validate_dataset(replace(rare, card=card), bounds, tmp_path / "out")
    assert verdict.success
    says = "(accepted for digits: class_divergence 0.14, not 0.05)"
    assert [says in str(check.expected) for check in verdict.results].count(True) == 3
    assert verdict.summary.endswith(f"are met {says}")
    page = (tmp_path / "out" / "index.html").read_text()
    assert says in page
    assert "<dt>Accepted</dt><dd>class_divergence 0.14</dd>" in page


@pytest.mark.parametrize(
    ("expectation", "bound", "kwargs", "observed", "needed"),
    [
        ("column_values_to_be_between", 0.1, {"max_value": 0.1, "mostly": 0.9}, None, "0.71"),
        ("column_values_to_be_between", 32, {"min_value": 32}, None, "0"),
        ("column_max_to_be_between", 2.0, {"min_value": 2.0}, 0.996, "0.99"),
        ("column_mean_to_be_between", [0.7, 0.9], {"min_value": 0.7}, 0.2, "0.2,0.9"),
        ("column_mean_to_be_between", [0.1, 0.2], {"max_value": 0.2}, 0.211, "0.1,0.22"),
        ("column_mean_to_be_between", 0.1, {"max_value": 0.1}, float("nan"), None),
    ],
)  # fmt: skip
def test_the_needed_bound_is_the_tightest_that_the_data_meet(
    expectation: str, bound: Any, kwargs: Any, observed: float | None, needed: str | None
) -> None:
    import pandas as pd

    rows = pd.DataFrame({"share": [*[0.05] * 8, 0.701, 0.996]})
    config = SimpleNamespace(
        type=f"expect_{expectation}", kwargs={"column": "share", **kwargs}, meta={"unit": 1.0}
    )
    result = {"unexpected_percent": 20.0} if observed is None else {"observed_value": observed}
    assert run._needed(config, result, rows, bound) == needed


@pytest.mark.parametrize("text", [None, "", "{}", '{"dataset": 3}', "\xff"])
def test_what_is_no_verdict_is_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "verdict.json"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"verdict\.json"):
        read_verdict(path)
