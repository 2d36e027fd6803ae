"""A tracking store in PostgreSQL: every machine must reach the artifacts."""

from __future__ import annotations

import importlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from chapterflow.cli.doctor import diagnose
from chapterflow.config.load import load_settings
from chapterflow.environment import Project
from chapterflow.errors import ConfigError, StoreError
from chapterflow.tracking import store
from chapterflow.tracking.claims import ALIVE, CLAIM
from chapterflow.tracking.session import Session
from tests.conftest import HUNG, begin, command_environment, serving_mlflow
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


CLAIMING = """
import sys, time
from pathlib import Path
from chapterflow.config.load import load_settings
from chapterflow.environment import find_project
from chapterflow.tracking import claims, runs, store
from chapterflow.tracking.session import Session

claims.POLL_SECONDS = 0.05
# A server on a busy machine is not lost: neither of them may give up, nor leave its claim.
store.ANSWER_SECONDS = claims.CLOSING_SECONDS = 600.0
project = find_project()
session = Session(project, load_settings(project.params, overrides=["tracking.experiment=claims"]))
client, experiment = session.client, session.experiment_id
claim = claims.Claim(client, experiment, "run-1", lambda: None)
print("ready", flush=True)
sys.stdin.readline()
with claim.held():
    same = runs.runs_of_fingerprint(client, experiment, "one")
    if not same:
        tags = {runs.RUN_TYPE: runs.MODEL_RUN, runs.FINGERPRINT: "one"}
        run_id = runs.open_run(client, experiment, name="dnn", tags=tags)
        time.sleep(0.5)  # it trains; the other would look up meanwhile
        claim.check()
        runs.close_run(client, run_id, "FINISHED")
    print("reused" if same else "trained", flush=True)
"""


def test_of_two_processes_that_claim_a_fingerprint_one_trains(
    address: str, in_project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving_mlflow(tmp_path / "server", address) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
        processes = []
        for _ in range(2):
            processes.append(
                begin(
                    in_project.root,
                    *("python", "-c", CLAIMING),
                    stdin=subprocess.PIPE,
                    env=command_environment(in_project.root) | {"MLFLOW_TRACKING_URI": server},
                )
            )
            # It has imported all that it needs, so that both claim at once.
            if processes[-1].stdout.readline() != "ready\n":
                pytest.fail(processes[-1].communicate()[1])
        said = []
        for process in processes:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
        for process in processes:
            stdout, stderr = process.communicate(timeout=HUNG)
            assert process.returncode == 0, stderr
            said.append(stdout.split()[-1])  # MLflow prints links before
        assert sorted(said) == ["reused", "trained"]
        opened = session(in_project, "claims")
        (run,) = opened.client.search_runs([opened.experiment_id])
        assert run.info.status == "FINISHED"
        tags = opened.client.get_experiment(opened.experiment_id).tags
        assert not [key for key in tags if key.startswith((ALIVE, CLAIM))]


def test_a_missing_database_is_named_at_once(address: str) -> None:
    missing = f"{address.rpartition('/')[0]}/nowhere"
    with pytest.raises(StoreError, match=r'database "nowhere" does not exist.*Correct user'):
        store.check_remote(missing)


def test_a_missing_driver_is_named(
    address: str, in_project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace("postgresql:", "postgresql+pg8000:"))
    assert importlib.util.find_spec("pg8000") is None
    with pytest.raises(ConfigError, match=r"chapterflow\[postgres\]"):
        session(in_project, "third")
