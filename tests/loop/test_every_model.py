"""Every model of params.yaml on a little of its real embedded data: trained, scored, reloaded."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chapterflow
from chapterflow.config.load import load_settings
from chapterflow.environment import Project
from chapterflow.kinds.dataset import Dataset, open_dataset
from chapterflow.models.catalog import get_model, model_names
from tests.conftest import FORKS, REPOSITORY, copy_project

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]

SETTINGS = load_settings(REPOSITORY / "params.yaml", profile="embedded")
FEW = 40

#: A process that first loads a logged model, which brings layers of its own: `data` does not travel
#: with models, and needs more of `models` than travels with one.
RELOAD = """
import sys
from pathlib import Path
import mlflow.pyfunc
import numpy as np
assert "chapterflow" not in sys.modules
mlflow.pyfunc.load_model(sys.argv[1])
import chapterflow.kinds.dataset
print(*chapterflow.__path__)
from chapterflow.environment import load_tensorflow
load_tensorflow()
from chapterflow.training.batches import load_model
for folder in map(Path, sys.argv[2:]):
    with np.load(folder / "given.npz") as given:
        inputs = dict(given)
    answer = inputs.pop("answer")
    model = load_model(folder / "model.keras")
    again = np.asarray(model(inputs.get("only", inputs), training=False))
    np.testing.assert_allclose(again, answer, rtol=1e-4, atol=1e-4)
