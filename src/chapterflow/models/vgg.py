"""VGG: depth from nothing but 3x3 convolutions, in blocks that end in a pooling.

Book: chapter 5, "VGGNet".
Paper: Simonyan & Zisserman, "Very deep convolutional networks for large-scale image recognition",
ICLR (2015), table 1. Its configurations A to E (VGG11 to VGG19; not A-LRN) are built with the
paper's parameter counts. The default, `small`, is the same pattern for images of 8x8 to 32x32. It
has batch normalisation (Ioffe & Szegedy 2015), which the paper does not: a few epochs are enough.
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
    """One column of the paper's table 1.

    Attributes:
        blocks: Convolutions of each block.
        filters: Filters of each block's convolutions.
        dense: Units of the dense layers before the classes.
        normalise: Whether the convolutions have batch normalisation.
        pointwise: Blocks, from 0, whose last convolution is 1x1 instead of 3x3.
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
    """A configuration, and what differs from it.

    Attributes:
        configuration: Column of the paper's table 1, or `small`.
        blocks: Convolutions of each block; null for the configuration's.
        filters: Filters of each block's convolutions; null for the configuration's.
        dense: Units of the dense layers before the classes; null for the configuration's.
        dropout: Share of the units of each dense layer that dropout silences in training.
        batch_normalisation: Whether each convolution has it; null for the configuration's.
    """

    configuration: Literal["A", "B", "C", "D", "E", "small"] = "small"
    blocks: Blocks | None = None
    filters: Blocks | None = None
    dense: Widths | None = None
    dropout: Fraction = 0.5
    batch_normalisation: bool | None = None

    @property
    def resolved(self) -> Configuration:
        """The configuration, with what differs from it."""
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
        chosen = self.resolved
        if len(chosen.blocks) != len(chosen.filters):
            raise ValueError(
                "blocks and filters must be equally long, one entry for each block. "
                f"Received: blocks {chosen.blocks}, filters {chosen.filters}"
            )
        return self


def build(params: Params, data: InputSpec) -> keras.Model:
    """Blocks of convolutions and a pooling, then dense layers: `(batch, h, w, c)` -> logits.

    The 2x2 pooling halves each side as long as there is something to halve: one pixel stays one.
    """
    import keras
    from keras import layers

    chosen = params.resolved
    inputs = keras.Input(data.shape, name="pixels")
    x = layers.Rescaling(1 / data.value_max, name="rescale")(inputs)
    for block, (count, filters) in enumerate(zip(chosen.blocks, chosen.filters, strict=True)):
        for number in range(count):
            pointwise = block in chosen.pointwise and number == count - 1
            x = convolution(
                x,
                filters,
                1 if pointwise else 3,
                name=f"conv{block + 1}_{number + 1}",
                normalise=chosen.normalise,
            )
        sides = [2 if side is None else min(2, side) for side in x.shape[1:3]]
        x = layers.MaxPooling2D(sides, name=f"pool{block + 1}")(x)
    x = layers.Flatten(name="flatten")(x)
    for number, units in enumerate(chosen.dense, start=1):
        x = layers.Dense(units, activation="relu", name=f"dense{number}")(x)
        x = layers.Dropout(params.dropout, name=f"dropout{number}")(x)
    return keras.Model(inputs, layers.Dense(data.classes, name="logits")(x), name="vgg")


MODEL = ChapterModel("vgg", Params, build, "VGGNet", "stacked 3x3 convolutions in blocks")
