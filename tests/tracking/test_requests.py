"""How often a training asks a tracking server."""

from typing import Any

import pytest

from chapterflow.config.load import load_settings
from chapterflow.environment import Project
from chapterflow.loop import steps
from chapterflow.loop.run import Run
from chapterflow.tracking.session import Session
from tests.tracking.proxy import proxy

#: Requests of a training of `dnn`, its files included: MLflow sends each in a request of its own.
MOST = 60
#: Requests of a training of any model that are not for a file.
MOST_BESIDE_FILES = 30


@pytest.mark.slow
def test_a_training_and_a_reuse_make_few_requests(
    in_project: Project, mlflow_server: str, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    settings = load_settings(in_project.params, overrides=["models.dnn.epochs=2"])
    with proxy(mlflow_server) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
        session = Session(in_project, settings)
        verdict = steps.validate(
            in_project, settings, steps.prepare(in_project, settings, "digits")
        )
        counts = {}
        for status in ("trained", "reused"):
            server.seen.clear()
            outcome = steps.run_model(Run(in_project, settings, "dnn", session), [verdict])
            assert outcome.status == status
            counts[status] = len(server.seen)
            if status == "trained":
                others = [path for method, path, _ in server.seen if method != "PUT"]
    record_property("saw", str(counts))
    assert counts["trained"] <= MOST
    assert len(others) <= MOST_BESIDE_FILES
    assert counts["reused"] <= MOST / 2
