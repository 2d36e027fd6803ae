"""`dvc repro` in a fresh checkout."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.conftest import Run, call
from tests.loop import stores

pytestmark = pytest.mark.slow


def executed(text: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", text)


@pytest.fixture
def checkout(fetched: Path) -> Path:
    """A checkout with the embedded data and nothing trained."""
    return fetched


def test_repro_runs_what_changed_and_nothing_else(checkout: Path, run: Run, run_flow: Run) -> None:
    assert call(checkout, "git", "diff", "--quiet", "data.dvc").returncode == 0
    stores.keep_models(checkout, "dnn", "cnn")
    for model in ("dnn", "cnn"):
        stores.set_param(checkout, f"models.{model}.epochs", 2)

    first = run("dvc", "repro")
    assert first.returncode == 0, first.stdout + first.stderr
    assert executed(first.stdout)[-3:] == ["run@dnn", "run@cnn", "compare"]
    metrics = json.loads((checkout / "results/models/cnn/metrics.json").read_text())
    assert 0.1 < metrics["test"]["accuracy"] <= 1

    again = run("dvc", "repro")
    assert executed(again.stdout) == []
    assert "up to date" in again.stdout

    run("git", "commit", "-qam", "two epochs")
    stores.set_param(checkout, "models.cnn.dense", 16)
    changed = run("dvc", "repro")
    assert changed.returncode == 0, changed.stderr
    assert executed(changed.stdout) == ["run@cnn", "compare"]

    shown = run("dvc", "metrics", "show", "--json")
    assert json.loads(shown.stdout)[""]["data"]["results/models/cnn/metrics.json"]["data"]["test"]
    difference = json.loads(run("dvc", "metrics", "diff", "--json").stdout)
    assert list(difference) == ["results/models/cnn/metrics.json"]
    assert difference["results/models/cnn/metrics.json"]["cost.parameters"]["diff"] < 0
    plots = run("dvc", "plots", "show")
    assert plots.returncode == 0, plots.stderr
    page = (checkout / "dvc_plots" / "index.html").read_text()
    assert "validation_loss" in page
    assert "vega" in page.lower()

    stores.set_param(checkout, "models.cnn.dense", 128)
    back = run("dvc", "repro")
    assert back.returncode == 0
    assert "run@dnn" not in executed(back.stdout)
    comparison = json.loads((checkout / "results/comparison.json").read_text())
    metrics = json.loads((checkout / "results/models/cnn/metrics.json").read_text())
    (pair,) = [p for p in comparison if (p["a"], p["b"]) == ("dnn", "cnn")]
    dnn = json.loads((checkout / "results/models/dnn/metrics.json").read_text())
    assert pair["accuracy_difference"] == pytest.approx(
        metrics["test"]["accuracy"] - dnn["test"]["accuracy"]
    )

    # The flow reuses what DVC trained.
    result = run_flow(checkout, "run", "dnn", "--json")
    (model,) = json.loads(result.stdout)["models"]
    assert model["status"] == "reused"


def test_analytics_are_off_in_the_repository() -> None:
    config = (Path(__file__).parents[2] / ".dvc" / "config").read_text()
    assert "analytics = false" in config


def test_without_runs_the_committed_comparison_stays(checkout: Path, run: Run) -> None:
    # A fresh clone: dvc.lock knows the results, but the tracking store is empty.
    before = (checkout / "results/comparison.json").read_bytes()
    stores.set_param(checkout, "comparison.bootstrap_resamples", 2500)
    failed = run("dvc", "repro", "--single-item", "compare")
    assert failed.returncode != 0
    assert "No finished run of dnn, cnn, lenet5, " in failed.stdout + failed.stderr
    assert (checkout / "results/comparison.json").read_bytes() == before


def test_the_stages_depend_on_every_source_that_a_model_uses() -> None:
    from chapterflow.models.catalog import model_names
    from chapterflow.tracking.fingerprint import source_hashes

    root = Path(__file__).parents[2]
    stage = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]["run"]["do"]
    deps = stage["deps"]
    for model in model_names():
        for source in source_hashes(model, "images"):
            assert any(source == dep or source.startswith(dep + "/") for dep in deps), source


@pytest.mark.fault(
    "`dvc exp run --temp`, whose folder DVC deletes", "Run and model are in the project's store"
)
def test_a_temporary_experiment_keeps_its_run(checkout: Path, run: Run) -> None:
    done = run("dvc", "exp", "run", "--temp", "-s", "run@dnn", "-S", "models.dnn.epochs=2")
    assert done.returncode == 0, done.stdout + done.stderr
    trained = stores.run_of(checkout, "dnn")
    assert trained["status"] == "FINISHED"
    assert trained["tags"]["chapterflow.experiment"] in done.stdout
    assert stores.model_file(checkout, "dnn").is_file()
    store = checkout / "mlruns" / "mlflow.db"
    assert stores.query(store, "SELECT alias FROM registered_model_aliases") == []
