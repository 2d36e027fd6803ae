"""A worker that shares only the tracking store takes any step of a run."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import HUNG, begin, call, command_environment, copy_checkout, invoke
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


@pytest.mark.slow
def test_each_step_in_a_process_and_checkout_of_its_own(
    fetched: Path, tmp_path: Path, mlflow_server: str
) -> None:
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
            *("python", str(worker), step, str(wire)),
            MLFLOW_TRACKING_URI=mlflow_server,
        )
        assert done.returncode == 0, done.stderr
        shutil.rmtree(checkout)
    outcome = json.loads(done.stdout)
    assert outcome["status"] == "trained"
    assert outcome["model_version"] == "1"
    # Nothing that crossed between the steps is a path of this machine.
    for file in wire.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file.name

    set_param(fetched, "models.dnn.epochs", 3)
    alone = invoke(fetched, "step", "run", "dnn", "--profile", "embedded")
    assert alone.returncode == 0, alone.stderr
    local = json.loads((fetched / "results" / "models" / "dnn" / "metrics.json").read_text())
    measured = {"seconds", "epoch_seconds", "images_per_second", "file_bytes"}
    compared = {
        f"{group}/{name}": value
        for group in ("test", "explain", "baseline")
        for name, value in local.get(group, {}).items()
        if name.rpartition("/")[2] not in measured
    }
    assert len(compared) > 10
    assert {name: outcome["metrics"][name] for name in compared} == compared


@pytest.mark.slow
@pytest.mark.fault(
    "Process killed during training, and its machine lost",
    "Another machine continues the run after the last epoch that was kept",
)
def test_a_training_continues_in_another_clone(
    fetched: Path, tmp_path: Path, mlflow_server: str, record_property: Any
) -> None:
    from mlflow import MlflowClient

    set_param(fetched, "models.dnn.epochs", 5)
    lost = tmp_path / "lost"
    shutil.copytree(fetched, lost)
    words = ("chapterflow", "step", "run", "dnn", "--profile", "embedded")
    server = {"MLFLOW_TRACKING_URI": mlflow_server}
    work = tmp_path / "server" / "artifacts"
    (tmp_path / "kept.kill").touch()
    killed = call(lost, *words, CHAPTERFLOW_TEST_KEEP=str(tmp_path / "kept"), **server)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list(work.rglob("epoch-*.zip"))
    shutil.rmtree(lost)

    done = call(fetched, *words, **server)
    assert done.returncode == 0, done.stderr
    client = MlflowClient(mlflow_server, mlflow_server)
    experiment = client.get_experiment_by_name("chapterflow")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    (file,) = work.glob("*/*/artifacts/training.json")
    training = json.loads(file.read_text())
    assert training["resumed_from"] == 2
    assert len(training["history"]) == 5
    assert not list(work.glob("*/*/artifacts/work"))
    record_property("saw", "continued in the same run; nothing kept in the end")


@pytest.mark.slow
@pytest.mark.fault(
    "One model run at once in two clones that share a tracking server",
    "One trains and registers it, the other reuses it",
)
def test_two_clones_train_and_register_a_model_once(
    fetched: Path, tmp_path: Path, mlflow_server: str, record_property: Any
) -> None:
    from mlflow import MlflowClient

    set_param(fetched, "models.dnn.epochs", 3)
    clones = [fetched, tmp_path / "clone"]
    shutil.copytree(fetched, clones[1])

    words = ("chapterflow", "step", "run", "dnn", "--profile", "embedded")
    processes = [
        begin(
            clone,
            *words,
            env=command_environment(clone) | {"MLFLOW_TRACKING_URI": mlflow_server},
        )
        for clone in clones
    ]
    for process in processes:
        _, stderr = process.communicate(timeout=HUNG)
        assert process.returncode == 0, stderr
    first, second = (clone / "results" / "models" / "dnn" / "metrics.json" for clone in clones)
    assert first.read_bytes() == second.read_bytes()
    client = MlflowClient(mlflow_server, mlflow_server)
    experiment = client.get_experiment_by_name("chapterflow")
    assert [run.info.status for run in client.search_runs([experiment.experiment_id])] == [
        "FINISHED"
    ]
    assert [version.version for version in client.search_model_versions("name = 'dnn'")] == ["1"]
    assert not [key for key in experiment.tags if key.startswith("chapterflow.claim")]
    record_property("saw", "1 run, 1 version, equal metrics")
