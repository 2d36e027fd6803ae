"""A fingerprint changes with everything that decides a run, and with nothing else."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chapterflow.config.load import load_settings
from chapterflow.environment import Project
from chapterflow.kinds.dataset import DatasetCard, FileRecord
from chapterflow.loop.logged_model import module_hashes
from chapterflow.plugins import PACKAGE
from chapterflow.tracking.fingerprint import (
    NUMERIC_LIBRARIES,
    fingerprint,
    fingerprint_parts,
    source_hashes,
)
from tests.conftest import FORKS

MODELS = ("dnn", "cnn", "lenet5")


def names(model: str, package: Path = PACKAGE) -> set[str]:
    """Return a model's sources as paths inside the package."""
    prefix = "src/chapterflow/"
    files = source_hashes(model, "images", package)
    assert all(name.startswith(prefix) for name in files)
    return {name.removeprefix(prefix) for name in files}


#: What is edited -> the models whose fingerprints change.
TRUTH = {
    "models/dnn.py": {"dnn"},
    "models/cnn.py": {"cnn"},
    "models/lenet5.py": {"lenet5"},
    "models/base.py": set(MODELS),
    "models/catalog.py": set(),
    "models/layers/graph_convolution.py": set(MODELS),
    "training/fit.py": set(MODELS),
    "training/folds.py": set(MODELS),
    "evaluation/evaluate.py": set(MODELS),
    "evaluation/scores.py": set(MODELS),
    "kinds/dataset.py": set(MODELS),
    "kinds/images.py": set(MODELS),
    "kinds/photos.py": set(),
    "data/build.py": set(),
    "data/sources/idx.py": set(),
    "config/load.py": set(),
    "cli/run.py": set(),
    "loop/steps.py": set(),
    "environment.py": set(),
    "tracking/fingerprint.py": set(),
    "validation/validate.py": set(),
}


def test_an_edit_changes_the_models_that_it_concerns(tmp_path: Path) -> None:
    package = tmp_path / "chapterflow"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    before = {model: source_hashes(model, "images", package) for model in MODELS}
    assert before == {model: source_hashes(model, "images") for model in MODELS}
    table = {}
    for file in TRUTH:
        path = package / file
        text = path.read_text()
        path.write_text(text + "\n# edited\n")
        table[file] = {m for m in MODELS if source_hashes(m, "images", package) != before[m]}
        path.write_text(text)
    assert table == TRUTH


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """An empty package."""
    package = tmp_path / "lab"
    (package / "sub").mkdir(parents=True)
    for folder in (package, package / "sub"):
        (folder / "__init__.py").write_text("")
    for name in ("one", "two", "three", "sub/inner", "sub/other"):
        (package / f"{name}.py").write_text("VALUE = 1\n")
    return package


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("", set()),
        ("import lab.one\n", {"one.py"}),
        ("import lab.one as o, lab.two\n", {"one.py", "two.py"}),
        ("from lab import one\n", {"one.py"}),
        ("from lab.one import VALUE\n", {"one.py"}),
        ("from lab.sub import inner\n", {"sub/__init__.py", "sub/inner.py"}),
        ("from lab.sub.inner import VALUE\n", {"sub/inner.py"}),
        ("def f():\n    from lab.one import VALUE\n", {"one.py"}),
        ("class C:\n    def f(self):\n        import lab.two\n", {"two.py"}),
        (
            "try:\n    import lab.one\nexcept ImportError:\n    import lab.two\n",
            {"one.py", "two.py"},
        ),
        ("if True:\n    import lab.one\n", {"one.py"}),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import lab.one\n", set()),
        ("import os\nimport numpy.linalg\nfrom laboratory import one\n", set()),
        ("import lab.nothing\nfrom lab.one import nothing\n", {"one.py"}),
        ("import lab.start\n", set()),
    ],
)
def test_imports_are_followed(lab: Path, source: str, expected: set[str]) -> None:
    (lab / "start.py").write_text(source)
    prefix = "src/lab/"
    files = {name.removeprefix(prefix) for name in module_hashes(["lab.start"], lab)}
    assert files - {"sub/__init__.py"} == ({"start.py"} | expected) - {"sub/__init__.py"}


def test_imports_are_followed_through_other_modules_and_in_circles(lab: Path) -> None:
    (lab / "one.py").write_text("import lab.two\n")
    (lab / "two.py").write_text("def f():\n    import lab.sub.inner\n")
    (lab / "sub" / "inner.py").write_text("import lab.one\n")
    files = module_hashes(["lab.one"], lab)
    assert list(files) == sorted(files)
    assert set(files) >= {"src/lab/one.py", "src/lab/two.py", "src/lab/sub/inner.py"}
    assert "src/lab/three.py" not in files


@pytest.mark.parametrize(
    "source",
    [
        "from . import one\n",
        "from .one import VALUE\n",
        "from .sub import inner\nfrom . import one\n",
    ],
)
def test_relative_imports_are_followed(lab: Path, source: str) -> None:
    (lab / "start.py").write_text(source)
    assert "src/lab/one.py" in module_hashes(["lab.start"], lab)


def test_the_other_branch_of_a_type_check_runs(lab: Path) -> None:
    (lab / "start.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import lab.one\nelse:\n    import lab.two\n"
    )
    assert set(module_hashes(["lab.start"], lab)) == {"src/lab/start.py", "src/lab/two.py"}


