"""Models side by side in processes of their own, with the results of one after the other."""

import json
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chapterflow.config.load import load_settings
from chapterflow.environment import Project
from chapterflow.errors import ChapterflowError, DataError
from chapterflow.loop import workers as module
from chapterflow.loop.workers import Workers, active_workers, default_count
from tests.conftest import FORKS, HUNG, NO_REPORT, REPOSITORY, Run, begin, call, copy_project
from tests.loop import stores, worker_steps
from tests.loop.test_interrupted import wait_until

SIDE_BY_SIDE = ("run", "dnn", "lenet5")


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """One worker, which imports the steps of the tests from the repository."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        patch.setattr(sys, "executable", FORKS.python)
        # Not in a `with` block: flows that tests call in this process would use it.
        started = Workers(Project(tmp_path_factory.mktemp("project")), 1)
        yield started
        started.close()


def silent(step: str, detail: str) -> None:
    pass


@pytest.mark.slow
def test_a_step_runs_elsewhere_and_reports_in_order(workers: Workers) -> None:
    import os

    progress = []
    with workers.taken() as worker:
        run, more, process = worker.call(
            worker_steps.fine, "dnn", tell=lambda *said: progress.append(said), more=3
        )
    assert (run, more) == ("dnn", 3)
    assert process != os.getpid()
    assert progress == [("train", "epoch 1"), ("train", "epoch 2")]


@pytest.mark.slow
def test_errors_keep_their_type_and_message(workers: Workers) -> None:
    with workers.taken() as worker:
        with pytest.raises(DataError, match="dnn is wrong") as known:
            worker.call(worker_steps.wrong, "dnn", tell=silent)
        with pytest.raises(ChapterflowError, match="no such layer") as other:
            worker.call(worker_steps.unexpected, "dnn", tell=silent)
    assert (str(known.value), known.value.exit_code) == ("dnn is wrong", 2)
    assert str(other.value) == "Unpicklable: no such layer"
    assert "worker_steps.py" in other.value.__notes__[0]


@pytest.mark.slow
def test_an_interrupt_reaches_the_step_and_leaves_the_worker(workers: Workers) -> None:
    begun = threading.Event()
    with workers.taken() as worker, ThreadPoolExecutor(1) as threads:
        interrupted = threads.submit(
            worker.call, worker_steps.long, "dnn", tell=lambda *said: begun.set()
        )
        assert begun.wait(HUNG)
        workers.interrupt()
        assert isinstance(interrupted.exception(HUNG), KeyboardInterrupt)
        workers.interrupt()  # an idle worker ignores it
        assert worker.call(worker_steps.fine, "cnn", tell=silent)[0] == "cnn"


@pytest.mark.slow
@pytest.mark.fault(
    "Worker process killed in mid-step", "The model fails with the reason; the others go on"
)
def test_a_killed_worker_is_replaced(workers: Workers) -> None:
    with (
        workers.taken() as worker,
        pytest.raises(ChapterflowError, match=r"`killed`\. Received: SIGKILL, last words"),
    ):
        worker.call(worker_steps.killed, "dnn", tell=silent)
    with workers.taken() as worker:
        assert worker.call(worker_steps.fine, "cnn", tell=silent)[0] == "cnn"


@pytest.mark.slow
def test_a_killed_server_of_workers_is_replaced(workers: Workers) -> None:
    begun = threading.Event()
    with workers.taken() as worker, ThreadPoolExecutor(1) as threads:
        lost = threads.submit(worker.call, worker_steps.long, "dnn", tell=lambda *_: begun.set())
        assert begun.wait(HUNG)
        assert workers._server is not None
        workers._server._process.kill()
        with pytest.raises(ChapterflowError, match="the end of the process that forked it"):
            lost.result(HUNG)
    with workers.taken() as worker:
        assert worker.call(worker_steps.fine, "cnn", tell=silent)[0] == "cnn"


@pytest.mark.slow
def test_a_server_that_cannot_start_gives_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorflow.py").write_text("raise RuntimeError('no TensorFlow here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    # A fork has TensorFlow already.
    monkeypatch.setattr(sys, "executable", str(Path(sys.prefix, "bin", "python")))
    started = Workers(Project(tmp_path), 1)
    try:
        with started.taken() as worker, pytest.raises(ChapterflowError, match="no TensorFlow here"):
            worker.call(worker_steps.fine, "dnn", tell=silent)
    finally:
        started.close()


def test_workers_are_active_in_their_block(tmp_path: Path) -> None:
    assert active_workers() is None
    with Workers(Project(tmp_path), 0) as outer:
        with Workers(Project(tmp_path), 0) as inner:
            assert active_workers() is inner
        assert active_workers() is outer
    assert active_workers() is None


def test_default_count_heeds_models_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    class Memory:
        available = 8_000_000_000

    monkeypatch.setattr(module.Path, "exists", lambda path: False)  # no GPU
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    assert [default_count(models) for models in (1, 2, 3, 12)] == [1, 2, 3, 3]
    Memory.available = 100_000_000
    assert default_count(12) == 1
    monkeypatch.setattr(module.Path, "exists", lambda path: True)  # TensorFlow takes all of a GPU
    Memory.available = 8_000_000_000
    assert default_count(12) == 1


def test_an_interrupted_validation_ends_the_models_that_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.states import Completed

    from pipelines import chapter

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(chapter, "validate", interrupted)
    monkeypatch.setattr(Workers, "taken", nullcontext)
    settings = load_settings(REPOSITORY / "params.yaml")
    verdicts = chapter._Verdicts(settings, {"digits": Completed()}, None, [])
    workers = Workers(Project(tmp_path), 0)
    workers.count = 1
    with pytest.raises(KeyboardInterrupt):
        workers.spread(lambda _, name: verdicts.of(name), ["dnn"], meanwhile=verdicts.make)


def test_models_with_variants_or_folds_go_first() -> None:
    from pipelines.chapter import _longest_first

    overrides = ["models.dnn.beside={}", "models.gcn.folds=5", "models.gcn.beside={}"]
    settings = load_settings(REPOSITORY / "params.yaml", overrides=overrides)
    # `googlenet` has a variant that is not trained, `transfer` has two that are.
    names = ["dnn", "googlenet", "transfer", "gcn", "cnn"]
    order = [names[place] for place in _longest_first([(name, settings) for name in names])]
    assert order == ["gcn", "transfer", "dnn", "googlenet", "cnn"]


@pytest.mark.slow
@pytest.mark.fault(
    "Ctrl-C, then a kill, while two models train side by side",
    "All processes end; the next run resumes both; weights equal those of one after the other",
)
def test_interrupted_side_by_side_ends_as_one_after_the_other(
    fetched_once: Path, prefect_once: Path, tmp_path: Path, run_flow: Run
) -> None:
    root = copy_project(fetched_once, tmp_path / "checkout")
    shutil.copytree(prefect_once, root / ".prefect")
    stores.set_param(root, "models.dnn.epochs", 150)
    stores.set_param(root, "models.dnn.patience", 150)
    stores.set_param(root, "models.lenet5.epochs", 8)

    def train_until(done: int) -> Any:
        process = begin(root, "chapterflow", *SIDE_BY_SIDE, "--workers", "2")
        wait_until(lambda: len(epochs := epochs_done(root)) == 2 and min(epochs) >= done)
        return process

    process = train_until(2)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=HUNG)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert {run["status"] for run in stores.mlflow_runs(root)} == {"KILLED"}
    assert stores.processes_of(root) == {}

    process = train_until(4)
    process.kill()
    process.communicate()
    wait_until(lambda: stores.processes_of(root) == {})

    done = call(root, "chapterflow", *SIDE_BY_SIDE, "--workers", "2", "--json", **NO_REPORT)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("continuing an interrupted training after epoch") == 2
    runs = stores.model_runs(root)
    assert len(runs) == 2
    assert {run["tags"]["chapterflow.workers"] for run in runs} == {"2"}
    again = run_flow(root, *SIDE_BY_SIDE, "--force", "--json")
    for mine, theirs in zip(*(json.loads(r.stdout)["models"] for r in (done, again)), strict=True):
        for name in ("test/accuracy", "test/log_loss", "train/epochs"):
            assert mine["metrics"][name] == theirs["metrics"][name]
        with stores.mlflow_at(root):
            import mlflow

            first, second = (
                mlflow.keras.load_model(f"models:/{mine['model']}/{version}").get_weights()
                for version in (1, 2)
            )
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a, b)


def epochs_done(root: Path) -> list[int]:
    """Return the last finished epoch of each model in training."""
    return [
        max((int(path.name[6:10]) for path in work.glob("checkpoints/epoch-*")), default=0)
        for work in root.glob(".chapterflow/work/*")
    ]
