"""Versions of registered models are found as a user names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chapterflow.environment import Project
from chapterflow.errors import ConfigError, StoreError
from chapterflow.tracking import store
from chapterflow.tracking.versions import find_version, read_version


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Any:
    import mlflow

    project = Project(tmp_path_factory.mktemp("registry"))
    store.open_store(project)
    client = mlflow.MlflowClient(store.tracking_uri(project))
    experiment = store.ensure_experiment(project, "chapterflow")
    run = client.create_run(experiment)
    client.create_registered_model("cnn")
    for _ in range(11):
        client.create_model_version("cnn", source="nowhere", run_id=run.info.run_id)
    client.create_registered_model("empty")
    client.set_registered_model_alias("cnn", "champion", "3")
    return client


@pytest.mark.parametrize(
    ("reference", "number", "told"),
    [
        ("cnn", "11", "cnn/11"),  # by number, not by text: 11 comes after 9
        ("cnn/2", "2", "cnn/2"),
        ("cnn@champion", "3", "cnn@champion (version 3)"),
    ],
)
def test_name_number_or_alias(client: Any, reference: str, number: str, told: str) -> None:
    found = find_version(client, reference)
    assert (found.name, found.number, found.told()) == ("cnn", number, told)
    assert found.run_id


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("cn", "No registered model is called 'cn'. Did you mean 'cnn'?"),
        ("dnn@champion", "No version of dnn is registered yet. `chapterflow run dnn` registers"),
        ("cnn/12", "'cnn/12' is not in the registry. cnn has versions 1, 2"),
        ("cnn@best", "aliases: champion"),
        ("empty", "empty has no versions"),
        ("cnn/x", "MODEL must be NAME, NAME/VERSION or NAME@ALIAS"),
        ("cnn@a/2", "MODEL must be"),
        ("", "MODEL must be"),
    ],
)
def test_what_is_not_there_is_told(client: Any, reference: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_version(client, reference)
    assert says in str(caught.value)


def test_a_version_without_files_is_told(client: Any, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not in the tracking store"):
        read_version(client, find_version(client, "cnn/1"))
