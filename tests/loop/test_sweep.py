"""A sweep: trials of a model, judged on validation, shared by processes, continued after a kill."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from chapterflow.cli.sweep import print_sweep
from chapterflow.config.load import load_settings
from chapterflow.config.space import read_space
from chapterflow.environment import SWEEP_STORAGE, Project
from chapterflow.errors import ConfigError, StoreUnavailable
from chapterflow.kinds.dataset import Dataset
from chapterflow.language import Language, speaking
from chapterflow.loop import remote
from chapterflow.loop import sweep as loop
from chapterflow.loop.run import Run
from chapterflow.loop.sweep import AFFECTED, Sweep, Trial
from chapterflow.tracking import runs
from chapterflow.tracking.store import database
from chapterflow.types import silent
from tests.conftest import (
    HUNG,
    REPOSITORY,
    begin,
    command_environment,
    copy_project,
    in_checkout,
    invoke,
)
from tests.tracking.postgres import postgres

#: Three trials of a second each.
DNN = ("sweep", "dnn", "--set", "models.dnn.epochs=1", "--set", "models.dnn.hidden=8,16,64")


def swept(root: Path, *words: str, **variables: str) -> dict[str, Any]:
    done = invoke(root, *words, "--json", **variables)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def logged(root: Path) -> tuple[list[Any], list[Any]]:
    """Return all MLflow runs, and all versions."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{database(Project(root))}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments)), list(client.search_model_versions())


@pytest.fixture(scope="module")
def three(
    fetched_once: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], list[str]]:
    """A checkout with a sweep of three trials, its document, and the splits that it has read."""
    root = copy_project(fetched_once, tmp_path_factory.mktemp("sweep") / "checkout")
    splits: list[str] = []
    usual = Dataset.indices

    def spied(self: Dataset, split: Any) -> Any:
        splits.append(split)
        return usual(self, split)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dataset, "indices", spied)
        return root, swept(root, *DNN, "--trials", "3"), splits


def test_all_trials_are_judged_on_validation(three: Any) -> None:
    _, document, splits = three
    assert document["metric"] == "validation/accuracy"
    assert [trial["state"] for trial in document["trials"]] == ["finished"] * 3
    values = [trial["value"] for trial in document["trials"]]
    assert values == sorted(values, reverse=True)
    assert values[0] == document["best"]["value"] > values[2]
    # Each of the three values was tried once: there are no more.
    assert sorted(trial["params"]["hidden"] for trial in document["trials"]) == [8, 16, 64]
    assert set(splits) == {"train", "validation"}


def test_trials_are_nested_runs_and_no_challengers(three: Any) -> None:
    root, document, _ = three
    every, versions = logged(root)
    assert not versions
    kinds = [run.data.tags[runs.RUN_TYPE] for run in every]
    assert sorted(kinds) == ["sweep", "trial", "trial", "trial"]
    assert {run.info.status for run in every} == {"FINISHED"}
    (parent,) = (run for run in every if run.data.tags[runs.RUN_TYPE] == runs.SWEEP)
    assert parent.info.run_id == document["run_id"]
    assert parent.data.params["space.hidden"] == "8,16,64"
    best = document["best"]
    assert parent.data.tags["chapterflow.best.hidden"] == str(best["params"]["hidden"])
    assert parent.data.metrics["sweep/accuracy"] == best["value"]
    by_id = {run.info.run_id: run for run in every}
    for trial in document["trials"]:
        run = by_id[trial["run_id"]]
        assert run.data.tags[runs.PARENT] == document["run_id"]
        assert run.data.params["hidden"] == str(trial["params"]["hidden"])
        assert run.data.metrics["validation/accuracy"] == trial["value"]
        assert not any(name.startswith("test/") for name in run.data.metrics)
    compared = invoke(root, "compare", "--json")
    assert json.loads(compared.stdout)["models"] == []


