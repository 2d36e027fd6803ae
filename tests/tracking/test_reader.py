"""The local store is read without MLflow, with the same answers as MLflow's own client."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chapterflow.environment import Project
from chapterflow.tracking import reader, runs, store

NAMES = ("dnn", "cnn")


@pytest.fixture
def clients(project: Project) -> tuple[Any, Any]:
    """MLflow's client and a reader, on a store with runs, versions and files."""
    from mlflow.entities import Metric, Param, RunTag

    client: Any = store.open_client(store.open_store(project))
    experiment = store.ensure_experiment(project, "chapterflow")
    client.set_experiment_tag(experiment, "note", "한국어")
    for number, status in enumerate(("FINISHED", "FAILED", "RUNNING", "FINISHED", "FINISHED")):
        name = NAMES[number % 2]
        run = client.create_run(experiment, start_time=1000 - number, run_name=f"run {number}")
        client.log_batch(
            run.info.run_id,
            [Metric("a", 1.5, 0, 0), Metric("a", 2.0, 0, 1), Metric("b", math.nan, 0, 0)],
            [Param("epochs", "3")],
            [RunTag(runs.MODEL, name), RunTag("chapterflow.note", "one and two")],
        )
        client.log_text(run.info.run_id, "{}", "folder/file.json")
        if status != "RUNNING":
            client.set_terminated(run.info.run_id, status)
    client.delete_run(run.info.run_id)
    for name in NAMES:
        client.create_registered_model(name, {"role": "2d"}, "about")
        logged = client.create_logged_model(experiment, name, run.info.run_id, {"hash": "0"})
        for _ in range(2):
            client.create_model_version(
                name, f"models:/{logged.model_id}", run.info.run_id, {"judged": "no"}
            )
    client.set_registered_model_alias("dnn", "champion", "2")
    client.delete_model_version("cnn", "2")
    (opened,) = store._reader_of(project, wait=1).values()
    return client, opened


def same(read: Any, expected: Any) -> bool:
    """Tell whether every attribute that the reader has is that of MLflow's entity."""
    if isinstance(read, list):
        pairs = list(zip(read, expected, strict=True))
        return all(same(mine, theirs) for mine, theirs in pairs)
    if isinstance(read, dict):
        return repr(sorted(read.items())) == repr(sorted(dict(expected).items()))
    if hasattr(read, "__dict__"):
        return all(same(value, getattr(expected, name)) for name, value in vars(read).items())
    return bool(read == expected)


CALLS: list[Callable[[Any, dict[str, str]], Any]] = [
    lambda client, ids: client.get_experiment_by_name("chapterflow"),
    lambda client, ids: client.get_experiment(ids["experiment"]),
    lambda client, ids: client.get_run(ids["run"]),
    lambda client, ids: client.get_registered_model("dnn"),
    lambda client, ids: list(client.search_registered_models()),
    lambda client, ids: client.get_model_version("dnn", "2"),
    lambda client, ids: client.get_model_version_by_alias("dnn", "champion"),
    # Search results carry no aliases in MLflow 3.
    lambda client, ids: sorted((v.name, v.version) for v in client.search_model_versions()),
    lambda client, ids: [v.version for v in client.search_model_versions("name = 'cnn'")],
    lambda client, ids: client.get_logged_model(ids["logged"]),
    lambda client, ids: client.list_artifacts(ids["run"]),
    lambda client, ids: client.list_artifacts(ids["run"], "folder"),
    lambda client, ids: client.list_artifacts(ids["run"], "nothing"),
    lambda client, ids: client.download_artifacts(ids["run"], "folder/file.json"),
]
QUERIES: list[dict[str, Any]] = [
    {},
    {"order_by": ["attributes.start_time ASC"]},
    {"max_results": 2},
    {"run_view_type": reader.DELETED},
    {"filter_string": f"tags.`{runs.MODEL}` = 'dnn' and attributes.status = 'FINISHED'"},
    {"filter_string": f"tags.`{runs.MODEL}` != 'dnn'"},
    {"filter_string": "attributes.start_time > 997"},
    {"filter_string": "attributes.run_id LIKE 'RUN%'"},
    {"filter_string": "attributes.run_id IN ('RUN', 'x')"},
]
#: Searches that MLflow itself answers.
OTHERS: list[dict[str, Any]] = [
    {"filter_string": "tags.`chapterflow.note` = 'one and two'"},
    {"filter_string": "metrics.a > 1"},
    {"order_by": ["metrics.a DESC", "attributes.start_time ASC"]},
]


def test_it_answers_as_mlflow_does(clients: tuple[Any, Any], tmp_path: Path) -> None:
    client, opened = clients
    experiment = client.get_experiment_by_name("chapterflow").experiment_id
    newest = client.search_runs([experiment])[0].info.run_id
    ids = {
        "experiment": experiment,
        "run": newest,
        "logged": client.search_logged_models([experiment])[0].model_id,
    }
    for call in CALLS:
        assert same(call(opened, ids), call(client, ids))
    for query in QUERIES:
        options = {
            name: value.replace("RUN", newest) if isinstance(value, str) else value
            for name, value in query.items()
        }
        read = opened.search_runs([experiment], **options)
        assert same(list(read), list(client.search_runs([experiment], **options)))
    for query in OTHERS:
        found = [run.info.run_id for run in client.search_runs([experiment], **query)]
        assert [run.info.run_id for run in opened.search_runs([experiment], **query)] == found
    copied = Path(opened.download_artifacts(newest, "folder", str(tmp_path / "copies")))
    assert (copied / "file.json").read_text() == "{}"


def test_both_refuse(clients: tuple[Any, Any]) -> None:
    from mlflow.exceptions import MlflowException

    client, opened = clients
    for method, arguments in {
        "get_run": ["0" * 32],
        "get_registered_model": ["lenet"],
        "get_model_version_by_alias": ["dnn", "challenger"],
        "get_logged_model": ["m-0"],
        "get_experiment": ["77"],
    }.items():
        with pytest.raises(MlflowException):
            getattr(client, method)(*arguments)
        with pytest.raises(reader.refusals()):
            getattr(opened, method)(*arguments)
    for version in ("dnn", "9"), ("cnn", "2"):
        with pytest.raises(MlflowException):
            client.get_model_version(*version)
        with pytest.raises(reader.refusals()):
            opened.get_model_version(*version)


def test_a_write_goes_to_mlflow(clients: tuple[Any, Any]) -> None:
    _, opened = clients
    opened.set_registered_model_alias("dnn", "challenger", "1")
    assert opened.get_model_version("dnn", "1").aliases == ["challenger"]
    assert opened.get_registered_model("dnn").aliases == {"champion": 2, "challenger": 1}


def test_the_installed_mlflow_has_the_schema_that_is_read() -> None:
    # After an upgrade of MLflow: compare the tables, run these tests, and change REVISION.
    assert store._revisions()[1] == reader.REVISION


def test_another_schema_is_left_to_mlflow(
    clients: tuple[Any, Any], project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "REVISION", "0" * 12)
    assert not store._reader_of(project, wait=1)


def test_reading_imports_no_mlflow(clients: tuple[Any, Any], project: Project) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from chapterflow.environment import Project\n"
        "from chapterflow.tracking import runs, store\n"
        "from chapterflow.tracking.versions import find_version\n"
        f"store.open_store(Project(Path({str(project.root)!r})), reading=True)\n"
        "client = store.open_client()\n"
        "assert find_version(client, 'dnn').number == '2'\n"
        "assert len(runs.search_all(client, ['1'], order='ASC')) == 4\n"
        "assert not {'mlflow', 'pandas', 'sqlalchemy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
