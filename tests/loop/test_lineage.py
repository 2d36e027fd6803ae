"""Where a model comes from, link by link, and whether it can be made again."""

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from chapterflow.config.load import load_settings
from chapterflow.environment import Project
from chapterflow.errors import StoreError
from chapterflow.loop.run import Run
from chapterflow.predict import server
from chapterflow.tracking.store import open_client
from chapterflow.tracking.versions import find_version, write_manifest
from tests.conftest import Finished, call, command_environment, copy_project, invoke
from tests.loop import stores

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(finished: Finished, fetched_once: Path) -> Path:
    """The finished checkout, with all of its data in the cache of DVC."""
    for folder in (".dvc/cache", "data"):
        shutil.copytree(fetched_once / folder, finished.root / folder, dirs_exist_ok=True)
    commit(finished.root)  # data.dvc, so that the version of the data is in a commit
    return finished.root


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """A copy of it for one test, which may break it."""
    return copy_project(root, tmp_path / "checkout")


def commit(root: Path) -> None:
    for words in (["add", "-A"], ["commit", "-qm", "state", "--allow-empty"]):
        subprocess.run(["git", *words], cwd=root, env=command_environment(root), check=True)


def artifacts(root: Path) -> Path:
    run = stores.run_of(root, "dnn")
    (folder,) = (root / "mlruns/artifacts").glob(f"*/{run['id']}/artifacts")
    return folder


def state(root: Path) -> dict[str, str]:
    """Return what the user's work tree holds: every file outside of stores and scratch."""
    own = {".git", "mlruns", ".chapterflow", ".prefect", "report"}
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and not own & set(path.relative_to(root).parts)
        and "__pycache__" not in path.parts
    }


def test_every_link_holds(root: Path) -> None:
    result = invoke(root, "why", "dnn@challenger", "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    tree = invoke(root, "why", "dnn")
    assert tree.returncode == 0
    for link in ("model files", "fingerprint", "data version", "validation", "source commit"):
        assert link in tree.stdout


def lose_model(root: Path) -> None:
    stores.model_file(root, "dnn").unlink()


def damage_model(root: Path) -> None:
    """Change a byte inside of the weights, so that only a checksum can tell."""
    path = stores.model_file(root, "dnn")
    with zipfile.ZipFile(path) as archive:
        weights = archive.getinfo("model.weights.h5")
    content = bytearray(path.read_bytes())
    content[weights.header_offset + weights.compress_size // 2] ^= 1
    path.write_bytes(content)


def replace_model(root: Path) -> None:
    """Put a whole archive in the place of the model, as a mix-up of files would."""
    path = stores.model_file(root, "dnn")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("another", "model")


def lose_run(root: Path) -> None:
    with sqlite3.connect(root / "mlruns/mlflow.db") as connection:
        connection.execute("UPDATE runs SET lifecycle_stage = 'deleted'")


def lose_verdict(root: Path) -> None:
    (artifacts(root) / "validation/verdict.json").unlink()


def change_fingerprint(root: Path) -> None:
    path = artifacts(root) / "fingerprint.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": 6}))


def set_tag(root: Path, key: str, value: str) -> None:
    with sqlite3.connect(root / "mlruns/mlflow.db") as connection:
        connection.execute("UPDATE tags SET value = ? WHERE key = ?", (value, key))


def lose_commit(root: Path) -> None:
    set_tag(root, "mlflow.source.git.commit", "0" * 40)


def lose_data_version(root: Path) -> None:
    """Name an unknown version, where nothing committed tells which version has the bytes.

    Lists of files and verdicts would.
    """
    set_tag(root, "chapterflow.data_version", "0" * 32 + ".dir")
    verdict = call(root, "git", "rev-parse", "HEAD:results/validation/digits.json").stdout.strip()
    (root / ".git" / "objects" / verdict[:2] / verdict[2:]).unlink()
    for listed in (root / ".dvc/cache/files/md5").glob("*/*.dir"):
        listed.unlink()


def champion_nobody_judged(root: Path) -> None:
    with sqlite3.connect(root / "mlruns/mlflow.db") as connection:
        connection.execute("UPDATE registered_model_aliases SET alias = 'champion'")


@pytest.mark.fault(
    "Model, run, verdict, commit or data version lost or changed",
    "`why` names the broken link alone",
)
@pytest.mark.parametrize(
    ("broken", "named"),
    [
        (lose_model, "model files"),
        (damage_model, "model files"),
        (replace_model, "model files"),
        (lose_run, "run"),
        (lose_verdict, "validation"),
        (change_fingerprint, "fingerprint"),
        (lose_commit, "source commit"),
        (lose_data_version, "data version"),
        (champion_nobody_judged, "gates"),
    ],
)
def test_a_broken_link_is_named(copy: Path, broken: Callable[[Path], None], named: str) -> None:
    broken(copy)
    result = invoke(copy, "why", "dnn")
    assert result.returncode == 1, result.stdout + result.stderr
    # "1 of 11 links broken: NAME": no other link may be blamed.
    assert result.stdout.strip().splitlines()[-1].partition("broken: ")[2] == named


