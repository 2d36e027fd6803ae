"""A logged model comes back as it was, with all that serving needs, and belongs to its run."""

import shutil
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from socket import gethostname
from typing import Any

import numpy as np
import pytest

from chapterflow.environment import Project
from chapterflow.errors import StoreError
from chapterflow.tracking import store
from chapterflow.tracking import store as sqlite

EXAMPLE = np.random.default_rng(5).uniform(0, 16, (2, 8, 8, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("models"))
    store.open_store(project)
    return project


@pytest.fixture
def run_id(opened: Project) -> str:
    client = store.open_client(store.open_store(opened))
    run = client.create_run(store.ensure_experiment(opened, "lab"))
    client.log_param(run.info.run_id, "seed", 5)
    return str(run.info.run_id)


@pytest.fixture(scope="module")
def model(tensorflow: None) -> Any:
    import keras

    image = keras.Input((8, 8, 1))
    return keras.Model(image, keras.layers.Dense(10)(keras.layers.Flatten()(image)))


def log(model: Any, run_id: str, **options: Any) -> Any:
    from chapterflow.loop.logged_model import log_keras_model

    return log_keras_model(model, run_id=run_id, name="dnn", input_example=EXAMPLE, **options)


@pytest.fixture
def log_trained(model: Any, run_id: str, opened: Project) -> tuple[Any, Callable[[], str]]:
    """The store's client, and a function that logs the run's trained model and returns its id."""
    from chapterflow.loop.logged_model import log_trained_model

    client = store.open_client(store.tracking_uri(opened))
    options = {"run_id": run_id, "name": "dnn", "input_example": EXAMPLE}
    return client, lambda: log_trained_model(client, model, **options)


def test_logged_model_comes_back_with_all_that_serving_needs(
    model: Any, run_id: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    import mlflow.pyfunc  # MLflow warns of its own type hints when it is imported

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Keras on NumPy 2; not ours to mend.
        warnings.filterwarnings("ignore", message="__array__ implementation")
        info = log(model, run_id, params={"lr": 0.1}, tags={"a": "b"})
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""
    assert mlflow.active_run() is None

    keras_model = mlflow.keras.load_model(info.model_uri)
    assert type(keras_model) is type(model)
    for back, out in zip(keras_model.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(back, out)

    served = mlflow.pyfunc.load_model(info.model_uri)
    np.testing.assert_array_equal(served.input_example, EXAMPLE)
    expected = model.predict(EXAMPLE, verbose=0)
    np.testing.assert_allclose(served.predict(EXAMPLE), expected, rtol=1e-5)
    # dtype and rank are enforced: what the model was not made for is refused, not guessed at.
    with pytest.raises(mlflow.exceptions.MlflowException, match="schema"):
        served.predict(EXAMPLE.astype(np.float64))

    saved = mlflow.models.Model.load(info.model_uri)
    np.testing.assert_array_equal(saved.load_input_example(info.model_uri), EXAMPLE)
    assert saved.signature.inputs.inputs[0].shape == (-1, 8, 8, 1)
    assert saved.signature.outputs.inputs[0].shape == (-1, 10)
    folder = Path(mlflow.artifacts.download_artifacts(info.model_uri))
    requirements = (folder / "requirements.txt").read_text().splitlines()
    assert {f"{p}=={version(p)}" for p in ("tensorflow", "keras", "numpy")} < set(requirements)


def test_requirements_are_given_because_finding_them_out_takes_seconds(
    model: Any, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.utils import requirements_utils

    sought: list[object] = []
    monkeypatch.setattr(import_module("mlflow.keras.save"), "infer_pip_requirements", sought.append)
    monkeypatch.setattr(requirements_utils, "_MODULES_TO_PACKAGES", None)
    with monkeypatch.context() as patch:
        patch.setattr(
            requirements_utils.importlib_metadata,
            "packages_distributions",
            lambda: sought.append("modules of all packages") or {},
        )
        log(model, run_id)
    assert sought == []
    requirements_utils._init_modules_to_packages_map()
    assert "keras" in requirements_utils._MODULES_TO_PACKAGES


def test_logged_model_belongs_to_its_run_and_can_be_searched(
    opened: Project, model: Any, run_id: str
) -> None:
    info = log(model, run_id, params={"lr": 0.1}, metrics={"test/accuracy": 0.75})

    client = store.open_client(store.tracking_uri(opened))
    run = client.get_run(run_id)
    (actual,) = client.search_logged_models(
        [run.info.experiment_id],
        filter_string=f"source_run_id = '{run_id}' AND metrics.`test/accuracy` > 0.7",
    )
    assert actual.model_id == info.model_id
    assert actual.status.value == "READY"
    assert actual.params == {"lr": "0.1", "seed": "5"}
    assert actual.artifact_location.startswith(f"{opened.mlruns}/artifacts/lab/models/")
    assert [out.model_id for out in run.outputs.model_outputs] == [info.model_id]
    assert run.data.metrics == {"test/accuracy": 0.75}


@pytest.mark.parametrize("end", [OSError("no space left"), KeyboardInterrupt()])
def test_failure_leaves_no_logged_model(
    end: BaseException, opened: Project, model: Any, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    def fail(*_: object, **__: object) -> None:
        raise end

    monkeypatch.setattr(mlflow.keras, "save_model", fail)
    with pytest.raises((StoreError, KeyboardInterrupt)) as caught:
        log(model, run_id)
    if caught.type is StoreError:
        assert str(caught.value) == "The model 'dnn' could not be logged. Received: no space left"
    client = store.open_client(store.tracking_uri(opened))
    experiment = client.get_run(run_id).info.experiment_id
    actual = client.search_logged_models([experiment], filter_string=f"source_run_id = '{run_id}'")
    assert list(actual) == []


def test_compiled_and_many_headed_models_are_logged(model: Any, run_id: str) -> None:
    import keras
    import mlflow

    compiled = keras.models.clone_model(model)
    compiled.compile("adam", "mse")
    assert log(compiled, run_id).signature is not None

    image = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(image)
    heads = {"a": keras.layers.Dense(1, name="a")(flat), "b": keras.layers.Dense(2, name="b")(flat)}
    info = log(keras.Model(image, heads), run_id)
    assert info.signature.outputs.input_names() == ["a", "b"]
    assert mlflow.keras.load_model(info.model_uri)(EXAMPLE)["b"].shape == (2, 2)


def test_registered_versions_count_up_and_say_where_they_come_from(
    opened: Project, model: Any, run_id: str
) -> None:
    from chapterflow.tracking.versions import register

    info = log(model, run_id)
    first = register(
        info.model_uri,
        "dnn",
        tags={"a": "b"},
        description="what it is",
        about="a model",
        about_tags={"chapterflow.role": "digits"},
    )
    second = register(log(model, run_id).model_uri, "dnn")
    assert (first, second) == ("1", "2")
    client = store.open_client(store.tracking_uri(opened))
    actual = client.get_model_version("dnn", first)
    assert (actual.run_id, actual.source) == (run_id, info.model_uri)
    assert (actual.tags, actual.description, actual.status) == ({"a": "b"}, "what it is", "READY")
    registered = client.get_registered_model("dnn")
    assert (registered.description, registered.tags) == ("a model", {"chapterflow.role": "digits"})


def test_model_of_a_moved_and_of_a_copied_project_is_found(
    opened: Project, model: Any, run_id: str, tmp_path: Path
) -> None:
    import mlflow

    from chapterflow.tracking.versions import register

    uri = log(model, run_id).model_uri
    register(uri, "moving")
    expected = model.predict(EXAMPLE, verbose=0)
    moved, copied = Project(tmp_path / "neuer Ort ä"), Project(tmp_path / "zweiter Ort")
    shutil.copytree(opened.root, moved.root)
    shutil.copytree(opened.root, copied.root)
    original = opened.root.rename(tmp_path / "gone")
    try:
        for project in (moved, copied):
            store.open_store(project)
            for address in (uri, "models:/moving/1"):
                loaded = mlflow.keras.load_model(address)
                np.testing.assert_allclose(loaded.predict(EXAMPLE, verbose=0), expected, rtol=1e-5)
            before = {p for p in tmp_path.rglob("*") if not p.is_relative_to(project.root)}
            register(log(model, run_id).model_uri, "moving")
            assert before == {p for p in tmp_path.rglob("*") if not p.is_relative_to(project.root)}
            # Nothing that is read or written later names the old place.
            assert names_of(opened.root, project) == set()
    finally:
        original.rename(opened.root)


def names_of(root: Path, project: Project) -> set[tuple[str, str]]:
    """Return every column of the store in which a folder is named."""
    import sqlite3

    actual = set()
    with sqlite3.connect(sqlite.database(project)) as db:
        tables = [t for (t,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for column in [row[1] for row in db.execute(f"PRAGMA table_info({table})")]:
                query = f'SELECT count(*) FROM {table} WHERE instr("{column}", ?)'
                if db.execute(query, (f"{root}/",)).fetchone()[0]:
                    actual.add((table, column))
    return actual


@pytest.mark.fault(
    "Process killed after a model was logged and before the run names it",
    "The model is adopted; others of the run are deleted",
)
def test_a_run_has_one_logged_model(
    log_trained: tuple[Any, Callable[[], str]], run_id: str
) -> None:
    from chapterflow.tracking import runs
    from chapterflow.tracking.versions import register

    client, log_again = log_trained
    first = log_again()
    client.delete_tag(run_id, runs.LOGGED_MODEL)
    half = client.create_logged_model(
        client.get_run(run_id).info.experiment_id, "dnn", source_run_id=run_id
    )
    assert log_again() == first
    run = client.get_run(run_id)
    assert run.data.tags[runs.LOGGED_MODEL] == first
    assert [logged.model_id for logged in runs.models_of(client, run)] == [first]
    assert half.model_id != first
    assert register(f"models:/{first}", "once") == register(f"models:/{first}", "once") == "1"


@pytest.mark.fault(
    "Logged model damaged before its killed run resumes",
    "It is not adopted; the model is logged again",
)
def test_a_damaged_model_is_logged_again(
    log_trained: tuple[Any, Callable[[], str]], run_id: str, opened: Project
) -> None:
    from chapterflow.tracking import runs

    client, log_again = log_trained
    first = log_again()
    (file,) = opened.mlruns.glob(f"artifacts/*/models/{first}/**/*.keras")
    file.write_bytes(file.read_bytes()[:-1])
    second = log_again()
    assert second != first
    run = client.get_run(run_id)
    assert run.data.tags[runs.LOGGED_MODEL] == second
    assert [logged.model_id for logged in runs.models_of(client, run)] == [second]


@pytest.mark.fault("Killed run that is never continued", "The next flow deletes unnamed models")
def test_the_next_flow_sweeps_up(opened: Project) -> None:
    from chapterflow.tracking import runs

    client = store.open_client(store.tracking_uri(opened))
    experiment = store.ensure_experiment(opened, "swept")
    folders, ids = {}, {}
    for status in ("FINISHED", "RUNNING"):
        run = client.create_run(experiment, tags={runs.PROCESS: f"{gethostname()}:999999999:1.0"})
        ids[status] = run.info.run_id
        client.create_logged_model(experiment, "dnn", source_run_id=run.info.run_id)
        if status == "FINISHED":
            client.set_terminated(run.info.run_id)
        folders[status] = opened.scratch / "work" / status.lower()
        folders[status].mkdir(parents=True)
        (folders[status] / runs.RUN_ID).write_text(run.info.run_id)
    runs.sweep(client, opened, experiment)
    assert [folder.exists() for folder in folders.values()] == [False, True]
    killed = client.get_run(ids["RUNNING"])
    assert killed.info.status == "KILLED"
    assert runs.models_of(client, killed) == []
    assert len(runs.models_of(client, client.get_run(ids["FINISHED"]))) == 1
