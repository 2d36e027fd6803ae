"""A worker that shares only the tracking store takes any step of a run."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.conftest import call, copy_checkout
from tests.loop.stores import set_param

#: Takes one step; what steps hand to each other crosses a folder as pickles.
WORKER = """
import pickle, sys
from pathlib import Path
from chapterflow.config.load import load_settings
from chapterflow.environment import configure, find_project
from chapterflow.loop import steps
from chapterflow.loop.run import Run

project = find_project()
configure(project)
step, wire = sys.argv[1], Path(sys.argv[2])
takes = {
    "train": ["run"],
    "evaluate": ["run", "training"],
    "explain": ["run", "evaluation"],
    "log": ["run", "verdict", "evaluation", "explanation"],
}
gives = {"train": "training", "evaluate": "evaluation", "explain": "explanation", "log": "outcome"}

def put(name, value):
    (wire / f"{name}.pickle").write_bytes(pickle.dumps(value))

def get(name):
    return pickle.loads((wire / f"{name}.pickle").read_bytes())

if step == "begin":
    settings = load_settings(project.params)
    verdict = steps.validate(project, settings, steps.prepare(project, settings, "digits"))
    put("verdict", verdict)
    put("run", steps.begin(Run(project, settings, "dnn"), [verdict]))
else:
    put(gives[step], getattr(steps, step)(*map(get, takes[step])))
if step == "log":
    print(get("outcome").model_dump_json())
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """An MLflow server that keeps the artifacts too."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address, folder = f"http://127.0.0.1:{port}", tmp_path / "server"
    folder.mkdir()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
            *("--artifacts-destination", str(folder / "artifacts")),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(600):
            try:
                if requests.get(f"{address}/health", timeout=1).ok:
                    break
            except requests.RequestException:
                time.sleep(0.1)
        yield address
    finally:
        os.killpg(process.pid, 9)
        process.wait()


@pytest.mark.slow
def test_each_step_in_a_process_and_checkout_of_its_own(tmp_path: Path, server: str) -> None:
    original = tmp_path / "original"
    original.mkdir()
    copy_checkout(original)
    set_param(original, "models.dnn.epochs", 3)
    worker, wire = tmp_path / "worker.py", tmp_path / "wire"
    worker.write_text(WORKER)
    wire.mkdir()
    for step in ("begin", "train", "evaluate", "explain", "log"):
        checkout = tmp_path / f"checkout-{step}"
        shutil.copytree(original, checkout)
        done = call(
            checkout,
            *(sys.executable, str(worker), step, str(wire)),
            MLFLOW_TRACKING_URI=server,
        )
        assert done.returncode == 0, done.stderr
        shutil.rmtree(checkout)
    outcome = json.loads(done.stdout)
    assert outcome["status"] == "trained"
    assert outcome["model_version"] == "1"
    # Nothing that crossed between the steps is a path of this machine.
    for file in wire.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file.name

    alone = call(original, "chapterflow", "step", "run", "dnn", "--profile", "embedded")
    if alone.returncode:  # a fresh checkout has no data for `dvc repro`
        assert "data fetch" in alone.stderr
        assert call(original, "chapterflow", "data", "fetch").returncode == 0
        alone = call(original, "chapterflow", "step", "run", "dnn", "--profile", "embedded")
    assert alone.returncode == 0, alone.stderr
    local = json.loads((original / "results" / "models" / "dnn" / "metrics.json").read_text())
    measured = {"seconds", "epoch_seconds", "images_per_second", "file_bytes"}
    compared = {
        f"{group}/{name}": value
        for group in ("test", "explain", "baseline")
        for name, value in local.get(group, {}).items()
        if name.rpartition("/")[2] not in measured
    }
    assert len(compared) > 10
    assert {name: outcome["metrics"][name] for name in compared} == compared
