"""Where a run comes from, as a truth table: a missing answer is never a good one."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chapterflow.environment import Project
from chapterflow.tracking import provenance, runs
from chapterflow.tracking.artifacts import Artifacts

OLD, NEW = "0" * 32 + ".dir", "1" * 32 + ".dir"
VERDICT: dict[str, Any] = {
    "dataset": "digits",
    "dataset_digest": "d" * 64,
    "success": True,
    "examples": 1,
    "results": [
        {
            "expectation": "count",
            "type": "expect_table_row_count_to_equal",
            "column": None,
            "description": "All examples are there.",
            "success": True,
            "expected": "1 example",
            "observed": "1 example",
            "offending": [],
            "offending_count": None,
        }
    ],
}


def git(root: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Project:
    """A checkout whose last commit records one version of the data, and data.dvc a newer one."""
    git(tmp_path, "init", "-q")
    record = tmp_path / "data.dvc"
    record.write_text(f"outs:\n- md5: {OLD}\n  path: data\n")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "state")
    record.write_text(f"outs:\n- md5: {NEW}\n  path: data\n")
    return Project(tmp_path)


@pytest.mark.parametrize(
    ("commit", "dirty", "state"),
    [
        ("HEAD", "false", "passed"),
        ("HEAD", "true", "warning"),
        ("HEAD", None, "warning"),
        ("0" * 40, "false", "failed"),
        ("0" * 40, None, "failed"),
        (None, "false", "failed"),
        (None, None, "failed"),
    ],
)
def test_source_commit(
    checkout: Project, commit: str | None, dirty: str | None, state: str
) -> None:
    if commit == "HEAD":
        commit = git(checkout.root, "rev-parse", "HEAD")
    tags = {runs.COMMIT: commit, runs.DIRTY: dirty}
    check = provenance.source_commit(checkout, {k: v for k, v in tags.items() if v is not None})
    assert (check.name, check.state) == ("source commit", state)
    assert check.observed


@pytest.mark.parametrize(
    ("version", "state"),
    [
        (OLD, "passed"),
        (NEW, "warning"),
        ("2" * 32 + ".dir", "failed"),
        ("none", "unknown"),
        (None, "unknown"),
    ],
)
def test_data_version(checkout: Project, version: str | None, state: str) -> None:
    check = provenance.data_version(checkout, {runs.DATA_VERSION: version} if version else {})
    assert (check.name, check.state) == ("data version", state)
    assert check.observed


@pytest.mark.parametrize(
    ("verdict", "digest", "state"),
    [
        (VERDICT, "d" * 64, "passed"),
        (VERDICT, "x" * 64, "failed"),
        (VERDICT, None, "failed"),
        (VERDICT | {"success": False}, "d" * 64, "failed"),
        (VERDICT | {"results": []}, "d" * 64, "failed"),
        ({"dataset": "digits"}, "d" * 64, "failed"),
        (None, "d" * 64, "failed"),
    ],
)
def test_validation(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verdict: dict[str, Any] | None,
    digest: str | None,
    state: str,
) -> None:
    def document(_self: Artifacts, name: str) -> Path:
        path = tmp_path / "verdict.json"
        if verdict is not None:
            path.write_text(json.dumps(verdict))
        return path

    monkeypatch.setattr(Artifacts, "path", document)
    tags = {runs.DIGEST: digest} if digest else {}
    run: Any = SimpleNamespace(info=SimpleNamespace(run_id="r"), data=SimpleNamespace(tags=tags))
    check = provenance.validation(run)
    assert (check.name, check.state) == ("validation", state)
    assert check.observed
