"""Models for ten classes of images, and images for them."""

from typing import Any

import numpy as np

from chapterflow.models.base import InputSpec
from chapterflow.models.catalog import get_model


def build(name: str, shape: tuple[int | None, ...] = (8, 8, 1), **options: Any) -> Any:
    """Build a model for ten classes with weights of seed 5; `value_max` is 16 unless given."""
    import keras

    spec = InputSpec(shape, options.pop("classes", 10), options.pop("value_max", 16.0))
    entry = get_model(name)
    keras.utils.set_random_seed(5)
    return entry.build(entry.params(role="digits", **options), spec)


def pixels(*shape: int, top: float = 16.0) -> Any:
    """Return raw values between 0 and `top`."""
    return np.random.default_rng(5).uniform(0, top, shape).astype(np.float32)
