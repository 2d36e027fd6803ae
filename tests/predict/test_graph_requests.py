"""Graphs over the scoring server: every form, flat and nested, gets the answer of the arrays."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chapterflow.config.load import load_settings
from chapterflow.environment import Project
from chapterflow.models.catalog import get_model
from chapterflow.tracking import store
from tests.conftest import REPOSITORY
from tests.graphs import rings_and_stars, two_circles

DATA = {"gcn": rings_and_stars, "gcn-node": two_circles}

#: Client, the model behind it, and the inputs of its example by name.
Served = tuple[Any, Any, dict[str, Any]]


@pytest.fixture(scope="module")
def serve(tensorflow: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Served]:
    """Return a function that serves an untrained model of small graphs."""
    import mlflow.artifacts
    import mlflow.pyfunc
    from fastapi.testclient import TestClient

    from chapterflow.loop.logged_model import log_keras_model
    from chapterflow.predict.server import application

    settings = load_settings(REPOSITORY / "params.yaml", profile="embedded")
    project = Project(tmp_path_factory.mktemp("graphs"))
    mlflow_client = mlflow.MlflowClient(store.open_store(project))
    run = mlflow_client.create_run(store.ensure_experiment(project, "lab"))
    made: dict[str, Served] = {}

    def serve(name: str) -> Served:
        if name not in made:
            dataset = DATA[name](project.data / name)
            info = log_keras_model(
                get_model(name).build(settings.params(name), dataset.card.input_spec),
                run_id=run.info.run_id,
                name=name,
                input_example=dataset.example(),
                card=dataset.card,
            )
            folder = Path(mlflow.artifacts.download_artifacts(info.model_uri))
            model = mlflow.pyfunc.load_model(str(folder), suppress_warnings=True)
            example = json.loads((folder / "serving_input_example.json").read_text())["inputs"]
            made[name] = TestClient(application(model, folder, 1_000_000)), model, example
        return made[name]

    return serve


def rows(inputs: dict[str, Any], flat: bool) -> list[dict[str, Any]]:
    """Return an object for each row; its arrays as they are, or as flat lists."""
    return [
        {
            name: np.ravel(cell).tolist() if flat and isinstance(cell, list) else cell
            for name, cell in zip(inputs, cells, strict=True)
        }
        for cells in zip(*inputs.values(), strict=True)
    ]


@pytest.mark.parametrize(
    ("form", "flat"),
    [
        ("inputs", False),
        ("instances", False),
        ("dataframe_split", False),
        ("dataframe_split", True),
        ("dataframe_records", False),
        ("dataframe_records", True),
    ],
)
@pytest.mark.parametrize("name", ["gcn", "gcn-node"])
def test_every_form(serve: Callable[[str], Served], name: str, form: str, flat: bool) -> None:
    client, model, inputs = serve(name)
    records = rows(inputs, flat)
    split = {"columns": list(inputs), "data": [list(record.values()) for record in records]}
    content = {"inputs": inputs, "dataframe_split": split}.get(form, records)
    answer = client.post("/invocations", json={form: content})
    assert answer.status_code == 200, answer.text
    arrays = {
        spec.name: np.asarray(inputs[spec.name], spec.type)
        for spec in model.metadata.get_input_schema().inputs
    }
    expected = model.predict(arrays).to_dict("records")
    assert len(answer.json()["predictions"]) == len(expected)
    for got, direct in zip(answer.json()["predictions"], expected, strict=True):
        assert got["label"] == direct["label"]
        assert got["probabilities"] == pytest.approx(direct["probabilities"], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("gcn", {"adjacency": [0] * 10}, "adjacency must"),  # no square
        ("gcn", {"features": [0] * 7}, "features must"),
        ("gcn", {"sizes": 0.5}, "sizes must hold whole numbers. Received: fractions"),
        ("gcn", {"colour": 1}, "The inputs must be features, adjacency, sizes"),
        ("gcn-node", {"adjacency": [0] * 3}, "adjacency must"),
    ],
)
def test_tables_that_are_no_graphs(
    serve: Callable[[str], Served], name: str, change: dict[str, Any], says: str
) -> None:
    client, _, inputs = serve(name)
    records = [record | change for record in rows(inputs, flat=True)]
    refused = client.post("/invocations", json={"dataframe_records": records})
    assert refused.status_code == 400
    assert says in refused.json()["message"]
    assert len(refused.text) < 400
    good = client.post("/invocations", json={"dataframe_records": rows(inputs, flat=True)})
    assert good.status_code == 200


@pytest.mark.parametrize("name", ["gcn", "gcn-node"])
def test_edges_get_the_answers_of_the_matrix(serve: Callable[[str], Served], name: str) -> None:
    client, model, inputs = serve(name)
    features, adjacency = np.array(inputs["features"]), np.array(inputs["adjacency"])
    if name == "gcn":
        sizes = inputs["sizes"]
        first = np.cumsum(sizes) - sizes
        ends = np.argwhere(adjacency)
        features = np.concatenate([x[:size] for x, size in zip(features, sizes, strict=True)])
        edges = ends[:, 1:] + first[ends[:, 0], None]
    else:
        edges = np.argwhere(adjacency)
    joined = {"features": features.tolist(), "edges": edges[::-1].tolist()}
    joined |= {"sizes": inputs["sizes"]} if name == "gcn" else {}
    answer = client.post("/invocations", json={"inputs": joined})
    assert answer.status_code == 200, answer.text
    matrix = client.post("/invocations", json={"inputs": inputs})
    both = zip(answer.json()["predictions"], matrix.json()["predictions"], strict=True)
    for got, expected in both:
        assert got["label"] == expected["label"]
        assert got["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)
    with pytest.raises(Exception, match="adjacency"):
        model.predict(joined)  # MLflow's signature has no edges


def test_an_edge_that_goes_one_way_is_refused(serve: Callable[[str], Served]) -> None:
    client, _, inputs = serve("gcn-node")
    adjacency = [list(row) for row in inputs["adjacency"]]
    row, column = next(
        (i, j) for i, row in enumerate(adjacency) for j, edge in enumerate(row) if edge
    )
    adjacency[row][column] = 0
    answer = client.post("/invocations", json={"inputs": {**inputs, "adjacency": adjacency}})
    assert answer.status_code == 400
    assert "adjacency must be symmetric" in answer.text


def test_an_edge_to_no_node_of_the_graph_is_refused(serve: Callable[[str], Served]) -> None:
    client, _, inputs = serve("gcn")
    # The first graph loses a node that it has edges to.
    sizes = [inputs["sizes"][0] - 1, *inputs["sizes"][1:]]
    answer = client.post("/invocations", json={"inputs": {**inputs, "sizes": sizes}})
    assert answer.status_code == 400
    assert "as many as sizes says" in answer.json()["message"]
