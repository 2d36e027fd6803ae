"""The checks of maps: a true one passes, a random one does not; Quantus finds the same areas."""

from typing import Any

import numpy as np
import pytest

from tests.explain.small_models import convolutional, linear, values

pytestmark = pytest.mark.usefixtures("tensorflow")


def additive(weights: Any) -> Any:
    """Return a score that is the sum of the weights of what is kept."""

    def score(which: Any, kept: Any) -> Any:
        return (weights[which] * kept).sum(axis=1)

    return score


def test_areas_of_an_additive_score_are_known() -> None:
    """Of four places worth 0.4, 0.3, 0.2, 0.1, the areas are sums that can be done by hand."""
    from chapterflow.explain.faithfulness import faithfulness

    weights = np.array([[0.4, 0.3, 0.2, 0.1]])
    result = faithfulness(additive(weights), {"true": weights}, seed=5, steps=4)["true"]
    assert result.insertion[0] == pytest.approx((0.4 + 0.7 + 0.9 + 0.5) / 4)
    assert result.deletion[0] == pytest.approx((0.1 + 0.3 + 0.6 + 0.5) / 4)
    assert result.random.shape == (8, 1)


@pytest.mark.parametrize("seed", range(5))
def test_a_true_map_beats_random_orders_and_random_or_reversed_ones_do_not(seed: int) -> None:
    from chapterflow.explain.faithfulness import faithfulness

    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(40, 0.5), size=6)
    maps = {
        "true": weights,
        "random": rng.random((6, 40)),
        "reversed": -weights,
        "flat": 0 * weights,
    }
    result = faithfulness(additive(weights), maps, seed=seed)
    assert result["true"].beats_random
    assert result["true"].each_beats_random.all()
    assert not any(result[name].beats_random for name in ("random", "reversed", "flat"))


@pytest.mark.parametrize("seed", range(4))
def test_an_empty_map_never_beats_random_whatever_its_ties_become(seed: int) -> None:
    from chapterflow.explain.faithfulness import faithfulness

    weights = np.array([5.0, 3.0, 1.0, 0.5, 0.25, 0.25])

    def score(which: Any, kept: Any) -> Any:
        return kept @ weights / weights.sum()

    maps = {"true": np.stack([weights, weights]), "empty": np.stack([np.zeros(6), weights])}
    result = faithfulness(score, maps, seed=seed, orders=2)
    assert result["true"].beats_random
    assert result["empty"].each_beats_random.tolist() == [False, True]
    assert result["empty"].gap[0] == 0


def test_a_gap_of_nearly_nothing_is_no_proof() -> None:
    from chapterflow.explain.faithfulness import Faithfulness

    random = np.full((8, 1), 0.155)
    tiny = Faithfulness(np.array([0.155]), np.array([0.1551]), random, np.array([False]))
    assert not tiny.beats_random
    assert not tiny.each_beats_random.any()


def test_places_that_must_stay_are_never_taken_away() -> None:
    from chapterflow.explain.faithfulness import faithfulness

    seen = []

    def score(which: Any, kept: Any) -> Any:
        seen.append(kept)
        return kept.mean(axis=1)

    free = np.array([[True, True, False, True]])
    faithfulness(score, {"any": np.array([[1.0, 2.0, 9.0, 3.0]])}, seed=5, free=free)
    kept = np.concatenate(seen)
    assert kept[:, 2].all()
    assert not kept[:, [0, 1, 3]].all()


def test_deletion_is_that_of_quantus() -> None:
    quantus = pytest.importorskip("quantus")

    from chapterflow.explain.attributions import attribute
    from chapterflow.explain.faithfulness import faithfulness, pixel_score

    model, inputs = convolutional((6, 6, 1)), values(4, (6, 6, 1))
    for layer in ("conv1", "conv2", "logits"):  # Sharper answers: areas that differ.
        weight = model.get_layer(layer).kernel
        weight.assign(3 * np.asarray(weight))
    targets = np.asarray(model(inputs)).argmax(axis=1)
    maps = attribute(model, inputs, targets, "integrated-gradients", baseline=0.0)
    # Quantus puts equal values into an order of its own: here no two are equal.
    maps = maps + np.linspace(0, 1e-6, maps.size).reshape(maps.shape)
    score = pixel_score(model, inputs, targets, baseline=0.0)
    ours = faithfulness(score, {"ig": maps}, seed=5, steps=12)["ig"]
    theirs = quantus.PixelFlipping(
        features_in_step=3,
        perturb_baseline=0.0,
        abs=False,
        normalise=False,
        disable_warnings=True,
        display_progressbar=False,
    )(
        model=model,
        x_batch=inputs,
        y_batch=targets,
        a_batch=maps[:, np.newaxis],
        softmax=True,
        channel_first=False,
    )
    # It does not score the whole input; ours begins with it.
    curves = np.concatenate(
        [score(np.arange(4), np.ones((4, 36), bool))[:, np.newaxis], np.array(theirs)], axis=1
    )
    np.testing.assert_allclose(ours.deletion, np.trapezoid(curves, axis=1) / 12, atol=1e-5)
    assert np.ptp(curves) > 0.2


def test_the_score_of_values_is_1_for_the_whole_and_falls_with_the_distance() -> None:
    import keras

    from chapterflow.explain.faithfulness import pixel_score

    inputs = keras.Input((8, 1))
    model = keras.Model(inputs, keras.layers.Rescaling(1.0)(inputs))
    given = np.arange(8, dtype=np.float32).reshape(1, 8, 1)
    score = pixel_score(model, given, np.array([4]))
    kept = np.ones((2, 8), bool)
    kept[1, 4] = False  # shows the mean, 3.5 instead of 4
    np.testing.assert_allclose(score(np.array([0, 0]), kept), [1, 1 - 0.5 / given.std()], rtol=1e-5)


def test_probabilities_are_scored_where_there_are_classes() -> None:
    from chapterflow.explain.faithfulness import pixel_score

    model, inputs = linear((6, 6, 1)), values(2, (6, 6, 1))
    score = pixel_score(model, inputs, np.array([1, 2]), baseline=0.0)
    logits = np.asarray(model(inputs))
    expected = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[[0, 1], [1, 2]]
    np.testing.assert_allclose(score(np.arange(2), np.ones((2, 36), bool)), expected, rtol=1e-5)
    nothing = score(np.array([0]), np.zeros((1, 36), bool))
    np.testing.assert_allclose(nothing, 1 / 3, rtol=1e-5)