def reproduce(root: Path, what: str, code: int = 0) -> dict[str, Any]:
    before = state(root)
    result = invoke(root, "reproduce", what, "--json")
    assert result.returncode == code, result.stdout + result.stderr
    assert state(root) == before, "the work tree is the user's"
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_the_same_weights_again_also_from_data_of_the_cache(root: Path) -> None:
    assert reproduce(root, "dnn")["verdict"] == "identical"
    labels = root / "data/digits/labels.npy"
    given = labels.read_bytes()
    labels.chmod(0o644)
    try:
        labels.write_bytes(given[:-1] + bytes([given[-1] ^ 1]))
        run_id = stores.run_of(root, "dnn")["id"]
        assert reproduce(root, run_id[:8])["verdict"] == "identical"
    finally:
        labels.write_bytes(given)


def test_data_that_are_nowhere(copy: Path) -> None:
    listed = yaml.safe_load((copy / "data.dvc").read_text())["outs"][0]["md5"]
    (copy / ".dvc/cache/files/md5" / listed[:2] / listed[2:]).unlink()
    # What lies in data/ is still the same.
    assert invoke(copy, "why", "dnn").returncode == 0
    shutil.rmtree(copy / "data/digits")
    result = invoke(copy, "why", "dnn")
    assert result.returncode == 1
    assert result.stdout.strip().endswith("1 of 12 links broken: data version")
    again = invoke(copy, "reproduce", "dnn")
    assert (again.returncode, "DVC's cache" in again.stderr) == (1, True), again.stderr


def test_data_that_a_remote_has_alone(copy: Path, tmp_path: Path) -> None:
    # A relative address counts from the folder of DVC's configuration, not from where we are.
    remote = tmp_path / "remote"
    address = os.path.relpath(remote, copy)
    for words in (["remote", "add", "--default", "store", address], ["push", "--quiet"]):
        result = call(copy, "dvc", *words)
        assert result.returncode == 0, result.stderr
    pushed = set(remote.rglob("*"))
    assert pushed
    for folder in (copy / ".dvc/cache", copy / "data/digits"):
        shutil.rmtree(folder)
    status = call(copy, "git", "status", "--porcelain").stdout
    done = reproduce(copy, "dnn")  # which sees to it that the work tree stays as it is
    assert done["verdict"] == "identical"
    assert "from DVC (data/digits is missing)" in done["data"]
    assert not (copy / ".dvc/cache").exists()
    assert not (copy / "data/digits").exists()
    assert call(copy, "git", "status", "--porcelain").stdout == status
    assert set(remote.rglob("*")) == pushed
    shutil.rmtree(remote)
    again = invoke(copy, "reproduce", "dnn")
    assert (again.returncode, "nor in its remote" in again.stderr) == (1, True), again.stderr


def test_other_weights_pass_in_another_environment_alone(copy: Path, tensorflow: None) -> None:
    import keras

    path = stores.model_file(copy, "dnn")
    model = keras.models.load_model(path)
    weights = model.get_weights()
    weights[0].flat[0] += 1e-3
    model.set_weights(weights)
    model.save(path)
    # As if these were the weights that were logged.
    with sqlite3.connect(copy / "mlruns/mlflow.db") as connection:
        connection.execute(
            "UPDATE logged_model_tags SET tag_value = ? WHERE tag_key = ?",
            (hashlib.sha256(path.read_bytes()).hexdigest(), "chapterflow.model_sha256"),
        )
        # A version without it was logged before all files had hashes.
        connection.execute(
            "DELETE FROM logged_model_tags WHERE tag_key = 'chapterflow.files_sha256'"
        )
    same = reproduce(copy, "dnn", code=1)
    assert same["verdict"] == "differs"
    assert same["comparison"]["different_weights"] == 1
    record = artifacts(copy) / "fingerprint.json"
    parts = json.loads(record.read_text())
    parts["libraries"]["keras"] = "3.0.0"
    record.write_text(json.dumps(parts))
    other = reproduce(copy, "dnn")
    assert other["verdict"] == "agrees"
    assert "keras 3.0.0 -> " in other["told"]


@pytest.mark.parametrize(
    ("broken", "named"), [(damage_model, "not the file that was logged"), (lose_run, "no run")]
)
def test_what_a_reproduction_needs_and_is_lost(
    copy: Path, broken: Callable[[Path], None], named: str
) -> None:
    broken(copy)
    result = invoke(copy, "reproduce", "dnn")
    assert result.returncode == 1
    assert named in result.stderr, result.stderr
    assert "not expected" not in result.stderr


