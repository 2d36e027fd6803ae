"""Where a run comes from, as a truth table: a missing answer is never a good one."""

from __future__ import annotations

import hashlib
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


def version_with(project: Project, files: dict[str, bytes]) -> str:
    """Put files below `data/` into DVC's cache, as a version; return its hash."""
    entries = []
    for path, content in files.items():
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        entries.append({"md5": md5, "relpath": path})
        in_cache(project, md5, content)
    listed = json.dumps(entries).encode()
    version = hashlib.md5(listed, usedforsecurity=False).hexdigest() + ".dir"
    in_cache(project, version, listed)
    return version


def in_cache(project: Project, md5: str, content: bytes) -> None:
    file = project.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def card(content: bytes) -> bytes:
    record = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    document: dict[str, Any] = {
        "name": "digits", "kind": "images", "title": "", "source": "", "licence": "",
        "shape": [1], "classes": [], "value_max": 1.0, "counts": {}, "test_digest": "",
        "files": {"images.npy": record},
    }  # fmt: skip
    return json.dumps(document).encode()


@pytest.mark.fault(
    "Dataset added to data/ after the last commit", "Models of other datasets are still promoted"
)
def test_a_version_counts_for_the_datasets_of_a_model(checkout: Project) -> None:
    images = b"pixels"
    digits = {"digits/dataset.json": card(images), "digits/images.npy": images}
    digest = hashlib.sha256(card(images)).hexdigest()
    committed = version_with(checkout, digits | {"old/x": b"old"})
    added = version_with(checkout, digits | {"pets/x": b"new"})
    damaged = version_with(checkout, digits | {"digits/images.npy": b"Pixels"})

    def state(recorded: str, now: str, datasets: dict[str, str]) -> str:
        (checkout.root / "data.dvc").write_text(f"outs:\n- md5: {recorded}\n  path: data\n")
        git(checkout.root, "commit", "-qam", "data", "--allow-empty")
        return provenance.data_version(checkout, {runs.DATA_VERSION: now}, datasets).state

    assert state(damaged, damaged, {"digits": digest}) == "failed"
    assert state(damaged, added, {"digits": digest}) == "failed"
    assert state(committed, added, {"digits": digest}) == "passed"
    assert state(committed, added, {"digits": "0" * 64}) == "failed"
    assert state(committed, added, {"digits": digest, "pets": digest}) == "failed"
    assert state(committed, "none", {"digits": digest}) == "passed"


@pytest.mark.fault(
    "Clone without the list of files of the committed data",
    "The committed verdicts decide; the message says how to bring the list",
)
def test_without_the_list_of_files_committed_verdicts_decide(checkout: Project) -> None:
    digest, other = "d" * 64, "e" * 64
    verdict = checkout.root / "results" / "validation" / "digits.json"
    verdict.parent.mkdir(parents=True)
    (checkout.root / "data.dvc").write_text(f"outs:\n- md5: {NEW}\n  path: data\n")
    git(checkout.root, "commit", "-qam", "data")
    verdict.write_text(json.dumps({"dataset": "digits", "dataset_digest": digest}))
    git(checkout.root, "add", "-A")
    git(checkout.root, "commit", "-qm", "results")
    partial = version_with(checkout, {"digits/x": b"digits alone"})
    (checkout.root / "data.dvc").write_text(f"outs:\n- md5: {partial}\n  path: data\n")

    def check(now: str, datasets: dict[str, str]) -> Any:
        return provenance.data_version(checkout, {runs.DATA_VERSION: now}, datasets)

    for now in (NEW, partial):
        passed = check(now, {"digits": digest})
        assert (passed.state, passed.details["version"]) == ("passed", NEW)
        assert "as results/validation says" in str(passed.observed)
    wrong = check(NEW, {"digits": other})
    assert wrong.state == "failed"
    assert "results/validation/digits.json of its commit is about another digits" in str(
        wrong.observed
    )
    assert "`chapterflow data fetch`" in wrong.reason
    assert check(NEW, {"digits": other, "pets": other}).state == "failed"
    assert check(NEW, {"pets": other}).state == "unknown"
    unknown = check(partial, {"pets": other})
    assert unknown.state == "warning"
    assert unknown.reason == ("`chapterflow data fetch` builds all datasets, then commit data.dvc")


@pytest.mark.fault("Untracked datasets.yaml", "The gate `code` asks for the model's sources alone")
def test_only_the_sources_of_a_model_have_to_be_in_a_commit(checkout: Project) -> None:
    file = checkout.root / "src" / "model.py"
    file.parent.mkdir()

    def state(text: str, commit: str) -> tuple[str, str]:
        sources = {
            "src/model.py": hashlib.sha256(text.encode()).hexdigest(),
            "elsewhere/package.py": "0" * 64,
        }
        tags = {runs.COMMIT: commit, runs.DIRTY: "true"}
        check = provenance.source_commit(checkout, tags, sources)
        return check.state, str(check.details["commit"])

    start = git(checkout.root, "rev-parse", "HEAD")
    file.write_text("old")
    assert state("old", start) == ("warning", start)
    git(checkout.root, "add", "src")
    git(checkout.root, "commit", "-qm", "model")
    head = git(checkout.root, "rev-parse", "HEAD")
    (checkout.root / "datasets.yaml").write_text("")
    assert state("old", head) == ("passed", head)
    assert state("old", start) == ("passed", head)
    assert state("new", head) == ("warning", head)
