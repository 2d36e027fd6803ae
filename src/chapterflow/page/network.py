"""A saved Keras model as data that the playground's script computes: its layers and weights."""

from __future__ import annotations

import base64
import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.errors import ChapterflowError

#: Layers that the page computes, each with the settings of its config that the page reads.
LAYERS: Mapping[str, tuple[str, ...]] = {
    "InputLayer": (),
    "Rescaling": ("scale", "offset"),
    "Resizing": ("height", "width"),
    "ZeroPadding2D": ("padding",),
    "Flatten": (),
    "Dense": ("activation",),
    "Conv2D": ("kernel_size", "strides", "padding", "dilation_rate", "activation"),
    "DepthwiseConv2D": ("kernel_size", "strides", "padding", "dilation_rate", "activation"),
    "SeparableConv2D": ("kernel_size", "strides", "padding", "dilation_rate", "activation"),
    "MaxPooling2D": ("pool_size", "strides", "padding"),
    "AveragePooling2D": ("pool_size", "strides", "padding"),
    "GlobalAveragePooling2D": (),
    "GlobalMaxPooling2D": (),
    "BatchNormalization": (),
    "Activation": ("activation",),
    "ReLU": ("max_value",),
    "Softmax": (),
    "Concatenate": (),
    "Add": (),
    "RowNormalization": (),
    "GraphConvolution": ("activation", "neighbours"),
}
#: Layers that return their input when a model answers.
IDENTITIES = (
    "Dropout", "SpatialDropout2D", "GaussianNoise", "FeatureDropout", "BackboneInput",
    "RandomRotation", "RandomTranslation", "RandomShear", "RandomZoom", "RandomFlip",
    "RandomBrightness",
)  # fmt: skip
#: Settings that the page computes for these values only; a setting may be absent.
FIXED: Mapping[str, tuple[Any, ...]] = {
    "data_format": ("channels_last", None),
    "groups": (1,),
    "depth_multiplier": (1,),
    "keepdims": (False,),
    "axis": (-1, 3, [-1], [3]),
    "negative_slope": (0, 0.0, None),
    "threshold": (0, 0.0, None),
    "interpolation": ("bilinear",),
    "crop_to_aspect_ratio": (False,),
    "pad_to_aspect_ratio": (False,),
    "antialias": (False,),
}
ACTIVATIONS = ("linear", "relu", "tanh", "sigmoid", "softmax")
#: Where Keras saves its own layers, and this project its own.
MODULES = ("keras", "chapterflow.models.layers")


class Unsupported(ChapterflowError):
    """The page cannot compute a model; the message says why, and completes "It is left out: "."""


@dataclass(frozen=True)
class Network:
    """Layers of a model in the order of their computation, and all weights, one after the other.

    Attributes:
        layers: `name`, `type` (Keras class, or `Identity`), `inputs` (names), `settings`, and
            `weights`, the shapes of its weights.
        output: Name of the layer whose output is the model's.
        weights: float32 `(parameters,)`.
    """

    layers: Sequence[Mapping[str, Any]]
    output: str
    weights: NDArray[np.float32]

    def document(self, planes: int) -> dict[str, Any]:
        """Return what the page's script reads (`readNetwork` in `layers.js`).

        Args:
            planes: Bytes that are kept of each weight, 4 or 3; 3 round to 16 binary digits, a
                relative error of at most 2^-16.
        """
        return {
            "layers": self.layers,
            "output": self.output,
            "planes": planes,
            "weights": packed(self.weights, planes),
        }


def packed(values: NDArray[np.float32], planes: int) -> str:
    """Return floats as base64 of a zlib stream: their highest bytes, then the next ones, and so on.

    Bytes of equal significance compress better next to each other: exponents hardly vary.
    """
    bits = values.astype("<f4").view("<u4").astype(np.uint64)
    dropped = 8 * (4 - planes)
    if dropped:  # Round to nearest; the sum may carry into the exponent, as it should.
        half = np.uint64(1 << (dropped - 1))
        bits = (bits + half) & ~np.uint64((1 << dropped) - 1)
    columns = [(bits >> np.uint64(8 * (3 - plane))).astype(np.uint8) for plane in range(planes)]
    raw = np.concatenate(columns).tobytes()
    return base64.b64encode(zlib.compress(raw, 9)).decode()


