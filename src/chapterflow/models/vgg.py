"""VGG: a deep stack of 3x3 convolutions, in blocks that end in max pooling.

Book: chapter 5, "VGGNet".
Paper: Simonyan & Zisserman, "Very deep convolutional networks for large-scale image recognition",
ICLR (2015), table 1. Its configurations A to E (VGG11 to VGG19; not A-LRN) are built with the
paper's parameter counts. The default, `small`, is the same pattern for images of 8x8 to 32x32. It
has, unlike the paper, batch normalisation (Ioffe & Szegedy 2015), so that a few epochs are enough.
Expected: 0.98 on `digits` in 10 s, 0.994 on `mnist` in two minutes, on two cores.
Command: chapterflow run vgg
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from chapterflow.models.base import ChapterModel, InputSpec, ModelParams
from chapterflow.models.layers.convolution import convolution
from chapterflow.types import Fraction, PositiveInt

if TYPE_CHECKING:
    import keras

Widths = Annotated[list[PositiveInt], Field(max_length=16)]
Blocks = Annotated[list[PositiveInt], Field(min_length=1, max_length=16)]


class Configuration(NamedTuple):
    """A column of the paper's table 1.

    Attributes:
        blocks: Number of convolutions in each block.
        filters: Filters of the convolutions in each block.
        dense: Units of each dense layer before the logits.
        normalise: Whether the convolutions have batch normalisation.
        pointwise: Indices of blocks (from 0) whose last convolution is 1x1 instead of 3x3.
    """

    blocks: list[int]
    filters: list[int]
    dense: list[int]
    normalise: bool = False
    pointwise: tuple[int, ...] = ()


PAPER = ([64, 128, 256, 512, 512], [4096, 4096])
CONFIGURATIONS = {
    "A": Configuration([1, 1, 2, 2, 2], *PAPER),
    "B": Configuration([2, 2, 2, 2, 2], *PAPER),
    "C": Configuration([2, 2, 3, 3, 3], *PAPER, pointwise=(2, 3, 4)),
    "D": Configuration([2, 2, 3, 3, 3], *PAPER),
    "E": Configuration([2, 2, 4, 4, 4], *PAPER),
    "small": Configuration([2, 2, 2], [16, 32, 64], [128], normalise=True),
}


class Params(ModelParams):
    """A configuration, and the values that override it.

    Attributes:
        configuration: Column of the paper's table 1, or `small`.
        blocks: Number of convolutions in each block; null: as in the configuration.
        filters: Filters of the convolutions in each block; null: as in the configuration.
        dense: Units of each dense layer before the logits; null: as in the configuration.
        dropout: Dropout rate of each dense layer.
        batch_normalisation: Whether each convolution has batch normalisation; null: as in the
            configuration.
    """

    configuration: Literal["A", "B", "C", "D", "E", "small"] = "small"
    blocks: Blocks | None = None
    filters: Blocks | None = None
    dense: Widths | None = None
    dropout: Fraction = 0.5
    batch_normalisation: bool | None = None

    @property
    def resolved(self) -> Configuration:
        """The configuration with the overrides applied."""
        own = CONFIGURATIONS[self.configuration]
        normalise = self.batch_normalisation
        return own._replace(
            blocks=self.blocks or own.blocks,
            filters=self.filters or own.filters,
            dense=own.dense if self.dense is None else self.dense,
            normalise=own.normalise if normalise is None else normalise,
        )

    @model_validator(mode="after")
    def _blocks_have_filters(self) -> Params:
        resolved = self.resolved
        if len(resolved.blocks) != len(resolved.filters):
            raise ValueError(
                "blocks and filters must have the same length, with an entry for each block. "
                f"Received: blocks {resolved.blocks}, filters {resolved.filters}"
            )
        return self


def build(params: Params, data: InputSpec) -> keras.Model:
    """Blocks of convolutions and max pooling, then dense layers: `(batch, h, w, c)` -> logits.

    The 2x2 pooling halves each side down to one pixel.
    """
    import keras
    from keras import layers

    configuration = params.resolved
    inputs = keras.Input(data.shape, name="pixels")
    x = layers.Rescaling(1 / data.value_max, name="rescale")(inputs)
    for block, (count, filters) in enumerate(
        zip(configuration.blocks, configuration.filters, strict=True)
    ):
        for number in range(count):
            pointwise = block in configuration.pointwise and number == count - 1
            x = convolution(
                x,
                filters,
                1 if pointwise else 3,
                name=f"conv{block + 1}_{number + 1}",
                normalise=configuration.normalise,
            )
        sides = [2 if side is None else min(2, side) for side in x.shape[1:3]]
        x = layers.MaxPooling2D(sides, name=f"pool{block + 1}")(x)
    x = layers.Flatten(name="flatten")(x)
    for number, units in enumerate(configuration.dense, start=1):
        x = layers.Dense(units, activation="relu", name=f"dense{number}")(x)
        x = layers.Dropout(params.dropout, name=f"dropout{number}")(x)
    return keras.Model(inputs, layers.Dense(data.classes, name="logits")(x), name="vgg")


MODEL = ChapterModel("vgg", Params, build, "VGGNet", "stacked 3x3 convolutions in blocks")
