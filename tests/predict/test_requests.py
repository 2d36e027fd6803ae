"""The scoring server refuses what the model does not take, in one sentence, and goes on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chapterflow.environment import Project
from chapterflow.kinds.likeness import Likeness, figures
from chapterflow.tracking import store
from tests.digits import digits_card

IMAGE = np.full((1, 8, 8, 1), 3.0, np.float32)
HEADERS = {"Content-Type": "application/json"}
GOOD = json.dumps({"inputs": IMAGE.tolist()})


def table(cells: list[Any]) -> str:
    """Return a body with a column of cells."""
    columns = {"columns": ["image"], "data": [[cell] for cell in cells]}
    return json.dumps({"dataframe_split": columns})


@pytest.fixture(scope="module")
def client(tensorflow: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    import keras
    import mlflow.artifacts
    import mlflow.pyfunc
    from fastapi.testclient import TestClient

    from chapterflow.loop.logged_model import log_keras_model
    from chapterflow.predict.server import application

    project = Project(tmp_path_factory.mktemp("served"))
    mlflow_client = mlflow.MlflowClient(store.open_store(project))
    run = mlflow_client.create_run(store.ensure_experiment(project, "lab"))
    image = keras.Input((8, 8, 1))
    model = keras.Model(image, keras.layers.Dense(10)(keras.layers.Flatten()(image)))
    info = log_keras_model(
        model,
        run_id=run.info.run_id,
        name="dnn",
        input_example=IMAGE,
        card=digits_card(np.zeros(3)),
        likeness=Likeness(bounds={name: [0.0, 4.0] for name in figures(IMAGE)}, inverse=16.0),
    )
    folder = Path(mlflow.artifacts.download_artifacts(info.model_uri))
    return TestClient(application(mlflow.pyfunc.load_model(str(folder)), folder, 100_000))


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ("nonsense", 400, "must be a JSON document"),
        ("[1]", 400, "Received: a list"),
        ('{"image": 1}', 400, "one of the keys inputs"),
        ('{"inputs": [[1, 2]]}', 400, "must have the shape (any, 8, 8, 1). Received: (1, 2)"),
        (GOOD.replace("3.0", '"3"'), 400, "must hold numbers. Received: text"),
        (GOOD.replace("3.0", "NaN"), 400, "must be finite. Received: NaN"),
        (GOOD.replace("3.0", "255"), 400, "raw values from 0 to 16"),
        ('{"inputs":' + "[" * 50_000, 400, "nested too deeply"),
        (GOOD.replace("3.0", "1e400"), 400, "must hold finite numbers"),
        (table([[3.0] * 63]), 400, "must have the shape (any, 8, 8, 1). Received: (1, 63)"),
        (table([[3.0] * 32] * 2), 400, "Received: (2, 32)"),  # as many numbers as one image
        (table([["3"] * 64]), 400, "must hold numbers. Received: text"),
        (table([[3.0] * 64, [3.0]]), 400, "lists of different lengths"),
        ('{"dataframe_records": [{"a": 1, "b": 2}]}', 400, "must be one array. Received: a, b"),
        ('{"dataframe_records": [{}]}', 400, "must be one array. Received: none"),
        ('{"dataframe_split": {"columns": ["image"]}}', 400, "Received: 'columns'"),
        (" " * 100_001, 413, "at most 0.1 MB"),
    ],
)
def test_bad_requests_are_explained_and_the_next_is_answered(
    client: Any, body: str, status: int, says: str
) -> None:
    refused = client.post("/invocations", content=body, headers=HEADERS)
    assert refused.status_code == status
    assert says in refused.json()["message"]
    assert len(refused.text) < 400
    (answer,) = client.post("/invocations", content=GOOD, headers=HEADERS).json()["predictions"]
    assert answer["label"] == str(answer["class"])
    assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-5)


def test_one_image_alone_gets_the_hint_and_one_without_channels_does_not(client: Any) -> None:
    result = [
        client.post(
            "/invocations", content=json.dumps({"inputs": given.tolist()}), headers=HEADERS
        ).json()["message"]
        for given in (IMAGE[0], IMAGE[..., 0])
    ]
    assert ["put into a list" in one for one in result] == [True, False]


@pytest.mark.parametrize("cell", [[3.0] * 64, IMAGE[0].tolist()], ids=["flat", "nested"])
def test_every_form_gets_the_same_answer(client: Any, cell: list[Any]) -> None:
    bodies = [
        GOOD,
        GOOD.replace("inputs", "instances"),
        table([cell]),
        json.dumps({"dataframe_records": [{"anything": cell}]}),
    ]
    answers = [client.post("/invocations", content=body, headers=HEADERS) for body in bodies]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1


def test_the_answer_to_an_input_unlike_the_training_data_has_a_note(client: Any) -> None:
    body = json.dumps({"inputs": [IMAGE[0].tolist(), (16 - IMAGE[0]).tolist()]})
    like, unlike = client.post("/invocations", content=body, headers=HEADERS).json()["predictions"]
    assert "note" not in like
    assert unlike.keys() - like.keys() == {"note"}
    assert unlike["note"].startswith("unlike the training data: smallest value 13, there at most 4")
    assert "Inverted, it is more like them" in unlike["note"]


def test_the_example_is_a_request(client: Any) -> None:
    example = client.get("/example")
    answer = client.post("/invocations", content=example.content, headers=HEADERS)
    assert len(answer.json()["predictions"]) == len(IMAGE)


def test_other_content_is_refused(client: Any) -> None:
    assert client.post("/invocations", content=GOOD).status_code == 415


def test_what_mlflow_s_clients_ask(client: Any) -> None:
    import mlflow

    assert client.get("/ping").status_code == client.get("/health").status_code == 200
    assert client.get("/version").text == mlflow.__version__
    assert client.get("/docs").status_code == 404  # its scripts would come from elsewhere
