"""How often a training asks a tracking server."""

from typing import Any

import pytest

from chapterflow.config.load import load_settings
from chapterflow.environment import Project
from chapterflow.loop import steps
from chapterflow.loop.run import Run
from chapterflow.tracking import runs
from chapterflow.tracking.session import Session
from tests.tracking.proxy import proxy

#: Requests of a training with pictures of its layers, its files included: MLflow sends each in a
#: request of its own.
MOST = 60
#: Requests that are not for a file.
MOST_BESIDE_FILES = 21
#: Requests of a reuse, which fetches the model and checks its files.
MOST_OF_REUSE = 32


@pytest.mark.slow
def test_a_training_and_a_reuse_make_few_requests(
    in_project: Project, mlflow_server: str, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    # Some requests depend on how long the machine takes.
    for name in ("claims.BEAT_SECONDS", "runs.PAUSE_SECONDS", "store.ANSWERED_SECONDS"):
        monkeypatch.setattr(f"chapterflow.tracking.{name}", 600)
    counts = {}
    with proxy(mlflow_server) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
        for name, seed, status in (
            ("first version", 1, "trained"),
            ("reuse", 1, "reused"),
            ("second version", 2, "trained"),
        ):
            settings = load_settings(
                in_project.params, overrides=["models.cnn.epochs=2", f"seed={seed}"]
            )
            session = Session(in_project, settings)
            prepared = steps.prepare(in_project, settings, "digits")
            verdict = steps.validate(in_project, settings, prepared)
            server.seen.clear()
            outcome = steps.run_model(Run(in_project, settings, "cnn", session), [verdict])
            files = sum(method == "PUT" for method, _, _ in server.seen)
            counts[name] = (len(server.seen), len(server.seen) - files)
            assert outcome.status == status
            stored = session.client.get_run(outcome.run_id).data
            assert outcome.metrics == stored.metrics
            assert outcome.model_version == stored.tags[runs.MODEL_VERSION]
    record_property("saw", str(counts))
    assert counts["reuse"][0] <= MOST_OF_REUSE, counts
    for name in ("first version", "second version"):
        assert counts[name][0] <= MOST, counts
        assert counts[name][1] <= MOST_BESIDE_FILES, counts
