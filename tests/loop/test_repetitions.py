"""A model with several seeds: what is logged, reused, and continued after a failure."""

import json
from pathlib import Path
from typing import Any

import pytest

from chapterflow.config.load import load_settings
from chapterflow.environment import find_project
from chapterflow.loop import steps
from chapterflow.loop.run import Run
from chapterflow.tracking.runs import SEED_RUN
from tests.conftest import Run as Call
from tests.conftest import invoke
from tests.loop.stores import mlflow_runs, query


@pytest.mark.slow
def test_seeds_are_nested_reused_and_no_challengers(
    fetched: Path, run_flow: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = ("--set", "models.dnn.epochs=2", "--set", "models.dnn.beside={}")
    words = ("run", "dnn", *short, "--seeds", "2", "--json")
    evaluate = steps.evaluate

    def failing(run: Any, *arguments: Any, **options: Any) -> Any:
        if run.settings.seed == 6:
            raise RuntimeError("the machine was switched off")
        return evaluate(run, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(steps, "evaluate", failing)
        failed = run_flow(fetched, *words)
    assert failed.returncode == 1, failed.stderr
    before = json.loads(failed.stdout)
    (summary,) = before["seeds"]
    assert list(summary["errors"]) == ["6"]
    assert "the machine was switched off" in summary["errors"]["6"]
    assert summary["mean"] is None

    # The same command continues: one more is scored, in the run that it had begun.
    done = run_flow(fetched, *words)
    assert done.returncode == 0, done.stderr
    after = json.loads(done.stdout)
    (own,), (seeds,) = after["models"], after["seeds"]
    assert (own["status"], own["model_version"]) == ("reused", "1")
    assert seeds["run_id"] == summary["run_id"]
    assert seeds["runs"].items() >= summary["runs"].items()
    assert seeds["runs"]["5"] == own["run_id"]
    values = seeds["values"]
    assert values[0] == own["metrics"]["test/accuracy"]
    assert len(set(values)) > 1
    assert seeds["mean"] == pytest.approx(sum(values) / 2)
    assert seeds["low"] < seeds["mean"] < seeds["high"]
    assert after["seed_differences"] == []

    runs = {run["id"]: run for run in mlflow_runs(fetched)}
    parent = runs[seeds["run_id"]]
    assert parent["status"] == "FINISHED"
    (repetition,) = (run for run in runs.values() if run["name"] == "dnn on digits, seed 6")
    assert (repetition["id"], repetition["status"]) == (seeds["runs"]["6"], "FINISHED")
    assert repetition["tags"]["mlflow.parentRunId"] == seeds["run_id"]
    assert "chapterflow.model_version" not in repetition["tags"]
    store = fetched / "mlruns" / "mlflow.db"
    assert query(store, "SELECT count(*) FROM model_versions") == [(1,)]
    (mean,) = query(
        store,
        "SELECT value FROM latest_metrics WHERE key = 'seeds/accuracy_mean' AND step = 2 AND "
        f"run_uuid = '{seeds['run_id']}'",
    )
    assert mean[0] == pytest.approx(seeds["mean"])
    assert not list((fetched / ".chapterflow" / "work").glob("*"))

    compared = invoke(fetched, "compare", *short, "--json")
    assert [model["run_id"] for model in json.loads(compared.stdout)["models"]] == [own["run_id"]]

    # A repetition is not the run of its seed: that has an explanation and a version.
    monkeypatch.chdir(fetched)
    project = find_project()
    settings = load_settings(project.params, overrides=[*short[1::2], "seed=6"])
    assert not Run(project, settings, "dnn").reuse()
    assert Run(project, settings, "dnn", run_type=SEED_RUN).reuse()
