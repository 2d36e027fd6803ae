"""The head on a backbone's features: pooling, dense layers, logits; and augmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from chapterflow.models.base import InputSpec, ModelParams
from chapterflow.types import Fraction, PositiveInt, Strict

if TYPE_CHECKING:
    import keras


class Augment(Strict):
    """Random changes to the training images, as in the book; all are off by default.

    Attributes:
        passes: Augmented copies of the training split whose features are cached in addition to the
            unchanged ones; 0 for none.
        rotation: Largest angle in degrees.
        shift: Largest shift, as a fraction of height and width.
        shear: Largest shear, as a fraction.
        zoom: Largest zoom in or out, as a fraction.
        flip: Whether to flip images horizontally at random.
        brightness: Largest change of brightness, as a fraction of the value range.
        contrast: Largest change of contrast, as a fraction.
    """

    passes: Annotated[int, Field(ge=0, le=100)] = 0
    rotation: Annotated[float, Field(ge=0, le=180)] = 0
    shift: Fraction = 0
    shear: Fraction = 0
    zoom: Fraction = 0
    flip: bool = False
    brightness: Fraction = 0
    contrast: Fraction = 0


class HeadParams(ModelParams):
    """The head, and the layers of the backbone that are trained.

    Attributes:
        pooling: Reduction of the maps to one vector: average, maximum, or flattening.
        dense: Width of a hidden layer; 0 for none.
        l2: L2 penalty of the logits' kernel; needed with few examples and many features.
        dropout: Dropout rate of the pooled features.
        trainable: Whether to train the backbone from the first step, without cached features.
        fine_tune: Number of top layers with weights to unfreeze after training the head; 0 for
            none. Batch normalisation stays frozen.
        fine_tune_epochs: Maximum number of passes over the training split for fine-tuning.
        fine_tune_learning_rate: Peak learning rate of fine-tuning; keep it small.
        augment: Random changes to the training images.
    """

    pooling: Literal["avg", "max", "flatten"] = "avg"
    dense: Annotated[int, Field(ge=0)] = 0
    l2: Annotated[float, Field(ge=0, le=10)] = 0.0
    dropout: Fraction = 0.0
    trainable: bool = False
    fine_tune: Annotated[int, Field(ge=0)] = 0
    fine_tune_epochs: PositiveInt = 5
    fine_tune_learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    augment: Augment = Augment()

    def all_epochs(self) -> int:
        """Return the maximum number of epochs for the head and fine-tuning together."""
        return self.epochs + (self.fine_tune_epochs if self.fine_tune else 0)


#: Role of the dataset on which the flow trains its own backbone.
PRETEXT = "pretext"
#: Handles of backbones that the flow exports itself.
EXPORTED = (PRETEXT, "mobilenet")


class HubParams(HeadParams):
    """The SavedModel and its head.

    Attributes:
        pooling: Reduction of the maps to one vector in the exports of `pretext` and `mobilenet`;
            other SavedModels already output a vector.
        handle: Path, `file://` or `http(s)://` address of a TF2 SavedModel or its `.tar.gz`;
            `pretext` and `mobilenet` are backbones that the flow exports itself.
        alpha: Width multiplier of `mobilenet`.
        sha256: Expected hash over the SavedModel's files; null skips the check.
        image_size: Side in pixels to which images are resized if the SavedModel takes any size.
    """

    handle: Annotated[str, Field(min_length=1)]
    alpha: Annotated[float, Field(gt=0, le=2)] = 0.25
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    image_size: PositiveInt = 224


def pooled(pooling: str, maps: Any) -> Any:
    """Reduce feature maps `(batch, h, w, c)` to one vector per image."""
    from keras import layers

    pool = {
        "avg": layers.GlobalAveragePooling2D,
        "max": layers.GlobalMaxPooling2D,
        "flatten": layers.Flatten,
    }[pooling]
    return pool(name="pool")(maps)


def head_layers(params: HeadParams, features: Any, classes: int) -> Any:
    """Return the logits `(batch, classes)` of features `(batch, h, w, c)` or `(batch, c)`."""
    from keras import layers, regularizers

    x = features
    if len(x.shape) > 2:
        x = pooled(params.pooling, x)
    if params.dropout:
        x = layers.Dropout(params.dropout, name="dropout")(x)
    if params.dense:
        x = layers.Dense(params.dense, activation="relu", name="dense")(x)
    shrink = regularizers.L2(params.l2) if params.l2 else None
    return layers.Dense(classes, kernel_regularizer=shrink, name="logits")(x)


def head(params: HeadParams, features: InputSpec) -> keras.Model:
    """Return the head as a separate model: features of the frozen part -> logits."""
    import keras

    inputs = keras.Input(features.shape, name="features")
    return keras.Model(inputs, head_layers(params, inputs, features.classes), name="head")


def augmented(params: Augment, x: Any, value_max: float) -> Any:
    """Return randomly changed images in training, unchanged images in inference."""
    from keras import layers

    fill = {"fill_mode": "nearest"}
    if params.rotation:
        x = layers.RandomRotation(params.rotation / 360, **fill, name="rotate")(x)
    if params.shift:
        x = layers.RandomTranslation(params.shift, params.shift, **fill, name="shift")(x)
    if params.shear:
        x = layers.RandomShear(params.shear, params.shear, **fill, name="shear")(x)
    if params.zoom:
        x = layers.RandomZoom((-params.zoom, params.zoom), **fill, name="zoom")(x)
    if params.flip:
        x = layers.RandomFlip("horizontal", name="flip")(x)
    if params.contrast:
        x = layers.RandomContrast(params.contrast, (0, value_max), name="contrast")(x)
    if params.brightness:
        x = layers.RandomBrightness(params.brightness, (0, value_max), name="brightness")(x)
    return x
