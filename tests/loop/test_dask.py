"""Models on the workers of a Dask scheduler, which share a tracking store and a DVC remote only."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import HUNG, begin, call, command_environment, free_port, invoke
from tests.loop.stores import set_param

#: Calls a command of Dask; a worker keeps the work of its trainings after every epoch.
DASK = """
import sys
from importlib import import_module
from chapterflow.tracking import artifacts
artifacts.KEEP_SECONDS = artifacts.KEEP_SHARE = 0
sys.exit(import_module(f"distributed.cli.{sys.argv.pop(1)}").main())
"""


@contextmanager
def dask(root: Path, *words: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Run a scheduler or worker in a checkout."""
    with (root / "dask.log").open("w") as log:
        process = begin(
            root,
            *("python", "-c", DASK, *words, "--host", "127.0.0.1"),
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


@contextmanager
def cluster(scheduler: Path, *checkouts: Path, server: str) -> Iterator[str]:
    """A scheduler with one worker in each checkout; its address."""
    from distributed import Client

    address = f"tcp://127.0.0.1:{(port := free_port())}"
    with dask(scheduler, "dask_scheduler", "--port", str(port), "--no-dashboard"):
        deadline = time.monotonic() + HUNG
        while True:
            try:
                client = Client(address, timeout=1, set_as_default=False)
                break
            except OSError:
                assert time.monotonic() < deadline
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard")
        words = ("dask_worker", address, *options, "--local-directory", ".chapterflow/dask")
        with client:
            workers = [dask(root, *words, MLFLOW_TRACKING_URI=server) for root in checkouts]
            try:
                for worker in workers:
                    worker.__enter__()
                client.wait_for_workers(len(workers), timeout=HUNG)
                yield address
            finally:
                for worker in workers:
                    worker.__exit__(None, None, None)


@pytest.fixture
def team(fetched: Path, tmp_path: Path) -> tuple[Path, list[Path]]:
    """A checkout whose data are in a DVC remote, and two clones without data."""
    set_param(fetched, "models.dnn.epochs", 300)
    set_param(fetched, "models.dnn.patience", 300)
    (tmp_path / "remote").mkdir()
    for words in (
        ["dvc", "remote", "add", "-d", "folder", str(tmp_path / "remote")],
        ["dvc", "push", "-q", "data.dvc"],
        ["git", "commit", "-qam", "remote"],
    ):
        done = call(fetched, *words)
        assert done.returncode == 0, done.stderr
    clones = [tmp_path / "first", tmp_path / "second"]
    for clone in clones:
        assert call(tmp_path, "git", "clone", "-q", str(fetched), str(clone)).returncode == 0
    return fetched, clones


@pytest.mark.slow
@pytest.mark.fault(
    "Worker of a Dask cluster killed during training",
    "Another one continues the run; metrics of an undisturbed local run",
)
def test_a_model_on_two_workers_of_which_one_is_killed(
    team: tuple[Path, list[Path]],
    tmp_path: Path,
    mlflow_server: str,
    prefect_once: Path,
    record_property: Any,
) -> None:
    from mlflow import MlflowClient

    root, clones = team
    shutil.copytree(prefect_once, root / ".prefect")
    client = MlflowClient(mlflow_server, mlflow_server)
    work = tmp_path / "server" / "artifacts"
    with cluster(root, *clones, server=mlflow_server) as address:
        process = begin(
            root,
            *("chapterflow", "run", "dnn", "--json", "--engine", "dask", "--address", address),
            env=command_environment(root) | {"MLFLOW_TRACKING_URI": mlflow_server},
        )
        while not list(work.rglob("epoch-*.zip")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        experiment = client.get_experiment_by_name("chapterflow")
        (run,) = client.search_runs([experiment.experiment_id], "tags.`chapterflow.kind` = 'model'")
        os.kill(int(run.data.tags["chapterflow.process"].split(":")[1]), signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=HUNG)
    assert process.returncode == 0, stderr
    (model,) = json.loads(stdout)["models"]
    assert (model["status"], model["run_id"]) == ("trained", run.info.run_id)
    (file,) = work.glob("*/*/artifacts/training.json")
    training = json.loads(file.read_text())
    assert 0 < training["resumed_from"] < len(training["history"])
    # The data came from the remote: nothing else fills DVC's cache.
    assert [len(list(clone.glob(".dvc/cache/files/md5/*"))) > 1 for clone in clones] == [True] * 2

    alone = invoke(root, "step", "run", "dnn", "--profile", "embedded")
    assert alone.returncode == 0, alone.stderr
    local = json.loads((root / "results" / "models" / "dnn" / "metrics.json").read_text())
    measured = re.compile(r"seconds|_ms|per_second|bytes")
    compared = {
        name: value
        for group in ("test", "explain", "baseline")
        for name, value in ((f"{group}/{key}", v) for key, v in local.get(group, {}).items())
        if not measured.search(name)
    }
    assert len(compared) > 10
    assert {name: model["metrics"][name] for name in compared} == compared
    record_property("saw", "continued on the other worker in the same run, with equal metrics")
