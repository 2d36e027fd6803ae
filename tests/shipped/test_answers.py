"""What travels with a model: its answers, and its layers."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ABOUT = {
    "inputs": [{"name": None, "shape": [None, 4, 1], "dtype": "float32"}],
    "lowest": None,
    "highest": None,
    "classes": [],
}


def test_answers_that_are_no_numbers_are_refused(tensorflow: None) -> None:
    import keras
    from mlflow.exceptions import MlflowException

    from chapterflow.shipped.answers import Answers

    answers = Answers(keras.Sequential([keras.Input((4, 1)), keras.layers.Rescaling(100.0)]), ABOUT)
    curve = np.ones((1, 4, 1), np.float32)
    assert answers.predict(curve)["curve"].tolist() == [[100.0] * 4]
    with pytest.raises(MlflowException, match="Received: too large ones"):
        answers.predict(np.concatenate([curve, 1e37 * curve]))


@pytest.mark.parametrize("directed", [False, True])
def test_edges_go_both_ways_unless_the_data_have_directions(directed: bool) -> None:
    from mlflow.exceptions import MlflowException

    from chapterflow.shipped.answers import Inputs

    inputs = [
        {"name": name, "shape": [None, None, width], "dtype": "float32"}
        for name, width in (("features", 1), ("adjacency", None))
    ]
    reader = Inputs({"inputs": inputs, "lowest": None, "highest": None, "directed": directed})
    graph = {"features": np.ones((1, 2, 1)), "adjacency": np.array([[[0, 1], [0, 0]]])}
    if directed:
        assert reader.checked(graph)["adjacency"].tolist() == [[[0, 1], [0, 0]]]
    else:
        with pytest.raises(MlflowException, match="adjacency must be symmetric"):
            reader.checked(graph)


JOINED = {
    "inputs": [
        {"name": "features", "shape": [None, None, 1], "dtype": "float32"},
        {"name": "adjacency", "shape": [None, None, None], "dtype": "float32"},
        {"name": "sizes", "shape": [None], "dtype": "int32"},
    ],
    "joined": [
        {"name": "features", "shape": [None, 1], "dtype": "float32"},
        {"name": "edges", "shape": [None, 2], "dtype": "int32"},
        {"name": "sizes", "shape": [None], "dtype": "int32"},
    ],
    "lowest": None,
    "highest": None,
}
PAIR = {"features": [[1], [2], [3]], "edges": [[1, 0], [0, 1]], "sizes": [2, 1]}


def test_graphs_with_edges_are_sorted() -> None:
    from chapterflow.shipped.answers import Inputs

    values = Inputs(JOINED).checked(PAIR)
    assert values["edges"].tolist() == [[0, 1], [1, 0]]
    assert Inputs(JOINED).checked({**PAIR, "edges": []})["edges"].shape == (0, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": [2, 2]}, r"sizes must be .* 3 rows of features. Received: .* a sum of 4"),
        ({"edges": [[0, 3], [3, 0]]}, "edges must join nodes 0 to 2.* Received: 0 to 3"),
        ({"edges": [[0, 2], [2, 0]]}, "Received: an edge between two graphs"),
        ({"edges": [[0, 0]]}, "Received: a self-loop"),
        ({"edges": [[0, 1], [0, 1], [1, 0]]}, "Received: an edge twice"),
        ({"edges": [[0, 1]]}, "Received: an edge that goes one way"),
        ({"edges": [[0.5, 1]]}, "edges must hold whole numbers. Received: fractions"),
        ({"edges": [0, 1]}, r"edges must have the shape \(any, 2\). Received: \(2,\)"),
        ({"adjacency": [[0]]}, "inputs must be features, edges, sizes"),
    ],
)
def test_edges_that_are_no_graphs_are_refused(change: dict[str, Any], message: str) -> None:
    from mlflow.exceptions import MlflowException

    from chapterflow.shipped.answers import Inputs

    with pytest.raises(MlflowException, match=message):
        Inputs(JOINED).checked(PAIR | change)


def test_modules_come_from_where_they_are(tmp_path: Path) -> None:
    """Two models bring a package of one name; in the third place it is installed."""
    for place, own in [("first", "one"), ("second", "two"), ("site", "three")]:
        models = tmp_path / place / "layers_of" / "models"
        models.mkdir(parents=True)
        (models.parent / "__init__.py").touch()
        (models / "__init__.py").touch()
        for name in {own, "one"}:
            (models / f"{name}.py").write_text(f"PLACE = {place!r}")
    code = """
import sys
from pathlib import Path
from typing import Any
from chapterflow.shipped.answers import import_shipped
root = Path(sys.argv[1])
for name, place in [("one", "first"), ("two", "second"), ("one", "second")]:
    import_shipped(f"layers_of.models.{name}", root / place)
    print(name, sys.modules[f"layers_of.models.{name}"].PLACE)
try:
    import_shipped("layers_of.models.four", root / "first")
except ModuleNotFoundError as error:
    print(error.name)
"""

    def actual(path: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": path},
        )
        return done.stdout.splitlines()

    missing = "layers_of.models.four"
    assert actual("") == ["one first", "two second", "one first", missing]
    assert actual(str(tmp_path / "site")) == ["one site", "two second", "one site", missing]