def read_network(path: Path) -> Network:
    """Read a `.keras` file without TensorFlow, whose import takes longer than all the rest.

    Raises:
        Unsupported: If the page cannot compute a layer.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
            stored = _weights(archive.read("model.weights.h5"))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise Unsupported(f"its file cannot be read ({error})") from None
    if config.get("class_name") not in ("Functional", "Sequential"):
        raise Unsupported(f"it is a {config.get('class_name')}, not a Functional or Sequential")
    layers, weights = [], []
    previous: list[str] = []
    for layer in config["config"]["layers"]:
        name, settings = layer["config"]["name"], layer["config"]
        kind = _kind(layer, name)
        if config["class_name"] == "Sequential":
            inputs = previous
        else:
            nodes = layer["inbound_nodes"]
            if len(nodes) > 1:
                raise Unsupported(f"its layer {name} is used {len(nodes)} times")
            inputs = list(_tensors(nodes))
        own = stored.get(name, [])
        if kind == "BatchNormalization":
            own = _affine(settings, own)
        layers.append(
            {
                "name": name,
                "type": kind,
                "inputs": inputs,
                "settings": {key: settings.get(key) for key in LAYERS.get(kind, ())},
                "weights": [list(array.shape) for array in own],
            }
        )
        if kind == "InputLayer":
            layers[-1]["settings"] = {"shape": settings["batch_shape"][1:]}
        weights += [np.asarray(array, np.float32).ravel() for array in own]
        previous = [name]
    output = config["config"].get("output_layers", previous)
    while isinstance(output, list):
        output = output[0]
    return Network(layers, output, np.concatenate(weights or [np.empty(0, np.float32)]))


def _kind(layer: Mapping[str, Any], name: str) -> str:
    """Return the type of a layer that the page can compute."""
    kind, settings = layer["class_name"], layer["config"]
    known = kind in LAYERS or kind in IDENTITIES
    if not known or not str(layer.get("module", "")).startswith(MODULES):
        raise Unsupported(f"the page does not compute its layer {name} ({kind})")
    dtype = settings.get("dtype")
    if isinstance(dtype, Mapping):
        dtype = dtype["config"]["name"]
    if kind in IDENTITIES:
        return "Identity"
    if kind != "InputLayer" and dtype not in (None, "float32"):
        raise Unsupported(f"its layer {name} computes in {dtype}, the page in float32")
    for key, values in FIXED.items():
        if key in settings and settings[key] not in values:
            raise Unsupported(f"the page does not compute {key}={settings[key]} ({name})")
    activation = settings.get("activation", "linear")
    if activation not in ACTIVATIONS:
        raise Unsupported(f"the page does not compute the activation {activation} ({name})")
    return str(kind)


def _tensors(node: Any) -> Iterator[str]:
    """Yield the names of the layers whose outputs a node reads."""
    if isinstance(node, list):
        for item in node:
            yield from _tensors(item)
    elif isinstance(node, Mapping):
        if node.get("class_name") == "__keras_tensor__":
            yield node["config"]["keras_history"][0]
        else:
            for item in node.values():
                yield from _tensors(item)


def _weights(content: bytes) -> dict[str, list[NDArray[Any]]]:
    """Return the weights of each layer by its name, in the order in which Keras saves them."""
    import h5py

    arrays: dict[str, list[NDArray[Any]]] = {}

    def visit(path: str, item: Any) -> None:
        # Groups are named after classes (`dense_1`); the attribute has the layer's own name.
        if path.startswith("layers/") and path.endswith("/vars") and "name" in item.attrs:
            numbered = sorted(item, key=int)
            arrays[str(item.attrs["name"])] = [np.asarray(item[number]) for number in numbered]

    with h5py.File(io.BytesIO(content), "r") as file:
        file.visititems(visit)
    return arrays


def _affine(
    settings: Mapping[str, Any], weights: Sequence[NDArray[Any]]
) -> list[NDArray[np.float32]]:
    """Return factor and summand of each channel: what batch normalisation does to new inputs."""
    *learnt, mean, variance = (np.asarray(array, np.float64) for array in weights)
    gamma = learnt.pop(0) if settings["scale"] else np.ones_like(mean)
    beta = learnt.pop(0) if settings["center"] else np.zeros_like(mean)
    factor = gamma / np.sqrt(variance + settings["epsilon"])
    return [factor.astype(np.float32), (beta - mean * factor).astype(np.float32)]
