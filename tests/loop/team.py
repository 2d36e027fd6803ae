"""A flow's checkout and two workers' clones, which share a tracking store and a DVC remote only."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from chapterflow.environment import SWEEP_STORAGE
from tests.conftest import (
    FORKS,
    NO_REPORT,
    REAL_PATH,
    REPOSITORY,
    Run,
    call,
    copy_project,
    invoke,
    once,
)
from tests.loop.stores import set_param

#: Metrics that differ from run to run.
MEASURED = re.compile(r"seconds|_ms|per_second|bytes")
EPOCHS = 6
#: Commands that give the same on a cluster as on one machine.
RUN = ("run", "dnn", "--seeds", "2", "--json")
SWEEP = ("sweep", "dnn", "--set", "models.dnn.hidden=8,16,32", "--trials", "3", "--json")


def say_alone(
    source: Path, run_flow: Run, factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what `RUN` and `SWEEP` say on one machine."""

    def make(folder: Path) -> None:
        root = copy_project(source, folder / "checkout")
        set_param(root, "models.dnn.epochs", EPOCHS)
        said = [run_flow(root, *RUN), invoke(root, *SWEEP)]
        assert [done.returncode for done in said] == [0, 0], said
        (folder / "said.json").write_text(json.dumps([json.loads(done.stdout) for done in said]))

    run, sweep = json.loads((once(factory, "alone", make) / "said.json").read_text())
    return run, sweep


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
        alone: What `RUN` and `SWEEP` say on one machine.
    """

    alone: tuple[dict[str, Any], dict[str, Any]]

    def __init__(self, source: Path, folder: Path, inside: tuple[str, ...] = ()) -> None:
        self.root = copy_project(source, folder / "checkout")
        self.clones = [folder / "first", folder / "second"]
        self.server = folder / "server"
        self.store = ""
        self.inside = inside
        self.variables = NO_REPORT | {SWEEP_STORAGE: f"sqlite:///{folder}/sweeps.db"}
        self._continued = folder / "continued"
        self.workers_own = {"CHAPTERFLOW_TEST_KEEP": str(self._continued)}
        # The worker that is killed has trained two.
        set_param(self.root, "models.dnn.epochs", EPOCHS)
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
        """Kill the first worker that keeps two epochs in the block; the list then has its run."""
        killed: list[str] = []
        order, done = (Path(f"{self._continued}.{end}") for end in ("kill", "killed"))
        order.touch()
        yield killed
        killed += done.read_text().split()
        done.unlink()

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

    def check_seeds(self, document: dict[str, Any], killed: str) -> None:
        """Compare a model and its seeds, of which one run was killed, with those of one machine."""
        (model,), (seeds,) = document["models"], document["seeds"]
        (model_alone,), (seeds_alone,) = self.alone[0]["models"], self.alone[0]["seeds"]
        assert model["status"] == "trained"
        # Each seed has one run, and the killed worker's was continued.
        trained = [*self.runs("model"), *self.runs("seed")]
        assert [run.info.status for run in trained] == ["FINISHED"] * 2
        assert {run.info.run_id for run in trained} == set(seeds["runs"].values())
        assert killed in seeds["runs"].values()
        # The data came from the remote: nothing else fills DVC's cache.
        assert all(len(list(clone.glob(".dvc/cache/files/md5/*"))) > 1 for clone in self.clones)
        assert comparable(model["metrics"]) == comparable(model_alone["metrics"])
        names = ("values", "mean", "std", "low", "high")
        assert [seeds[name] for name in names] == [seeds_alone[name] for name in names]


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

#: Makes a fork, with the libraries that it has, a server of forks in the spaces of a process.
SERVE = """
import ctypes, os, runpy, socket, sys
forks = runpy.run_path(sys.argv[1])
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[2] + "/socket")
listener.listen(64)
libc = ctypes.CDLL(None, use_errno=True)
names = ("user", "net", "pid", "mnt")
spaces = [os.open(f"/proc/{sys.argv[3]}/ns/{name}", os.O_RDONLY) for name in names]
for space in spaces:
    if libc.setns(space, 0):
        raise OSError(ctypes.get_errno(), "setns")
    os.close(space)
if child := os.fork():
    os.close(0)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print("up", flush=True)
sys.executable = sys.argv[4]
request = forks["serve"](listener)
request["environ"] = {**os.environ} | request["environ"]
forks["become"](**request)
"""


@contextmanager
def private_network(folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield what starts a command in a network that no other process of this machine reaches.

    Its only interface is the loopback one. It has processes of its own, too, which end with it.

    Args:
        folder: To put first on PATH; gets a `python` and a `chapterflow` whose processes are forks.
    """
    words = ("unshare", "--user", "--map-root-user", "--net", "--pid", "--mount-proc", "--fork")
    piped: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        [*words, "--kill-child", sys.executable, "-IS", "-c", HOLD],
        stderr=subprocess.PIPE,
        **piped,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stderr is not None
        try:
            if holder.stdout.readline() != "up\n":
                pytest.skip(f"no private network on this machine: {holder.stderr.read().strip()}")
            (first,) = psutil.Process(holder.pid).children()
            for name in ("python", "chapterflow"):
                shutil.copy(FORKS.folder / name, folder)
            module = str(REPOSITORY / "tests" / "forks.py")
            with subprocess.Popen(
                [FORKS.python, "-c", SERVE, module, str(folder), str(first.pid), sys.executable],
                env={"PATH": REAL_PATH},
                **piped,
            ) as server:
                assert server.stdout is not None
                assert server.stdout.readline() == "up\n"
                spaces = ("--user", "--net", "--pid", "--mount", "--preserve-credentials")
                yield ("nsenter", "--target", str(first.pid), *spaces, "env")
        finally:
            holder.send_signal(signal.SIGKILL)
