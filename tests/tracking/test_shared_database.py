"""A tracking store in PostgreSQL: every machine must reach the artifacts."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from chapterflow.cli.doctor import diagnose
from chapterflow.config.load import load_settings
from chapterflow.environment import Project
from chapterflow.errors import ConfigError, StoreError
from chapterflow.tracking import store
from chapterflow.tracking.session import Session
from tests.tracking.postgres import postgres

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with postgres() as address:
        yield address


def session(project: Project, experiment: str) -> Session:
    override = [f"tracking.experiment={experiment}"]
    return Session(project, load_settings(project.params, overrides=override))


def test_artifacts_of_a_database_need_a_place_that_all_machines_reach(
    address: str, in_project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(StoreError, match=r"Received: postgresql://.* with no place for artifacts"):
        session(in_project, "first")

    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setenv(store.ARTIFACT_ROOT, str(shared))
    opened = session(in_project, "second")
    run = opened.client.create_run(opened.experiment_id)
    opened.client.log_text(run.info.run_id, "here", "note.txt")
    assert [path.name for path in shared.rglob("note.txt")] == ["note.txt"]

    monkeypatch.delenv(store.ARTIFACT_ROOT)
    store._experiments.clear()
    assert session(in_project, "second").experiment_id == opened.experiment_id

    # As on a machine that does not mount the folder.
    shutil.rmtree(shared)
    store._experiments.clear()
    with pytest.raises(StoreError, match=f"artifacts in {shared}.*, a folder that this machine"):
        session(in_project, "second")
    assert not shared.exists()


def test_doctor_writes_and_reads_an_artifact(
    address: str, in_project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    (tmp_path / "artifacts").mkdir()
    monkeypatch.setenv(store.ARTIFACT_ROOT, str(tmp_path / "artifacts"))

    def check() -> tuple[str, str]:
        (found,) = [check for check in diagnose(in_project) if check.name == "Tracking store"]
        return found.state, str(found.observed)

    state, observed = check()
    assert (state, "the first run creates" in observed) == ("passed", True)
    name = load_settings(in_project.params).tracking.experiment
    folder = Path(session(in_project, name).client.get_experiment_by_name(name).artifact_location)
    state, observed = check()
    assert (state, "artifacts written and read" in observed) == ("passed", True)
    assert [*folder.rglob("*.txt")] == []

    folder.parent.mkdir(exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.write_text("a file instead of a folder")
    state, observed = check()
    assert (state, "Artifacts must be writable" in observed) == ("failed", True)


def test_a_missing_driver_is_named(
    address: str, in_project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace("postgresql:", "postgresql+pg8000:"))
    assert importlib.util.find_spec("pg8000") is None
    with pytest.raises(ConfigError, match=r"chapterflow\[postgres\]"):
        session(in_project, "third")
