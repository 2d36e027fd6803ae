"""`chapterflow report` and the flow that ends with one: in the folder, in MLflow, in Prefect."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import call, copy_checkout
from tests.loop import stores

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """A checkout in which two small models ran, the document of the run, and its stderr."""
    root = tmp_path_factory.mktemp("report") / "checkout"
    root.mkdir()
    copy_checkout(root)
    for model in ("dnn", "cnn"):
        stores.set_param(root, f"models.{model}.epochs", 3)
    call(root, "git", "commit", "-qam", "fewer epochs")
    told = call(root, "chapterflow", "run", "dnn", "cnn", "--json")
    assert told.returncode == 0, told.stderr
    return root, json.loads(told.stdout), told.stderr


def logged(root: Path, run_id: str) -> list[str]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{root}/mlruns/mlflow.db")
    return [item.path for item in client.list_artifacts(run_id, "report")]


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
    assert logged(root, flow["id"]) == ["report/index.html"]
    ((data,),) = stores.query(
        root / ".prefect" / "prefect.db", "SELECT data FROM artifact WHERE key = 'results'"
    )
    assert page.as_uri() in data
    assert flow["id"] in data
    assert call(root, "git", "status", "--porcelain").stdout == ""


def test_a_run_that_changes_nothing_leaves_the_page(done: Any) -> None:
    root, _, _ = done
    page = root / "report" / "index.html"
    before = page.stat().st_mtime_ns
    again = call(root, "chapterflow", "run", "dnn", "cnn")
    assert again.returncode == 0, again.stderr
    assert "report: reused" in again.stdout
    assert page.stat().st_mtime_ns == before


def test_the_page_leads_to_data_docs_that_are_there(done: Any) -> None:
    root, _, _ = done
    text = (root / "report" / "index.html").read_text()
    address = text.split('">Data Docs of digits</a>')[0].rpartition('href="')[2]
    assert (root / "report" / address).resolve().is_file()
    assert not address.startswith(("/", "file:"))


def test_a_named_run_is_the_only_one_shown_and_holds_the_page(done: Any) -> None:
    root, document, _ = done
    dnn, cnn = (model["run_id"] for model in document["models"])
    told = call(root, "chapterflow", "report", "--runs", cnn[:9], "--out", "one/page", "--json")
    assert told.returncode == 0, told.stderr
    made = json.loads(told.stdout)
    assert made["models"] == ["cnn"]
    assert made["run_id"] == cnn
    assert Path(made["page"]) == root / "one" / "page" / "index.html"
    text = Path(made["page"]).read_text()
    assert cnn in text
    assert dnn not in text
    assert logged(root, cnn) == ["report/index.html"]
    assert logged(root, dnn) == []


def test_a_page_of_some_runs_leaves_that_of_the_flow(done: Any, tmp_path: Path) -> None:
    root, document, _ = done
    words = [w for model in document["models"] for w in ("--runs", model["run_id"])]
    told = call(root, "chapterflow", "report", *words, "--out", str(tmp_path / "two"), "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["run_id"] == document["models"][-1]["run_id"]
    (tmp_path / "file").write_text("taken")
    refused = call(root, "chapterflow", "report", "--out", str(tmp_path / "file"))
    assert (refused.returncode, "must be a folder" in refused.stderr) == (2, True)


@pytest.mark.parametrize("word", ["zzz", ""])
def test_a_wrong_run_is_refused_with_those_there_are(done: Any, word: str) -> None:
    root, document, _ = done
    refused = call(root, "chapterflow", "report", "--runs", word, "--out", "refused")
    assert refused.returncode == 2
    assert f"Received: {word!r}" in refused.stderr
    for model in document["models"]:
        assert f"{model['run_id'][:8]} ({model['model']})" in refused.stderr
    assert not (root / "refused").exists()


def test_without_runs_it_says_what_to_do(tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    root.mkdir()
    copy_checkout(root)
    refused = call(root, "chapterflow", "report")
    assert refused.returncode == 2
    assert "`chapterflow run` makes some" in refused.stderr
    assert not (root / "report").exists()
