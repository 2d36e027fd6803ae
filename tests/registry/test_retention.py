"""What `gc` removes, and what stays whatever its age."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from chapterflow.config.load import load_settings
from chapterflow.environment import Project, project_lock
from chapterflow.errors import ConfigError
from chapterflow.files import seal
from chapterflow.registry import ledger
from chapterflow.registry.retention import age, find_unneeded, remove
from chapterflow.tracking import runs
from chapterflow.tracking.session import Session
from chapterflow.tracking.versions import VERDICT_RUN
from tests.conftest import invoke, using_prefect

if TYPE_CHECKING:
    from prefect.server.database import PrefectDBInterface

MONTH = timedelta(days=30)


class Store:
    """A project's store with runs of a given age."""

    def __init__(self, project: Project) -> None:
        settings = load_settings(project.params)
        self.session = Session(project, settings)
        self.client = self.session.client
        self.ledger = ledger.Ledger(project, self.client, settings.tracking.experiment)
        self.client.create_registered_model("dnn")

    def run(self, days: float, kind: str = "model", status: str = "FINISHED", **tags: str) -> str:
        """Create a run of some days ago with an artifact; return its id."""
        experiment = self.session.experiment_id
        if kind == ledger.KIND:
            experiment = self.ledger.experiment_id
        started = int((time.time() - 86_400 * days) * 1000)
        run = self.client.create_run(
            experiment,
            start_time=started,
            tags={runs.RUN_TYPE: kind, runs.MODEL: "dnn", runs.PROFILE: "embedded", **tags},
        )
        run_id = str(run.info.run_id)
        self.client.log_text(run_id, "x" * 1000, "notes.txt")
        if status != "RUNNING":
            self.client.set_terminated(run_id, status)
        return run_id

    def model(self, days: float, **tags: str) -> tuple[str, str, Path]:
        """Create a run with a logged model and a version; return its id, the number, the folder."""
        run_id = self.run(days, **tags)
        logged = self.client.create_logged_model(
            self.session.experiment_id, name="dnn", source_run_id=run_id
        )
        folder = Path(logged.artifact_location)
        folder.mkdir(parents=True)
        (folder / "dnn.keras").write_bytes(b"x" * 5000)
        version = self.client.create_model_version(
            "dnn", source=f"models:/{logged.model_id}", run_id=run_id
        )
        self.client.set_tag(run_id, runs.MODEL_VERSION, version.version)
        return run_id, str(version.version), folder

    def runs(self) -> set[str]:
        """Return the ids of all runs."""
        experiments = [self.session.experiment_id, self.ledger.experiment_id]
        return {run.info.run_id for run in self.client.search_runs(experiments)}

    def versions(self) -> set[str]:
        """Return the numbers of all versions."""
        return {str(version.version) for version in self.client.search_model_versions()}


@pytest.fixture
def store(in_project: Project) -> Store:
    return Store(in_project)


def test_seeds_stay_with_the_run_that_they_are_nested_in(store: Store, in_project: Project) -> None:
    old = store.run(50, runs.SEEDS_RUN)
    gone = {old, *(store.run(50, runs.SEED_RUN, **{runs.PARENT: old}) for _ in range(2))}
    newer = store.run(40, runs.SEEDS_RUN)
    kept = {newer, *(store.run(40, runs.SEED_RUN, **{runs.PARENT: newer}) for _ in range(2))}
    unneeded = find_unneeded(in_project, older=MONTH, keep=1)
    assert unneeded.counts() == {"seed runs": 2, "seeds runs": 1}
    remove(in_project, unneeded)
    assert store.runs() == kept
    assert not gone & store.runs()


def test_old_runs_go_with_versions_models_and_files(store: Store, in_project: Project) -> None:
    old, _, folder = store.model(40)
    newer, number, kept = store.model(35)
    unneeded = find_unneeded(in_project, older=MONTH, keep=1)
    assert unneeded.counts() == {
        "model runs": 1,
        "registered versions": 1,
        "logged models": 1,
    }
    assert unneeded.bytes() == 6000
    assert store.runs() == {old, newer}
    place = Path(store.client.get_run(old).info.artifact_uri)
    assert place.is_dir()

    remove(in_project, unneeded)
    assert store.runs() == {newer}
    assert store.versions() == {number}
    assert not folder.exists()
    assert not place.exists()
    assert kept.is_dir()
    assert not find_unneeded(in_project, older=MONTH, keep=1).counts()


