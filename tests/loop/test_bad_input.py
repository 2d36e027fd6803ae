"""What users can get wrong: a clear line, the right exit code, nothing half written."""

import gzip
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Run, call, copy_project, invoke
from tests.data import servers
from tests.loop import stores


@pytest.fixture(scope="module")
def ready(fetched_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the embedded data and a store, and nothing trained."""
    return copy_project(fetched_once, tmp_path_factory.mktemp("bad") / "checkout")


@pytest.fixture
def root(ready: Path, tmp_path: Path) -> Path:
    """A copy of it for one test, which may break it."""
    return copy_project(ready, tmp_path / "checkout")


def fails(result: Any, code: int, *says: str) -> str:
    text = str(result.stdout + result.stderr)
    assert result.returncode == code, text
    for words in says:
        assert words in text
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "params.yaml is empty"),
        ("models: [", "not valid YAML"),
        ("sead: 1\n", "sead: unknown key. Did you mean 'seed'?"),
    ],
)
def test_params_yaml(ready: Path, content: str, says: str) -> None:
    kept = (ready / "params.yaml").read_text()
    runs = len(stores.mlflow_runs(ready))
    (ready / "params.yaml").write_text(content)
    try:
        for command in (["run"], ["compare"], ["data", "list"]):
            fails(invoke(ready, *command), 2, says)
    finally:
        (ready / "params.yaml").write_text(kept)
    assert len(stores.mlflow_runs(ready)) == runs


def test_overrides_and_names(ready: Path) -> None:
    override = ("--set", "models.cnn.batch_size=-4")
    fails(invoke(ready, "run", *override), 2, "models.cnn.batch_size", "-4")
    fails(invoke(ready, "run", "lenet"), 2, "'lenet'", "Did you mean 'lenet5'?")
    fails(invoke(ready, "run", "--profile", "bok"), 2, "'bok'")
    fails(invoke(ready, "data", "fetch", "mnst"), 2, "Did you mean 'mnist'?")
    fails(invoke(ready, "rum"), 2)
    fails(invoke(ready.parent, "run"), 2, "No params.yaml")


def test_an_address_of_no_tracking_server(ready: Path) -> None:
    result = invoke(ready, "compare", MLFLOW_TRACKING_URI="htp://nowhere")
    fails(result, 2, "htp")


def test_debug_adds_a_traceback_and_keeps_the_exit_code(ready: Path) -> None:
    result = invoke(ready, "--debug", "run", "lenet")
    assert result.returncode == 2
    assert "Traceback" in result.stderr
    assert "Did you mean 'lenet5'?" in result.stderr


def test_data_that_no_mirror_holds_come_from_upstream(tmp_path: Path, root: Path) -> None:
    mine, other = small_mirror(tmp_path / "mine"), small_mirror(tmp_path / "other")
    shutil.rmtree(other / "mnist")
    stores.set_param(root, "datasets.mnist.mirror", None)
    stores.set_param(root, "datasets.mnist.upstream", [str(mine / "mnist")])
    result = fetch(root, str(other), *UNPINNED)
    assert result.returncode == 0, result.stdout + result.stderr


def test_json_keeps_stdout_clean_on_errors(ready: Path) -> None:
    result = invoke(ready, "run", "--json", "lenet")
    assert result.stdout == ""
    assert "lenet5" in result.stderr


def _spoil(folder: Path, spoil: Any) -> None:
    """Rewrite a dataset's images; the card keeps the old hashes."""
    images = np.load(folder / "images.npy")
    np.save(folder / "images.npy", spoil(images))


def divided_with_nan(images: Any) -> Any:
    spoilt = (images / 255).astype(np.float32)
    spoilt[7, 3, 3, 0] = np.nan
    return spoilt


@pytest.mark.fault(
    "Data that break an expectation", "The run stops before training; pages show why"
)
@pytest.mark.slow
def test_data_that_break_expectations_stop_the_run_and_are_documented(
    root: Path, prefect_once: Path
) -> None:
    shutil.copytree(prefect_once, root / ".prefect")
    _spoil(root / "data" / "digits", divided_with_nan)
    result = call(root, "chapterflow", "run", "dnn", "cnn", "--json", "--workers", "1")
    text = fails(result, 3, "expectations failed")
    document = json.loads(result.stdout)
    assert [model["status"] for model in document["models"]] == ["failed", "failed"]
    for words in ("dtype", "expected uint8", "float32", "value-use", "finite", "/00007"):
        assert words in document["models"][0]["error"], text
    # One validation for both models, logged with its pages though it failed.
    (flow,) = stores.mlflow_runs(root)
    assert flow["status"] == "FAILED"
    (folder,) = (root / "mlruns" / "artifacts").glob(f"*/{flow['id']}/artifacts/validation/digits")
    assert "not" in (folder / "index.html").read_text()
    assert list((folder / "data_docs").glob("*.html"))
    names = [name for name, _ in stores.task_states(root)]
    assert names == ["prepare digits", "validate digits"]


@pytest.mark.fault("Byte of a dataset flipped before `run`", "The run stops; verify names the file")
@pytest.mark.slow
def test_a_flipped_byte_is_found_by_verify_and_stops_a_run(root: Path, run_flow: Run) -> None:
    path = root / "data" / "digits" / "images.npy"
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    fails(invoke(root, "data", "verify"), 2, "images.npy", "content changed")
    fails(run_flow(root, "run", "dnn"), 2, "images.npy", "content changed")
    assert invoke(root, "data", "fetch", "--force").returncode == 0
    assert invoke(root, "data", "verify").returncode == 0
    assert call(root, "git", "diff", "--quiet", "data.dvc").returncode == 0


def write_idx(path: Path, array: Any) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def small_mirror(folder: Path) -> Path:
    """A mirror with an MNIST-like dataset of 400 + 100 images."""
    mnist = folder / "mnist"
    mnist.mkdir(parents=True)
    random = np.random.default_rng(0)
    for part, count in (("train", 400), ("t10k", 100)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = random.integers(0, 256, (count, 28, 28), np.uint8)
        write_idx(mnist / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(mnist / f"{part}-labels-idx1-ubyte.gz", labels)
    return folder


UNPINNED = [
    word
    for name in ("train_images", "train_labels", "test_images", "test_labels")
    for key in ("sha256", "bytes")
    for word in ("--set", f"datasets.mnist.files.{name}.{key}=null")
]


def fetch(root: Path, mirror: str, *words: str) -> Any:
    return invoke(root, "data", "fetch", "mnist", *words, CHAPTERFLOW_MIRROR=mirror)


def truncate(mnist: Path) -> None:
    path = mnist / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])


def wrong_magic(mnist: Path) -> None:
    content = gzip.decompress((mnist / "train-images-idx3-ubyte.gz").read_bytes())
    (mnist / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x0d" + content[3:]))


def fewer_labels(mnist: Path) -> None:
    write_idx(mnist / "train-labels-idx1-ubyte.gz", np.zeros(399, np.uint8))


def label_out_of_range(mnist: Path) -> None:
    labels = (np.arange(400) % 10).astype(np.uint8)
    labels[17] = 10
    write_idx(mnist / "train-labels-idx1-ubyte.gz", labels)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncate, ["train-images-idx3-ubyte.gz"]),
        (wrong_magic, ["train-images-idx3-ubyte.gz", "0x00000803"]),
        (fewer_labels, ["399", "400"]),
        (label_out_of_range, ["10", "17"]),
    ],
)
def test_damaged_idx_files(tmp_path: Path, ready: Path, damage: Any, says: list[str]) -> None:
    mirror = small_mirror(tmp_path / "mirror")
    damage(mirror / "mnist")
    version = (ready / "data.dvc").read_bytes()
    fails(fetch(ready, str(mirror), *UNPINNED), 2, *says)
    assert not (ready / "data" / "mnist").exists()
    assert (ready / "data.dvc").read_bytes() == version
    # What was damaged is not kept for the next try.
    assert not (ready / ".chapterflow" / "downloads" / "mnist").exists()


