"""A challenger belongs to one dataset, and an experiment is none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from chapterflow.config.load import load_settings
from chapterflow.environment import Project
from chapterflow.registry.judge import NothingToJudge, Request, judge_request
from chapterflow.tracking import runs
from chapterflow.tracking.session import Session
from chapterflow.tracking.versions import check_registered
from tests.conftest import REPOSITORY


@pytest.fixture
def session(tmp_path: Path) -> Session:
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    project = Project(tmp_path)
    session = Session(project, load_settings(project.params))
    session.client.create_registered_model("dnn")
    return session


def trained(session: Session, dataset: str) -> str:
    """Register a version of dnn without files, and let it challenge; return its number."""
    tags = {runs.MODEL: "dnn", runs.ROLE: "digits", runs.DATASET: dataset}
    run = session.client.create_run(session.experiment_id, tags=tags)
    run_id = str(run.info.run_id)
    source = f"{run.info.artifact_uri}/model"
    version = session.client.create_model_version("dnn", source=source, run_id=run_id)
    session.client.set_tag(run_id, runs.MODEL_VERSION, version.version)
    session.challenge(session.client.get_run(run_id).data.tags)
    return str(version.version)


def judge(session: Session, reference: str, **options: Any) -> list[str]:
    """Judge a version, and return the notices; there are no data to score it on."""
    notes: list[str] = []
    project = session._project
    judge_request(project, Request(reference, **options), on_note=notes.append)
    return notes


@pytest.mark.fault(
    "Run on other data, then `promote`", "Only the model of the usual data is judged"
)
def test_a_run_on_other_data_leaves_the_challenger(
    session: Session, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    judged: list[str] = []

    def note(
        _project: Any, _settings: Any, _client: Any, _request: Any, version: Any, *_: Any
    ) -> Any:
        judged.append(version.uri())
        raise NothingToJudge("enough")

    monkeypatch.setattr("chapterflow.registry.judge._judge", note)
    trained(session, "mine")
    with pytest.raises(NothingToJudge, match="enough"):
        judge(session, "dnn/1")
    with pytest.raises(NothingToJudge, match=r"promote dnn@challenger-mine` judges it"):
        judge(session, "dnn")
    trained(session, "digits")
    trained(session, "mine")
    assert check_registered(session.client, "dnn") == {"challenger": "2", "challenger-mine": "3"}
    with pytest.raises(NothingToJudge, match="enough"):
        judge(session, "dnn")
    trained(session, "mnist")
    with pytest.raises(NothingToJudge, match="enough"):
        judge(session, "dnn", profile="book")
    assert judged == ["dnn/1", "dnn/2", "dnn/4"]
    record_property("saw", "aliases challenger and challenger-mine; promote judged the first")


def test_a_version_of_other_data_is_named_as_such(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(session, "mine")
    monkeypatch.setattr("chapterflow.registry.judge._reloaded", lambda *_: (None, "no files"))
    monkeypatch.setattr("chapterflow.registry.judge.load_tensorflow", lambda: None)
    (note,) = judge(session, "dnn@challenger-mine")
    assert "dnn/1 is a model of mine and is judged on it" in note
    # The alias of an older version, or of a project whose data were changed since.
    session.client.set_registered_model_alias("dnn", "challenger", "1")
    with pytest.raises(NothingToJudge, match=r"no challenger on digits: .* is a model of mine"):
        judge(session, "dnn")


@pytest.mark.fault("`dvc exp run` in the work tree", "Registered, but no challenger")
def test_an_experiment_is_no_challenger(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(session, "digits")
    monkeypatch.setenv("DVC_EXP_NAME", "curly-army")
    assert trained(session, "digits") == "2"
    assert check_registered(session.client, "dnn") == {"challenger": "1"}


def test_when_the_usual_data_change_the_alias_follows(session: Session) -> None:
    trained(session, "mnist")
    params = session._project.params
    params.write_text(params.read_text().replace("\nprofile: embedded", "\nprofile: book"))
    (run,) = session.client.search_runs([session.experiment_id])
    session.challenge(session.client.get_run(run.info.run_id).data.tags)
    assert check_registered(session.client, "dnn") == {"challenger": "1"}


def test_a_temporary_copy_of_dvc_belongs_to_its_project(session: Session) -> None:
    project = session._project
    copy = project.root / ".dvc" / "tmp" / "exps" / "standalone" / "tmp1"
    copy.mkdir(parents=True)
    temporary = Project(copy)
    assert temporary.params == copy / "params.yaml"
    assert temporary.scratch == project.scratch
    assert temporary.mlruns == project.mlruns
    shutil.copy(project.params, copy)
    again = Session(temporary, load_settings(temporary.params))
    assert again.experiment_id == session.experiment_id
    assert not (copy / "mlruns").exists()
