"""The playground as a file: what is on it, what is left out and why, its size, its words."""

import base64
import io
import json
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from chapterflow.errors import ConfigError
from chapterflow.page.network import Unsupported, packed, read_network
from chapterflow.page.playground import (
    ASSETS,
    PAGE_BYTES,
    SCRIPTS,
    Loaded,
    examples,
    fitted,
    graph,
    pen,
)
from chapterflow.tracking.versions import Version
from tests.page import page_runs
from tests.page.play_page import DENSE, loaded, make_models, make_page, network
from tests.small_images import write_images


def data_of(page: str) -> dict[str, Any]:
    """Return the data within a page."""
    start = page.index('<script type="application/json" id="data">')
    text = page[page.index(">", start) + 1 : page.index("</script>", start)]
    document: dict[str, Any] = json.loads(text)
    return document


def unpacked(text: str, planes: int) -> Any:
    raw = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(planes, -1)
    bits = np.zeros(raw.shape[1], np.uint32)
    for plane, column in enumerate(raw):
        bits |= column.astype(np.uint32) << np.uint32(24 - 8 * plane)
    return bits.view(np.float32)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return page_runs.make_data(tmp_path_factory.mktemp("play"))


def test_the_page_is_one_small_file_that_names_no_address(tmp_path: Path) -> None:
    page = make_page(tmp_path)
    assert len(page.encode()) < 200_000
    own = page.replace("http://www.w3.org/2000/svg", "")
    assert re.findall(r"https?://", own) == []
    assert re.findall(r"<(?:link|img|script|iframe)[^>]*(?:src|href)=\"(?!data:)", own) == []
    assert [model["name"] for model in data_of(page)["models"]] == ["dnn", "cnn"]


def test_weights_keep_all_bits_or_24_of_them() -> None:
    values = np.random.default_rng(0).normal(0, 1, 1000).astype(np.float32)
    values[:4] = [0, -0.0, np.float32(1.9999999), -1e-30]
    assert np.array_equal(unpacked(packed(values, 4), 4), values)
    rounded = unpacked(packed(values, 3), 3)
    assert np.abs(rounded - values).max() > 0
    assert (np.abs(rounded - values) <= np.abs(values) * 2.0**-16).all()


def test_what_does_not_fit_is_left_out_with_its_size_and_a_command(dataset: Any) -> None:
    wide = [
        ("pixels", "InputLayer", {"shape": [8, 8, 1]}, []),
        ("flatten", "Flatten", {}, []),
        ("logits", "Dense", {"activation": "linear"}, [(64, 8_000), (8_000,)]),
    ]
    models = [*make_models(dataset), loaded("wide", wide, dataset, 3, 0.5)]
    more = {"examples": None, "pen": pen(dataset), "valueMax": 16, "graph": graph(None, None)}
    limit = 900_000
    page, chosen, left_out = fitted(models, more, limit=limit)
    assert [model.name for model in chosen] == ["dnn", "cnn"]
    assert len(page.encode()) <= limit
    ((model, reason),) = [(item.model, item.reason) for item in left_out]
    assert model == "wide/1"
    assert "MB" in reason
    assert reason.endswith("`chapterflow play wide/1`")
    assert data_of(page)["leftOut"] == [{"model": model, "reason": reason}]
    page, chosen, left_out = fitted(models, more)
    assert (len(chosen), left_out) == (3, [])
    assert len(page.encode()) <= PAGE_BYTES
    assert data_of(page)["models"][0]["planes"] == 3
    with pytest.raises(ConfigError, match="520,000 parameters"):
        fitted(models[2:], more, limit=limit)


def test_test_images_that_only_one_model_gets_right_come_first(dataset: Any) -> None:
    models = make_models(dataset)
    chosen = examples(dataset, models)
    images = np.frombuffer(base64.b64decode(chosen["images"]), np.uint8).reshape(-1, 8, 8)
    for row, label, image in zip(chosen["index"], chosen["labels"], images, strict=True):
        assert np.array_equal(image, dataset.arrays["images"][row, :, :, 0])
        assert label == str(dataset.labels[row])
    kinds = [kind for kind, _ in chosen["chosen"]]
    assert list(dict.fromkeys(kinds)) == ["cnn", "dnn", "class"]
    assert kinds.count("class") == 10
    by_name = {model.name: model.predictions for model in models}
    for kind, place in chosen["chosen"]:
        if kind == "class":
            continue
        position = int(np.flatnonzero(by_name["cnn"]["index"] == chosen["index"][place])[0])
        right = {
            name: answer["probability"][position].argmax() == answer["label"][position]
            for name, answer in by_name.items()
        }
        assert right == {kind: True, ({"dnn", "cnn"} - {kind}).pop(): False}
    assert len(chosen["counted"]) == 80