"""

#: In a child for each model: its file and block go, and what is left is read. The settings load
#: every model's file; the other modules are those that know several models.
OTHERS = """
import os, sys
from pathlib import Path
import numpy, pydantic, yaml
names = sys.argv[1:]
for name in names:
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0, name
        continue
    import chapterflow
    assert Path(chapterflow.__file__).is_relative_to(Path.cwd()), chapterflow.__file__
    file = Path(chapterflow.__file__).parent / "models" / f"{name.replace('-', '_')}.py"
    file.rename("away")
    document = yaml.safe_load(Path("params.yaml").read_text())
    del document["models"][name]
    document["questions"] = {
        key: asked
        for key, asked in document["questions"].items()
        if name not in (asked["model"], asked.get("against"))
    }
    Path("without.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    from chapterflow.config.load import load_settings
    from chapterflow.models import layers
    import chapterflow.training.weights, chapterflow.training.folds
    left = sorted(load_settings(Path("without.yaml")).models)
    Path("away").rename(file)
    assert left == sorted(set(names) - {name}), (name, left)
    os._exit(0)
"""


@pytest.fixture(scope="module")
def embedded(fetched_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with the datasets of the embedded profile."""
    return Project(copy_project(fetched_once, tmp_path_factory.mktemp("every") / "checkout"))


def little(dataset: Dataset) -> Dataset:
    """Return the dataset with the first few examples of each split."""
    split = np.full_like(dataset.split, 9)
    for name in ("train", "validation", "test"):
        chosen = dataset.indices(name)[:FEW]  # type: ignore[arg-type]
        split[chosen] = dataset.split[chosen]
    return dataclasses.replace(dataset, arrays={**dataset.arrays, "split": split})


def test_every_file_of_a_model_has_a_block_of_parameters() -> None:
    assert sorted(SETTINGS.models) == model_names()


def test_deleting_a_model_leaves_all_others(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "src" / "chapterflow", tmp_path / "src" / "chapterflow")
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", OTHERS, *model_names()],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def trained(embedded: Project) -> dict[str, Path]:
    """Every model after one epoch on little data, with what it answers."""
    from chapterflow.training.batches import load_model
    from chapterflow.training.fit import fit

    folders = {}
    for name in SETTINGS.models:
        dataset = little(open_dataset(embedded.data / SETTINGS.dataset_of(name)))
        changes: dict[str, Any] = {"epochs": 1, "beside": {}, "folds": 0}
        params = SETTINGS.params(name).model_copy(update=changes)
        work = embedded.scratch / "work" / name
        fit(get_model(name), params, dataset, seed=5, work=work)
        inputs = dataset.inputs(dataset.indices("test")[:3])
        answer = np.asarray(load_model(work / "model.keras")(inputs, training=False))
        named = inputs if isinstance(inputs, dict) else {"only": inputs}
        np.savez(work / "given.npz", answer=answer, **named)
        folders[name] = work
    return folders


def test_answers_have_the_shape_of_the_targets(trained: dict[str, Path], embedded: Project) -> None:
    for name, folder in trained.items():
        card = open_dataset(embedded.data / SETTINGS.dataset_of(name)).card
        with np.load(folder / "given.npz") as given:
            answer = given["answer"]
        assert np.isfinite(answer).all(), name
        assert answer.shape[1:] == ((len(card.classes),) if card.classes else tuple(card.shape)), (
            name
        )


def test_models_are_scored_and_cost_something(trained: dict[str, Path], embedded: Project) -> None:
    from chapterflow.evaluation.evaluate import evaluate
    from chapterflow.training.history import EpochRecord, Training

    record = EpochRecord(
        epoch=1, train_loss=1.0, validation_loss=1.0, learning_rate=0.1, seconds=1.0
    )
    training = Training(history=[record], chosen_epoch=1, resumed_from=0, seconds=1.0, images=FEW)
    quick = SETTINGS.evaluation.model_copy(update={"latency_repeats": 10, "latency_batch": 4})
    for name, folder in trained.items():
        actual = evaluate(
            get_model(name),
            SETTINGS.params(name),
            folder / "model.keras",
            training,
            little(open_dataset(embedded.data / SETTINGS.dataset_of(name))),
            quick,
        )
        assert ("test/accuracy" in actual.metrics) != ("test/rmse" in actual.metrics), name
        assert actual.metrics["cost/parameters"] > 0, name
        assert actual.metrics["cost/flops"] > 0, name


#: Runs where nothing of this package can be imported but what travels with the models.
ELSEWHERE = """
import json, sys
from chapterflow.shipped import check
from pathlib import Path
for name in [name for name in sys.modules if name.partition(".")[0] == "chapterflow"]:
    del sys.modules[name]
sys.meta_path.insert(0, check.OnlyShipped())
import mlflow.keras
from mlflow.pyfunc import scoring_server
folders = {Path(folder).name: Path(folder) for folder in sys.argv[1:]}
found = {name: {"loads": True} for name in folders}
for name, folder in folders.items():  # before any model has brought its layers
    try:
        mlflow.keras.load_model(folder)
    except (TypeError, ValueError):
        found[name]["loads"] = False
assert "chapterflow" not in sys.modules
for name, folder in folders.items():
    found[name] |= check.check(str(folder))
    answer = folder.parent / f"{name}.json"
    # What `mlflow models predict --env-manager local` runs.
    scoring_server._predict(str(folder), str(folder / "serving_input_example.json"), answer, "json")
    found[name]["predicted"] = json.loads(answer.read_text())["predictions"]
assert all("/layers/" in path for path in sys.modules["chapterflow"].__path__)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def logged(
    trained: dict[str, Path], embedded: Project, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The files of every model as MLflow keeps them, each in a folder of its name."""
    import mlflow.artifacts

    from chapterflow.loop.logged_model import log_keras_model
    from chapterflow.tracking import store
    from chapterflow.training.batches import load_model, sized_for

    client = mlflow.MlflowClient(store.open_store(embedded))
    experiment = store.ensure_experiment(embedded, "served")
    folder = tmp_path_factory.mktemp("logged")
    for name, work in trained.items():
        dataset = open_dataset(embedded.data / SETTINGS.dataset_of(name))
        dataset = sized_for(get_model(name), SETTINGS.params(name), dataset)
        info = log_keras_model(
            load_model(work / "model.keras"),
            run_id=client.create_run(experiment).info.run_id,
            name=name,
            input_example=dataset.example(),
            card=dataset.card,
        )
        shutil.copytree(mlflow.artifacts.download_artifacts(info.model_uri), folder / name)
    return {name: folder / name for name in trained}


@pytest.fixture(scope="module")
def elsewhere(logged: dict[str, Path]) -> dict[str, Any]:
    """What became of every model in one process that has none of this package."""
    done = subprocess.run(
        [FORKS.python, "-c", ELSEWHERE, *map(str, logged.values())],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    actual: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return actual


def test_every_model_answers_where_this_package_is_not(
    elsewhere: dict[str, Any], logged: dict[str, Path]
) -> None:
    assert sorted(elsewhere) == sorted(logged) == model_names()
    for name, actual in elsewhere.items():
        assert actual["examples"] > 0, name
        assert actual["same_classes"], name
        assert actual["largest_difference"] < 1e-5, name


def test_a_fresh_process_takes_the_installed_package_and_gets_the_same_answers(
    trained: dict[str, Path], logged: dict[str, Path]
) -> None:
    folders = map(str, (logged["gcn"], *trained.values()))
    done = subprocess.run(
        [FORKS.python, "-c", RELOAD, *folders],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # Not what the logged model brings.
    assert Path(done.stdout.splitlines()[-1]) == Path(chapterflow.__file__).parent


def test_mlflow_models_predict_takes_every_model(
    elsewhere: dict[str, Any], logged: dict[str, Path], embedded: Project
) -> None:
    for name, actual in elsewhere.items():
        kept = json.loads((logged[name] / "example_answers.json").read_text())
        assert len(actual["predicted"]) == len(kept), name
        for answer, expected in zip(actual["predicted"], kept, strict=True):
            assert answer.keys() == expected.keys(), name
            for column, value in expected.items():
                assert answer[column] == pytest.approx(value, abs=1e-5), (name, column)
        classes = open_dataset(embedded.data / SETTINGS.dataset_of(name)).card.classes
        for answer in actual["predicted"] if classes else []:
            assert answer["label"] == classes[answer["class"]], name
            assert answer["probabilities"][answer["class"]] == max(answer["probabilities"]), name
            assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-5), name


def test_models_of_layers_of_our_own_say_so(
    elsewhere: dict[str, Any], logged: dict[str, Path]
) -> None:
    ours = {
        name for name in logged if json.loads((logged[name] / "answers.json").read_text())["layers"]
    }
    assert ours == {name for name, actual in elsewhere.items() if not actual["loads"]}
    result = (REPOSITORY / "docs" / "serving.md").read_text().split("\n## Plain Python")[1]
    assert all(f"`{name}`" in result for name in ours), ours
    assert ours == {"gcn", "gcn-node", "hub", "transfer"}
