"""Download, training and export of backbone weights before a model is built.

A trained backbone is stored under `<scratch>/backbones/<key>/`, for transfer and hub. An exported
backbone, under `<scratch>/hub/<key>/`, includes preprocessing and pooling: it takes RGB (or grey)
images in [0, 1] of the backbone's size and returns a vector.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from chapterflow.data.fetch import MIRROR, fetch
from chapterflow.errors import ConfigError, DataError, FetchError
from chapterflow.files import is_intact, publish, seal
from chapterflow.kinds.dataset import Dataset, open_dataset
from chapterflow.models.base import ChapterModel, InputSpec, ModelParams
from chapterflow.models.layers.backbones import PRETEXT, BackboneParams, backbone
from chapterflow.models.layers.heads import EXPORTED, HeadParams, HubParams, head_layers, pooled
from chapterflow.training.epochs import check_space_for, train
from chapterflow.training.frozen import code_digest, frozen_key
from chapterflow.training.history import MODEL_FILE
from chapterflow.types import RemoteFile

if TYPE_CHECKING:
    import keras

#: Side of MobileNet's input images, in pixels.
SIDE = 224


def ensure_export(
    params: BackboneParams, data: InputSpec, scratch: Path, *, pooling: str = "avg"
) -> Path:
    """Return the folder of a backbone's export under `<scratch>/hub/`; export it if missing.

    Args:
        params: The backbone, with its weights as a path.
        data: Its input images; a fixed size becomes the size of the export.
        scratch: Folder of the project's scratch.
        pooling: Reduction of the maps to a vector: `avg`, `max` or `flatten`.
    """
    shape = data.shape
    if params.backbone != "small":
        shape = (SIDE, SIDE, 3)
    images = dataclasses.replace(data, shape=shape, value_max=1.0)
    model = feature_vector(params, images, pooling)
    key = hashlib.sha256(frozen_key(model).encode()).hexdigest()[:32]
    folder = scratch / "hub"
    folder.mkdir(parents=True, exist_ok=True)
    target, part = folder / key, folder / f"{key}.part"
    with FileLock(folder / f"{key}.lock"):
        if not is_intact(target):
            shutil.rmtree(part, ignore_errors=True)  # left by a killed process
            export(model, part)
            publish(part, target)
            seal(target)
        os.utime(target)
    return target


def feature_vector(params: BackboneParams, data: InputSpec, pooling: str = "avg") -> keras.Model:
    """Return a model: images `(batch, h, w, c)` -> pooled feature maps `(batch, features)`."""
    import keras

    maps = backbone(params, data)
    return keras.Model(maps.input, pooled(pooling, maps.output), name="feature_vector")


def export(model: keras.Model, folder: Path) -> None:
    """Write a Keras model as a reusable SavedModel, traced for training and for inference.

    Raises:
        DiskFull: If the disk has too little space.
    """
    import tensorflow as tf

    check_space_for(model, folder, "the SavedModel of a backbone")
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


SMALL = BackboneParams(backbone="small", weights="none")
WEIGHTS = "small.weights.h5"
#: Number of rotations and reflections of a square image.
VIEWS = 8
RECIPE = HeadParams(role="pretext", epochs=4, batch_size=64, learning_rate=4e-3, pooling="flatten")
SEED = 5


@dataclass(frozen=True)
class Views(Dataset):
    """Each image in its eight orientations, with the orientation as part of the class.

    Learning orientations too gives more general features than a few classes alone
    (Lee et al., "Self-supervised label augmentation via input transformations", ICML 2020).
    """

    original: Dataset | None = None

    ARRAYS: ClassVar[tuple[str, ...]] = ("labels", "split")

    @property
    def count(self) -> int:
        """Number of images, over all orientations."""
        return len(self.arrays["split"])

    def inputs(self, chosen: NDArray[np.intp]) -> Any:
        """Return float32 images `(batch, h, w, c)`, rotated and mirrored."""
        assert self.original is not None  # noqa: S101
        images, view = np.divmod(chosen, VIEWS)
        out: NDArray[np.float32] = np.array(self.original.inputs(images))
        for number in range(VIEWS):
            here = view == number
            turned = np.rot90(out[here], number % 4, axes=(1, 2))
            out[here] = turned[:, :, ::-1] if number >= 4 else turned
        return out


def views(dataset: Dataset) -> Views:
    """Return the orientations of a dataset of square images."""
    labels = np.repeat(dataset.labels.astype(np.int32), VIEWS) * VIEWS
    arrays = {
        "labels": labels + np.tile(np.arange(VIEWS, dtype=np.int32), dataset.count),
        "split": np.repeat(dataset.split, VIEWS),
    }
    names = [f"{name}/{view}" for name in dataset.card.classes for view in range(VIEWS)]
    card = dataset.card.model_copy(update={"classes": names})
    return Views(card, dataset.folder, arrays, dataset)


def ensure_backbone(dataset: Dataset, scratch: Path) -> Path:
    """Return the weights of `small`, trained on a dataset; train it if they are missing.

    The result is deterministic: the key covers data, recipe, code and libraries. An interrupted
    training resumes from its last epoch; two processes that need the same backbone train it once.

    Args:
        dataset: Square images with classes, of the role `pretext`.
        scratch: Folder of the project's scratch.

    Returns:
        A `.weights.h5` file for `backbone(BackboneParams(backbone="small"))`.
    """
    parts = {
        "data": dataset.card.digest,
        "recipe": RECIPE.model_dump(mode="json"),
        "network": SMALL.model_dump(mode="json"),
        "views": VIEWS,
        "seed": SEED,
        "code": code_digest(dataset.card.kind),
        "libraries": {name: version(name) for name in ("tensorflow", "keras", "numpy")},
    }
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
    folder = scratch / "backbones"
    folder.mkdir(parents=True, exist_ok=True)
    cached, part = folder / key, folder / f"{key}.part"
    with FileLock(folder / f"{key}.lock"):
        if not is_intact(cached):
            entry = ChapterModel("pretext", HeadParams, _build, "Transfer learning", "pretext")
            train(entry, RECIPE, views(dataset), seed=SEED, work=part)
            trained = SMALL.model_copy(update={"weights": str(part / MODEL_FILE)})
            small = backbone(trained, dataset.card.input_spec)
            save_backbone(small, part / "ready" / WEIGHTS)
            publish(part / "ready", cached)
            seal(cached)
            shutil.rmtree(part)
        os.utime(cached)
    return cached / WEIGHTS


def _build(params: HeadParams, data: InputSpec) -> keras.Model:
    import keras

    maps = backbone(SMALL, data)
    return keras.Model(maps.input, head_layers(params, maps.output, data.classes), name="pretext")


def save_backbone(small: keras.Model, path: Path) -> None:
    """Save the weights of a backbone.

    Raises:
        DiskFull: If the disk has too little space.
    """
    check_space_for(small, path.parent, "the backbone small")
    path.parent.mkdir(exist_ok=True)
    small.save_weights(path)


#: Folder under `CHAPTERFLOW_MIRROR`.
MIRROR_FOLDER = "keras-applications"


def with_files(params: ModelParams, dataset: Dataset, scratch: Path) -> ModelParams:
    """Return parameters whose weights or handle are a path; fetch, train or export them if needed.

    Args:
        dataset: Dataset of the model; the pretext dataset is in a sibling folder.
        scratch: Folder of the project's scratch.

    Raises:
        ConfigError: If no such weights exist.
        DataError: If the pretext data or the weights are damaged or missing.
        FetchError: If ImageNet weights cannot be downloaded.
    """
    if isinstance(params, HubParams):
        if params.handle in EXPORTED:
            chosen = (
                BackboneParams(backbone="small", weights=PRETEXT)
                if params.handle == PRETEXT
                else BackboneParams(backbone="MobileNet", alpha=params.alpha)
            )
            return params.model_copy(
                update={"handle": str(exported(params, chosen, dataset, scratch))}
            )
    elif isinstance(params, BackboneParams):
        return params.model_copy(update={"weights": weights_of(params, dataset, scratch)})
    return params


def exported(params: HubParams, chosen: BackboneParams, dataset: Dataset, scratch: Path) -> Path:
    """Return the folder of a backbone's export as a SavedModel."""
    weights = weights_of(chosen, dataset, scratch)
    return ensure_export(
        chosen.model_copy(update={"weights": weights}),
        dataset.card.input_spec,
        scratch,
        pooling=params.pooling,
    )


