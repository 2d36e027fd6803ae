"""The chapter's convolutional network: two convolutions with max pooling, then dense layers.

Book: chapter 5, "DNN and CNN on MNIST".
Paper: LeCun et al., "Backpropagation applied to handwritten zip code recognition",
Neural Computation 1 (1989).
Expected: 0.99 on `digits` in 2 s, 0.99 on `mnist` in 7 s, on two cores.
Command: chapterflow run cnn
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chapterflow.models.base import ChapterModel, InputSpec, ModelParams
from chapterflow.types import PositiveInt

if TYPE_CHECKING:
    import keras


class Params(ModelParams):
    """Width of the dense layer after the convolutions."""

    dense: PositiveInt = 128


def build(params: Params, data: InputSpec) -> keras.Model:
    """Twice (3x3 convolution, 2x2 max pooling), then dense: `(batch, h, w, c)` -> logits."""
    import keras
    from keras import layers

    inputs = keras.Input(data.shape, name="pixels")
    x = layers.Rescaling(1 / data.value_max, name="rescale")(inputs)
    for block, filters in enumerate((32, 64), start=1):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{block}")(x)
        x = layers.MaxPooling2D(2, name=f"pool{block}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(params.dense, activation="relu", name="dense")(x)
    return keras.Model(inputs, layers.Dense(data.classes, name="logits")(x), name="cnn")


MODEL = ChapterModel(
    "cnn", Params, build, "DNN and CNN on MNIST", "two convolutions with max pooling"
)