def test_versions_with_an_alias_and_earlier_champions_stay(
    store: Store, in_project: Project
) -> None:
    flow = store.run(101, "flow")
    champion, one, _ = store.model(100, **{runs.PARENT: flow})
    earlier, two, _ = store.model(99)
    challenger, three, _ = store.model(98)
    gone, _, _ = store.model(97)
    verdict = store.run(96, ledger.KIND, **{ledger.ACTION: "refused", ledger.AFTER: f"dnn/{three}"})
    nobodys = store.run(95, ledger.KIND, **{ledger.ACTION: "refused", ledger.AFTER: "dnn/9"})
    promoted = store.run(94, ledger.KIND, **{ledger.ACTION: "promoted", ledger.AFTER: f"dnn/{two}"})
    repeated = store.run(93, "reproduction", **{runs.REPRODUCES: champion})
    other = store.run(93, "reproduction", **{runs.REPRODUCES: gone})
    active = store.run(92, status="RUNNING")
    failed = store.run(91, status="FAILED")
    store.client.set_registered_model_alias("dnn", "champion", one)
    store.client.set_registered_model_alias("dnn", "challenger-mine", three)
    store.client.set_model_version_tag("dnn", three, VERDICT_RUN, verdict)

    remove(in_project, find_unneeded(in_project, older=MONTH, keep=0))
    assert {gone, nobodys, other, failed}.isdisjoint(store.runs())
    assert store.runs() == {
        *(flow, champion, earlier, challenger, verdict, promoted, repeated, active)
    }
    assert store.versions() == {one, two, three}


def test_the_newest_of_each_model_and_dataset_stay(store: Store, in_project: Project) -> None:
    ids = [store.run(days, **{runs.DATASET: "digits"}) for days in (60, 50, 40)]
    mine = store.run(70, **{runs.DATASET: "mine"})
    recent = store.run(1, **{runs.DATASET: "digits"})
    remove(in_project, find_unneeded(in_project, older=MONTH, keep=2))
    assert store.runs() == {ids[2], mine, recent}


def test_batches_of_all_versions_of_a_model_count_together(
    store: Store, in_project: Project
) -> None:
    ids = [
        store.run(60 - version, "batch", **{runs.MODEL_URI: f"models:/dnn/{version}"})
        for version in range(4)
    ]
    other = store.run(60, "batch", **{runs.MODEL_URI: "models:/cnn/1"})
    remove(in_project, find_unneeded(in_project, older=MONTH, keep=2))
    assert store.runs() == {*ids[2:], other}


def test_a_version_that_is_promoted_meanwhile_stays(store: Store, in_project: Project) -> None:
    run_id, number, folder = store.model(40)
    unneeded = find_unneeded(in_project, older=MONTH, keep=0)
    store.client.set_registered_model_alias("dnn", "champion", number)
    remove(in_project, unneeded)
    assert store.runs() == {run_id}
    assert store.versions() == {number}
    assert folder.is_dir()


def test_what_a_killed_command_left_deleted_goes_the_next_time(
    store: Store, in_project: Project
) -> None:
    run_id, number, folder = store.model(40)
    store.client.delete_model_version("dnn", number)
    (logged,) = runs.models_of(store.client, store.client.get_run(run_id))
    store.client.delete_logged_model(logged.model_id)
    store.client.delete_run(run_id)
    unneeded = find_unneeded(in_project, older=timedelta(), keep=1)
    assert unneeded.counts() == {"runs deleted earlier": 1, "logged models deleted earlier": 1}
    remove(in_project, unneeded)
    assert not folder.exists()
    assert not find_unneeded(in_project, older=timedelta(), keep=1).counts()


def test_trials_stay_with_their_sweep(store: Store, in_project: Project) -> None:
    old = store.run(45, runs.SWEEP)
    gone = [store.run(45, runs.TRIAL, **{runs.PARENT: old}) for _ in range(2)]
    kept = store.run(40, runs.SWEEP)
    trials = [store.run(40, runs.TRIAL, **{runs.PARENT: kept}) for _ in range(2)]
    unneeded = find_unneeded(in_project, older=MONTH, keep=1)
    assert unneeded.counts() == {"sweep runs": 1, "trial runs": 2}
    remove(in_project, unneeded)
    assert store.runs() == {kept, *trials}
    assert not store.runs() & {old, *gone}


