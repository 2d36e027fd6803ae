"""Feature extraction through TensorFlow Hub: any TF2 SavedModel of image features, and a new head.

Book: chapter 5, "TensorFlow Hub".
Paper: Howard et al., "MobileNets: efficient convolutional neural networks for mobile vision
applications", arXiv:1704.04861 (2017).
Expected: as transfer with average pooling: 0.93 on cats and dogs with `handle: mobilenet`.
Command: chapterflow run hub
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chapterflow.models.base import ChapterModel, InputSpec
from chapterflow.models.layers.heads import EXPORTED, PRETEXT, HubParams, head, head_layers

if TYPE_CHECKING:
    import keras


class Params(HubParams):
    """Handle of the SavedModel, and parameters of the head trained on its features."""

    def roles(self) -> tuple[str, ...]:
        """Return the model's role, and the pretext role if the backbone is trained on it."""
        return (self.role, PRETEXT) if self.handle == PRETEXT else (self.role,)

    def files(self) -> tuple[str, ...]:
        """Return the path of the SavedModel if the handle is a path."""
        named = self.handle in EXPORTED or "://" in self.handle
        return () if named else (self.handle,)


def size(params: Params) -> tuple[int, int]:
    """Return the size to which photos are decoded."""
    return (params.image_size, params.image_size)


def frozen(params: Params, data: InputSpec) -> keras.Model | None:
    """Raw pixels `(batch, h, w, c)` -> features of the SavedModel; None if it is trained too."""
    if params.trainable:
        return None
    model = _features(params, data)
    model.trainable = False
    return model


def build(params: Params, data: InputSpec) -> keras.Model:
    """Scale to [0, 1], resize, SavedModel, head: `(batch, h, w, c)` -> logits."""
    import keras

    model = _features(params, data)
    model.trainable = params.trainable
    logits = head_layers(params, model.output, data.classes)
    return keras.Model(model.input, logits, name="hub")


def _features(params: Params, data: InputSpec) -> keras.Model:
    """Apply a SavedModel to RGB values in [0, 1], the convention of TensorFlow Hub for images."""
    import keras
    from keras import layers

    from chapterflow.models.layers.heads import augmented
    from chapterflow.models.layers.preprocessing import BackboneInput
    from chapterflow.models.layers.saved_model import HubLayer

    module = HubLayer.from_handle(params.handle, params.sha256, name="module")
    inputs = keras.Input(data.shape, name="pixels")
    x: Any = inputs
    if params.trainable and params.augment.passes:
        x = augmented(params.augment, x, data.value_max)
    height, width, channels = (size or params.image_size for size in module.takes[1:])
    if (height, width) != tuple(data.shape[:2]):
        x = layers.Resizing(height, width, name="resize")(x)
    if channels == 3 and data.shape[-1] == 1:
        x = layers.Concatenate(name="grey_to_rgb")([x, x, x])
    x = layers.Rescaling(1 / data.value_max, name="rescale")(x)
    x = BackboneInput(params.handle, 0.0, 1.0, name="backbone_input")(x)
    return keras.Model(inputs, module(x), name="hub_features")


MODEL = ChapterModel(
    "hub",
    Params,
    build,
    "TensorFlow Hub",
    "a SavedModel from TensorFlow Hub and a new head on its features",
    size=size,
    frozen=frozen,
    head=head,
)
