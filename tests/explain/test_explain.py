"""The whole explanation of a model: pictures, figures, details; and of one input."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image

from tests.digits import digits_dataset
from tests.explain.small_models import SHAPES, convolutional, linear, values

pytestmark = pytest.mark.usefixtures("tensorflow")


@pytest.fixture
def digits() -> Any:
    return digits_dataset(np.repeat(np.arange(3, dtype=np.uint8), (60, 20, 40)))


def test_probes_are_the_first_of_each_class_unless_the_card_names_some(digits: Any) -> None:
    from chapterflow.explain.explain import probes

    chosen = probes(digits)
    assert digits.labels[chosen].tolist() == list(range(10))
    test = digits.indices("test")
    for one in chosen:
        earlier = test[test < one]
        assert digits.labels[one] not in digits.labels[earlier]
    named = dataclasses.replace(digits, card=digits.card.model_copy(update={"probes": [7, 3]}))
    assert probes(named).tolist() == [7, 3]
    curves = {"probes": [], "classes": [], "kind": "curves"}
    assert (
        probes(dataclasses.replace(digits, card=digits.card.model_copy(update=curves))).tolist()
        == test[:4].tolist()
    )


def test_all_of_it(digits: Any, tmp_path: Path) -> None:
    from scipy.special import softmax

    from chapterflow.explain.explain import explain

    model = convolutional((8, 8, 1), 10)
    test = digits.indices("test")
    probabilities = softmax(np.asarray(model(digits.inputs(test))), axis=1)
    before = [np.array(weight) for weight in model.weights]
    options = {"seed": 5, "title": "small", "probabilities": probabilities}
    result = explain(model, digits, tmp_path / "out", **options)
    assert all(np.array_equal(a, b) for a, b in zip(model.weights, before, strict=True))
    keys = [one.key for one in result.pictures]
    assert keys == ["walk", *["feature_maps"] * 3, "kernels", "attributions", "reactions"]
    for picture in result.pictures:
        assert image.imread(picture.path)[..., :3].std() > 0.05
        assert picture.caption.endswith(".")
    for method in ("grad-cam", "integrated-gradients", "occlusion"):
        for measure in (
            "deletion_auc",
            "insertion_auc",
            "random_deletion_auc",
            "beats_random",
            "randomisation_similarity",
            "depends_on_model",
            "stability",
        ):
            assert np.isfinite(result.metrics[f"explain/{method}/{measure}"])
    details = json.loads(json.dumps(result.details))
    assert [row["class"] for row in details["probes"]] == digits.card.classes
    layers = details["architecture"]
    assert [layer["name"] for layer in layers] == [layer.name for layer in model.layers]
    assert sum(layer["parameters"] for layer in layers) == model.count_params()
    assert layers[-1]["output_shape"] == [10]
    answer = np.asarray(model(digits.inputs(np.array([details["probes"][3]["index"]])))).argmax()
    assert details["probes"][3]["predicted"] == digits.card.classes[int(answer)]
    again = explain(model, digits, tmp_path / "again", **options)
    assert again.metrics == pytest.approx(result.metrics, abs=1e-6)
    assert json.loads(result.model_dump_json())["metrics"] == result.metrics


def test_an_explanation_is_read_as_it_was_saved(tmp_path: Path) -> None:
    from chapterflow.explain.explanation import Explanation, Picture

    path = tmp_path / "walk.png"
    path.write_bytes(b"PNG")
    picture = Picture(key="walk", step=0, path=path, caption="A walk.")
    explained = Explanation(metrics={"explain/m/x": 0.5}, pictures=[picture], details={"a": [1]})
    document = explained.save(tmp_path, model="cnn/1")
    assert document == json.loads((tmp_path / "explain.json").read_text())
    assert document["model"] == "cnn/1"
    assert document["pictures"][0]["file"] == "walk.png"
    assert Explanation.load(tmp_path) == explained
    refused = Explanation(refusal="cnn must be trained")
    assert refused.save(tmp_path / "none")["refused"] == "cnn must be trained"
    assert Explanation.load(tmp_path / "none") == refused


def test_reactions_are_the_surest_the_least_sure_and_the_surely_wrong() -> None:
    from chapterflow.explain.outputs import reactions

    labels = np.array([0, 0, 0, 0, 0, 0, 1])
    first = np.array([0.9, 0.6, 0.2, 0.55, 0.4, 0.8, 0.3])
    result = reactions(labels, np.stack([first, 1 - first], axis=1), 2)
    assert result["0"] == {
        "surest": [0, 5, 1, 3],
        "doubtful": [2, 4, 3, 1],
        "wrong": [2, 4],
    }
    assert result["1"] == {"surest": [6], "doubtful": [6], "wrong": []}


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_one_input(axes: int, tmp_path: Path) -> None:
    from chapterflow.explain.explain import explain_input

    model, given = convolutional(SHAPES[axes]), values(1, SHAPES[axes])
    result = explain_input(model, given, ["a", "b", "c"], 1.0, tmp_path, title="mine", target="c")
    assert [one.key for one in result.pictures] == ["walk", "attributions"]
    assert result.details["explained"] == 2
    (row,) = result.details["probes"]
    assert row["predicted"] in "abc"
    assert set(row["maps"]) == {"grad-cam", "integrated-gradients", "occlusion"}
    assert image.imread(result.pictures[1].path)[150:, :, :3].std() > 0.05


def test_an_input_outside_of_what_the_model_knows_is_marked(tmp_path: Path) -> None:
    from chapterflow.explain.explain import explain_input

    unlike = "unlike the training data: mean 3, there at most 1"
    picture = explain_input(
        *(convolutional(SHAPES[2]), values(1, SHAPES[2]), ["a", "b", "c"], 1.0, tmp_path),
        methods=["grad-cam"],
        unlike=unlike,
    ).pictures[-1]
    assert f"so the answer may mean nothing: it is {unlike}." in picture.caption
    band = image.imread(picture.path)[106:150, :, :3]
    assert ((band[..., 0] > 0.6) & (band[..., 1] < 0.3)).sum() > 100  # written in red


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["occlusions"]}, "Did you mean 'occlusion'.*Received: 'occlusions'"),
        ({"target": "d"}, "target must be.*Received: 'd'"),
        ({"target": 3}, "target must be.*Received: 3"),
        ({"methods": ["grad-cam"], "layer": "conv9"}, "Received: 'conv9'"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    from chapterflow.errors import ConfigError
    from chapterflow.explain.explain import explain_input

    model, given = convolutional((6, 6, 1)), values(1, (6, 6, 1))
    with pytest.raises(ConfigError, match=message):
        explain_input(model, given, ["a", "b", "c"], 1.0, tmp_path, title="", **options)
    with pytest.raises(ConfigError, match=r"Received: \(6, 6, 1\)"):
        explain_input(model, given[0], ["a", "b", "c"], 1.0, tmp_path, title="")


def test_an_untrained_network_is_refused_by_name(tmp_path: Path) -> None:
    from chapterflow.explain.explain import explain_input
    from chapterflow.explain.untrained import Untrained

    model = convolutional((6, 6, 1))
    model.get_layer("conv1").bias.assign(np.zeros(4, np.float32))
    with pytest.raises(Untrained, match="conv1"):
        explain_input(model, values(1, (6, 6, 1)), ["a", "b", "c"], 1.0, tmp_path, title="")


def test_a_network_without_convolutions_has_no_grad_cam() -> None:
    from chapterflow.explain.attributions import usable_methods

    assert usable_methods(linear((6, 6, 1))) == ["integrated-gradients", "occlusion"]


def test_the_picture_marks_a_map_that_does_not_beat_random(tmp_path: Path) -> None:
    from chapterflow.explain.faithfulness import Faithfulness
    from chapterflow.explain.pictures import draw_attributions

    inputs = values(1, (6, 6, 1))
    random = np.linspace(0.4, 0.6, 8)[:, np.newaxis]
    reds = {}
    for name, insertion in (("good", 0.9), ("bad", 0.5)):
        fare = Faithfulness(
            np.array([0.2 if name == "good" else 0.5]),
            np.array([insertion]),
            random,
            np.array([False]),
        )
        assert fare.beats_random == (name == "good")
        path = tmp_path / f"{name}.png"
        draw_attributions(
            *(inputs, {"one": np.zeros((1, 6, 6))}, "title", path),
            value_max=1.0,
            captions=["a"],
            faithful={"one": fare},
        )
        pixels = image.imread(path)[..., :3]
        reds[name] = int(np.sum((pixels[..., 0] > 0.6) & (pixels[..., 1] < 0.4)))
    assert reds["good"] == 0
    assert reds["bad"] > 100
