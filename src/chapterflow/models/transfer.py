"""Feature extraction: a frozen backbone trained on other images, and a new head.

Book: chapter 5, "Transfer learning".
Paper: Razavian et al., "CNN features off-the-shelf: an astounding baseline for recognition",
CVPR workshops (2014).
Expected: on `photos` (digits 5 to 9, ten labels each) 0.93, where the same net from scratch reaches
0.79 in as many epochs and 0.93 in five times as many; on cats and dogs with MobileNet 0.25 0.926
with average pooling, 0.871 with max pooling, 0.914 with the book's 1/255 scaling; 5 seeds each.
Command: chapterflow run transfer
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chapterflow.models.base import ChapterModel, InputSpec
from chapterflow.models.layers.backbones import (
    NAMED_WEIGHTS,
    PRETEXT,
    BackboneParams,
    backbone,
    image_size,
)
from chapterflow.models.layers.heads import HeadParams, augmented, head, head_layers

if TYPE_CHECKING:
    import keras


class Params(HeadParams, BackboneParams):
    """Backbone and its weights, and parameters of the head trained on its features."""

    def roles(self) -> tuple[str, ...]:
        """Return the model's role, and the pretext role if the backbone is trained on it."""
        return (self.role, PRETEXT) if self.weights == PRETEXT else (self.role,)

    def files(self) -> tuple[str, ...]:
        """Return the weights file if the weights are given by path."""
        return () if self.weights in NAMED_WEIGHTS else (self.weights,)


def size(params: Params) -> tuple[int, int]:
    """Return height and width of the images that the backbone was trained on."""
    return image_size(params)


def frozen(params: Params, data: InputSpec) -> keras.Model | None:
    """Raw pixels `(batch, h, w, c)` -> feature maps; None if the backbone is trained too."""
    if params.trainable:
        return None
    model = backbone(params, data)
    model.trainable = False
    return model


def build(params: Params, data: InputSpec) -> keras.Model:
    """Preprocessing, backbone, pooling and head: `(batch, h, w, c)` -> logits."""
    import keras

    if params.trainable and params.augment.passes:
        inputs = keras.Input(data.shape, name="pixels")
        maps = backbone(params, data, augmented(params.augment, inputs, data.value_max))
    else:
        maps = backbone(params, data)
        maps.trainable = params.trainable
    return keras.Model(maps.input, head_layers(params, maps.output, data.classes), name="transfer")


MODEL = ChapterModel(
    "transfer",
    Params,
    build,
    "Transfer learning",
    "a frozen backbone and a new head on its features",
    size=size,
    frozen=frozen,
    head=head,
)
