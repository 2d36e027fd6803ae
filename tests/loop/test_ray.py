"""Work on the nodes of a Ray cluster, in a network of its own: Ray listens on all interfaces."""

import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REAL_PATH, Run, call, make_server_store, until
from tests.loop.stores import query
from tests.loop.team import EPOCHS, RUN, SWEEP, Team, private_network, say_alone, scores

pytestmark = pytest.mark.slow

#: Calls steps on a node that has its own checkout, and prints what comes back.
STEPS = """
import json, sys, threading
from chapterflow.environment import find_project
from chapterflow.errors import ChapterflowError
from chapterflow.loop import clusters
from tests.loop import worker_steps

cluster = clusters.Ray(sys.argv[1], clusters.software(find_project()))
worker, heard, begun = cluster.worker(), [], threading.Event()


def tell(*said):
    heard.append(said)
    begun.set()


def failing(step):
    try:
        worker.call(step, "dnn", tell=tell)
    except (ChapterflowError, KeyboardInterrupt) as error:
        return f"{type(error).__name__} {error}"


said = {"fine": worker.call(worker_steps.fine, "dnn", tell=tell, more=3)[:2], "heard": [*heard]}
said["place"] = worker.call(worker_steps.place, "dnn", tell=tell)
for name in sys.argv[2:]:
    said[name] = failing(getattr(worker_steps, name))
begun.clear()
threading.Thread(target=lambda: begun.wait() and worker.interrupt()).start()
said["endless"] = failing(worker_steps.endless)
said["size"] = cluster.size
cluster.close()
print(json.dumps(said))
"""


class RayTeam(Team):
    """A team with a Ray head without CPUs, a node in each clone, and an MLflow server.

    Attributes:
        address: Of the head.
    """

    address = "127.0.0.1:6379"

    def __init__(self, source: Path, folder: Path, inside: tuple[str, ...], ray: str) -> None:
        super().__init__(source, folder, inside)
        self.server.mkdir()
        self.store = make_server_store(self.server)
        self.variables |= {
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
            # A socket has a short path.
            "RAY_TMPDIR": ray,
            # Otherwise it reports that usage statistics are off.
            "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }
        self._serve()
        until(self._started)

    def _serve(self) -> None:
        log = self.server / "log"
        with log.open("w") as out:
            subprocess.Popen(
                [
                    *self._at(self.root, "python", "-m", "mlflow", "server", "--workers", "1"),
                    *("--backend-store-uri", self.store),
                    *("--artifacts-destination", str(self.server / "artifacts")),
                ],
                env={**os.environ},
                stdout=out,
                stderr=out,
            )
        self._log = log

    def _started(self) -> bool:
        # A node has 30 s to start, which a busy machine may exceed.
        usual = ("--object-store-memory", "100000000", "--num-cpus")
        head = ("--head", "--port", "6379", "--include-dashboard", "false", "--disable-usage-stats")
        node = ("--address", self.address)
        started = self._ray(self.root, "start", *head, *usual, "0") and all(
            self._ray(clone, "start", *node, *usual, "1") for clone in self.clones
        )
        if not started:
            self._ray(self.root, "stop", "--force")
        return started

    def _at(self, root: Path, *words: str) -> tuple[str, ...]:
        path = f"PATH={self.variables['RAY_TMPDIR']}{os.pathsep}{REAL_PATH}"
        return (*self.inside, "-C", str(root), path, *words)

    def _ray(self, root: Path, *words: str) -> bool:
        command = self._at(root, "python", "-m", "ray.scripts.scripts", *words)
        done = call(root, *command, **self.variables, **self.workers_own)
        return done.returncode == 0

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command where the head runs."""
        until(lambda: "startup complete" in self._log.read_text())
        return call(self.root, *self._at(self.root, *words), **self.variables)


@pytest.fixture(scope="module")
def team(
    fetched_once: Path, prefect_once: Path, run_flow: Run, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RayTeam]:
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("team")
        ray = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-"))
        inside = stack.enter_context(private_network(Path(ray)))
        team = RayTeam(fetched_once, folder, inside, ray)
        shutil.copytree(prefect_once, team.root / ".prefect")
        team.alone = say_alone(fetched_once, run_flow, tmp_path_factory)
        yield team


def test_a_step_on_ray_reports_and_returns_or_raises_as_in_a_process(team: RayTeam) -> None:
    steps = ("wrong", "unexpected", "killed")
    done = team.call("python", "-c", STEPS, team.address, *steps)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["size"] == 2
    assert said["fine"] == ["dnn", 3]
    assert said["heard"] == [["train", "epoch 1"], ["train", "epoch 2"]]
    # A node works in its own checkout, with its own sources and all of its cores.
    folder, module, threads = said["place"]
    assert Path(folder) in team.clones
    assert Path(module).is_relative_to(folder)
    assert threads is None
    assert said["wrong"] == "DataError dnn is wrong"
    assert "no such layer" in said["unexpected"]
    assert "Ray could not run `killed`. Received: " in said["killed"]
    assert said["endless"] == "KeyboardInterrupt "


@pytest.mark.fault(
    "Worker of a Ray cluster killed during training",
    "Another one continues the run; metrics of an undisturbed local run",
)
def test_a_model_and_its_seeds_on_two_nodes_of_which_one_is_killed(
    team: RayTeam, record_property: Any
) -> None:
    with team.killing() as killed:
        done = team.call("chapterflow", *RUN, "--engine", "ray", "--address", team.address)
    assert done.returncode == 0, done.stderr
    (run_id,) = killed
    # Continued, on either node: no epoch was trained again.
    ((epochs, different),) = query(
        team.server / "mlflow.db",
        "SELECT count(*), count(DISTINCT step) FROM metrics WHERE key = 'train/loss' AND "
        f"run_uuid = '{run_id}'",
    )
    assert epochs == different == EPOCHS
    team.check_seeds(json.loads(done.stdout), run_id)
    record_property("saw", "continued in the same run, with equal metrics")


def test_trials_on_two_nodes_are_those_of_a_local_sweep(team: RayTeam) -> None:
    done = team.call("chapterflow", *SWEEP, "--engine", "ray", "--address", team.address)
    assert done.returncode == 0, done.stderr
    trials = json.loads(done.stdout)["trials"]
    assert [trial["state"] for trial in trials] == ["finished"] * 3
    assert {run.info.run_id for run in team.runs("trial")} == {trial["run_id"] for trial in trials}
    assert scores(trials) == scores(team.alone[1]["trials"])


def test_nodes_with_another_commit_are_refused_with_both_named(team: RayTeam) -> None:
    def head(root: Path) -> str:
        return call(root, "git", "rev-parse", "HEAD").stdout.strip()

    for clone in team.clones:
        assert call(clone, "git", "commit", "--allow-empty", "-qm", "other").returncode == 0
    options = ("--engine", "ray", "--address", team.address, "--force", "--json")
    done = team.call("chapterflow", "run", "dnn", *options)
    assert done.returncode == 2, done.stderr
    found = [f"commit {head(clone)} instead of {head(team.root)}" for clone in team.clones]
    assert any(f"Received: {text}. " in done.stderr for text in found)