def test_packages_on_the_way_are_executed_too(lab: Path) -> None:
    (lab / "sub" / "__init__.py").write_text("import lab.two\n")
    (lab / "start.py").write_text("from lab.sub.inner import VALUE\n")
    assert "src/lab/two.py" in module_hashes(["lab.start"], lab)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=4),
        lambda inner: st.dictionaries(st.text(max_size=4), inner, max_size=4) | st.lists(inner),
        max_leaves=10,
    ).map(lambda value: {"value": value, "b": 1, "a": 2})
)
def test_the_order_of_keys_is_of_no_account(parts: dict[str, Any]) -> None:
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(value[key]) for key in reversed(value)}
        return [turned(item) for item in value] if isinstance(value, list) else value

    key = fingerprint(parts)
    assert fingerprint(turned(parts)) == key
    assert len(key) == 64
    assert fingerprint(parts | {"a": 3}) != key


def card(**changes: Any) -> DatasetCard:
    fields: dict[str, Any] = {
        "name": "digits",
        "kind": "images",
        "title": "t",
        "source": "s",
        "licence": "l",
        "shape": [8, 8, 1],
        "classes": ["0", "1"],
        "value_max": 16,
        "counts": {"train": 1, "validation": 1, "test": 1},
        "files": {"images.npy": FileRecord(bytes=1, sha256="0" * 64)},
        "test_digest": "1" * 64,
        "recipe": {},
    }
    return DatasetCard(**(fields | changes))


def key_of(project: Project, *overrides: str, model: str = "cnn", **changes: Any) -> str:
    settings = load_settings(project.params, overrides=list(overrides))
    return fingerprint(fingerprint_parts(settings, model, [card(**changes)]))


def test_parts_tell_what_people_want_to_compare(project: Project) -> None:
    parts = fingerprint_parts(load_settings(project.params), "cnn", [card()])
    assert parts["model"] == "cnn"
    assert parts["params"]["dense"] == 128
    assert parts["seed"] == 5
    assert parts["dataset"] == {"name": "digits", "digest": card().digest}
    assert set(parts["libraries"]) == set(NUMERIC_LIBRARIES)
    assert set(parts["libraries"]) >= {"tensorflow", "keras", "numpy"}
    assert parts["sources"] == source_hashes("cnn", "images")


def test_everything_that_decides_a_run_changes_its_fingerprint(project: Project) -> None:
    different = {
        "as it is": key_of(project),
        "model": key_of(project, model="lenet5"),
        "seed": key_of(project, "seed=6"),
        "own parameter": key_of(project, "models.cnn.dense=64"),
        "epochs": key_of(project, "models.cnn.epochs=3"),
        "patience": key_of(project, "models.cnn.patience=null"),
        "scoring": key_of(project, "evaluation.calibration_bins=10"),
        "data": key_of(project, files={"images.npy": FileRecord(bytes=1, sha256="2" * 64)}),
        "name of the data": key_of(project, name="other"),
    }
    assert len(set(different.values())) == len(different)


def test_what_does_not_decide_a_run_leaves_its_fingerprint(project: Project) -> None:
    assert {
        key_of(project),
        key_of(project, "models.dnn.hidden=3"),
        key_of(project, "comparison.bootstrap_resamples=500"),
        key_of(project, "tracking.experiment=other"),
        key_of(project, "models.cnn.book.epochs=3"),
        key_of(project, "validation.images.duplicates=0.5"),
    } == {key_of(project)}


def test_a_library_that_changes_numbers_changes_the_fingerprint(project: Project) -> None:
    parts = fingerprint_parts(load_settings(project.params), "cnn", [card()])
    for part in ("params", "evaluation", "dataset", "sources", "libraries"):
        for name in parts[part]:
            changed = parts | {part: parts[part] | {name: "something else"}}
            assert fingerprint(changed) != fingerprint(parts), (part, name)


SCRIPT = """
import sys
from pathlib import Path
from chapterflow.environment import load_tensorflow
load_tensorflow()
import numpy as np
known = set(sys.modules)
from chapterflow.kinds.dataset import DatasetCard
from chapterflow.kinds.images import Data
from chapterflow.evaluation.variants import score_variants
from chapterflow.evaluation.evaluate import evaluate
from chapterflow.models.cnn import MODEL
from chapterflow.training.fit import fit
card = DatasetCard.model_validate_json(sys.argv[1])
split = np.repeat(np.arange(3, dtype=np.uint8), 3)
dataset = Data(card, Path(), {"images": np.zeros((9, 8, 8, 1), np.uint8),
                              "labels": np.zeros(9, np.uint8), "split": split})
work = Path(sys.argv[2])
params = MODEL.params(role="digits", epochs=1, patience=1)
training = fit(MODEL, params, dataset, seed=5, work=work)
class Params:
    calibration_bins, latency_batch, latency_repeats = 5, 2, 3
evaluate(MODEL, params, work / "model.keras", training, dataset, Params)
score_variants(MODEL, params, dataset, seed=5, work=work)
for name in set(sys.modules) - known:
    if name.split(".")[0] == "chapterflow" and sys.modules[name].__file__:
        print(sys.modules[name].__file__)
"""


@pytest.mark.slow
def test_every_file_that_really_ran_is_among_the_sources(tmp_path: Path) -> None:
    done = subprocess.run(
        [FORKS.python, "-c", SCRIPT, card().to_json(), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ran = {Path(line).relative_to(PACKAGE).as_posix() for line in done.stdout.split()}
    assert len(ran) > 8
    # These hold names, messages, paths and what validation checks, and change no number.
    other = {"errors.py", "types.py", "files.py", "environment.py", "plugins.py"}
    other |= {"language.py", "kinds/pixels.py", "kinds/rows.py"}
    assert {name for name in ran if not name.endswith("__init__.py")} - other <= names("cnn")
