"""Validating is repeatable, quiet, whole or not at all, and stops a run."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from chapterflow.errors import DataError, ValidationFailed
from chapterflow.kinds.dataset import Dataset
from chapterflow.kinds.pixels import ImageExpectations
from chapterflow.validation import validate as run
from chapterflow.validation.validate import validate_dataset
from chapterflow.validation.verdict import Verdict, read_verdict
from tests.conftest import HUNG

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
    first, *lines = str(caught.value).splitlines()
    assert caught.value.exit_code == 3
    assert first == "digits: 5 of 21 expectations failed"
    assert [line.split()[0].rstrip(":") for line in lines] == [
        result.name for result in verdict.failures
    ]
    assert (
        "  label-set (label): expected 0 to 9. Received: unexpected in 7 of 1,797 examples "
        "(0.39%), such as 12. Examples: train/00000, train/00001, train/00002, train/00003, "
        "train/00004 and 2 more."
    ) in lines
    assert "  value-use (max): expected at least 14.4. Received: 1." in lines


@pytest.mark.parametrize("text", [None, "", "{}", '{"dataset": 3}', "\xff"])
def test_what_is_no_verdict_is_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "verdict.json"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"verdict\.json"):
        read_verdict(path)
