"""Work on the workers of a Dask scheduler, which share a tracking store and a DVC remote only."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from chapterflow.environment import SWEEP_STORAGE
from chapterflow.tracking.artifacts import WORK
from tests.conftest import (
    HUNG,
    Run,
    begin,
    call,
    command_environment,
    copy_project,
    free_port,
    invoke,
    serving_mlflow,
    using_prefect,
)
from tests.loop.stores import query, set_param

pytestmark = pytest.mark.slow

#: Calls a command of Dask. A worker keeps the work of its trainings after every epoch, and says
#: what it continues.
DASK = """
import sys
from importlib import import_module
from chapterflow.tracking import artifacts
artifacts.KEEP_SECONDS = artifacts.KEEP_SHARE = 0
restore = artifacts.Artifacts.restore_work
def restored(self, folder):
    if done := restore(self, folder):
        print("continued", self.run_id, flush=True)
    return done
artifacts.Artifacts.restore_work = restored
sys.exit(import_module(f"distributed.cli.{sys.argv.pop(1)}").main())
"""


@contextmanager
def dask(root: Path, *words: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Run a scheduler or worker in a checkout."""
    with (root / "dask.log").open("a") as log:
        process = begin(
            root,
            *("python", "-c", DASK, *words, "--host", "127.0.0.1", "--no-dashboard"),
            env=command_environment(root) | variables,
            stdout=log,
            stderr=log,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Team:
    """A checkout with data and a DVC remote, two clones without data, and what all share.

    Attributes:
        root: The checkout that flows run in.
        clones: Checkouts of workers.
        address: Of the Dask scheduler.
        variables: Environment of flows and workers.
    """

    def __init__(self, source: Path, folder: Path, stack: ExitStack) -> None:
        from distributed import Client

        self._stack = stack
        self._server = folder / "server"
        self.root = copy_project(source, folder / "checkout")
        self.clones = [folder / "first", folder / "second"]
        self._make_clones(folder)
        self.variables = {
            "MLFLOW_TRACKING_URI": stack.enter_context(serving_mlflow(self._server)),
            SWEEP_STORAGE: f"sqlite:///{folder}/sweeps.db",
        }
        self.address = f"tcp://127.0.0.1:{(port := free_port())}"
        stack.enter_context(dask(self.root, "dask_scheduler", "--port", str(port)))
        deadline = time.monotonic() + HUNG
        while True:
            try:
                client = Client(self.address, timeout=1, set_as_default=False)
                break
            except OSError:
                assert time.monotonic() < deadline
        self._client = stack.enter_context(client)
        self._workers: dict[Path, subprocess.Popen[str]] = {}

    def _make_clones(self, folder: Path) -> None:
        # Long enough to be killed in the middle.
        set_param(self.root, "models.dnn.epochs", 150)
        set_param(self.root, "models.dnn.patience", 150)
        (folder / "remote").mkdir()
        for words in (
            ["dvc", "remote", "add", "-d", "folder", str(folder / "remote")],
            ["dvc", "push", "-q", "data.dvc"],
            ["git", "commit", "-qam", "remote"],
            *(["git", "clone", "-q", str(self.root), str(clone)] for clone in self.clones),
        ):
            done = call(self.root, *words)
            assert done.returncode == 0, done.stderr

    def complete(self) -> None:
        """Start a worker in each clone that has none."""
        options = ("--nthreads", "1", "--no-nanny", "--local-directory", ".chapterflow/dask")
        words = ("dask_worker", self.address, *options)
        for clone in self.clones:
            if clone not in self._workers or self._workers[clone].poll() is not None:
                started = dask(clone, *words, **self.variables)
                self._workers[clone] = self._stack.enter_context(started)
        self._client.wait_for_workers(len(self.clones), timeout=HUNG)

    @contextmanager
    def killing(self) -> Iterator[list[str]]:
        """Kill the first worker that keeps the work of a new run in the block; yields its run."""
        work = self._server / "artifacts"
        before = set(work.glob("*/*"))
        killed: list[str] = []
        over = threading.Event()

        def kill() -> None:
            while not over.wait(0.01):
                for kept in work.glob(f"*/*/artifacts/{WORK}/epoch-*.zip"):
                    run = kept.parents[2]
                    if run not in before:
                        ((process,),) = query(
                            self._server / "mlflow.db",
                            "SELECT value FROM tags WHERE key = 'chapterflow.process' AND "
                            f"run_uuid = '{run.name}'",
                        )
                        os.kill(int(process.split(":")[1]), signal.SIGKILL)
                        killed.append(run.name)
                        return

        thread = threading.Thread(target=kill)
        thread.start()
        try:
            yield killed
        finally:
            over.set()
            thread.join()

    def continued(self) -> str:
        """Return the runs that workers have continued with the work of others."""
        logs = "".join((clone / "dask.log").read_text() for clone in self.clones)
        return "\n".join(line for line in logs.splitlines() if line.startswith("continued"))

    def runs(self, kind: str) -> list[Any]:
        """Return the MLflow runs of a kind."""
        from mlflow import MlflowClient

        client = MlflowClient(*[self.variables["MLFLOW_TRACKING_URI"]] * 2)
        experiment = client.get_experiment_by_name("chapterflow")
        return list(
            client.search_runs([experiment.experiment_id], f"tags.`chapterflow.kind` = '{kind}'")
        )


@pytest.fixture(scope="module")
def team(fetched_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    with ExitStack() as stack:
        yield Team(fetched_once, tmp_path_factory.mktemp("team"), stack)


@pytest.mark.fault(
    "Worker of a Dask cluster killed during training",
    "Another one continues the run; metrics of an undisturbed local run",
)
def test_a_model_and_its_seeds_on_two_workers_of_which_one_is_killed(
    team: Team, run_flow: Run, prefect_api: dict[str, str], record_property: Any
) -> None:
    words = ("run", "dnn", "--seeds", "3", "--json")
    team.complete()
    with using_prefect(prefect_api), team.killing() as killed:
        done = invoke(
            team.root,
            *(*words, "--engine", "dask", "--address", team.address),
            **(prefect_api | team.variables),
        )
    assert done.returncode == 0, done.stderr
    (run_id,) = killed
    document = json.loads(done.stdout)
    (model,), (seeds,) = document["models"], document["seeds"]
    assert model["status"] == "trained"

    # Each seed has one run, and the killed worker's was continued.
    trained = [*team.runs("model"), *team.runs("seed")]
    assert [run.info.status for run in trained] == ["FINISHED"] * 3
    assert {run.info.run_id for run in trained} == set(seeds["runs"].values())
    assert run_id in seeds["runs"].values()
    assert run_id in team.continued()
    # The data came from the remote: nothing else fills DVC's cache.
    assert all(len(list(clone.glob(".dvc/cache/files/md5/*"))) > 1 for clone in team.clones)

    alone = run_flow(team.root, *words)
    assert alone.returncode == 0, alone.stderr
    local = json.loads(alone.stdout)
    measured = re.compile(r"seconds|_ms|per_second|bytes")
    compared = {
        name: value
        for name, value in local["models"][0]["metrics"].items()
        if not measured.search(name)
    }
    assert len(compared) > 10
    assert {name: model["metrics"][name] for name in compared} == compared
    names = ("values", "mean", "std", "low", "high")
    assert [seeds[name] for name in names] == [local["seeds"][0][name] for name in names]
    record_property("saw", "continued on the other worker in the same run, with equal metrics")


@pytest.mark.fault(
    "Worker of a Dask cluster killed during a trial of a sweep",
    "Another one continues the trial in its run; scores of an undisturbed local sweep",
)
def test_trials_on_two_workers_of_which_one_is_killed(team: Team, record_property: Any) -> None:
    # Each epoch is some writes to the storage.
    space = ("--set", "models.dnn.epochs=40", "--set", "models.dnn.hidden=8,16,32,64")
    words = ("sweep", "dnn", *space, "--trials", "4", "--json")
    team.complete()
    with team.killing() as killed:
        done = invoke(
            team.root,
            *(*words, "--engine", "dask", "--address", team.address),
            **team.variables,
        )
    assert done.returncode == 0, done.stderr
    (run_id,) = killed
    document = json.loads(done.stdout)
    assert [trial["state"] for trial in document["trials"]] == ["finished"] * 4
    trials = team.runs("trial")
    assert [run.info.status for run in trials] == ["FINISHED"] * 4
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {document["run_id"]}
    assert run_id in {trial["run_id"] for trial in document["trials"]}
    assert run_id in team.continued()

    alone = invoke(team.root, *words)
    assert alone.returncode == 0, alone.stderr

    def scores(trials: list[dict[str, Any]]) -> dict[int, float]:
        return {trial["params"]["hidden"]: trial["value"] for trial in trials}

    assert scores(document["trials"]) == scores(json.loads(alone.stdout)["trials"])
    record_property("saw", "4 trials in 4 runs, 1 continued by the other worker, equal scores")