def test_a_hash_that_does_not_match(tmp_path: Path, ready: Path) -> None:
    mirror = small_mirror(tmp_path / "mirror")
    pinned = ("--set", f"datasets.mnist.files.train_images.sha256={'ab' * 32}")
    result = fetch(ready, str(mirror), *UNPINNED, *pinned)
    fails(result, 2, "train-images-idx3-ubyte.gz", "abababab")
    assert not (ready / "data" / "mnist").exists()


@pytest.fixture
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next attempt follow at once; tests/data/test_fetch.py is about the pauses."""
    monkeypatch.setattr("chapterflow.data.fetch.time.sleep", lambda seconds: None)


@pytest.mark.usefixtures("without_pauses")
def test_a_mirror_that_is_not_there(tmp_path: Path, ready: Path) -> None:
    fails(fetch(ready, str(tmp_path / "nowhere")), 2, "CHAPTERFLOW_MIRROR", "nowhere")
    fails(fetch(ready, "http://127.0.0.1:9/"), 1, "127.0.0.1:9")


def test_a_small_mirror_works_and_changes_the_version(tmp_path: Path, root: Path) -> None:
    mirror = small_mirror(tmp_path / "mirror")
    result = fetch(root, str(mirror), *UNPINNED)
    assert result.returncode == 0, result.stdout + result.stderr
    assert call(root, "git", "diff", "--quiet", "data.dvc").returncode == 1
    listed = invoke(root, "data", "list")
    assert "360 / 40 / 100" in listed.stdout
    assert invoke(root, "data", "verify").returncode == 0


def test_a_locked_store_is_reported_and_keeps_what_it_has(root: Path) -> None:
    before = stores.mlflow_runs(root)
    holder = sqlite3.connect(root / "mlruns" / "mlflow.db")
    holder.execute("BEGIN EXCLUSIVE")
    try:
        result = invoke(root, "compare", CHAPTERFLOW_STORE_WAIT="1")
    finally:
        holder.rollback()
        holder.close()
    fails(result, 1, "locked")
    assert stores.mlflow_runs(root) == before


def test_a_store_of_a_newer_mlflow_is_left_alone(root: Path) -> None:
    database = root / "mlruns" / "mlflow.db"
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    connection.close()
    before = database.read_bytes()
    fails(invoke(root, "compare"), 1, "newer")
    assert database.read_bytes() == before


@pytest.mark.slow
def test_a_full_disk_in_mid_fetch_is_reported_and_the_fetch_resumes(
    root: Path, mirror: Path
) -> None:
    limited = (
        "import resource, runpy, sys;resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000,) * 2);"
        "sys.argv = ['chapterflow', 'data', 'fetch', 'mnist']; "
        "runpy.run_module('chapterflow.cli', run_name='__main__')"
    )
    result = call(root, "python", "-c", limited, CHAPTERFLOW_MIRROR=str(mirror))
    fails(result, 1, "train-images-idx3-ubyte.gz")
    assert not (root / "data" / "mnist").exists()
    assert fetch(root, str(mirror)).returncode == 0
    assert (root / "data" / "mnist" / "dataset.json").is_file()


@pytest.mark.usefixtures("without_pauses")
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (servers.status(404), "404"),
        (servers.status(500), "500"),
        (servers.drop_after(30), "train-images-idx3-ubyte.gz"),
    ],
    ids=["404", "500", "closes in mid-file"],
)
def test_a_mirror_that_fails_over_http(tmp_path: Path, ready: Path, answer: Any, says: str) -> None:
    mirror = small_mirror(tmp_path / "mirror")
    body = (mirror / "mnist" / "train-images-idx3-ubyte.gz").read_bytes()
    # Without a validator a broken download cannot be resumed, so each attempt starts over.
    with servers.serve(servers.Site(body, script=[answer] * 50, etag=None)) as address:
        fails(fetch(ready, address, *UNPINNED), 1, "train-images-idx3-ubyte.gz", says)
    assert not (ready / "data" / "mnist").exists()


def test_help_needs_none_of_the_heavy_libraries() -> None:
    check = (
        "import sys, chapterflow.cli; heavy = {'tensorflow', 'keras', 'mlflow', 'prefect', "
        "'numpy', 'pandas', 'great_expectations', 'dvc', 'sklearn', 'scipy', 'matplotlib', "
        "'pydantic'}; "
        "sys.exit(' '.join(heavy & set(sys.modules)) or None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stderr
