"""A promotion or rollback that is killed at any point: the next command settles it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chapterflow.environment import Project
from chapterflow.lineage.why import gates
from chapterflow.registry import ledger
from chapterflow.registry.decision import Decision
from chapterflow.registry.gates import WITHDRAWN, gate
from chapterflow.registry.judge import Judged, NothingToJudge, Request, judge_request
from chapterflow.registry.ledger import Entry, Ledger
from chapterflow.registry.promote import carry_out
from chapterflow.registry.rollback import roll_back
from chapterflow.tracking import store, versions
from chapterflow.tracking.versions import find_version, version_of
from tests.conftest import REPOSITORY, invoke


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose registry has three versions of dnn without files; the first is champion."""
    root = tmp_path_factory.mktemp("template")
    shutil.copy(REPOSITORY / "params.yaml", root)
    project = Project(root)
    fill(project)
    return root


def fill(project: Project) -> None:
    store.open_store(project)
    client = client_of(project)
    experiment = store.ensure_experiment(project, "chapterflow")
    client.create_registered_model("dnn")
    for number in "123":
        run = client.create_run(experiment, tags={"chapterflow.model": "dnn"})
        source = f"{run.info.artifact_uri}/dnn{number}"
        client.create_model_version("dnn", source=source, run_id=run.info.run_id)
    carry_out(project, judged(project, "1", None))
    client.set_registered_model_alias("dnn", "challenger", "2")


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    root = tmp_path / "project"
    shutil.copytree(template, root)
    project = Project(root)
    store.relocate(project)
    store.open_store(project)
    from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

    # The copies share the ids of their runs, and MLflow keeps the folder of each id.
    _artifact_repos_cache.clear()
    # The versions have no files, and this is not about them.
    monkeypatch.setattr("chapterflow.registry.rollback.model_file", lambda *_: None)
    return project


def client_of(project: Project) -> Any:
    import mlflow

    uri = store.tracking_uri(project)
    return mlflow.MlflowClient(uri, registry_uri=uri)


def judged(project: Project, number: str, champion: str | None, passed: bool = True) -> Judged:
    version = version_of(client_of(project).get_model_version("dnn", number))
    decision = Decision(
        model="dnn", alias="champion", challenger=f"dnn/{number}", challenger_run=version.run_id,
        champion=champion and f"dnn/{champion}", champion_run=None, dataset="digits",
        profile="embedded", test_digest=None, when="2026-11-27", who="test", reason="faster",
        commit=None, dry_run=False, verdict="promoted" if passed else "refused",
        gates=[gate("floor", "Accuracy, at least", passed=passed)],
    )  # fmt: skip
    return Judged(decision, "dnn", version, champion)


def killed(work: Callable[[], object], at: tuple[Any, str], when: str, *, call: int = 1) -> None:
    """Do some work in a process that is killed before or after a certain call of a function."""
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking

    place, name = at
    original = getattr(place, name)
    calls = iter(range(1, 100))

    def fatal(*arguments: Any, **keywords: Any) -> Any:
        last = next(calls) == call
        if not last or when == "after":
            original(*arguments, **keywords)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            for kind in (Registry, Tracking):  # SQLite's connections must not cross a fork.
                for engine in kind._engine_map.values():
                    engine.dispose(close=False)
            setattr(place, name, fatal)
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"it was not killed at {name}"


def killed_promotion(project: Project, at: tuple[Any, str], when: str) -> Judged:
    """Promote dnn/2 over dnn/1 in a process that is killed, and return the promotion."""
    request = judged(project, "2", "1")
    killed(lambda: carry_out(project, request), at, when)
    return request


def aliases(project: Project) -> dict[str, str]:
    return versions.check_registered(client_of(project), "dnn")


def past(project: Project) -> tuple[list[Entry], list[str]]:
    """Return the ledger, and what settling it said."""
    notes: list[str] = []
    return ledger.history(project, "dnn", on_note=notes.append), notes


def open_runs(project: Project) -> int:
    client = client_of(project)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    tags = "tags.`chapterflow.kind` = 'ledger' and attributes.status = 'RUNNING'"
    return len(client.search_runs(experiments, tags))


