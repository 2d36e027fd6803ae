"""`import chapterflow as cf`: the commands as functions, in scripts and in notebooks."""

import asyncio
import contextlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import chapterflow as cf
from chapterflow.environment import Project, leave_project
from chapterflow.errors import ChapterflowError, ConfigError, DataError
from pipelines import prefect_server
from tests.conftest import (
    REAL_PATH,
    REPOSITORY,
    Finished,
    command_environment,
    in_checkout,
    using_prefect,
)

NOTEBOOK = REPOSITORY / "notebooks" / "chapter.ipynb"
LIGHT = """
import sys
import chapterflow as cf
assert callable(cf.explain) and "run" in dir(cf)
loaded = [name for name in sys.modules if name.startswith("chapterflow.")]
assert loaded == ["chapterflow.explain"], loaded
assert "numpy" not in sys.modules and "typer" not in sys.modules
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The variables as they were, after the test."""
    leave_project()
    for name in ("CHAPTERFLOW_PROJECT", "PREFECT_HOME"):
        monkeypatch.delenv(name, raising=False)
    yield
    leave_project()


def test_the_import_loads_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_explain_is_a_function_and_a_package() -> None:
    import chapterflow.explain.canvas as canvas

    assert canvas.Canvas
    assert [*inspect.signature(cf.explain).parameters][:2] == ["model", "given"]
    with pytest.raises(AttributeError, match="no attribute 'explian'"):
        cf.explian  # type: ignore[attr-defined]  # noqa: B018


def test_two_projects_in_one_process(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"folder with a params.yaml. Received: .*nowhere"):
        cf.run("dnn", project=tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"No params\.yaml in"):
        cf.dataset("digits")
    first, second = project.root, tmp_path / "second"
    second.mkdir()
    text = (first / "params.yaml").read_text()
    (second / "params.yaml").write_text(text.replace("\n  digits:\n", "\n  figures:\n", 1))
    for folder in (first, second, first):
        monkeypatch.chdir(folder)
        with pytest.raises(ConfigError):
            cf.dataset("nothing")
        assert os.environ["CHAPTERFLOW_PROJECT"] == str(folder)
        assert os.environ["PREFECT_HOME"] == str(folder / ".prefect")
    leave_project()
    monkeypatch.setenv("CHAPTERFLOW_PROJECT", str(first))
    with pytest.raises(ConfigError):
        cf.dataset("nothing", project=second)
    leave_project()
    assert os.environ["CHAPTERFLOW_PROJECT"] == str(first)


def test_wrong_names(project: Project) -> None:
    at = {"project": project.root}
    with pytest.raises(ConfigError, match=r"Unknown model: 'cn'. Did you mean 'cnn'"):
        cf.run("cn", **at)
    with pytest.raises(ConfigError, match=r"Unknown dataset: 'digit'. Did you mean 'digits'"):
        cf.dataset("digit", **at)
    with pytest.raises(ConfigError, match="INPUT must be an existing file"):
        cf.explain("cnn", "nowhere.png", **at)
    with pytest.raises(DataError, match=r"array of numbers or a Pillow image. Received: object"):
        cf.explain("cnn", object(), **at)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"must have a mode that PNG has.* Received: F"):
        cf.explain("cnn", Image.new("F", (8, 8)), **at)


@pytest.mark.slow
def test_an_empty_store(fetched: Path) -> None:
    with in_checkout(fetched):
        assert "has no finished runs" in repr(cf.compare())
        with pytest.raises(ConfigError, match="`chapterflow run cnn` registers one"):
            cf.load("cnn")
        with pytest.raises(ConfigError, match=r"No registered model is called 'cnm'\. Did you"):
            cf.explain("cnm", "digits:0")


