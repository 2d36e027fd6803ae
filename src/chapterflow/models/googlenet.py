"""GoogLeNet: Inception modules see several scales at once; 1x1 convolutions make them cheap.

Book: chapter 5, "GoogLeNet".
Paper: Szegedy et al., "Going deeper with convolutions", CVPR (2015), table 1: the configuration
`googlenet`. Omitted: the two auxiliary classifiers, which bring gradients to the lower layers in
training only, and the local response normalisation, which has no parameters.
The default, `small`, has three modules for images of 8x8 to 32x32, and batch normalisation (Ioffe &
Szegedy 2015) instead of the auxiliary classifiers. Its 1x1 reductions save 71 % of the parameters
(78,538 instead of 270,042) and 67 % of the operations.
Expected: 0.97 on `digits` in 15 s, 0.993 on `mnist` in three minutes, on two cores.
Command: chapterflow run googlenet
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from chapterflow.models.base import ChapterModel, InputSpec, ModelParams
from chapterflow.models.layers.convolution import Inception, convolution, inception
from chapterflow.types import Fraction

if TYPE_CHECKING:
    import keras

#: Modules of each stage; max pooling before each stage halves the sides.
Stages = dict[str, dict[str, Inception]]
STAGES: dict[str, Stages] = {
    "googlenet": {
        "3": {
            "a": Inception(64, 96, 128, 16, 32, 32),
            "b": Inception(128, 128, 192, 32, 96, 64),
        },
        "4": {
            "a": Inception(192, 96, 208, 16, 48, 64),
            "b": Inception(160, 112, 224, 24, 64, 64),
            "c": Inception(128, 128, 256, 24, 64, 64),
            "d": Inception(112, 144, 288, 32, 64, 64),
            "e": Inception(256, 160, 320, 32, 128, 128),
        },
        "5": {
            "a": Inception(256, 160, 320, 32, 128, 128),
            "b": Inception(384, 192, 384, 48, 128, 128),
        },
    },
    "small": {
        "3": {"a": Inception(16, 16, 32, 4, 8, 8)},
        "4": {
            "a": Inception(32, 32, 64, 8, 24, 24),
            "b": Inception(48, 32, 64, 8, 24, 24),
        },
    },
}


class Params(ModelParams):
    """Configuration of the network, and its 1x1 reductions.

    Attributes:
        configuration: The paper's table 1, or `small`.
        reductions: Whether 1x1 convolutions reduce the channels before the 3x3 and 5x5 ones.
        dropout: Dropout rate of the pooled features; 0.4 in the paper.
        batch_normalisation: Whether each convolution is batch-normalised; null: only in `small`.
    """

    configuration: Literal["googlenet", "small"] = "small"
    reductions: bool = True
    dropout: Fraction = 0.4
    batch_normalisation: bool | None = None


def build(params: Params, data: InputSpec) -> keras.Model:
    """Stem, stages of Inception modules, global average pooling: `(batch, h, w, c)` -> logits."""
    import keras
    from keras import layers

    small = params.configuration == "small"
    normalise = small if params.batch_normalisation is None else params.batch_normalisation
    inputs = keras.Input(data.shape, name="pixels")
    x = layers.Rescaling(1 / data.value_max, name="rescale")(inputs)
    x = _small_stem(x, normalise) if small else _stem(x, normalise)
    for stage, modules in STAGES[params.configuration].items():
        # "same" also pools sides of one pixel or an odd number of pixels.
        x = layers.MaxPooling2D(3, 2, padding="same", name=f"pool{stage}")(x)
        for module, filters in modules.items():
            x = inception(
                x,
                filters,
                name=f"inception{stage}{module}",
                normalise=normalise,
                reductions=params.reductions,
            )
    x = layers.GlobalAveragePooling2D(name="average")(x)
    x = layers.Dropout(params.dropout, name="dropout")(x)
    return keras.Model(inputs, layers.Dense(data.classes, name="logits")(x), name="googlenet")


def _stem(x: Any, normalise: bool) -> Any:
    """Apply the first rows of table 1: 224x224 becomes 56x56 before the first stage."""
    from keras import layers

    x = convolution(x, 64, 7, strides=2, name="conv1", normalise=normalise)
    x = layers.MaxPooling2D(3, 2, padding="same", name="pool1")(x)
    x = convolution(x, 64, 1, name="conv2_reduce", normalise=normalise)
    return convolution(x, 192, 3, name="conv2", normalise=normalise)


def _small_stem(x: Any, normalise: bool) -> Any:
    """Apply one convolution without stride: small images have no pixels to lose."""
    return convolution(x, 16, 3, name="conv1", normalise=normalise)


MODEL = ChapterModel(
    "googlenet", Params, build, "GoogLeNet", "Inception modules with 1x1 reductions"
)