def test_the_pen_is_as_the_training_images_are(dataset: Any, tmp_path: Path) -> None:
    actual = pen(dataset)
    assert actual["dark"] is True
    assert actual["extent"] == 1.0
    assert actual["centre"] == pytest.approx([0.5, 0.5], abs=0.05)
    assert 0.1 < actual["width"] < 0.2
    light = write_images(
        tmp_path / "light", 16 - dataset.arrays["images"], dataset.labels, dataset.split, 16
    )
    assert pen(light) == actual | {"dark": False}


def test_the_graph_without_a_model_is_the_karate_club() -> None:
    club = graph(None, None)
    assert (len(club["labels"]), len(club["edges"])) == (34, 78)
    assert (club["model"], club["modelMissing"]) == (None, "none")
    assert np.min(club["places"]) >= 0
    assert np.max(club["places"]) <= 1


def test_a_graph_that_is_not_here_or_too_large_is_named(dataset: Any) -> None:
    version = Version("gcn-node", "1", None, "0" * 32, "gcn-node", "models:/m-0")
    nodes = Loaded(version, dataset.card, network(DENSE), None)
    assert graph(nodes, None)["modelMissing"] == "data"
    large = dataset.__class__(dataset.card, dataset.folder, {"features": np.ones((100, 3))})
    assert graph(nodes, large)["modelMissing"] == "other"


def keras_file(path: Path, *layers: dict[str, Any], kind: str = "Sequential") -> Path:
    """Write a `.keras` file with layers without weights."""
    rows = [
        {"module": "keras.layers", "class_name": name, "config": {"name": name.lower(), **config}}
        for layer in layers
        for name, config in layer.items()
    ]
    weights = io.BytesIO()
    with h5py.File(weights, "w"):
        pass
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "config.json", json.dumps({"class_name": kind, "config": {"layers": rows}})
        )
        archive.writestr("model.weights.h5", weights.getvalue())
    return path


INPUT = {"InputLayer": {"batch_shape": [None, 8, 8, 1]}}


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ({"LSTM": {}}, "the page does not compute its layer lstm (LSTM)"),
        ({"Conv2D": {"groups": 2}}, "the page does not compute groups=2 (conv2d)"),
        (
            {"Dense": {"activation": "gelu"}},
            "the page does not compute the activation gelu (dense)",
        ),
        (
            {"Dense": {"dtype": {"config": {"name": "mixed_bfloat16"}}}},
            "its layer dense computes in mixed_bfloat16, the page in float32",
        ),
    ],
)
def test_a_layer_that_the_page_does_not_compute_is_named(
    layer: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(Unsupported) as refused:
        read_network(keras_file(tmp_path / "model.keras", INPUT, layer))
    assert str(refused.value) == reason


def test_other_files_and_models_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with pytest.raises(Unsupported, match="it is a Mine, not a Functional or Sequential"):
        read_network(keras_file(path, INPUT, kind="Mine"))
    path.write_bytes(b"no archive")
    with pytest.raises(Unsupported, match="its file cannot be read"):
        read_network(path)


WORDS = json.loads((ASSETS / "words.json").read_text(encoding="utf-8"))
#: Keys that scripts put together.
COMPOSED = r"type-\w+|does-\w+|\w+(-pooling)?-note|model-(none|data|other)"


def test_every_word_is_used_and_every_used_word_exists() -> None:
    template = (ASSETS / "playground.html.jinja").read_text(encoding="utf-8")
    source = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    used = set(re.findall(r'data-(?:word|label)="([\w-]+)"', template))
    used |= set(re.findall(r'\bt\("([\w-]+)"', source))
    assert used <= set(WORDS)
    quoted = set(re.findall(r'"([\w-]+)"', source + template))
    quoted |= set(re.findall(r"^\s*(?:\"?)([\w-]+)(?:\"?):", source, re.MULTILINE))
    quoted |= set(re.findall(r"[{,] ([\w-]+):", source))
    unused = {key for key in set(WORDS) - quoted if not re.fullmatch(COMPOSED, key)}
    assert unused == set()
