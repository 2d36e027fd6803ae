"""The settings are valid, and the model fits its data."""

import chapterflow as cf


def test_the_model_has_a_logit_for_each_class() -> None:
    assert cf.layers("residual").network.output_shape == (None, 10)