def test_a_dataset(project: Project) -> None:
    digits = cf.dataset("digits", project=project.root)
    assert len(digits) == 1797
    assert digits.inputs("test").shape == (449, 8, 8, 1)
    assert digits.labels("validation").shape == (180,)
    np.testing.assert_array_equal(digits[-1], digits[1796])
    np.testing.assert_array_equal(digits[0], digits.data.arrays["images"][0])
    with pytest.raises(IndexError, match=r"has 1797 examples. Received: position 1797"):
        digits[1797]
    with pytest.raises(ConfigError, match="must be followed by a split"):
        digits.inputs("tests")  # type: ignore[arg-type]
    assert "1,168 train, 180 validation, 449 test" in repr(digits)
    page = digits._repr_html_()
    assert page.count("<img ") == 1
    assert "<td>Handwritten" not in page
    assert "<caption>Handwritten digits, 8x8, 17 grey levels</caption>" in page


@pytest.mark.slow
def test_layers_need_no_training(project: Project) -> None:
    table = cf.layers("cnn", project=project.root)
    assert table.frame().parameters.sum() == table.network.count_params() == 53002
    assert "<td>conv1</td><td>Conv2D</td>" in table._repr_html_()


@pytest.mark.slow
def test_results_of_a_finished_project(finished: Finished) -> None:
    with in_checkout(finished.root):
        compared = cf.compare("dnn", "cnn")
        assert [outcome.model for outcome in compared.models] == ["dnn", "cnn"]
        (pair,) = compared.differences
        assert (pair.a, pair.b) == ("dnn", "cnn")
        # Holm's correction counts the pairs with lenet5, too.
        assert "adjusted (Holm) for all 3 pairs" in repr(compared)
        assert "Is the difference real?" in compared._repr_html_()
        scores = compared.frame()["test/accuracy"]
        assert scores["cnn"] == next(
            model["metrics"]["test/accuracy"]
            for model in finished.document["models"]
            if model["model"] == "cnn"
        )

        model, digits = cf.load("cnn/1"), cf.dataset("digits")
        probabilities = model.predict(digits.inputs("test"))
        right = probabilities.argmax(axis=1) == digits.labels("test")
        assert right.mean() == pytest.approx(scores["cnn"])
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
        single = model.predict(digits[digits.data.indices("test")[0]])
        np.testing.assert_allclose(single[0], probabilities[0], atol=1e-5)
        with pytest.raises(DataError, match=r"shape \(n, 8, 8, 1\). Received: \(3, 4\)"):
            model.predict(np.zeros((3, 4)))
        assert "cnn: version 1" in repr(model)


@pytest.mark.slow
def test_inputs_of_every_sort(finished: Finished, tmp_path: Path) -> None:
    once: dict[str, Any] = {"methods": ["grad-cam"]}
    with in_checkout(finished.root):
        digit = cf.dataset("digits")[0]
        by_name = cf.explain("cnn", "digits:0", **once)
        answers = [by_name.details["probes"][0]["predicted"]]
        picture = Image.fromarray((digit[..., 0] * 255 / 16).round().astype(np.uint8))
        picture.save(tmp_path / "digit.png")
        np.save(tmp_path / "digit.npy", digit)
        for given in (
            digit,
            digit[..., 0],
            picture,
            tmp_path / "digit.png",
            tmp_path / "digit.npy",
        ):
            answers.append(cf.explain("cnn", given, **once).details["probes"][0]["predicted"])
        assert answers == ["0"] * 6
        with pytest.raises(DataError, match=r"^The array must hold .* Received: float64 \(9, 9\)"):
            cf.explain("cnn", np.zeros((9, 9)), **once)

        assert by_name._repr_html_().count("<img ") == len(by_name.pictures) == 2
        assert "Can the maps be believed?" in repr(by_name)
        walk = by_name.picture("walk")
        assert walk._repr_html_().count("<img ") == 1
        assert repr(walk) == f"walk: {by_name.pictures[0].path}"
        with pytest.raises(DataError, match=r"these sorts: walk, attributions. Received: 'nodes'"):
            by_name.picture("nodes")
        kept = cf.explain("cnn", "digits:0", out=tmp_path / "kept", **once)
        folder = kept.pictures[0].path.parent
        assert folder == tmp_path / "kept"
        gone = by_name.pictures[0].path.parent
        assert gone.is_dir()
        del by_name, walk
        assert not gone.exists()


