"""Sanity checks: random weights, noise, and the verdict on a method."""

from typing import Any

import numpy as np
import pytest

from tests.explain.small_models import convolutional, values

pytestmark = pytest.mark.usefixtures("tensorflow")


def test_random_weights_come_from_each_initialiser_and_are_restored() -> None:
    from chapterflow.explain.sanity import randomised, weighted_layers

    model = convolutional((6, 6, 1))
    before = [np.array(weight) for weight in model.weights]

    def broken() -> None:
        with randomised(weighted_layers(model), seed=5):
            raise RuntimeError

    with randomised(weighted_layers(model), seed=5):
        assert not np.any(np.asarray(model.get_layer("conv1").bias))  # its initialiser: zeros
        first = np.array(model.get_layer("conv1").kernel)
    with pytest.raises(RuntimeError):
        broken()
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)
    assert not np.allclose(first, before[0])
    with randomised(weighted_layers(model), seed=5):
        np.testing.assert_array_equal(model.get_layer("conv1").kernel, first)


def test_the_cascade_tells_a_map_of_the_weights_from_one_of_the_input() -> None:
    from chapterflow.explain.attributions import attribute
    from chapterflow.explain.sanity import cascade

    model, inputs = convolutional((6, 6, 1)), values(3, (6, 6, 1))

    def make() -> Any:
        return {
            "weights": attribute(model, inputs, np.array([0, 1, 2]), "integrated-gradients"),
            "input": inputs[..., 0],
        }

    result = cascade(model, make(), make, seed=5, where=inputs[..., 0] > 0)
    assert result["input"] == pytest.approx([1, 1])
    assert len(result["weights"]) == 2
    assert abs(result["weights"][-1]) < 0.6


def test_similarity_is_spearmans_over_the_places_compared() -> None:
    from scipy.stats import spearmanr

    from chapterflow.explain.sanity import similarity

    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2, 3, 5, 5))
    where = rng.random((3, 5, 5)) < 0.6
    expected = [spearmanr(x[w], y[w]).statistic for x, y, w in zip(a, b, where, strict=True)]
    np.testing.assert_allclose(similarity(a, b, where), expected)
    assert similarity(np.ones((1, 5, 5)), a[:1], where[:1]).tolist() == [0]
    many = rng.normal(size=(200, 5, 5))
    assert similarity(many, many, np.ones((200, 5, 5), bool)).max() <= 1  # rounding included


def test_a_verdict_names_each_doubt() -> None:
    from chapterflow.explain.sanity import verdicts

    measures = {"deletion_auc": 0.2, "insertion_auc": 0.8, "random_deletion_auc": 0.5}
    methods = {
        "good": {"beats_random": 1.0, "depends_on_model": 1.0, "stability": 0.9},
        "bad": {"beats_random": 0.0, "depends_on_model": 0.0, "stability": 0.9},
        "unchecked": {"beats_random": 1.0},
    }
    metrics = {
        f"explain/{method}/{name}": value
        for method, own in methods.items()
        for name, value in (measures | own).items()
    }
    good, bad, unchecked = verdicts({"explain/seconds": 1.5, **metrics})
    assert (good.state, bad.state, unchecked.state) == ("passed", "warning", "passed")
    assert bad.reason == "does not beat random orders; hardly depends on the weights"
    assert (good.observed, good.expected, good.value("insertion")) == (0.2, 0.5, 0.8)
    assert unchecked.value("stability") is None
