"""Large networks without the seconds that their random weights take."""

from typing import Any

import pytest


@pytest.fixture
def no_weights(tensorflow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """New kernels are zeros: there is nothing to draw for a network that is only counted."""
    import keras

    def zeros(self: Any, shape: Any, dtype: Any = None) -> Any:
        return keras.ops.zeros(shape, dtype)

    monkeypatch.setattr(keras.initializers.GlorotUniform, "__call__", zeros)
