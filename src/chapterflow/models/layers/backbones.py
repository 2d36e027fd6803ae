"""Backbones: raw pixels -> spatial feature maps, with each network's own preprocessing inside.

Weights files have the names that Keras expects and are kept in `$KERAS_HOME/models` (default
`~/.keras/models`).

The six networks from `keras.applications` are the ones in the book's table; `small` is a network
for small images, which this project trains itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from chapterflow.errors import ConfigError, DataError, FetchError
from chapterflow.models.base import InputSpec
from chapterflow.types import Strict

if TYPE_CHECKING:
    import keras

#: Address from which Keras downloads weights.
UPSTREAM = "https://storage.googleapis.com/tensorflow/keras-applications"
#: Width multipliers of MobileNet with published weights, and their part of the file name.
ALPHAS = {0.25: "2_5", 0.5: "5_0", 0.75: "7_5", 1.0: "1_0"}


@dataclass(frozen=True)
class WeightsFile:
    """A file of published weights.

    Attributes:
        folder: Folder under `UPSTREAM`, and under `keras-applications` in a mirror.
        name: File name.
        md5: Hash that Keras verifies; None for MobileNet, for which Keras has no hash.
    """

    folder: str
    name: str
    md5: str | None


_TAIL = "_weights_tf_dim_ordering_tf_kernels_notop.h5"
_MD5 = {
    "xception": "b0042744bf5b25fce3cb969f33bebb97",
    "inception_v3": "bcbd6486424b2319ff4ef7d526e38f63",
    "resnet50": "4d473c1dd8becc155b73f8504c6f6626",
    "vgg16": "6d6bbae143d832006294945121d1f1fc",
    "vgg19": "253f8cb515780f3b799900260a226db6",
}
_STEMS = {
    "Xception": "xception",
    "InceptionV3": "inception_v3",
    "ResNet50": "resnet50",
    "VGG16": "vgg16",
    "VGG19": "vgg19",
}


def weights_file(backbone: str, alpha: float) -> WeightsFile:
    """Return the file of a backbone's ImageNet weights.

    Raises:
        ConfigError: If no ImageNet weights are published for the backbone or `alpha`.
    """
    if backbone == "MobileNet":
        if alpha not in ALPHAS:
            raise ConfigError(
                f"ImageNet weights of MobileNet exist for alpha {', '.join(map(str, ALPHAS))}. "
                f"Received: {alpha}. Choose one of these values, or set weights: none"
            )
        return WeightsFile("mobilenet", f"mobilenet_{ALPHAS[alpha]}_224_tf_no_top.h5", None)
    if backbone not in _STEMS:
        raise ConfigError(
            f"ImageNet weights exist for {', '.join(_STEMS)} and MobileNet. Received: {backbone}. "
            "Set weights to pretext, none or the path of a file"
        )
    stem = _STEMS[backbone]
    return WeightsFile("resnet" if stem == "resnet50" else stem, stem + _TAIL, _MD5[stem])


def keras_models() -> Path:
    """Return the folder in which Keras looks for weights."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    return Path(home).expanduser() / "models"


def download(backbone: str, alpha: float) -> Path:
    """Return the file of ImageNet weights; download it if it is missing or damaged.

    Raises:
        FetchError: If the file cannot be downloaded.
    """
    import keras

    file = weights_file(backbone, alpha)
    try:
        path = keras.utils.get_file(
            file.name,
            f"{UPSTREAM}/{file.folder}/{file.name}",
            cache_dir=str(keras_models().parent),
            cache_subdir="models",
            file_hash=file.md5,
        )
    except Exception as error:
        raise FetchError(
            f"Cannot download the ImageNet weights of {backbone} from {UPSTREAM}/{file.folder}/. "
            f"Received: {_first_line(error)}. Save the file as {keras_models() / file.name}, set "
            f"CHAPTERFLOW_MIRROR to a mirror that has keras-applications/{file.folder}/"
            f"{file.name}, or choose other weights"
        ) from error
    return Path(path)


