"""Export of a backbone as a reusable TF2 SavedModel, such as TensorFlow Hub gives.

It takes RGB (or grey) images in [0, 1] of the backbone's size and gives one vector: the backbone's
preprocessing and the pooling are part of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from chapterflow.models.parts.backbones import BackboneParams, backbone
from chapterflow.models.parts.base import InputSpec
from chapterflow.models.parts.heads import pooled
from chapterflow.training.features import frozen_key

if TYPE_CHECKING:
    import keras

#: Side of MobileNet's images.
SIDE = 224


def ensure_export(
    params: BackboneParams, data: InputSpec, scratch: Path, *, pooling: str = "avg"
) -> Path:
    """Return the folder of a backbone's export below `<scratch>/hub/`; make it where it is missing.

    Args:
        params: The backbone, its weights given as a path.
        data: Images that it will get. Their size is that of the export, unless it varies.
        scratch: Folder of the project's scratch.
        pooling: How maps become one vector: `avg`, `max` or `flatten`.
    """
    shape = data.shape
    if params.backbone != "small":
        shape = (SIDE, SIDE, 3)
    images = dataclasses.replace(data, shape=shape, value_max=1.0)
    model = feature_vector(params, images, pooling)
    key = hashlib.sha256(frozen_key(model).encode()).hexdigest()[:32]
    folder = scratch / "hub"
    folder.mkdir(parents=True, exist_ok=True)
    kept, part = folder / key, folder / f"{key}.part"
    with FileLock(folder / f"{key}.lock"):
        if not kept.is_dir():
            shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
            export(model, part)
            part.rename(kept)
    return kept


def feature_vector(params: BackboneParams, data: InputSpec, pooling: str = "avg") -> keras.Model:
    """Return images `(batch, h, w, c)` -> pooled feature maps `(batch, features)`."""
    import keras

    maps = backbone(params, data)
    return keras.Model(maps.input, pooled(pooling, maps.output), name="feature_vector")


def export(model: keras.Model, folder: Path) -> None:
    """Write a Keras model as a reusable SavedModel, traced for training and for inference."""
    import tensorflow as tf

    root = tf.train.Checkpoint()
    root.variables = [variable.value for variable in model.variables]
    root.trainable_variables = [variable.value for variable in model.trainable_variables]
    root.regularization_losses = []

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def call(inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        return model(inputs, training=training)

    for training in (True, False):
        call.get_concrete_function(
            tf.TensorSpec(model.input_shape, tf.float32, name="inputs"), training=training
        )
    root.__call__ = call
    tf.saved_model.save(root, str(folder))
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
