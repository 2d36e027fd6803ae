"""Versions of registered models are found as a user names them, the same way by every command."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chapterflow.config.load import load_settings
from chapterflow.environment import Project
from chapterflow.errors import ConfigError, StoreError
from chapterflow.lineage.reproduce import reproduce
from chapterflow.lineage.why import why
from chapterflow.predict import server
from chapterflow.predict.batch import check_batch
from chapterflow.predict.explain_input import explain_with
from chapterflow.predict.inputs import read_version
from chapterflow.registry.judge import Request, judge_request
from chapterflow.tracking import runs, store
from chapterflow.tracking.versions import Version, find_version, registered_models
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose registry has models with and without a champion, and no files of theirs."""
    import mlflow

    project = Project(tmp_path_factory.mktemp("registry"))
    shutil.copy(REPOSITORY / "params.yaml", project.root)
    store.open_store(project)
    client = mlflow.MlflowClient(store.tracking_uri(project))
    experiment = store.ensure_experiment(project, "chapterflow")
    for name, aliases in (
        ("cnn", {"champion": "3", "challenger": "2"}),
        ("lenet5", {"challenger": "2"}),
        ("vgg", {}),
    ):
        client.create_registered_model(name)
        for number in range(1, 12 if name == "vgg" else 5):
            tags = {
                runs.RUN_TYPE: "model",
                runs.PROFILE: "embedded",
                runs.MODEL: name,
                runs.MODEL_VERSION: str(number),
            }
            run = client.create_run(experiment, tags=tags)
            client.create_model_version(name, source=f"{name}{number}", run_id=run.info.run_id)
            client.set_terminated(run.info.run_id, "FINISHED")
        for alias, number in aliases.items():
            client.set_registered_model_alias(name, alias, number)
    client.create_registered_model("empty")
    return project


@pytest.fixture(scope="module")
def client(project: Project) -> Any:
    import mlflow

    return mlflow.MlflowClient(store.tracking_uri(project))


@pytest.mark.parametrize(
    ("reference", "words", "notice"),
    [
        ("cnn", "cnn@champion (version 3)", "cnn: version 3 (champion)"),
        ("cnn/1", "cnn/1", "cnn: version 1"),
        ("cnn@challenger", "cnn@challenger (version 2)", "cnn: version 2 (challenger)"),
        (
            "lenet5",
            "lenet5@challenger (version 2)",
            "lenet5: version 2 (challenger; no champion yet)",
        ),
        # By number, not by text: 11 comes after 9.
        ("vgg", "vgg/11", "vgg: version 11 (newest; no champion yet)"),
    ],
)
def test_name_number_or_alias(client: Any, reference: str, words: str, notice: str) -> None:
    version = find_version(client, reference)
    assert (str(version), version.notice()) == (words, notice)
    assert client.get_run(version.run_id).data.tags[runs.MODEL_VERSION] == version.number


COMMANDS: dict[str, Callable[..., Any]] = {
    "explain": lambda project, settings, reference, **options: explain_with(
        project, settings, reference, "digits:1", project.scratch / "out", **options
    ),
    "predict": lambda project, settings, reference, **options: check_batch(
        project, settings, reference, ["digits"], project.scratch / "out.parquet", **options
    ),
    "serve": server.load,
    "why": why,
    "reproduce": reproduce,
}


class Taken(Exception):
    """Ends a command as soon as it knows its version, none of which has files here."""

    def __init__(self, version: Version) -> None:
        super().__init__(version.notice())


def stop(version: Version) -> None:
    raise Taken(version)


@pytest.mark.parametrize(
    ("reference", "notice"),
    [
        ("cnn", "cnn: version 3 (champion)"),
        ("cnn/1", "cnn: version 1"),
        ("cnn@challenger", "cnn: version 2 (challenger)"),
        ("lenet5", "lenet5: version 2 (challenger; no champion yet)"),
        ("vgg", "vgg: version 11 (newest; no champion yet)"),
    ],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_the_same_version(
    project: Project, command: str, reference: str, notice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.root)
    settings = load_settings(project.params)
    with pytest.raises(Taken) as caught:
        COMMANDS[command](project, settings, reference, on_version=stop)
    assert str(caught.value) == notice


@pytest.mark.parametrize(
    ("reference", "notice"),
    [
        ("cnn", "cnn: version 2 (challenger)"),
        ("cnn/1", "cnn: version 1"),
        ("cnn@champion", "cnn: version 3 (champion)"),
    ],
)
def test_promote_judges_the_challenger_of_a_name(
    project: Project, reference: str, notice: str
) -> None:
    with pytest.raises(Taken) as caught:
        judge_request(project, Request(model=reference), on_version=stop)
    assert str(caught.value) == notice


def test_a_run_by_the_beginning_of_its_id(client: Any) -> None:
    experiment = store_experiment(client)
    second = find_version(client, "cnn/2")
    version = find_version(client, second.run_id[:12], experiment_id=experiment)
    assert version == second
    with pytest.raises(ConfigError, match="No registered model is called"):
        find_version(client, second.run_id[:12])
    with pytest.raises(ConfigError, match=r"no run's id begins with this.*'ffffffffffff'. Runs: "):
        find_version(client, "f" * 12, experiment_id=experiment)


def store_experiment(client: Any) -> str:
    return str(client.get_experiment_by_name("chapterflow").experiment_id)


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("cn", "No registered model is called 'cn'. Did you mean 'cnn'?"),
        ("dnn@champion", "No version of dnn is registered yet. `chapterflow run dnn` registers"),
        (
            "cnn/12",
            "'cnn/12' is not in the registry. cnn has versions 1, 2, 3, 4;",
        ),
        ("cnn@best", "aliases: challenger, champion"),
        ("empty", "empty has no versions"),
        ("cnn/x", "MODEL must be NAME, NAME/VERSION or NAME@ALIAS"),
        ("cnn@a/2", "MODEL must be"),
        ("", "MODEL must be"),
    ],
)
def test_what_is_not_there_is_reported(client: Any, reference: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_version(client, reference)
    assert says in str(caught.value)


def test_a_version_without_files_is_reported(client: Any, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not in the tracking store"):
        read_version(client, find_version(client, "cnn/1"))


def test_all_pages_of_registered_models_are_read(client: Any) -> None:
    for number in range(100):  # MLflow's page
        client.create_registered_model(f"a{number:03}")
    client.create_registered_model("zebra")
    with pytest.raises(ConfigError, match="Did you mean 'zebra'"):
        find_version(client, "zebre")
    assert [*registered_models()][-1] == "zebra"
