"""`chapterflow report`: a page of chosen runs, in a folder and in MLflow."""

import json
from pathlib import Path
from typing import Any

import pytest

from chapterflow.environment import Project
from tests.conftest import Finished, Run, copy_project, invoke
from tests.loop import stores


@pytest.mark.slow
def test_a_named_run_is_the_only_one_shown_and_holds_the_page(finished: Finished) -> None:
    root, document, _ = finished
    dnn, cnn, lenet5 = (model["run_id"] for model in document["models"])
    result = invoke(root, "report", "--runs", cnn[:9], "--out", "one/page", "--json")
    assert result.returncode == 0, result.stderr
    made = json.loads(result.stdout)
    assert made["models"] == ["cnn"]
    assert made["run_id"] == cnn
    assert Path(made["page"]) == root / "one" / "page" / "index.html"
    text = Path(made["page"]).read_text()
    assert cnn in text
    playground = Path(made["page"]).with_name("playground.html")
    assert '"name":"cnn"' in playground.read_text()
    written = ["report/index.html", "report/playground.html"]
    assert stores.artifacts(root, cnn, "report") == written
    for other in (dnn, lenet5):
        assert other not in text
        assert stores.artifacts(root, other, "report") == []


@pytest.mark.slow
def test_an_unchanged_page_is_left_as_it_is(finished: Finished, tmp_path: Path) -> None:
    root, document, _ = finished
    run_id = document["models"][0]["run_id"]
    out = tmp_path / "page"
    page, playground = out / "index.html", out / "playground.html"

    def written(*words: str) -> bool:
        before = page.stat().st_mtime_ns if page.exists() else 0
        result = invoke(root, "report", "--runs", run_id, "--out", str(out), *words)
        assert result.returncode == 0, result.stderr
        (copy,) = (root / "mlruns/artifacts").glob(f"*/{run_id}/artifacts/report/index.html")
        assert copy.read_bytes() == page.read_bytes()
        return page.stat().st_mtime_ns != before

    assert written()
    assert not written()
    playground.write_text("another")
    assert written()
    assert '"name":"dnn"' in playground.read_text()
    assert written("--lang", "ko")
    page.unlink()
    assert written("--lang", "ko")
    # The copy in the run is another page now; the one in the folder is not drawn again.
    other = invoke(root, "report", "--runs", run_id, "--out", str(tmp_path / "other"))
    assert other.returncode == 0, other.stderr
    assert not written("--lang", "ko")


@pytest.mark.slow
def test_a_page_of_some_runs_leaves_that_of_the_flow(finished: Finished, tmp_path: Path) -> None:
    root, document, _ = finished
    words = [w for model in document["models"][::2] for w in ("--runs", model["run_id"])]
    result = invoke(root, "report", *words, "--out", str(tmp_path / "two"), "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["run_id"] == document["models"][-1]["run_id"]
    (tmp_path / "file").write_text("taken")
    refused = invoke(root, "report", "--out", str(tmp_path / "file"))
    assert (refused.returncode, "must be a folder" in refused.stderr) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("word", ["zzz", ""])
def test_a_wrong_run_is_refused_with_those_there_are(finished: Finished, word: str) -> None:
    root, document, _ = finished
    refused = invoke(root, "report", "--runs", word, "--out", "refused")
    assert refused.returncode == 2
    assert f"Received: {word!r}" in refused.stderr
    for model in document["models"]:
        assert f"{model['run_id'][:8]} ({model['model']})" in refused.stderr
    assert not (root / "refused").exists()


def test_without_runs_it_says_what_to_do(project: Project) -> None:
    refused = invoke(project.root, "report")
    assert refused.returncode == 2
    assert "`chapterflow run` makes some" in refused.stderr
    assert not (project.root / "report").exists()


@pytest.mark.slow
@pytest.mark.fault(
    "Artifact of a run deleted or damaged", "compare and report name it and what to do"
)
def test_damaged_artifacts_are_named(
    finished: Finished, run_flow: Run, tmp_path: Path, record_property: Any
) -> None:
    root = copy_project(finished.root, tmp_path / "checkout")
    run_id = finished.document["models"][0]["run_id"]
    (folder,) = (root / "mlruns/artifacts").glob(f"*/{run_id}/artifacts")
    commands = 0
    for name in (
        "predictions.npz",
        "training.json",
        "explain/explain.json",
        "images/attributions*.png",
    ):
        file = next(folder.glob(name))
        kept = file.read_bytes()
        for damaged in (b"", kept[: len(kept) // 2], b"\xff\x00garbage"):
            file.write_bytes(damaged)
            for words in (
                (["compare"], ["report"])
                if name == "predictions.npz"
                else (["report", "--runs", run_id],)
            ):
                refused = invoke(root, *words)
                assert refused.returncode == 1, (words, name)
                assert f"The artifact {name.partition('/')[0]}" in refused.stderr
                assert "not expected" not in refused.stderr
                commands += 1
        file.write_bytes(kept)
    # A newer run with other parameters does not take the place of the damaged one.
    other = run_flow(root, "run", "dnn", "--set", "models.dnn.epochs=2")
    assert other.returncode == 0, other.stderr
    (folder / "predictions.npz").unlink()
    refused = invoke(root, "compare")
    assert refused.returncode == 1
    assert "predictions.npz" in refused.stderr
    assert run_id in refused.stderr
    record_property("saw", f"{commands + 1} commands, exit 1, the artifact is named")


@pytest.mark.slow
def test_play_writes_the_registered_models_to_one_page(finished: Finished) -> None:
    root, _, _ = finished
    result = invoke(root, "play", "--json")
    assert result.returncode == 0, result.stderr
    made = json.loads(result.stdout)
    assert made["models"] == ["dnn/1", "cnn/1", "lenet5/1"]
    assert made["left_out"] == []
    assert Path(made["page"]) == root / "playground" / "index.html"
    assert made["size"] < 2_000_000
    refused = invoke(root, "play", "cnn/9", "--out", "other")
    assert (refused.returncode, "cnn has version 1" in refused.stderr) == (2, True)
    assert not (root / "other").exists()


def test_play_without_models_says_what_to_do(project: Project) -> None:
    refused = invoke(project.root, "play")
    assert refused.returncode == 2
    assert "`chapterflow run dnn cnn` makes them" in refused.stderr
    assert not (project.root / "playground").exists()
