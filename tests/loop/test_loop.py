"""The whole loop in a fresh checkout: Prefect, MLflow, DVC and Great Expectations, all real."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from chapterflow.config.load import load_settings
from tests.conftest import FINISHED, NO_REPORT, Finished, Run, call, invoke, until
from tests.loop import stores

pytestmark = pytest.mark.slow

#: Quick ones; `make run` of continuous integration runs all of them.
MODELS = FINISHED


@pytest.fixture(scope="module")
def done(finished_once: Path) -> Finished:
    """The checkout in which the run took place: no other module looks at it."""
    return Finished(
        finished_once / "checkout", *json.loads((finished_once / "said.json").read_text())
    )


def test_stdout_is_one_document_of_the_promised_shape(done: Any) -> None:
    _, document, stderr = done
    assert set(document) == {"profile", "seconds", "models"}
    assert [model["model"] for model in document["models"]] == ["dnn", "cnn", "lenet5"]
    for model in document["models"]:
        assert set(model) == {
            *("model", "dataset", "status", "run_id", "model_version", "metrics", "error"),
        }
        assert model["status"] == "trained"
        assert model["error"] is None
        assert model["model_version"] == "1"
        # Far above the 0.10 of guessing after a few epochs: the images were really learnt.
        assert 0.6 < model["metrics"]["test/accuracy"] <= 1
    assert "dnn: train:" in stderr
    assert "Traceback" not in stderr


def test_nothing_left_this_machine(done: Any) -> None:
    root, _, _ = done
    log = root.parent / f"{root.name}-network.log"
    assert not log.exists(), log.read_text()


def test_the_checkout_stays_clean_and_no_process_is_left(done: Any) -> None:
    root, _, _ = done
    assert call(root, "git", "status", "--porcelain").stdout == ""
    assert stores.processes_of(root) == {}


def test_one_flow_run_with_the_models_nested_in_it(done: Any) -> None:
    root, document, _ = done
    flow, *models = stores.mlflow_runs(root)
    assert flow["tags"]["chapterflow.kind"] == "flow"
    assert {run["status"] for run in (flow, *models)} == {"FINISHED"}
    assert {run["id"] for run in models} == {model["run_id"] for model in document["models"]}
    commit = call(root, "git", "rev-parse", "HEAD").stdout.strip()
    version = yaml.safe_load((root / "data.dvc").read_text())["outs"][0]["md5"]
    for run in models:
        tags = run["tags"]
        assert tags["mlflow.parentRunId"] == flow["id"]
        assert tags["mlflow.source.git.commit"] == commit
        assert tags["chapterflow.git_dirty"] == "false"
        assert tags["chapterflow.data_version"] == version
        assert len(tags["chapterflow.fingerprint"]) == 64
        assert tags["chapterflow.book_section"]
        assert tags["prefect.flow_run_id"] == flow["tags"]["prefect.flow_run_id"]


def test_prefect_saw_the_flow_and_keeps_the_table(done: Any) -> None:
    root, _, _ = done
    assert stores.flow_states(root) == ["COMPLETED"]
    states = stores.task_states(root)
    # Data and validation; each model trained, evaluated, explained and logged; the comparison.
    assert len(states) == 2 + 3 * 5 + 1
    assert {state for _, state in states} == {"COMPLETED"}
    ((kind, data),) = stores.query(
        root / ".prefect" / "prefect.db", "SELECT type, data FROM artifact WHERE key = 'results'"
    )
    assert kind == "markdown"
    assert "lenet5" in data


def test_a_model_run_holds_metrics_by_epoch_figures_data_and_model(done: Any) -> None:
    from mlflow import MlflowClient

    root, document, _ = done
    client = MlflowClient(f"sqlite:///{root}/mlruns/mlflow.db")
    dnn = document["models"][0]
    run = client.get_run(dnn["run_id"])
    for name in ("train/loss", "validation/accuracy", "train/learning_rate"):
        steps = [metric.step for metric in client.get_metric_history(dnn["run_id"], name)]
        assert steps == list(range(1, int(dnn["metrics"]["train/epochs"]) + 1))
    settings = load_settings(root / "params.yaml")
    assert run.data.params["epochs"] == str(settings.params("dnn").epochs)
    (used,) = run.inputs.dataset_inputs
    assert used.dataset.name == "digits"
    names = {item.path for item in client.list_artifacts(dnn["run_id"])}
    assert {
        *("images", "evaluation.json", "predictions.npz"),
        *("fingerprint.json", "dataset.json", "validation", "training.json", "explain"),
    } <= names
    # What tells models apart in the UI: a colour, errors instead of accuracies near 1, the score.
    colours = [
        client.get_run(model["run_id"]).data.tags["mlflow.runColor"] for model in document["models"]
    ]
    assert len(set(colours)) == len(colours)
    wrong = dnn["metrics"]["test/examples"] - dnn["metrics"]["test/correct"]
    assert run.data.metrics["test/errors"] == wrong
    version = client.get_model_version("dnn", "1")
    assert version.description.startswith(f"Accuracy {dnn['metrics']['test/accuracy']:.4f} (95 % ")
    flow_id = run.data.tags["mlflow.parentRunId"]
    docs = {item.path for item in client.list_artifacts(flow_id, "validation/digits")}
    assert {
        *("validation/digits/index.html", "validation/digits/verdict.json"),
        "validation/digits/data_docs",
    } <= docs


def test_the_registered_model_gives_the_logged_predictions_on_raw_pixels(done: Any) -> None:
    import mlflow
    from mlflow import MlflowClient
    from mlflow.models import get_model_info

    from chapterflow.models.base import with_softmax

    root, document, _ = done
    for record in document["models"]:
        with stores.mlflow_at(root):
            model = mlflow.keras.load_model(f"models:/{record['model']}/1")
            info = get_model_info(f"models:/{record['model']}/1")
        client = MlflowClient(f"sqlite:///{root}/mlruns/mlflow.db")
        logged = np.load(client.download_artifacts(record["run_id"], "predictions.npz"))
        images = np.load(root / "data" / "digits" / "images.npy")[logged["index"]]
        answered = with_softmax(model).predict(images.astype("float32"), verbose=0)
        np.testing.assert_allclose(answered, logged["probability"], atol=1e-5)
        accuracy = (answered.argmax(axis=1) == logged["label"]).mean()
        assert accuracy == pytest.approx(record["metrics"]["test/accuracy"])
        assert info.signature.inputs.inputs[0].shape == (-1, 8, 8, 1)
        assert info.saved_input_example_info is not None


def test_a_run_ends_with_a_page_that_everything_leads_to(done: Any) -> None:
    root, document, stderr = done
    page = root / "report" / "index.html"
    text = page.read_text()
    for model in document["models"]:
        assert model["run_id"] in text
        assert f"{model['metrics']['test/accuracy']:.4f}" in text
    assert page.as_uri() in stderr
    flow, *_ = stores.mlflow_runs(root)
    assert flow["tags"]["chapterflow.kind"] == "flow"
    written = ["report/index.html", "report/playground.html"]
    assert stores.artifacts(root, flow["id"], "report") == written
    assert '<a href="playground.html">' in text
    assert (root / "report" / "playground.html").stat().st_size < 2_000_000
    ((data,),) = stores.query(
        root / ".prefect" / "prefect.db", "SELECT data FROM artifact WHERE key = 'results'"
    )
    assert page.as_uri() in data
    assert flow["id"] in data
    assert call(root, "git", "status", "--porcelain").stdout == ""


def test_the_page_leads_to_data_docs_that_are_there(done: Any) -> None:
    root, _, _ = done
    text = (root / "report" / "index.html").read_text()
    address = text.split('">Data Docs of digits, on the machine that wrote this page</a>')[
        0
    ].rpartition('href="')[2]
    assert (root / "report" / address).resolve().is_file()
    assert not address.startswith(("/", "file:"))


def test_a_second_run_reuses_everything(done: Any, run_flow: Run) -> None:
    root, document, _ = done
    before = len(stores.model_runs(root))
    page = (root / "report" / "index.html").stat().st_mtime_ns
    result = run_flow(root, "run", *MODELS, "--json", report=True)
    assert result.returncode == 0, result.stderr
    again = json.loads(result.stdout)
    assert {model["status"] for model in again["models"]} == {"reused"}
    for first, second in zip(document["models"], again["models"], strict=True):
        assert second["run_id"] == first["run_id"]
        assert second["metrics"] == first["metrics"]
    assert len(stores.model_runs(root)) == before
    # Nor does the page change.
    assert "report: reused" in result.stderr
    assert (root / "report" / "index.html").stat().st_mtime_ns == page


def test_compare_tells_which_differences_are_real(done: Any) -> None:
    root, document, _ = done
    result = invoke(root, "compare", "--json")
    assert result.returncode == 0, result.stderr
    actual = json.loads(result.stdout)
    assert [model["run_id"] for model in actual["models"]] == [
        model["run_id"] for model in document["models"]
    ]
    assert [(pair["a"], pair["b"]) for pair in actual["differences"]] == [
        *(("dnn", "cnn"), ("dnn", "lenet5"), ("cnn", "lenet5")),
    ]
    accuracy = {model["model"]: model["metrics"]["test/accuracy"] for model in actual["models"]}
    for pair in actual["differences"]:
        difference = accuracy[pair["b"]] - accuracy[pair["a"]]
        assert pair["accuracy_difference"] == pytest.approx(difference)
        assert pair["low"] <= difference <= pair["high"]
    result = invoke(root, "compare", "dnn", "cnn", "--json")
    (pair,) = json.loads(result.stdout)["differences"]
    assert pair == actual["differences"][0]
    table = invoke(root, "compare").stdout
    assert "Is the difference real? 449 test examples of digits" in table


def test_the_flow_and_dvc_yaml_have_the_same_edges(
    fetched: Path, run_flow: Run, prefect_api: dict[str, str]
) -> None:
    root = fetched
    settings = load_settings(root / "params.yaml", profile="embedded")
    # Both draw the edges of a model from the datasets that it reads: one model for each set.
    models = {frozenset(settings.datasets_of(model)): model for model in reversed(settings.models)}
    stores.keep_models(root, *models.values())
    for model in models.values():
        stores.set_param(root, f"models.{model}.epochs", 1)
        stores.set_param(root, f"models.{model}.beside", {})
    for model, size in (("conv1d", "filters"), ("conv3d", "filters"), ("gcn", "width")):
        stores.set_param(root, f"models.{model}.{size}", 4)
    stores.set_param(root, "evaluation.latency_batch", 4)
    settings = load_settings(root / "params.yaml", profile="embedded")
    result = run_flow(root, "run")
    assert result.returncode == 0, result.stderr

    def stage(task: str) -> str:
        what, _, subject = task.partition(" ")
        if what in {"begin", "train", "evaluate", "explain", "log"}:
            return f"run@{subject}"
        return {"prepare": "data.dvc", "validate": f"validate@{subject}"}.get(what, what)

    # Data and validation; five steps of each model; the comparison.
    tasks = 2 * len(settings.roles) + 5 * len(models) + 1
    database = Path(prefect_api["PREFECT_HOME"]) / "prefect.db"
    # The server records tasks a little later than the flow ends.
    rows = until(lambda: len(rows := stores.newest_tasks(database)) == tasks and rows)
    flow = {(stage(a), stage(b)) for a, b in stores.task_edges(rows)}
    flow = {(a, b) for a, b in flow if a != b}
    dag = call(root, "dvc", "dag", "--dot")
    assert dag.returncode == 0, dag.stderr
    dvc = {
        tuple(part.strip().strip('";') for part in line.split("->"))
        for line in dag.stdout.splitlines()
        if "->" in line
    }
    # A stage cannot name the data that some models read beside those of their role: those models
    # depend on them through their fingerprints, which the flow computes without a task.
    fingerprint = {edge for edge in dvc if "fingerprint" in edge}
    assert dvc - fingerprint <= flow
    assert flow - dvc == {
        ("validate@pretext", f"run@{model}")
        for model in settings.models
        if "pretext" in settings.datasets_of(model)[1:]
    }
    assert fingerprint == {
        *((f"validate@{role}", "fingerprint") for role in settings.roles),
        *(("fingerprint", f"run@{model}") for model in settings.models),
    }


def test_a_changed_parameter_retrains_its_model_alone(done: Any, run_flow: Run) -> None:
    root, _, _ = done
    result = run_flow(root, "run", *MODELS, "--json", "--set", "models.dnn.hidden=32")
    statuses = {m["model"]: m["status"] for m in json.loads(result.stdout)["models"]}
    assert statuses == {"dnn": "trained", "cnn": "reused", "lenet5": "reused"}


def test_a_lost_artifact_is_not_reused(done: Any, run_flow: Run) -> None:
    root, document, _ = done
    first = document["models"][0]["run_id"]
    (folder,) = (root / "mlruns" / "artifacts").glob(f"*/{first}/artifacts")
    shutil.move(folder / "predictions.npz", root / "mlruns" / "predictions.npz")
    try:
        result = run_flow(root, "run", "dnn", "--json")
    finally:
        shutil.move(root / "mlruns" / "predictions.npz", folder / "predictions.npz")
    (model,) = json.loads(result.stdout)["models"]
    assert model["status"] == "trained"
    assert model["run_id"] != first
    assert int(model["model_version"]) > 1


def test_one_failing_model_does_not_stop_the_others(done: Any, prefect_api: dict[str, str]) -> None:
    root, _, _ = done
    broken = root / "src" / "chapterflow" / "models" / "broken.py"
    source = (root / "src" / "chapterflow" / "models" / "dnn.py").read_text()
    broken.write_text(
        source.replace('"dnn"', '"broken"').replace(
            "    import keras\n    from keras import layers\n",
            '    raise ValueError("no such layer")\n',
        )
    )
    params = (root / "params.yaml").read_text()
    stores.set_param(root, "models.broken", {"role": "digits"})
    try:
        words = ("run", "broken", "cnn", "--json", "--workers", "1")
        result = call(root, "chapterflow", *words, **prefect_api, **NO_REPORT)
    finally:
        broken.unlink()
        (root / "params.yaml").write_text(params)
    assert result.returncode == 1
    failed, cnn = json.loads(result.stdout)["models"]
    assert (failed["status"], cnn["status"]) == ("failed", "reused")
    why = "broken cannot be built for inputs of shape (8, 8, 1): no such layer"
    assert failed["error"] == why
    assert "Traceback" not in result.stderr
    runs = [run for run in stores.mlflow_runs(root) if run["name"] == "broken on digits"]
    assert {run["status"] for run in runs} == {"FAILED"}


def test_force_trains_again(done: Any, run_flow: Run) -> None:
    root, document, _ = done
    result = run_flow(root, "run", "dnn", "--force", "--json")
    assert result.returncode == 0, result.stderr
    (model,) = json.loads(result.stdout)["models"]
    first = document["models"][0]
    assert model["status"] == "trained"
    assert model["run_id"] != first["run_id"]
    # Same fingerprint, same machine: the same model.
    for name in ("test/accuracy", "test/log_loss", "test/brier"):
        assert model["metrics"][name] == first["metrics"][name]
