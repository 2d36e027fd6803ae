"""3D convolution: kernels that move along depth, height and width of a volume.

Book: chapter 5, "1D, 2D and 3D convolution".
Paper: Ji et al., "3D convolutional neural networks for human action recognition", IEEE Transactions
on Pattern Analysis and Machine Intelligence 35 (2013).
Expected: 0.97 on `solids` in 15 s, on two cores.
Command: chapterflow run conv3d
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chapterflow.models.base import ChapterModel, InputSpec, ModelParams
from chapterflow.types import Fraction, PositiveInt

if TYPE_CHECKING:
    import keras


class Params(ModelParams):
    """Width and depth of the network.

    Attributes:
        filters: Channels of the first convolution; each further convolution doubles them.
        blocks: Number of convolutions, each followed by 2x2x2 max pooling.
        dropout: Dropout rate of the features before the last layer.
    """

    filters: PositiveInt = 12
    blocks: PositiveInt = 3
    dropout: Fraction = 0.3


def build(params: Params, data: InputSpec) -> keras.Model:
    """`blocks` times (3x3x3 convolution, 2x2x2 max pooling): `(batch, d, h, w, c)` -> logits."""
    import keras
    from keras import layers

    inputs = keras.Input(data.shape, name="voxels")
    x = layers.Rescaling(1 / data.value_max, name="rescale")(inputs)
    for block in range(1, params.blocks + 1):
        filters = params.filters * 2 ** (block - 1)
        x = layers.Conv3D(filters, 3, padding="same", activation="relu", name=f"conv{block}")(x)
        x = layers.MaxPooling3D(2, name=f"pool{block}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dropout(params.dropout, name="dropout")(x)
    return keras.Model(inputs, layers.Dense(data.classes, name="logits")(x), name="conv3d")


MODEL = ChapterModel(
    "conv3d", Params, build, "1D, 2D and 3D convolution", "3D convolution over volumes"
)
