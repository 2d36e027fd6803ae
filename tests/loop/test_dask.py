"""Work on the workers of a Dask scheduler."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import (
    HUNG,
    Run,
    begin,
    command_environment,
    free_port,
    invoke,
    serving_mlflow,
    using_prefect,
)
from tests.loop.team import RUN, SWEEP, Team, say_alone, scores

pytestmark = pytest.mark.slow


@contextmanager
def dask(root: Path, command: str, *words: str, **variables: str) -> Iterator[Any]:
    """Run a scheduler or worker in a checkout."""
    with (root / "dask.log").open("a") as log:
        process = begin(
            root,
            *("python", "-m", f"distributed.cli.dask_{command}", *words),
            *("--host", "127.0.0.1", "--no-dashboard"),
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


class DaskTeam(Team):
    """A team with a Dask scheduler.

    Attributes:
        engine: Words of the command line.
    """

    def __init__(self, source: Path, folder: Path, stack: ExitStack) -> None:
        from distributed import Client

        super().__init__(source, folder)
        self._stack = stack
        self.store = stack.enter_context(serving_mlflow(self.server))
        self.variables["MLFLOW_TRACKING_URI"] = self.store
        self._address = f"tcp://127.0.0.1:{(port := free_port())}"
        self.engine = ("--engine", "dask", "--address", self._address)
        stack.enter_context(dask(self.root, "scheduler", "--port", str(port)))
        deadline = time.monotonic() + HUNG
        while True:
            try:
                client = Client(self._address, timeout=1, set_as_default=False)
                break
            except OSError:
                assert time.monotonic() < deadline
        self._client = stack.enter_context(client)
        self._workers: dict[Path, subprocess.Popen[str]] = {}

    def complete(self) -> None:
        """Start a worker in each clone that has none."""
        options = ("--nthreads", "1", "--no-nanny", "--local-directory", ".chapterflow/dask")
        words = ("worker", self._address, *options)
        for clone in self.clones:
            if clone not in self._workers or self._workers[clone].poll() is not None:
                started = dask(clone, *words, **self.variables, **self.workers_own)
                self._workers[clone] = self._stack.enter_context(started)
        self._client.wait_for_workers(len(self.clones), timeout=HUNG)


@pytest.fixture(scope="module")
def team(
    fetched_once: Path, run_flow: Run, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DaskTeam]:
    with ExitStack() as stack:
        team = DaskTeam(fetched_once, tmp_path_factory.mktemp("team"), stack)
        team.alone = say_alone(fetched_once, run_flow, tmp_path_factory)
        yield team


@pytest.mark.fault(
    "Worker of a Dask cluster killed during training",
    "Another one continues the run; metrics of an undisturbed local run",
)
def test_a_model_and_its_seeds_on_two_workers_of_which_one_is_killed(
    team: DaskTeam,
    prefect_api: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    record_property: Any,
) -> None:
    team.complete()
    # The page is written here, without regard to where the models were trained.
    monkeypatch.setattr("pipelines.chapter._report", lambda *_: "")
    with using_prefect(prefect_api), team.killing() as killed:
        done = invoke(team.root, *RUN, *team.engine, **(prefect_api | team.variables))
    assert done.returncode == 0, done.stderr
    (run_id,) = killed
    assert run_id in team.continued()
    team.check_seeds(json.loads(done.stdout), run_id)
    record_property("saw", "continued on the other worker in the same run, with equal metrics")


@pytest.mark.fault(
    "Worker of a Dask cluster killed during a trial of a sweep",
    "Another one continues the trial in its run; scores of an undisturbed local sweep",
)
def test_trials_on_two_workers_of_which_one_is_killed(team: DaskTeam, record_property: Any) -> None:
    team.complete()
    with team.killing() as killed:
        done = invoke(team.root, *SWEEP, *team.engine, **team.variables)
    assert done.returncode == 0, done.stderr
    (run_id,) = killed
    document = json.loads(done.stdout)
    assert [trial["state"] for trial in document["trials"]] == ["finished"] * 3
    trials = team.runs("trial")
    assert [run.info.status for run in trials] == ["FINISHED"] * 3
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {document["run_id"]}
    assert run_id in {trial["run_id"] for trial in document["trials"]}
    assert run_id in team.continued()
    assert scores(document["trials"]) == scores(team.alone[1]["trials"])
    record_property("saw", "3 trials in 3 runs, 1 continued by the other worker, equal scores")