def weights_of(params: BackboneParams, dataset: Dataset, scratch: Path) -> str:
    """Return the path of a backbone's weights, or `none`."""
    if params.weights == "imagenet":
        return str(imagenet_weights(params.backbone, params.alpha))
    if params.weights == PRETEXT:
        if params.backbone != "small":
            raise ConfigError(
                "weights: pretext exist only for the backbone small. "
                f"Received: {params.backbone}. Choose backbone: small, or other weights"
            )

        return str(ensure_backbone(open_dataset(dataset.folder.parent / PRETEXT), scratch))
    return params.weights


def imagenet_weights(backbone: str, alpha: float) -> Path:
    """Return the file of ImageNet weights from the folder of Keras, or download it.

    A mirror (`CHAPTERFLOW_MIRROR`) replaces the address of Keras.

    Raises:
        ConfigError: If no weights exist for the backbone or `alpha`.
        DataError: If the file is damaged.
        FetchError: If the download fails.
    """
    from chapterflow.models.layers.backbones import check_md5, download, keras_models, weights_file

    file = weights_file(backbone, alpha)
    local = keras_models() / file.name
    if not local.is_file() and os.environ.get(MIRROR):
        try:
            local = fetch(
                RemoteFile(name=file.name),
                mirror_folder=f"{MIRROR_FOLDER}/{file.folder}",
                upstream=(),
                cache=keras_models(),
            )
            check_md5(local, file)
        except DataError:
            local.unlink(missing_ok=True)
            raise
        except FetchError as error:
            # A mirror replaces every upstream address, Keras's too.
            raise FetchError(
                f"{error}\nPut {file.name} there at {MIRROR_FOLDER}/{file.folder}/ or into "
                f"{keras_models()}, unset {MIRROR} to fetch it from Keras's own address, or choose "
                "other weights."
            ) from None
    if local.is_file():
        check_md5(local, file)
        return local
    return download(backbone, alpha)
