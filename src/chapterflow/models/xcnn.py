"""The book's explainable network: four large convolutions whose feature maps are worth looking at.

Book: chapter 5, "Explainable CNN".
Paper: Zeiler & Fergus, "Visualizing and understanding convolutional networks", ECCV (2014), which
visualises feature maps of a trained network, the purpose of this model.
Expected: 0.97 on `digits` in 5 s, on two cores; chance is 0.10. On cats and dogs 0.75 in four
minutes; chance is 0.50.
Command: chapterflow run xcnn
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from chapterflow.models.base import ChapterModel, InputSpec, ModelParams
from chapterflow.models.layers.convolution import convolution
from chapterflow.models.layers.heads import Augment, augmented, pooled
from chapterflow.types import PositiveInt

if TYPE_CHECKING:
    import keras

#: The book's input: 100x100 pixels, red, green and blue.
SIDE, CHANNELS = 100, 3


class Params(ModelParams):
    """Widths of the layers, and what a few hundred photos need.

    Attributes:
        filters: Filters of the four convolutions.
        dense: Units of each dense layer before the logits.
        batch_normalisation: Whether each convolution is batch-normalised.
        pooling: Reduction of the last maps to one vector: average, maximum, or flattening.
        augment: Random changes to the training images, new in every epoch if `passes` is not 0.
    """

    filters: Annotated[list[PositiveInt], Field(min_length=4, max_length=4)] = Field(
        default_factory=lambda: [8, 16, 32, 32]
    )
    dense: Annotated[list[PositiveInt], Field(max_length=16)] = Field(
        default_factory=lambda: [128, 64, 32]
    )
    batch_normalisation: bool = False
    pooling: Literal["avg", "max", "flatten"] = "flatten"
    augment: Augment = Augment()


def build(params: Params, data: InputSpec) -> keras.Model:
    """Four times (5x5 convolution, 2x2 max pooling), then dense: `(batch, h, w, c)` -> logits.

    Images of any size are resized to 100x100; grey images become RGB.

    Raises:
        ValueError: If the images do not have 1 or 3 channels.
    """
    import keras
    from keras import layers

    channels = data.shape[-1]
    if channels not in {1, CHANNELS}:
        raise ValueError(
            f"xcnn needs images with 1 or {CHANNELS} channels. Received: {channels} channels. "
            "Convert the images to grey or RGB"
        )
    inputs = keras.Input(data.shape, name="pixels")
    x = layers.Resizing(SIDE, SIDE, name="resize")(inputs)
    if params.augment.passes:
        x = augmented(params.augment, x, data.value_max)
    x = layers.Rescaling(1 / data.value_max, name="rescale")(x)
    if channels == 1:
        x = layers.Concatenate(name="rgb")([x] * CHANNELS)
    for block, filters in enumerate(params.filters, start=1):
        x = convolution(x, filters, 5, name=f"conv{block}", normalise=params.batch_normalisation)
        x = layers.MaxPooling2D(2, name=f"pool{block}")(x)
    x = pooled(params.pooling, x)
    for number, units in enumerate(params.dense, start=1):
        x = layers.Dense(units, activation="relu", name=f"dense{number}")(x)
    return keras.Model(inputs, layers.Dense(data.classes, name="logits")(x), name="xcnn")


MODEL = ChapterModel(
    "xcnn",
    Params,
    build,
    "Explainable CNN",
    "four 5x5 convolutions over 100x100 RGB, to look into",
    size=lambda params: (SIDE, SIDE),
)