def append_to_code(root: Path) -> None:
    (file,) = stores.model_file(root, "dnn").parents[1].glob("code/*.py")
    file.write_text(file.read_text() + f"\nopen({str(root / 'executed')!r}, 'w').close()\n")


def add_code(root: Path) -> None:
    """Add a module that would be imported instead of the real one."""
    file = stores.model_file(root, "dnn").parents[1] / "code" / "numpy.py"
    file.write_text(f"open({str(root / 'executed')!r}, 'w').close()\n")


def replace_manifest(root: Path) -> None:
    """Change a file and its hash in the manifest, which the tag in the database covers."""
    append_to_code(root)
    folder = stores.model_file(root, "dnn").parents[1]
    write_manifest(folder)


@pytest.mark.fault(
    "Code or manifest of a logged model changed, or a module added",
    "Nothing is executed; serve, predict, explain and promote refuse",
)
@pytest.mark.parametrize(
    ("broken", "named"),
    [
        (append_to_code, "code/chapterflow_answers_"),
        (add_code, "code/numpy.py"),
        (replace_manifest, "files.json"),
    ],
)
def test_no_changed_code_of_a_model_is_executed(
    copy: Path, broken: Callable[[Path], None], named: str, record_property: Any
) -> None:
    broken(copy)
    commands = (
        ["serve", "dnn/1", "--port", "0"],
        ["explain", "dnn/1", "digits:0"],
        ["why", "dnn/1"],
    )
    for words in commands:
        result = invoke(copy, *words)
        assert result.returncode == 1, words
        assert named in result.stdout + result.stderr
    with pytest.raises(StoreError, match=named):
        read_logged(copy)
    assert not (copy / "executed").exists()
    record_property("saw", f"{len(commands)} of {len(commands)} commands refused, exit 1")


def read_logged(root: Path) -> Any:
    """Load the model as predict, promote and reproduce do."""
    from chapterflow.predict.inputs import read_version

    with stores.mlflow_at(root):
        client = open_client()
        return read_version(client, find_version(client, "dnn/1"))


@pytest.mark.fault("Bytecode of a logged model planted next to its code", "It is not executed")
def test_planted_bytecode_is_not_executed(copy: Path, tensorflow: None) -> None:
    import py_compile

    (file,) = stores.model_file(copy, "dnn").parents[1].glob("code/*.py")
    given = file.read_bytes()
    file.write_bytes(b"raise SystemExit('planted')\n".ljust(len(given), b"#"))
    os.utime(file, (1, 1))
    py_compile.compile(str(file))
    file.write_bytes(given)
    os.utime(file, (1, 1))  # size and time are those that the bytecode names
    project = Project(copy)
    server.load(project, load_settings(project.params), "dnn/1")


@pytest.mark.fault("Model of a finished run damaged before run", "Trained again, not reused")
def test_a_run_whose_model_is_damaged_is_not_reused(copy: Path, record_property: Any) -> None:
    project = Project(copy)
    run = Run(project, load_settings(project.params), "dnn")
    said: list[str] = []
    assert run.reuse(lambda *words: said.extend(words))
    assert not said
    damage_model(copy)
    assert not run.reuse(lambda *words: said.extend(words))
    assert "data/model.keras of dnn/1 is not the file that was logged" in said[1]
    record_property("saw", "not reused; the damaged file is named")


@pytest.mark.fault("Model file lost, replaced or damaged", "serve, explain and predict refuse")
@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lose_model, ["serve", "dnn/1", "--port", "0"]),
        (replace_model, ["serve", "dnn/1", "--port", "0"]),
        (lose_model, ["explain", "dnn/1", "digits:0"]),
        (damage_model, ["predict", "dnn/1", "digits:0"]),
    ],
)
def test_no_command_takes_another_file_for_the_model(
    copy: Path, run_flow: Any, broken: Callable[[Path], None], words: list[str]
) -> None:
    broken(copy)
    result = run_flow(copy, *words)
    assert result.returncode == 1
    assert "keras" in result.stderr, result.stderr
    assert "not expected" not in result.stderr


@pytest.mark.fault("Model of a finished run deleted", "Trained again, not reused")
def test_a_run_that_lost_its_model_is_not_reused(copy: Path, run_flow: Any) -> None:
    for status, ruin in (("reused", lose_model), ("trained", lambda _: None)):
        result = run_flow(copy, "run", "dnn", "--json")
        assert json.loads(result.stdout)["models"][0]["status"] == status, result.stderr
        ruin(copy)


def test_what_is_not_there_is_reported(root: Path) -> None:
    for words in (["why", "nobody"], ["reproduce", "nobody"]):
        result = invoke(root, *words)
        assert (result.returncode, "Traceback" in result.stderr) == (2, False), result.stderr