def check_md5(path: Path, file: WeightsFile) -> None:
    """Verify the MD5 of a weights file.

    Raises:
        DataError: If the file does not have the hash that Keras expects.
    """
    import hashlib

    if file.md5 is None:
        return
    with path.open("rb") as stream:
        received = hashlib.file_digest(stream, "md5").hexdigest()
    if received != file.md5:
        raise DataError(
            f"{path} must have the MD5 {file.md5}. Received: {received}. Delete it and run the "
            "command again"
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


BackboneName = Literal[
    "small", "Xception", "InceptionV3", "ResNet50", "VGG16", "VGG19", "MobileNet"
]
#: Mean of the blue, green and red channels over ImageNet.
CAFFE_MEAN = (103.939, 116.779, 123.68)


class BackboneParams(Strict):
    """Backbone, its weights and its preprocessing.

    Attributes:
        backbone: Name of the network.
        alpha: Width multiplier of MobileNet.
        weights: `imagenet`, `pretext` (trained by the flow), `none`, or the path of a
            `.weights.h5`, `.h5` or `.keras` file.
        preprocessing: `own` is the network's; `divide-255` is the book's; `none` passes raw
            values through.
    """

    backbone: BackboneName = "MobileNet"
    alpha: Annotated[float, Field(gt=0, le=2)] = 1.0
    weights: Annotated[str, Field(min_length=1)] = "imagenet"
    preprocessing: Literal["own", "divide-255", "none"] = "own"


@dataclass(frozen=True)
class _Network:
    """A network of `keras.applications`.

    Attributes:
        module: Module in `keras.applications`.
        size: Height and width of its training images.
        low: Smallest value of its preprocessed training images.
        high: Largest value of its preprocessed training images.
    """

    module: str
    size: int
    low: float
    high: float


_CAFFE = (-max(CAFFE_MEAN), 255 - min(CAFFE_MEAN))
_NETWORKS = {
    "Xception": _Network("xception", 299, -1, 1),
    "InceptionV3": _Network("inception_v3", 299, -1, 1),
    "ResNet50": _Network("resnet", 224, *_CAFFE),
    "VGG16": _Network("vgg16", 224, *_CAFFE),
    "VGG19": _Network("vgg19", 224, *_CAFFE),
    "MobileNet": _Network("mobilenet", 224, -1, 1),
}
#: Weights that the flow trains on the dataset of the role of this name.
PRETEXT = "pretext"
#: Values of `weights` that are not paths.
NAMED_WEIGHTS = ("imagenet", PRETEXT, "none")
#: Side in pixels to which `small` resizes images of varying size.
SMALL_SIDE = 32


def image_size(params: BackboneParams) -> tuple[int, int]:
    """Return height and width of the images that a backbone was trained on."""
    network = _NETWORKS.get(params.backbone)
    side = network.size if network else SMALL_SIDE
    return side, side


def backbone(params: BackboneParams, data: InputSpec, inputs: Any = None) -> keras.Model:
    """Return a model: raw pixels `(batch, h, w, c)` -> feature maps `(batch, h', w', filters)`.

    Args:
        data: Description of grey or RGB images; an axis of None accepts any size.
        inputs: Tensor to start from instead of a new input (an augmentation's output, say).

    Raises:
        ConfigError: If the parameters are inconsistent.
        DataError: If the weights do not fit the network, or its preprocessing is wrong.
        FetchError: If the ImageNet weights cannot be downloaded.
    """
    import keras

    start = keras.Input(data.shape, name="pixels") if inputs is None else inputs
    if params.backbone == "small":
        model = keras.Model(_source(start), _small(_prepared(params, data, start)), name="small")
    else:
        network = _NETWORKS[params.backbone]
        build = getattr(keras.applications, params.backbone)
        x = _prepared(params, data, start)
        width = {"alpha": params.alpha} if params.backbone == "MobileNet" else {}
        maps = build(
            include_top=False,
            weights=None,
            input_tensor=x,
            input_shape=(network.size, network.size, 3),
            **width,
        ).output
        model = keras.Model(_source(start), maps, name=params.backbone.lower())
        if params.preprocessing == "own" and inputs is None:
            from chapterflow.models.layers.preprocessing import check_channel_order

            module = getattr(keras.applications, network.module)
            check_channel_order(model, module.preprocess_input, data.value_max)
    _load(model, params)
    return model


def _source(tensor: Any) -> Any:
    import keras

    return keras.utils.get_source_inputs(tensor)[0]


def _prepared(params: BackboneParams, data: InputSpec, x: Any) -> Any:
    """Resize, convert to RGB and preprocess the images for the backbone."""
    from keras import layers

    from chapterflow.models.layers.preprocessing import BackboneInput

    network = _NETWORKS.get(params.backbone)
    side, _ = image_size(params)
    if tuple(data.shape[:2]) != (side, side) and (network or None in data.shape):
        x = layers.Resizing(side, side, name="resize")(x)
    if network and data.shape[-1] == 1:
        x = layers.Concatenate(name="grey_to_rgb")([x, x, x])
    if params.preprocessing == "none":
        pass
    elif params.preprocessing == "divide-255" or network is None:
        x = layers.Rescaling(1 / data.value_max, name="rescale")(x)
    else:
        x = _own(network, data.value_max, x)
    low, high = (network.low, network.high) if network else (0.0, 1.0)
    return BackboneInput(params.backbone, low, high, name="backbone_input")(x)


def _own(network: _Network, value_max: float, x: Any) -> Any:
    """Apply the network's `preprocess_input`, scaled to raw values up to `value_max`."""
    from keras import layers

    from chapterflow.models.layers.preprocessing import ReverseChannels

    if network.low == -1:
        return layers.Rescaling(2 / value_max, -1.0, name="rescale")(x)
    x = ReverseChannels(name="rgb_to_bgr")(x)
    return layers.Rescaling(255 / value_max, [-mean for mean in CAFFE_MEAN], name="rescale")(x)


def _small(x: Any) -> Any:
    """Four 3x3 convolutions with batch normalisation, and one 2x2 max pooling.

    The momentum of the running averages is low because small datasets give few steps.
    """
    from keras import layers

    for number, filters in enumerate((32, 32, 64, 64), start=1):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv{number}")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"norm{number}")(x)
        x = layers.ReLU(name=f"relu{number}")(x)
        if number == 2:
            x = layers.MaxPooling2D(2, name="halve")(x)
    return x


def _load(model: keras.Model, params: BackboneParams) -> None:
    if params.weights == "none":
        return
    if params.weights == "pretext":
        raise ConfigError(
            "weights: pretext must be trained first. Received: a build without trained weights. "
            "Call chapterflow.training.weights.with_files first"
        )
    if params.weights == "imagenet":
        path = download(params.backbone, params.alpha)
    else:
        path = Path(params.weights).expanduser()
    if not path.is_file():
        raise ConfigError(
            "weights must be imagenet, pretext, none, or the path of a file of weights. "
            f"Received: {params.weights}, which does not exist. Correct the path"
        )
    try:
        if path.suffix == ".keras":
            _copy_by_name(path, model)
        else:
            check_without_top(path)
            model.load_weights(path)
    except (ValueError, OSError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        alpha = f" (alpha {params.alpha:g})" if params.backbone == "MobileNet" else ""
        raise DataError(
            f"{path} must hold the weights of {params.backbone}{alpha} without its classifier. "
            f"Received: {reason}. Choose a file of weights for this backbone"
        ) from error


def _copy_by_name(path: Path, model: keras.Model) -> None:
    import keras

    sources = {layer.name: layer for layer in keras.saving.load_model(path, compile=False).layers}
    for layer in model.layers:
        if layer.weights:
            layer.set_weights(sources[layer.name].get_weights())


def check_without_top(path: Path) -> None:
    """Refuse a weights file that includes the network's classifier (`include_top`).

    Raises:
        DataError: If it does; the outputs would be class probabilities, not features.
    """
    import h5py

    with h5py.File(path, "r") as file:
        group = file.get("model_weights", file)
        names: Sequence[Any] = group.attrs.get("layer_names", [*group.get("layers", ())])
    layer_names = {name.decode() if isinstance(name, bytes) else str(name) for name in names}
    if top := layer_names & {"predictions", "conv_preds", "fc1", "fc2", "fc1000"}:
        raise DataError(
            "check_without_top: the weights of a backbone must not include its classifier "
            f"(include_top). Received: {path}, with {', '.join(sorted(top))}. Use the file whose "
            "name ends in notop or no_top"
        )