def test_the_run_has_the_pictures_of_optuna(three: Any) -> None:
    root, document, _ = three
    every, _ = logged(root)
    parent = next(run for run in every if run.info.run_id == document["run_id"])
    folder = Path(parent.info.artifact_uri)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        *("best.json", "history.png", "importance.png", "parallel_coordinate.png", "params.diff"),
    ]
    for picture in folder.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "best.json").read_text()) == document["best"]


def test_the_proposal_applies(three: Any, tmp_path: Path) -> None:
    root, document, _ = three
    before = (root / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(before)
    (tmp_path / "params.diff").write_text(document["diff"])
    done = subprocess.run(
        ["git", "apply", "params.diff"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    after = (tmp_path / "params.yaml").read_text()
    hidden = document["best"]["params"]["hidden"]
    assert after == before.replace("    hidden: 128\n", f"    hidden: {hidden}\n")
    assert document["notes"] == [
        "All trials ran with --set models.dnn.epochs=1, which the diff does not contain.",
        "The change affects the profile 'book', too.",
    ]


def test_the_same_command_repeats_nothing(three: Any, tmp_path: Path) -> None:
    root, document, _ = three
    again = copy_project(root, tmp_path / "checkout")
    # --apply changes a parameter that varies: the sweep stays the same.
    applied = swept(again, *DNN, "--trials", "3", "--apply")
    assert applied["trials"] == document["trials"]
    settings = load_settings(again / "params.yaml")
    assert settings.params("dnn").model_dump()["hidden"] == document["best"]["params"]["hidden"]
    more = swept(again, *DNN, "--trials", "9")
    assert more["study"] == document["study"]
    assert more["run_id"] == document["run_id"]
    assert more["trials"] == document["trials"], "there are three sets of parameters only"
    assert more["diff"] == ""
    assert len(logged(again)[0]) == 4


@pytest.mark.slow
def test_curves_failures_and_pruning(fetched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower errors are better; a trial that cannot train counts, and the sweep goes on."""
    monkeypatch.setattr(loop, "STARTUP", 1)
    document = swept(
        fetched,
        *("sweep", "conv1d", "--set", "models.conv1d.epochs=3", "--set", "models.conv1d.filters=2"),
        *("--set", "models.conv1d.blocks=1"),
        *("--set", "models.conv1d.label_smoothing=0.0,0.1"),
        *("--set", "models.conv1d.learning_rate=1e-7,2e-7,0.02", "--trials", "6"),
        # With this seed, the good rate is the first.
        *("--set", "seed=6"),
    )
    assert (document["metric"], document["higher_is_better"]) == ("validation/rmse", False)
    states = [trial["state"] for trial in document["trials"]]
    assert states.count("failed") == 3
    assert document["best"]["params"] == {"label_smoothing": 0.0, "learning_rate": 0.02}
    assert "pruned" in states
    (failed, *_) = (trial for trial in document["trials"] if trial["state"] == "failed")
    assert "label_smoothing must be 0" in failed["error"]
    by_id = {run.info.run_id: run for run in logged(fetched)[0]}
    for trial in document["trials"]:
        run = by_id[trial["run_id"]]
        assert run.info.status == ("FAILED" if trial["state"] == "failed" else "FINISHED")
        if trial["state"] == "pruned":
            assert trial["epochs"] < 3
            assert run.data.tags["chapterflow.trial"] == "pruned"
    assert not list((fetched / ".chapterflow" / "work").iterdir())


@pytest.mark.slow
@pytest.mark.fault(
    "SIGKILL of one of two processes that share a sweep, in the middle of a trial",
    "The other takes the trial over in its run, and repeats no finished trial",
)
def test_a_killed_process_loses_no_trial(fetched: Path, record_property: Any) -> None:
    import optuna

    words = (
        *("chapterflow", "sweep", "dnn", "--set", "models.dnn.epochs=20"),
        *("--set", "models.dnn.patience=null", "--set", "models.dnn.hidden=8,16,32,64"),
        *("--trials", "4", "--json"),
    )
    killed = {"CHAPTERFLOW_TEST_KILL": "chapterflow.training.epochs:Checkpoints.save:after"}
    first = begin(fetched, *words, env=command_environment(fetched) | killed)
    second = begin(fetched, *words)
    first.communicate(timeout=HUNG)
    assert first.returncode == -signal.SIGKILL
    out, err = second.communicate(timeout=HUNG)
    assert second.returncode == 0, err
    document = json.loads(out)
    assert [trial["state"] for trial in document["trials"]] == ["finished"] * 4
    assert sorted(trial["params"]["hidden"] for trial in document["trials"]) == [8, 16, 32, 64]
    every, _ = logged(fetched)
    kinds = [run.data.tags[runs.RUN_TYPE] for run in every]
    assert (kinds.count("trial"), kinds.count("sweep")) == (4, 1)
    assert {run.info.status for run in every} == {"FINISHED"}
    numbers = {trial["number"] for trial in document["trials"]}
    (file,) = (fetched / ".chapterflow" / "sweeps").glob("*.db")
    (summary,) = optuna.get_all_study_summaries(f"sqlite:///{file}")
    study = optuna.load_study(study_name=summary.study_name, storage=f"sqlite:///{file}")
    (lost,) = [trial for trial in study.trials if trial.number not in numbers]
    assert lost.user_attrs["run_id"] in {trial["run_id"] for trial in document["trials"]}
    assert len({trial.user_attrs["process"] for trial in study.trials}) == 2
    record_property("saw", "4 trials, 4 runs, 1 of them taken over")


@pytest.mark.slow
def test_a_postgresql_database_holds_runs_and_sweeps(fetched: Path, tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    with postgres() as address:
        variables = {
            "MLFLOW_TRACKING_URI": address,
            "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(tmp_path / "artifacts"),
        }
        document = swept(fetched, *DNN, "--trials", "3", **variables)
        assert [trial["state"] for trial in document["trials"]] == ["finished"] * 3
        assert document["storage"].startswith("postgresql://***@")
        # MLflow's tables are as they were.
        again = swept(fetched, *DNN, "--trials", "3", "--storage", address, **variables)
        assert again["trials"] == document["trials"]
        compared = invoke(fetched, "compare", "--json", **variables)
        assert json.loads(compared.stdout)["models"] == []
    assert not (fetched / ".chapterflow" / "sweeps").exists()


def test_which_storage(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    file = f"sqlite:///{project.scratch}/sweeps/dnn-1.db"
    assert loop.storage_address(project, "dnn-1", None) == file
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert loop.storage_address(project, "dnn-1", None) == file
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://a@b/c")
    assert loop.storage_address(project, "dnn-1", None) == "postgresql://a@b/c"
    assert loop.storage_address(project, "dnn-1", "sqlite:////x.db") == "sqlite:////x.db"


@pytest.mark.parametrize("given", ["x.db", "sqlite://", "mysql://a:canary@b/c", "http://a"])
def test_other_storages_are_refused(given: str, project: Project) -> None:
    with pytest.raises(ConfigError, match=r"--storage must be postgresql://") as refused:
        loop.storage_address(project, "dnn-1", given)
    assert "canary" not in str(refused.value)


def test_other_machines_need_a_storage_that_they_share(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:canary@tracking:5000")
    with pytest.raises(ConfigError, match="trials need a database that all workers") as refused:
        loop.storage_address(project, "dnn-1", None, is_remote=True)
    assert "canary" not in str(refused.value)
    shared = loop.storage_address(project, "dnn-1", "postgresql://a@b/c", is_remote=True)
    assert shared == "postgresql://a@b/c"


def test_a_worker_with_another_storage_is_refused(three: Any, tmp_path: Path) -> None:
    root, document, _ = three
    project = Project(root)
    space, settings = read_space(project.params, "dnn", DNN[3::2])
    search = loop.Search(settings, space, "", document["study"], document["run_id"], 3)
    variables = {SWEEP_STORAGE: f"sqlite:///{tmp_path}/other.db"}
    with in_checkout(root, **variables):
        order = remote.Order.of(Run(project, settings, "dnn"), flow_run_id=search.run_id)
        with pytest.raises(ConfigError, match=f"has no study {search.study}"):
            loop.take_remotely(order, search, tell=silent)


def test_trials_on_a_cluster_need_a_shared_tracking_store(fetched: Path) -> None:
    options = ("--engine", "dask", "--address", "tcp://127.0.0.1:1")
    done = invoke(fetched, *DNN, *options)
    assert done.returncode == 2
    assert "need a tracking store that all workers share" in done.stderr


def test_the_tracking_store_is_no_storage(project: Project) -> None:
    with pytest.raises(ConfigError, match="must not be the tracking store"):
        loop.storage_address(project, "dnn-1", f"sqlite:///{database(project)}")


def test_a_storage_that_does_not_answer() -> None:
    with pytest.raises(StoreUnavailable, match="does not answer") as failed:
        loop.storage_of("postgresql://me:canary@127.0.0.1:1/sweeps")
    assert "127.0.0.1:1/sweeps" in str(failed.value)
    assert "canary" not in str(failed.value)


@pytest.mark.parametrize("width", [80, 124])
def test_the_table_fits_the_terminal(width: int) -> None:
    params = {"learning_rate": 0.00123, "batch_normalisation": True, "augment.rotation": 9.25}
    trials = [
        Trial(
            number=number, state="finished", value=0.98, params=params, epochs=12,
            seconds=1.0, run_id="1", same_as=1 if number else None,
        )
        for number in range(20)
    ]  # fmt: skip
    result = Sweep(
        model="xcnn", dataset="digits", profile="embedded", study="xcnn-1", storage="sqlite:///x",
        metric="validation/accuracy", higher_is_better=True, run_id="1", trials=trials,
        best=trials[0], diff="--- a\n", notes=[],
    )  # fmt: skip
    console = Console(record=True, file=io.StringIO(), width=width)
    print_sweep(console, result)
    text = console.export_text()
    table = [line for line in text.splitlines() if line[:1] in "┏┡│└"]
    assert len(table) >= 10
    assert max(map(len, table)) <= width
    assert "0.00123" in text
    assert "20 trials: 20 finished." in text


def test_results_in_korean() -> None:
    trial = Trial(
        number=0, state="pruned", value=None, params={"dense": 64}, epochs=2, seconds=1.0,
        run_id="1", same_as=None,
    )  # fmt: skip
    result = Sweep(
        model="cnn", dataset="digits", profile="embedded", study="cnn-1", storage="sqlite:///x",
        metric="validation/accuracy", higher_is_better=True, run_id="1", trials=[trial], best=None,
        diff="", notes=[AFFECTED.format(profile="book")],
    )  # fmt: skip
    console = Console(record=True, file=io.StringIO(), width=100)
    with speaking(Language.ko):
        print_sweep(console, result)
    text = console.export_text()
    assert "시도 1개: 조기 중단 1개." in text
    assert "프로필 'book'에도" in text
    assert not re.search(r"trial|pruned|State|Epochs|params.yaml has", text)


def test_the_deployment_has_parameters_of_the_flow() -> None:
    from pipelines.sweep import sweep

    deployments = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    (deployment,) = (each for each in deployments if each["name"] == "sweep")
    given = sweep.validate_parameters(deployment["parameters"])
    space, _ = read_space(REPOSITORY / "params.yaml", given["model"], given["space"])
    assert [each.name for each in space.dimensions] == ["learning_rate", "dense"]


def test_a_storage_that_others_create_at_the_same_time_is_opened(tmp_path: Path) -> None:
    for number in range(3):
        address = f"sqlite:///{tmp_path}/{number}.db"
        together = threading.Barrier(4)

        def opened(_: int, address: str = address, together: Any = together) -> Any:
            together.wait()
            return loop.storage_of(address).get_all_studies()

        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(opened, range(4))) == [[]] * 4
