"""What is trained on a backbone's features: pooling, dense layers, logits; and augmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from chapterflow.models.base import InputSpec, ModelParams
from chapterflow.types import Fraction, PositiveInt, Strict

if TYPE_CHECKING:
    import keras


class Augment(Strict):
    """Random changes of the training images, as the book makes them; all are off by default.

    Attributes:
        passes: Augmented copies of the train split whose features are kept beside the plain ones;
            0 for none.
        rotation: Largest angle, degrees.
        shift: Largest shift, as a share of height and width.
        shear: Largest shear, as a share.
        zoom: Largest zoom in or out, as a share.
        flip: Whether left and right are swapped at random.
        brightness: Largest change of brightness, as a share of the value range.
    """

    passes: Annotated[int, Field(ge=0, le=100)] = 0
    rotation: Annotated[float, Field(ge=0, le=180)] = 0
    shift: Fraction = 0
    shear: Fraction = 0
    zoom: Fraction = 0
    flip: bool = False
    brightness: Fraction = 0


class HeadParams(ModelParams):
    """How features become classes, and what is trained.

    Attributes:
        pooling: How maps become one vector: average, maximum, or all of it.
        dense: Width of a hidden layer; 0 for none.
        l2: Weight of the sum of the logits' squared weights in the loss; few examples and many
            features need some.
        dropout: Share of pooled features that a training step leaves out.
        trainable: Train the backbone too, from the first step: no features are kept.
        fine_tune: Top layers with weights that are unfrozen once the head is trained; 0 for none.
            Batch normalisation stays as it was.
        fine_tune_epochs: Passes over the train split for it.
        fine_tune_learning_rate: Its peak learning rate, which must be small.
        augment: Random changes of the training images.
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
        """Return the epochs of the head, and those of fine-tuning where there is some."""
        return self.epochs + (self.fine_tune_epochs if self.fine_tune else 0)


#: Role of the data on which the flow trains a backbone of its own.
PRETEXT = "pretext"
#: Handles that name a backbone which the flow exports itself.
EXPORTED = (PRETEXT, "mobilenet")


class HubParams(HeadParams):
    """Which SavedModel.

    Attributes:
        pooling: How the maps of `pretext` and `mobilenet` become one vector in their export; other
            SavedModels bring a vector.
        handle: Path, `file://` or `http(s)://` address of a TF2 SavedModel or its `.tar.gz`;
            `pretext` and `mobilenet` are backbones that the flow exports itself.
        alpha: Width multiplier of `mobilenet`.
        sha256: Hash over the SavedModel's files that it must have; null takes what is there.
        image_size: Side to which images are resized where the SavedModel takes any size.
    """

    handle: Annotated[str, Field(min_length=1)]
    alpha: Annotated[float, Field(gt=0, le=2)] = 0.25
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    image_size: PositiveInt = 224


def pooled(pooling: str, maps: Any) -> Any:
    """Return one vector for the maps `(batch, h, w, c)` of each image."""
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
    """Return the head as a model of its own: features as the frozen part gives them -> logits."""
    import keras

    inputs = keras.Input(features.shape, name="features")
    return keras.Model(inputs, head_layers(params, inputs, features.classes), name="head")


def augmented(params: Augment, x: Any, value_max: float) -> Any:
    """Return the images at random changed where a model is trained, unchanged where it predicts."""
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
    if params.brightness:
        x = layers.RandomBrightness(params.brightness, (0, value_max), name="brightness")(x)
    return x
