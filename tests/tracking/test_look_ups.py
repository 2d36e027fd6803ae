"""Look-ups of runs: they ask for the newest run of a model, however many the store has."""

from functools import partial
from typing import Any

import numpy as np
import pytest

from chapterflow.config.load import load_settings
from chapterflow.environment import Project
from chapterflow.errors import ConfigError
from chapterflow.tracking import runs
from chapterflow.tracking.comparison import newest_runs
from chapterflow.tracking.session import Session
from tests.digits import digits_card

#: Runs of each model on each test set.
REPEATS = 6


def add_run(session: Session, model: str, digest: str, profile: str = "embedded") -> str:
    run_id = runs.open_run(
        session.client,
        session.experiment_id,
        name=model,
        tags={
            runs.RUN_TYPE: "model",
            runs.MODEL: model,
            runs.PROFILE: profile,
            runs.DATASET: "digits",
            runs.TEST_DIGEST: digest,
        },
    )
    runs.close_run(session.client, run_id, "FINISHED")
    return run_id


@pytest.fixture
def session(project: Project) -> Session:
    return Session(project, load_settings(project.params))


def test_the_newest_run_of_each_model_and_test_set(
    session: Session, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in ("dnn", "cnn", "retired"):
        session.client.create_registered_model(model)
    newest = {
        (model, digest): add_run(session, model, digest)
        for _ in range(REPEATS)
        for model in ("dnn", "cnn", "retired")
        for digest in ("new", "old")
    }
    add_run(session, "dnn", "new", "book")
    read: list[Any] = []
    search = session.client.search_runs

    def counted(*args: Any, **options: Any) -> Any:
        page = search(*args, **options)
        read.extend(page)
        return page

    monkeypatch.setattr(session.client, "search_runs", counted)
    chosen = newest_runs(project, load_settings(project.params), session)
    assert {
        (run.data.tags[runs.MODEL], run.data.tags[runs.TEST_DIGEST]): run.info.run_id
        for run in chosen
    } == newest
    assert len(read) == len(newest)


def test_a_run_by_the_beginning_of_its_id(session: Session) -> None:
    ids = [add_run(session, "dnn", "new") for _ in range(20)]
    find = lambda *prefixes: runs.find_runs(session.client, session.experiment_id, prefixes)  # noqa: E731
    assert [run.info.run_id for run in find(ids[0], ids[7][:12], ids[0])] == [ids[0], ids[7]]
    for wrong in ("", "%", "'", "xyz"):
        with pytest.raises(ConfigError, match="no run's id begins with this") as refusal:
            find(wrong)
        assert f"Runs: {ids[-1][:8]} (dnn), " in str(refusal.value)
        assert str(refusal.value).endswith(", and older ones.")
    first = next(letter for letter in "0123456789abcdef" if sum(i[0] == letter for i in ids) > 1)
    with pytest.raises(ConfigError, match="the ids of several runs begin with this"):
        find(first)


def test_two_runs_may_log_the_same_dataset_at_once(session: Session, project: Project) -> None:
    """Workers of a flow do, where both train the first model on it."""
    from sqlalchemy import event, orm

    card, folder = digits_card(np.repeat([0, 1, 2], 3)), project.data / "digits"
    first, second = (add_run(session, model, "new") for model in ("dnn", "cnn"))
    log = partial(runs.log_dataset, session.client, card=card, folder=folder)
    waiting = [second]

    def log_meanwhile(*_: Any) -> None:
        # The first has seen that the dataset is not there yet.
        if waiting:
            log(waiting.pop())

    event.listen(orm.Session, "before_flush", log_meanwhile)
    try:
        log(first)
    finally:
        event.remove(orm.Session, "before_flush", log_meanwhile)
    for run_id in (first, second):
        (logged,) = session.client.get_run(run_id).inputs.dataset_inputs
        assert logged.dataset.name == "digits"