#: A function, and whether the process is killed before or after it is called.
Place = tuple[tuple[Any, str], str]
BEFORE_MOVE: list[Place] = [
    ((Ledger, "attach"), "before"),
    ((Ledger, "attach"), "after"),
    ((ledger, "swap"), "before"),
]
AFTER_MOVE: list[Place] = [
    ((ledger, "swap"), "after"),
    ((Ledger, "_record_verdict"), "before"),
    ((Ledger, "_record_verdict"), "after"),
]


@pytest.mark.fault(
    "Promotion killed before the aliases moved", "Withdrawn by the next command; repeatable"
)
@pytest.mark.parametrize("place", BEFORE_MOVE)
def test_a_promotion_killed_before_the_move_is_withdrawn(
    project: Project, place: Place, record_property: Any
) -> None:
    request = killed_promotion(project, *place)
    assert aliases(project) == {"champion": "1", "challenger": "2"}
    assert open_runs(project) == 1
    entries, notes = past(project)
    assert "Withdrew" in notes[0]
    assert "dnn/1 -> dnn/2" in notes[0]
    assert (entries[-1].action, entries[-1].done) == ("promoted", False)
    assert entries[-1].reason == f"faster; {ledger.WITHDRAWN_ENTRY}"
    client = client_of(project)
    assert gates(client, find_version(client, "dnn/2")).observed == "not judged yet"
    # Said once, and the same promotion again is a promotion.
    assert past(project)[1] == []
    assert carry_out(project, request).verdict == "promoted"
    entries, _ = past(project)
    assert [entry.done for entry in entries] == [True, False, True]
    assert gates(client, find_version(client, "dnn")).passed
    record_property("saw", "withdrawn, said so; the champion unchanged")


@pytest.mark.fault(
    "Promotion killed after the aliases moved", "Finished by the next command; verdict kept"
)
@pytest.mark.parametrize("place", AFTER_MOVE)
def test_a_promotion_killed_after_the_move_is_finished(
    project: Project, place: Place, record_property: Any
) -> None:
    killed_promotion(project, *place)
    client = client_of(project)
    assert aliases(project) == {"champion": "2", "previous-champion": "1"}
    # `why` says what is true even before anything is settled.
    assert gates(client, find_version(client, "dnn")).passed
    notes: list[str] = []
    # The test's models have no files.
    with pytest.raises(NothingToJudge, match=r"is already dnn@champion, but it cannot be used\. "):
        judge_request(project, Request("dnn/2"), on_note=notes.append)
    assert "Finished" in notes[0]
    entries, notes = past(project)
    assert (entries[-1].action, entries[-1].done, notes) == ("promoted", True, [])
    run_id = find_version(client, "dnn").run_id
    assert {item.path for item in client.list_artifacts(run_id, "promotion")} == {
        "promotion/verdict.html",
        "promotion/verdict.json",
    }
    assert client.get_registered_model("dnn").description.startswith("**Champion: version 2**")
    assert open_runs(project) == 0
    record_property("saw", "finished, said so; the verdict is complete")


@pytest.mark.fault("Refusal killed before it was closed", "Finished by the next command")
def test_a_killed_refusal_is_finished(project: Project) -> None:
    refusal = judged(project, "2", "1", passed=False)
    killed(lambda: carry_out(project, refusal), (Ledger, "_record_verdict"), "before")
    entries, notes = past(project)
    assert "Finished" in notes[0]
    assert (entries[-1].action, entries[-1].done) == ("refused", True)
    assert client_of(project).get_model_version("dnn", "2").tags["chapterflow.verdict"] == "refused"


@pytest.mark.fault(
    "Rollback killed before or after the aliases moved",
    "Withdrawn or finished; tags and aliases agree",
)
@pytest.mark.parametrize(
    ("at", "when", "done"),
    [
        ((ledger, "swap"), "before", False),
        ((ledger, "swap"), "after", True),
        ((Ledger, "_finish"), "before", True),
    ],
)
def test_a_killed_rollback(
    project: Project, at: tuple[Any, str], when: str, done: bool, record_property: Any
) -> None:
    carry_out(project, judged(project, "2", "1"))
    killed(lambda: roll_back(project, "dnn", reason="slow"), at, when)
    client = client_of(project)
    tags = client.get_model_version("dnn", "2").tags
    if done:
        assert aliases(project) == {"champion": "1"}
        assert (tags["chapterflow.verdict"], tags[WITHDRAWN]) == ("rolled back", "slow")
    else:
        assert aliases(project) == {"champion": "2", "previous-champion": "1"}
        assert (tags["chapterflow.verdict"], WITHDRAWN in tags) == ("promoted", False)
    for number in "12":
        assert gates(client, find_version(client, f"dnn/{number}")).passed
    entries, notes = past(project)
    assert ("Finished" if done else "Withdrew") in notes[0]
    assert (entries[-1].action, entries[-1].done) == ("rolled back", done)
    if not done:
        assert roll_back(project, "dnn", reason="slow").after == "dnn/1"
    assert open_runs(project) == 0
    record_property("saw", "finished" if done else "withdrawn, then repeated")


