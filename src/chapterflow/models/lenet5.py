"""LeNet-5: the first convolutional network in daily use, reading cheques.

Book: chapter 5, "LeNet-5".
Paper: LeCun, Bottou, Bengio & Haffner, "Gradient-based learning applied to document recognition",
Proc. IEEE 86 (1998), section II.B. Its trainable pooling coefficients, sparse C3 connections and
RBF output are replaced by plain pooling, full connections and logits, as is usual today.
Expected: 0.96 on `digits` in 3 s, 0.99 on `mnist` in 6 s, on two cores.
Command: chapterflow run lenet5
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from chapterflow.models.base import ChapterModel, InputSpec, ModelParams

if TYPE_CHECKING:
    import keras

#: The paper's input size: digits of 28x28 are centred in 32x32, so that strokes at the border
#: reach the centre of a kernel.
SIDE = 32
#: Values of blank paper and full ink in the paper: the input then has a mean of roughly 0 and a
#: variance of roughly 1, from which tanh units learn fastest.
PAPER, INK = -0.1, 1.175


class Params(ModelParams):
    """The paper's tanh and average pooling, or their successors."""

    activation: Literal["tanh", "relu"] = "tanh"
    pooling: Literal["average", "max"] = "average"


def build(params: Params, data: InputSpec) -> keras.Model:
    """C1 6@5x5, S2, C3 16@5x5, S4, C5 120, F6 84, logits: `(batch, h, w, c)` -> `(batch, classes)`.

    Inputs smaller than 32x32 are zero-padded to 32x32; on larger inputs C5 spans the whole map.
    """
    import keras
    from keras import layers

    pool = layers.AveragePooling2D if params.pooling == "average" else layers.MaxPooling2D
    height, width = data.shape[:2]
    margins = [max(0, SIDE - (side or SIDE)) for side in (height, width)]
    padding = tuple((margin // 2, margin - margin // 2) for margin in margins)
    inputs = keras.Input(data.shape, name="pixels")
    x = layers.ZeroPadding2D(padding, name="pad")(inputs)
    x = layers.Rescaling((INK - PAPER) / data.value_max, offset=PAPER, name="rescale")(x)
    x = layers.Conv2D(6, 5, activation=params.activation, name="c1")(x)
    x = pool(2, name="s2")(x)
    x = layers.Conv2D(16, 5, activation=params.activation, name="c3")(x)
    x = pool(2, name="s4")(x)
    x = layers.Conv2D(120, x.shape[1:3], activation=params.activation, name="c5")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(84, activation=params.activation, name="f6")(x)
    return keras.Model(inputs, layers.Dense(data.classes, name="logits")(x), name="lenet5")


MODEL = ChapterModel(
    "lenet5", Params, build, "LeNet-5", "the paper's seven layers, padded to 32x32"
)
