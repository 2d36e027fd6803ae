"""A few real digits, cheap trainings of them, and what a training leaves on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from chapterflow.kinds.dataset import Dataset
from chapterflow.models.base import ModelParams
from chapterflow.models.catalog import get_model
from tests.digits import Watched, digits_dataset

#: 70 examples in batches of 16 are five steps, the last of six examples.
TRAIN, VALIDATION, TEST = 70, 30, 20


def make_dataset(train: int = TRAIN, validation: int = VALIDATION, test: int = TEST) -> Dataset:
    """Return scikit-learn's first digits, the three splits mixed."""
    split = np.repeat(np.arange(3, dtype=np.uint8), (train, validation, test))
    return digits_dataset(np.random.default_rng(5).permutation(split))


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    """Seventy digits to train on, thirty for validation, twenty for the test."""
    return make_dataset()


@pytest.fixture(scope="session")
def dataset_of() -> Callable[..., Dataset]:
    """Makes a dataset with other counts."""
    return make_dataset


@pytest.fixture(scope="session")
def watched() -> type[Watched]:
    """Wraps an array to note what is read of it."""
    return Watched


@pytest.fixture(scope="session")
def params_of() -> Callable[..., ModelParams]:
    """Returns the parameters of a small training of a model."""

    def made(name: str, **options: Any) -> ModelParams:
        small: dict[str, Any] = {"epochs": 4, "batch_size": 16, "learning_rate": 0.01}
        if name == "dnn":
            small["hidden"] = 16
        return get_model(name).params(role="digits", **(small | options))

    return made


@pytest.fixture(scope="session")
def weights_of(tensorflow: None) -> Callable[[Path], list[NDArray[Any]]]:
    """Returns the weights in the `model.keras` of a work folder."""

    def read(work: Path) -> list[NDArray[Any]]:
        import keras

        model = keras.saving.load_model(work / "model.keras", compile=False)
        return list(model.get_weights())

    return read


@pytest.fixture(scope="session")
def optimizer_steps() -> Callable[[Path], int]:
    """Returns the number of optimizer steps behind the newest checkpoint of a work folder."""

    def read(work: Path) -> int:
        from chapterflow.training.epochs import Checkpoints

        # The optimizer's count of steps is the one integer in it.
        _, arrays = Checkpoints(work / "checkpoints").newest()
        (steps,) = (array for array in arrays if array.dtype == np.int64)
        return int(steps)

    return read