def test_work_in_progress_stays(store: Store, in_project: Project) -> None:
    work = in_project.scratch / "work"
    for name in ("old", "busy", "new"):
        (work / name).mkdir(parents=True)
    locks = in_project.scratch / "locks"
    locks.mkdir()
    (locks / "run-gone.lock").touch()
    then = (datetime.now(UTC) - 2 * MONTH).timestamp()
    for path in (work / "old", work / "busy", locks / "run-gone.lock"):
        os.utime(path, (then, then))
    with project_lock(in_project, "run-busy", lambda: None):
        unneeded = find_unneeded(in_project, older=MONTH, keep=1)
        assert unneeded.counts() == {"work folders, caches and locks": 3}
        remove(in_project, unneeded)
    assert sorted(path.name for path in work.iterdir()) == ["busy", "new"]
    assert not (locks / "run-gone.lock").exists()


def test_backbones_that_nothing_uses_go(store: Store, in_project: Project) -> None:
    folder = in_project.scratch / "backbones"
    then = (datetime.now(UTC) - 2 * MONTH).timestamp()
    for name in ("old", "used"):
        (folder / name).mkdir(parents=True)
        (folder / name / "weights.h5").write_bytes(b"x" * 100)
        seal(folder / name)
        (folder / f"{name}.lock").touch()
        os.utime(folder / name, (then, then))
    os.utime(folder / "used")
    unneeded = find_unneeded(in_project, older=MONTH, keep=1)
    assert unneeded.counts() == {"work folders, caches and locks": 1}
    assert unneeded.bytes() == 100
    remove(in_project, unneeded)
    assert sorted(path.name for path in folder.iterdir()) == ["used", "used.lock", "used.sha256"]


@pytest.mark.parametrize(("text", "hours"), [("30d", 720), ("12h", 12), (" 2h ", 2)])
def test_age(text: str, hours: int) -> None:
    assert age(text) == timedelta(hours=hours)


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1.5d", "1m", "1h", "0d", "999999d"])
def test_age_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--older takes"):
        age(text)


def test_command(store: Store, in_project: Project) -> None:
    store.model(40)
    store.model(35)
    listed = invoke(in_project.root, "gc", "--keep", "1", "--dry-run")
    assert (listed.returncode, len(store.runs())) == (0, 2), listed.stderr
    assert "Would free 0.0 MB" in listed.stdout
    done = invoke(in_project.root, "gc", "--keep", "1")
    assert (done.returncode, len(store.runs())) == (0, 1), done.stderr
    again: Any = invoke(in_project.root, "gc", "--keep", "1")
    assert "Nothing to remove" in again.stderr


@pytest.mark.slow
def test_a_schedule_removes_what_is_old(
    store: Store, in_project: Project, prefect_api: dict[str, str]
) -> None:
    old, *_ = store.model(100)
    newer = [store.model(days)[0] for days in (95, 94, 93, 80)]
    with using_prefect(prefect_api):
        from pipelines.housekeeping import gc

        document = gc(keep=1)
    assert document["removed"] == {
        "model runs": 4,
        "registered versions": 4,
        "logged models": 4,
    }
    assert store.runs() == {newer[-1]}
    assert old not in store.runs()


@pytest.mark.slow
@pytest.mark.parametrize("project", ["one project", "another in the same process"])
def test_old_flow_runs_of_prefect_go(prefect_once: Path, tmp_path: Path, project: str) -> None:
    home = shutil.copytree(prefect_once, tmp_path / project / ".prefect")
    with using_prefect({"PREFECT_HOME": str(home)}):
        from prefect.server.schemas.states import TERMINAL_STATES

        from pipelines.history import (
            ENDED,
            count_old_flow_runs,
            delete_old_flow_runs,
            own_database,
            own_history,
        )

        async def add_flow_runs(database: PrefectDBInterface) -> None:
            async with database.session_context(begin_transaction=True) as session:
                flow = database.Flow(name="chapter")
                session.add(flow)
                await session.flush()
                for days in (40, 35, 1):
                    ended = datetime.now(UTC) - timedelta(days=days)
                    values = {"state_type": "COMPLETED", "state_name": "Completed"}
                    session.add(database.FlowRun(flow_id=flow.id, end_time=ended, **values))

        with own_database() as database:
            asyncio.run(add_flow_runs(database))
        history = own_history()
        assert history == home / "prefect.db"
        assert set(ENDED) == {state.value for state in TERMINAL_STATES}
        assert count_old_flow_runs(history, MONTH) == 2
        delete_old_flow_runs(MONTH)
        assert count_old_flow_runs(history, MONTH) == 0
        assert count_old_flow_runs(history, timedelta(hours=2)) == 1