def test_the_commands_say_so(project: Project) -> None:
    killed_promotion(project, (ledger, "swap"), "before")
    traced = invoke(project.root, "why", "dnn/1")
    assert "Withdrew what an interrupted process left open" in traced.stderr
    listed = invoke(project.root, "history", "dnn", COLUMNS="300")
    assert "Withdrew" not in listed.stderr
    assert "faster; not carried out" in listed.stdout


def test_an_error_leaves_no_open_entry(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    request = judged(project, "2", "1")
    monkeypatch.setattr(ledger, "swap", full)
    with pytest.raises(OSError, match="No space"):
        carry_out(project, request)
    assert open_runs(project) == 0
    entries, notes = past(project)
    assert (entries[-1].done, notes) == (False, [])


def test_a_refusal_keeps_the_verdict_of_the_champion(project: Project) -> None:
    carry_out(project, judged(project, "1", "1", passed=False))
    assert versions.holder(client_of(project), "dnn", "champion") is not None
    assert gates(client_of(project), find_version(client_of(project), "dnn")).passed


def test_the_description_of_a_model_begins_with_its_champion_and_the_last_verdict(
    project: Project,
) -> None:
    client = client_of(project)
    about = "**dnn**: a dense network."

    def description() -> str:
        return str(client.get_registered_model("dnn").description)

    client.update_registered_model("dnn", f"**No champion yet**.\n\n---\n\n{about}")
    for key, value in (("test_accuracy", "0.9777"), ("dataset", "digits")):
        client.set_model_version_tag("dnn", "2", f"chapterflow.{key}", value)
    carry_out(project, judged(project, "2", "1"))
    state, rule, rest = description().partition("\n\n---\n\n")
    assert state.startswith("**Champion: version 2**, accuracy 0.9777 on digits. Promoted on 20")
    assert state.endswith(": 1 of 1 gates passed.")
    assert (rule.strip(), rest) == ("---", about)
    carry_out(project, judged(project, "3", "2", passed=False))
    assert description().startswith("**Champion: version 2**, accuracy 0.9777 on digits. dnn/3 was")
    assert "0 of 1 gates passed; failed: floor.\n" in description()
    roll_back(project, "dnn", reason="slow")
    assert description().startswith("**Champion: version 1**. Rolled back from dnn/2 on 20")
    assert description().endswith(f": slow.\n\n---\n\n{about}")


@pytest.mark.slow
@pytest.mark.fault(
    "Promotion on a tracking server killed between two aliases",
    "Undone before the champion moved, completed after it",
)
def test_a_half_made_move_on_a_server(
    mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking._model_registry.client import ModelRegistryClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    project = Project(tmp_path)
    fill(project)
    carry_out(project, judged(project, "2", "1"))
    before = aliases(project)
    assert before == {"champion": "2", "previous-champion": "1"}
    client_of(project).set_registered_model_alias("dnn", "challenger", "3")
    # The first alias is `previous-champion`, the second is `champion`.
    at = (ModelRegistryClient, "set_registered_model_alias")
    for call, after, word in (
        (1, before | {"challenger": "3"}, "Withdrew"),
        (2, {"champion": "3", "previous-champion": "2"}, "Finished"),
    ):
        killed(lambda: carry_out(project, judged(project, "3", "2")), at, "after", call=call)
        entries, notes = past(project)
        verdicts = [
            gates(client_of(project), find_version(client_of(project), f"dnn/{number}"))
            for number in "123"
        ]
        assert all(check.passed for check in verdicts)
        assert aliases(project) == after
        assert (word in notes[0], entries[-1].done) == (True, call == 2)
        if call == 1:
            assert verdicts[2].observed == "not judged yet"
