"""`chapterflow predict`: pictures, arrays and datasets become a table, with figures of drift."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from tests.conftest import HUNG, Finished, Run, begin, invoke
from tests.loop import stores

pytestmark = pytest.mark.slow

Predict = Callable[..., dict[str, Any]]

MODEL = "dnn@challenger"
#: Of the batch that is interrupted: some seconds, and several parts.
EXAMPLES = 100_000


@pytest.fixture(scope="module")
def root(finished: Finished) -> Path:
    return finished.root


@pytest.fixture
def predict(root: Path, run_flow: Run) -> Predict:
    """Predicts with a model of the checkout, and returns the document."""

    def document(*words: str) -> dict[str, Any]:
        result = run_flow(root, "predict", MODEL, *words, "--json")
        assert result.returncode == 0, result.stdout + result.stderr
        return dict(json.loads(result.stdout))

    return document


def images(root: Path) -> Any:
    return np.load(root / "data/digits/images.npy")


@pytest.mark.fault("Damaged picture in a batch", "The rest is predicted; the picture is named")
def test_a_folder_with_a_broken_picture(root: Path, run_flow: Run, tmp_path: Path) -> None:
    for number, image in enumerate(images(root)[:5]):
        pixels = (image.reshape(8, 8) * (255 / 16)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_text("no picture")
    (tmp_path / "notes.txt").write_text("neither")
    out = tmp_path / "out.parquet"
    result = run_flow(root, "predict", "dnn", str(tmp_path), "--out", str(out))
    assert result.returncode == 0, result.stderr
    assert "dnn: version 1 (challenger; no champion yet)" in result.stderr
    assert "broken.png" in result.stdout + result.stderr
    table = pd.read_parquet(out)
    assert [Path(name).name for name in table["input"]] == [f"{n}.png" for n in range(5)]
    shares = table[[name for name in table if name.startswith("probability_")]].to_numpy()
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(shares.max(axis=1), table["confidence"], atol=1e-6)
    assert (shares.argmax(axis=1) == table["class"]).all()


def test_the_test_split_is_like_itself_and_inverted_digits_are_not(
    root: Path, predict: Predict, tmp_path: Path
) -> None:
    out = tmp_path / "same.parquet"
    done = predict("digits:test", "--out", str(out))
    same = json.dumps(done)
    table = pd.read_parquet(out)
    assert (done["unlike"], table["note"].notna().sum()) == (0, 0)
    assert len(table) == 449
    assert '"shifted"' not in same
    assert "strongly shifted" not in same
    accuracy = (table["label"] == table.iloc[:, table.columns.get_loc("true_label")]).mean()
    run = stores.run_of(root, "dnn")
    (logged,) = stores.query(
        root / "mlruns/mlflow.db",
        "SELECT value FROM latest_metrics WHERE key = 'test/accuracy' "
        f"AND run_uuid = '{run['id']}'",
    )
    assert accuracy == pytest.approx(logged[0])

    np.save(tmp_path / "inverted.npy", 16.0 - images(root).reshape(-1, 8, 8, 1).astype(np.float32))
    other = predict(str(tmp_path / "inverted.npy"), "--out", str(tmp_path / "other.parquet"))
    assert "strongly shifted" in json.dumps(other)
    marked = pd.read_parquet(tmp_path / "other.parquet")["note"]
    assert other["unlike"] == marked.notna().sum() == 1797
    assert marked.str.contains("Inverted, it is more like them").mean() > 0.99
    assert any("1,797 of 1,797 inputs are unlike" in note for note in other["notes"])

    words = [str(tmp_path / "inverted.npy"), "--invert", "--out", str(tmp_path / "back.parquet")]
    back = predict(*words)
    assert (back["unlike"], "1,797 inverted" in back["notes"]) == (0, True)
    plain = predict("digits", "--out", str(tmp_path / "plain.parquet"))
    assert back["classes"] == plain["classes"]


def test_it_is_no_model_run_and_names_its_data(
    root: Path, predict: Predict, tmp_path: Path
) -> None:
    before = len(stores.model_runs(root))
    done = predict("digits:7", "--out", str(tmp_path / "one.parquet"))
    assert len(stores.model_runs(root)) == before
    model = stores.run_of(root, "dnn")
    (batch,) = [run for run in stores.mlflow_runs(root) if run["id"] == done["run_id"]]
    assert batch["tags"]["chapterflow.kind"] == "batch"
    digest = model["tags"]["chapterflow.dataset_digest"]
    assert json.loads(batch["tags"]["chapterflow.datasets"]) == {"digits": digest}
    version = yaml.safe_load((root / "data.dvc").read_text())["outs"][0]["md5"]
    assert batch["tags"]["chapterflow.data_version"] == version
    assert all(run["status"] == "FINISHED" for run in stores.mlflow_runs(root))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["dnn@champion", "digits"], "`chapterflow promote dnn` promotes one"),
        ([MODEL, "digts"], "digits"),
        ([MODEL, "digits:tst"], "'tst'"),
        ([MODEL, "."], "must hold pictures"),
    ],
)
def test_what_is_wrong_is_reported(root: Path, tmp_path: Path, words: list[str], says: str) -> None:
    (tmp_path / "empty").mkdir()
    words = [str(tmp_path / "empty") if word == "." else word for word in words]
    flows = stores.flow_states(root)
    result = invoke(root, "predict", *words, "--out", str(tmp_path / "x.parquet"))
    assert (result.returncode, "Traceback" in result.stderr) == (2, False), result.stderr
    assert says in result.stderr
    assert stores.flow_states(root) == flows, "it can be told before Prefect starts"
    assert not (tmp_path / "x.parquet").exists()


def start(root: Path, array: Path, out: Path) -> subprocess.Popen[str]:
    return begin(root, "chapterflow", "predict", MODEL, str(array), "--out", str(out), "--json")


def wait_for_parts(root: Path, process: subprocess.Popen[str], count: int) -> None:
    """Wait until so many parts of a batch lie on the disk, and the command still runs."""
    deadline = time.monotonic() + HUNG
    while len(list(root.glob(".chapterflow/predict/*/part-*.parquet"))) < count:
        assert process.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.fault("`predict` interrupted, then killed", "Resumes after the last part; equal table")
def test_ctrl_c_and_a_kill_cost_no_more_than_a_part(
    root: Path, predict: Predict, tmp_path: Path
) -> None:
    array, out = tmp_path / "big.npy", tmp_path / "big.parquet"
    np.save(array, np.resize(images(root), (EXAMPLES, 8, 8, 1)))

    process = start(root, array, out)
    wait_for_parts(root, process, 1)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=HUNG)
    assert (process.returncode, stdout, "Traceback" in stderr) == (130, "", False), stderr
    assert "resumes after the last finished part" in stderr
    assert "epoch" not in stderr
    batch = stores.mlflow_runs(root)[-1]
    assert batch["status"] == "KILLED"

    process = start(root, array, out)
    wait_for_parts(root, process, 2)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=HUNG)
    assert process.returncode == -signal.SIGKILL
    # Neither a result nor half of one, nor anything else beside it.
    assert [path.name for path in tmp_path.iterdir()] == ["big.npy"]
    kept = sum(
        pq.read_metadata(path).num_rows
        for path in root.glob(".chapterflow/predict/*/part-*.parquet")
    )
    assert 0 < kept < EXAMPLES

    process = start(root, array, out)
    stdout, stderr = process.communicate(timeout=HUNG)
    assert process.returncode == 0, stderr
    assert f"resume: {kept:,} of {EXAMPLES:,} examples were predicted before" in stderr
    done = json.loads(stdout)
    assert (done["examples"], done["resumed"]) == (EXAMPLES, kept)
    assert not list(root.glob(".chapterflow/predict/*"))
    # All three calls are one run.
    assert done["run_id"] == batch["id"]
    assert {run["status"] for run in stores.mlflow_runs(root)} == {"FINISHED"}
    assert set(stores.flow_states(root)) <= {"COMPLETED", "CRASHED", "FAILED"}
    assert stores.processes_of(root) == {}

    whole = predict(str(array), "--out", str(tmp_path / "whole.parquet"))
    assert whole["resumed"] == 0
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "whole.parquet"))
    for name in ("inputs_sha256", "classes", "figures"):
        assert whole[name] == done[name]
