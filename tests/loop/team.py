"""A flow's checkout and two workers' clones, which share a tracking store and a DVC remote only."""

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from chapterflow.environment import SWEEP_STORAGE
from chapterflow.tracking.artifacts import WORK
from tests.conftest import call, copy_project
from tests.loop.stores import query, set_param

#: Metrics that differ from run to run.
MEASURED = re.compile(r"seconds|_ms|per_second|bytes")


class Team:
    """A checkout with data and a DVC remote, and two clones without data.

    Attributes:
        root: The checkout that flows run in.
        clones: Checkouts of workers.
        server: Folder of the MLflow server.
        store: Address of the tracking store.
        variables: Environment of flows and workers.
        workers_own: More of it, for workers.
        inside: What starts a command where flows and workers run.
    """

    def __init__(self, source: Path, folder: Path, inside: tuple[str, ...] = ()) -> None:
        self.root = copy_project(source, folder / "checkout")
        self.clones = [folder / "first", folder / "second"]
        self.server = folder / "server"
        self.store = ""
        self.inside = inside
        self.variables = {SWEEP_STORAGE: f"sqlite:///{folder}/sweeps.db"}
        self._continued = folder / "continued"
        self.workers_own = {"CHAPTERFLOW_TEST_KEEP": str(self._continued)}
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

    @contextmanager
    def killing(self) -> Iterator[list[str]]:
        """Kill the first worker that keeps the work of a new run in the block; yields its run."""
        work = self.server / "artifacts"
        before = set(work.glob("*/*"))
        killed: list[str] = []
        over = threading.Event()

        def kill() -> None:
            while not over.wait(0.01):
                for kept in work.glob(f"*/*/artifacts/{WORK}/epoch-*.zip"):
                    run = kept.parents[2]
                    if run not in before:
                        ((process,),) = query(
                            self.server / "mlflow.db",
                            "SELECT value FROM tags WHERE key = 'chapterflow.process' AND "
                            f"run_uuid = '{run.name}'",
                        )
                        words = (*self.inside, "kill", "-KILL", process.split(":")[1])
                        subprocess.run(words, check=True)
                        killed.append(run.name)
                        return

        thread = threading.Thread(target=kill)
        thread.start()
        try:
            yield killed
        finally:
            over.set()
            thread.join()

    def continued(self) -> list[str]:
        """Return the runs that workers have continued with the work of others."""
        return self._continued.read_text().split()

    def runs(self, kind: str) -> list[Any]:
        """Return the MLflow runs of a kind."""
        from mlflow import MlflowClient

        client = MlflowClient(self.store, self.store)
        experiment = client.get_experiment_by_name("chapterflow")
        return list(
            client.search_runs([experiment.experiment_id], f"tags.`chapterflow.kind` = '{kind}'")
        )

    def check_seeds(
        self, document: dict[str, Any], alone: dict[str, Any], killed: str, count: int
    ) -> None:
        """Compare a model and its seeds, of which one run was killed, with those of one machine."""
        (model,), (seeds,) = document["models"], document["seeds"]
        assert model["status"] == "trained"
        # Each seed has one run, and the killed worker's was continued.
        trained = [*self.runs("model"), *self.runs("seed")]
        assert [run.info.status for run in trained] == ["FINISHED"] * count
        assert {run.info.run_id for run in trained} == set(seeds["runs"].values())
        assert killed in seeds["runs"].values()
        # The data came from the remote: nothing else fills DVC's cache.
        assert all(len(list(clone.glob(".dvc/cache/files/md5/*"))) > 1 for clone in self.clones)
        assert comparable(model["metrics"]) == comparable(alone["models"][0]["metrics"])
        names = ("values", "mean", "std", "low", "high")
        assert [seeds[name] for name in names] == [alone["seeds"][0][name] for name in names]


def scores(trials: list[dict[str, Any]]) -> dict[int, float]:
    """Return the score of each trial by its number of units."""
    return {trial["params"]["hidden"]: trial["value"] for trial in trials}


def comparable(metrics: dict[str, float]) -> dict[str, float]:
    """Return the metrics that must not depend on where a model was trained."""
    kept = {name: value for name, value in metrics.items() if not MEASURED.search(name)}
    assert len(kept) > 10
    return kept


#: Turns the loopback interface on, reaps orphans, and lives until its input ends.
HOLD = """
import fcntl, signal, socket, struct, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
with socket.socket() as any_socket:
    request = struct.pack("16sh14x", b"lo", 0x41)  # IFF_UP | IFF_RUNNING
    fcntl.ioctl(any_socket, 0x8914, request)  # SIOCSIFFLAGS
print("up", flush=True)
sys.stdin.read()
"""


@contextmanager
def private_network() -> Iterator[tuple[str, ...]]:
    """Yield what starts a command in a network that no other process of this machine reaches.

    Its only interface is the loopback one. It has processes of its own, too, which end with it.
    """
    words = ("unshare", "--user", "--map-root-user", "--net", "--pid", "--mount-proc", "--fork")
    with subprocess.Popen(
        [*words, "--kill-child", sys.executable, "-IS", "-c", HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stderr is not None
        try:
            if holder.stdout.readline() != "up\n":
                pytest.skip(f"no private network on this machine: {holder.stderr.read().strip()}")
            (first,) = psutil.Process(holder.pid).children()
            spaces = ("--user", "--net", "--pid", "--mount", "--preserve-credentials")
            yield ("nsenter", "--target", str(first.pid), *spaces, "env")
        finally:
            holder.send_signal(signal.SIGKILL)
