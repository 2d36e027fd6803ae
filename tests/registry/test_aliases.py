"""Aliases change together, and only one of several simultaneous changes succeeds."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from chapterflow.environment import Project
from chapterflow.errors import StoreUnavailable
from chapterflow.registry import aliases
from chapterflow.registry.aliases import Changed, swap
from chapterflow.tracking import store
from chapterflow.tracking.versions import holder
from tests.conftest import FORKS, HUNG

#: One process: waits for the starting shot, then tries to make its version champion.
CONTENDER = """
import sys, time
from mlflow import MlflowClient
from chapterflow.registry.aliases import Changed, swap
uri, expected, version, start = sys.argv[1:]
client = MlflowClient(uri, registry_uri=uri)
client.search_registered_models()
time.sleep(max(0, float(start) - time.time()))
try:
    swap(client, "cnn", "champion", expected or None,
         {"previous-champion": expected or None, "champion": version, "challenger": None})
    print("won")
except Changed as changed:
    print("late", changed.number)
"""

#: Reads both aliases in one query, over and over, and prints every state that it saw.
READER = """
import json, pathlib, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60)
seen, stop = set(), pathlib.Path(sys.argv[2])
while not stop.exists():
    rows = connection.execute(
        "SELECT alias, version FROM registered_model_aliases WHERE name = 'cnn'"
    ).fetchall()
    seen.add(json.dumps(sorted(rows)))
print(json.dumps(sorted(seen)))
"""


def client_of(uri: str, versions: int = 6) -> Any:
    import mlflow

    client = mlflow.MlflowClient(uri, registry_uri=uri)
    run = client.create_run("0")
    client.create_registered_model("cnn")
    for _ in range(versions):
        client.create_model_version(
            "cnn", source=f"{run.info.artifact_uri}/model", run_id=run.info.run_id
        )
    client.set_registered_model_alias("cnn", "challenger", "2")
    return client


@pytest.fixture
def local(tmp_path: Path) -> tuple[Project, Any]:
    project = Project(tmp_path)
    store.open_store(project)
    return project, client_of(store.tracking_uri(project))


def aliases_of(client: Any) -> dict[str, str]:
    actual = client.get_registered_model("cnn").aliases
    return {alias: str(version) for alias, version in actual.items()}


def contend(uri: str, expected: str, versions: list[str]) -> list[str]:
    start = time.time() + 2
    processes = [
        subprocess.Popen(
            [FORKS.python, "-c", CONTENDER, uri, expected, version, str(start)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for version in versions
    ]
    return [process.communicate(timeout=HUNG)[0].strip() for process in processes]


def test_all_or_nothing(local: tuple[Project, Any]) -> None:
    _, client = local
    swap(client, "cnn", "champion", None, {"champion": "1"})
    changes = {"previous-champion": "1", "champion": "2", "challenger": None}
    with pytest.raises(Changed) as caught:
        swap(client, "cnn", "champion", "3", changes)
    assert caught.value.number == "1"
    assert aliases_of(client) == {"champion": "1", "challenger": "2"}
    swap(client, "cnn", "champion", "1", changes)
    assert aliases_of(client) == {
        "champion": "2",
        "previous-champion": "1",
    }
    assert holder(client, "cnn", "challenger") is None
    with pytest.raises(Changed):
        swap(client, "cnn", "champion", None, {"champion": "3"})


def test_a_failing_change_changes_nothing(local: tuple[Project, Any]) -> None:
    _, client = local
    swap(client, "cnn", "champion", None, {"champion": "1"})
    with pytest.raises(Exception, match="invalid literal"):
        swap(client, "cnn", "champion", "1", {"previous-champion": "1", "champion": "no number"})
    assert aliases_of(client) == {"champion": "1", "challenger": "2"}


@pytest.mark.fault("Several promotions at once", "Exactly one succeeds")
@pytest.mark.slow
@pytest.mark.parametrize("expected", ["", "1"])
def test_one_of_several_processes_succeeds(local: tuple[Project, Any], expected: str) -> None:
    project, client = local
    uri = store.tracking_uri(project)
    if expected:
        client.set_registered_model_alias("cnn", "champion", expected)
    database = uri.removeprefix("sqlite:///")
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, database, str(project.root / "stop")],
        stdout=subprocess.PIPE,
        text=True,
    )
    result = contend(uri, expected, ["2", "3", "4", "5"])
    (project.root / "stop").touch()
    winner = [version for version, message in zip("2345", result, strict=True) if message == "won"]
    assert len(winner) == 1
    assert sorted(message for message in result if message != "won") == [f"late {winner[0]}"] * 3
    before = [["challenger", 2]] + ([["champion", 1]] if expected else [])
    after = [["champion", int(winner[0])]]
    after += [["previous-champion", 1]] if expected else []
    seen = [json.loads(state) for state in json.loads(reader.communicate(timeout=HUNG)[0])]
    # Readers see the state before or the state after, and no other.
    assert sorted(seen) == sorted([sorted(before), sorted(after)])


@pytest.mark.fault("Several promotions at once on a tracking server", "Exactly one succeeds")
@pytest.mark.slow
def test_one_of_several_processes_on_a_server_succeeds(mlflow_server: str) -> None:
    client = client_of(mlflow_server)
    client.set_registered_model_alias("cnn", "champion", "1")
    result = contend(mlflow_server, "1", ["2", "3", "4"])
    winner = [version for version, message in zip("234", result, strict=True) if message == "won"]
    assert len(winner) == 1
    assert aliases_of(client) == {
        "champion": winner[0],
        "previous-champion": "1",
    }
    names = [model.name for model in client.search_registered_models()]
    assert names == ["cnn"], "the lock is gone"


@pytest.mark.slow
def test_a_lock_on_a_server(mlflow_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of(mlflow_server)
    monkeypatch.setattr(aliases, "PATIENCE", 0.5)
    from chapterflow.environment import process_identity

    client.create_registered_model(
        "cnn.changing-aliases", tags={"chapterflow.process": process_identity()}
    )
    with pytest.raises(StoreUnavailable, match="delete the registered model"):
        swap(client, "cnn", "champion", None, {"champion": "1"})
    client.delete_registered_model("cnn.changing-aliases")
    gone = subprocess.run(
        [sys.executable, "-c",
         "from chapterflow.environment import process_identity as p; print(p())"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    client.create_registered_model("cnn.changing-aliases", tags={"chapterflow.process": gone})
    swap(client, "cnn", "champion", None, {"champion": "1"})  # its process is gone
    assert aliases_of(client)["champion"] == "1"
