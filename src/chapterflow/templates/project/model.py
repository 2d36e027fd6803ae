"""A small residual network (He et al. 2016): an example to replace."""

from typing import Any

from chapterflow.models.base import ChapterModel, InputSpec, ModelParams


class Params(ModelParams):
    """Keys of the block in `params.yaml`, in addition to those that all models share."""

    filters: int = 32


def build(params: Params, data: InputSpec) -> Any:
    """Return the Keras model: raw values in, logits out."""
    import keras  # Imported here, so commands that build no model start quickly.
    from keras import layers

    inputs = keras.Input(data.shape)
    x = layers.Rescaling(1 / data.value_max)(inputs)
    x = layers.Conv2D(params.filters, 3, padding="same", activation="relu")(x)
    y = layers.Conv2D(params.filters, 3, padding="same", activation="relu")(x)
    y = layers.Conv2D(params.filters, 3, padding="same")(y)
    x = layers.MaxPooling2D()(layers.ReLU()(layers.Add()([x, y])))
    return keras.Model(inputs, layers.Dense(data.classes)(layers.Flatten()(x)))


MODEL = ChapterModel("residual", Params, build, summary="a small residual network")
