"""ImageNet weights of `keras.applications`, without the classifier: file names and hashes.

A file of the names that Keras expects lies in `$KERAS_HOME/models` (default `~/.keras/models`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from chapterflow.errors import ConfigError, DataError, FetchError

#: Where Keras fetches them.
UPSTREAM = "https://storage.googleapis.com/tensorflow/keras-applications"
#: Width multipliers of MobileNet that Keras has weights for.
ALPHAS = {0.25: "2_5", 0.5: "5_0", 0.75: "7_5", 1.0: "1_0"}


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights.

    Attributes:
        folder: Folder below `UPSTREAM`, and below `keras-applications` in a mirror.
        md5: Hash that Keras checks; None for MobileNet, for which Keras has none.
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
        ConfigError: If there are none.
    """
    if backbone == "MobileNet":
        if alpha not in ALPHAS:
            raise ConfigError(
                f"ImageNet weights of MobileNet exist for alpha {', '.join(map(str, ALPHAS))}. "
                f"Received: {alpha}. Choose one of them, or weights: none"
            )
        return WeightsFile("mobilenet", f"mobilenet_{ALPHAS[alpha]}_224_tf_no_top.h5", None)
    if backbone not in _STEMS:
        raise ConfigError(
            f"ImageNet weights exist for {', '.join(_STEMS)} and MobileNet. Received: {backbone}. "
            "Choose weights: pretext, none or the path of a file"
        )
    stem = _STEMS[backbone]
    return WeightsFile("resnet" if stem == "resnet50" else stem, stem + _TAIL, _MD5[stem])


def keras_models() -> Path:
    """Return the folder where Keras looks for weights."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    return Path(home).expanduser() / "models"


def download(backbone: str, alpha: float) -> Path:
    """Return the file of ImageNet weights, which Keras fetches where it is missing or damaged.

    Raises:
        FetchError: If it cannot be had.
    """
    import keras

    file = weights_file(backbone, alpha)
    try:
        found = keras.utils.get_file(
            file.name,
            f"{UPSTREAM}/{file.folder}/{file.name}",
            cache_dir=str(keras_models().parent),
            cache_subdir="models",
            file_hash=file.md5,
        )
    except Exception as error:
        raise FetchError(
            f"The ImageNet weights of {backbone} must be at {keras_models() / file.name}, in a "
            f"mirror at keras-applications/{file.folder}/{file.name}, or to be fetched from "
            f"{UPSTREAM}/{file.folder}/. Received: {_first_line(error)}. Put the file there, set "
            "CHAPTERFLOW_MIRROR, or choose other weights"
        ) from error
    return Path(found)


def check_md5(path: Path, file: WeightsFile) -> None:
    """Raise a `DataError` for a file that is not the one that Keras names."""
    import hashlib

    if file.md5 is None:
        return
    with path.open("rb") as opened:
        received = hashlib.file_digest(opened, "md5").hexdigest()
    if received != file.md5:
        raise DataError(
            f"{path} must have the MD5 {file.md5}. Received: {received}. Delete it and run the "
            "command again"
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
