"""What a worker of another machine refuses, and what the machine that asks it refuses before."""

import pickle
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from chapterflow.config.load import load_settings
from chapterflow.data.build import prepare, verify_dataset
from chapterflow.environment import Project
from chapterflow.errors import ChapterflowError, ConfigError, DataError
from chapterflow.kinds.dataset import read_card
from chapterflow.loop import clusters, remote, steps
from chapterflow.loop.run import Run
from tests.conftest import HUNG, REPOSITORY, free_port
from tests.loop import worker_steps

#: Of workers in this process.
SOFTWARE = clusters.software(Project(REPOSITORY))


def test_a_scheduler_has_an_address(project: Project) -> None:
    with pytest.raises(ConfigError, match="--address tcp://host:8786"):
        load_settings(project.params, overrides=["execution={engine: dask}"])


def test_workers_share_a_tracking_store(project: Project) -> None:
    block = "execution={engine: dask, address: 'tcp://127.0.0.1:8786'}"
    settings = load_settings(project.params, overrides=[block])
    with pytest.raises(ConfigError, match=r"Received: sqlite:///.* Set MLFLOW_TRACKING_URI"):
        steps.preload(project, settings, ["dnn"])


def test_a_scheduler_that_does_not_answer_is_refused(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "ANSWER_SECONDS", 0.5)
    with pytest.raises(ConfigError, match="Start it with `dask scheduler`"):
        clusters.Dask(f"tcp://127.0.0.1:{free_port()}", {})


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_head_of_ray_that_does_not_answer_is_refused(scheme: str) -> None:
    address = f"{scheme}127.0.0.1:{free_port()}"
    with pytest.raises(ConfigError, match=f"Received: {address} .*Start the node with `ray start`"):
        clusters.Ray(address, {})


def test_other_code_is_refused_with_both_commits(project: Project) -> None:
    ours = clusters.software(project)
    theirs = ours | {"commit": "c0ffee"}
    with pytest.raises(ConfigError, match=f"Received: commit {ours['commit']} instead of c0ffee"):
        clusters.refuse_other("software", theirs, ours)
    (project.root / "requirements.lock").write_text("numpy==1\n")
    with pytest.raises(ConfigError, match=r"requirements\.lock [0-9a-f]+ instead of none"):
        clusters.refuse_other("software", ours, clusters.software(project))


def test_changed_sources_are_named() -> None:
    theirs, ours = ({"sources": {"src/a.py": value, "src/b.py": "b"}} for value in ("1", "2"))
    with pytest.raises(ConfigError, match=r"Received: sources\.src/a\.py 2 instead of 1\. "):
        clusters.refuse_other("fingerprint", theirs, ours)


def test_an_order_holds_no_path_of_its_machine(in_project: Project) -> None:
    settings = load_settings(in_project.params)
    prepare(in_project, "digits", settings.datasets["digits"], profile=["digits"])
    order = remote.Order.of(Run(in_project, settings, "dnn"), flow_run_id="1")
    assert set(clusters.software(in_project)) == {"commit", "requirements.lock"}
    assert str(in_project.root).encode() not in pickle.dumps(order)


@pytest.fixture
def checkouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Project]:
    """Two checkouts of one user, who has no DVC remote."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    projects = [Project(tmp_path / name) for name in ("first", "second")]
    for project in projects:
        project.root.mkdir()
        shutil.copy(REPOSITORY / "params.yaml", project.root)
    return projects


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has been built from its source."""
    names: list[str] = []

    def count(project: Project, name: str, *arguments: Any, **options: Any) -> Any:
        names.append(name)
        return prepare(project, name, *arguments, **options)

    monkeypatch.setattr(remote, "prepare", count)
    return names


def bring(project: Project, digest: str) -> None:
    remote._bring(project, load_settings(project.params), "digits", digest, lambda *said: None)


def digest_of_digits(root: Path) -> str:
    project = Project(root)
    project.root.mkdir()
    settings = load_settings(REPOSITORY / "params.yaml")
    return prepare(project, "digits", settings.datasets["digits"], profile=["digits"]).digest


def test_data_without_a_remote_are_built_once_a_machine(
    checkouts: list[Project], builds: list[str], tmp_path: Path
) -> None:
    digest = digest_of_digits(tmp_path / "flow")
    # Two workers in each of two checkouts, all at once.
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(bring, checkouts * 2, [digest] * 4))
    assert builds == ["digits"]
    for project in checkouts:
        assert read_card(project.data / "digits").digest == digest
        assert verify_dataset(project.data / "digits") == []

    (shared,) = (tmp_path / "cache/chapterflow/datasets").glob("*/data/digits")
    shutil.rmtree(checkouts[0].data)
    (shared / "images.npy").write_bytes(b"damaged")
    bring(checkouts[0], digest)
    assert builds == ["digits"] * 2
    assert verify_dataset(checkouts[0].data / "digits") == []


def test_other_data_and_damaged_data_are_refused(
    checkouts: list[Project], builds: list[str], tmp_path: Path
) -> None:
    digest, project = digest_of_digits(tmp_path / "flow"), checkouts[0]
    with pytest.raises(DataError, match=f"Received: {digest[:12]} from its sources, the flow's is"):
        bring(project, "c0ffee" * 10)
    assert not (project.data / "digits").exists()
    bring(project, digest)
    with (project.data / "digits/images.npy").open("ab") as file:
        file.write(b"more")
    with pytest.raises(DataError, match="data fetch --force digits"):
        bring(project, digest)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """A client of a scheduler with one worker, all in this process."""
    from distributed import Client, LocalCluster

    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**options, processes=False) as cluster, Client(cluster) as client:
        yield client


def test_a_step_on_dask_reports_and_returns_or_raises_as_in_a_process(client: Any) -> None:
    worker = clusters.DaskWorker(client, SOFTWARE)
    progress: list[tuple[str, str]] = []
    both = threading.Event()

    def tell(*said: str) -> None:
        progress.append((said[0], said[1]))
        if len(progress) == 2:
            both.set()

    assert worker.call(worker_steps.fine, "dnn", tell=tell, more=3)[:2] == ("dnn", 3)
    assert both.wait(HUNG)
    assert progress == [("train", "epoch 1"), ("train", "epoch 2")]
    with pytest.raises(DataError, match="dnn is wrong"):
        worker.call(worker_steps.wrong, "dnn", tell=tell)
    with pytest.raises(ChapterflowError, match="no such layer"):
        worker.call(worker_steps.unexpected, "dnn", tell=tell)


def test_an_order_that_other_code_cannot_read_is_refused_with_both_commits(client: Any) -> None:
    theirs = SOFTWARE | {"commit": "c0ffee"}
    future = client.submit(clusters._answer_dask, b"of other code", theirs, "topic")
    what, error = future.result()
    assert what == "raise"
    assert isinstance(error, ConfigError)
    assert f"Received: commit {SOFTWARE['commit']} instead of c0ffee. " in str(error)


def test_an_interrupted_step_on_dask_ends_and_leaves_the_worker(client: Any) -> None:
    worker, begun = clusters.DaskWorker(client, SOFTWARE), threading.Event()
    with ThreadPoolExecutor(1) as threads:
        interrupted = threads.submit(
            worker.call, worker_steps.endless, "dnn", tell=lambda *said: begun.set()
        )
        assert begun.wait(HUNG)
        worker.interrupt()
        assert isinstance(interrupted.exception(HUNG), KeyboardInterrupt)
    # The worker has one thread.
    assert worker.call(worker_steps.fine, "cnn", tell=lambda *said: None)[0] == "cnn"