@pytest.mark.slow
def test_a_flow_runs_inside_an_event_loop(finished: Finished, prefect_api: dict[str, str]) -> None:
    async def cell(*models: str, **options: Any) -> Any:
        results = cf.run(*models, workers=1, **options)
        assert asyncio.get_running_loop()
        await asyncio.sleep(0)
        return results

    with in_checkout(finished.root, **prefect_api), using_prefect(prefect_api):
        results = asyncio.run(cell("dnn", "cnn"))
        assert [outcome.status for outcome in results.models] == ["reused", "reused"]
        assert "reused" in results._repr_html_()
        with pytest.raises(ChapterflowError, match="1 of 1 models failed: dnn") as failed:
            asyncio.run(cell("dnn", overrides=["validation.images.class_divergence=0.0"]))
    (note,) = failed.value.__notes__
    assert note.startswith("dnn failed: ")
    assert "class_divergence" in note or "class-balance" in note
    results = failed.value.results  # type: ignore[attr-defined]
    assert results["models"][0]["status"] == "failed"


def test_a_notebook_keeps_its_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    servers: list[subprocess.Popen[bytes]] = []

    def start(address: str, port: int, *_: Any) -> subprocess.Popen[bytes]:
        # Prefect's own takes seconds to start.
        os.environ["PREFECT_API_URL"] = address
        words = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
        servers.append(subprocess.Popen(words, stderr=subprocess.DEVNULL, cwd=tmp_path))
        while True:
            with contextlib.suppress(OSError):
                prefect_server.answers(address)
                return servers[-1]
            assert servers[-1].poll() is None

    monkeypatch.setattr(prefect_server, "_start", start)
    monkeypatch.setattr(prefect_server, "_kept", None)
    # Settings of a Prefect that other tests have imported stay as they are.
    monkeypatch.setattr(prefect_server, "_reread_settings", lambda: None)
    monkeypatch.setattr(prefect_server, "_send_what_waits", lambda address, tell: None)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)

    def address(home: str) -> str:
        monkeypatch.setenv("PREFECT_HOME", home)
        with prefect_server.kept_server(tmp_path) as here:
            assert os.environ["PREFECT_API_URL"] == here
        assert "PREFECT_API_URL" not in os.environ
        return here

    try:
        first = address("a")
        assert address("a") == first
        servers[0].kill()
        servers[0].wait()
        second = address("a")
        assert second != first
        # Another project has another database.
        assert address("b") != second
        assert [server.poll() is None for server in servers] == [False, False, True]
        monkeypatch.setenv("PREFECT_API_URL", address("b"))
        with prefect_server.kept_server(tmp_path) as own:
            assert own == os.environ["PREFECT_API_URL"]
        assert len(servers) == 3
    finally:
        for server in servers:
            server.kill()
            server.wait()


def test_the_notebook_has_no_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 20
    assert not [c for c in code if c["outputs"] or c["execution_count"] is not None]
    # Korean, then the same in English.
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    assert not [text for text in texts if not text.endswith(("*", ".", "요."))]


@pytest.mark.slow
def test_the_notebook_runs(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbformat
    from nbclient import NotebookClient

    folders = {"JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython"}
    variables = {name: str(tmp_path / folder) for name, folder in folders.items()}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, 4)
    notebook.cells = [
        cell for cell in notebook.cells if "training" not in cell.metadata.get("tags", ())
    ]
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(finished.root / "notebooks")}},
    )
    client.execute(env=command_environment(finished.root) | variables | {"PATH": REAL_PATH})

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    pages = [output.data.get("text/html", "") for output in outputs if "data" in output]
    (results,) = [
        page for page in pages if "Results on the test split" in page and "status" in page
    ]
    assert results.count("reused") == 2
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 6
    assert sum("<img " in page for page in pages) >= 5
