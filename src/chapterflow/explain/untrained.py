"""Whether a network has been trained: pictures of an untrained one look just as good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chapterflow.errors import ChapterflowError

if TYPE_CHECKING:
    import keras

#: The layer directly after a convolution whose weights show that both were trained.
NORMALISATION = "BatchNormalization"
#: The layer that holds a whole SavedModel.
SAVED = "HubLayer"
#: Weights of this project's layers that start at 0.
ZEROS = {"GraphConvolution": ("bias",), "GINConvolution": ("eps",)}


class Untrained(ChapterflowError):
    """A network, or a part of it, has its initial weights."""


def check_trained(model: keras.Model) -> None:
    """Refuse a network that has its initial weights.

    A layer counts as trained if one of the weights that start at a known constant (biases at 0; the
    scales, shifts and running averages of a batch normalisation) has another value: the first step
    of training moves them. A convolution is also judged by the batch normalisation directly after
    it. A layer without such weights is judged by the layers that read it, if they were trained, or
    frozen, together with it.

    All convolution layers must be trained, because they are drawn. A network without any needs all
    layers trained, except for a SavedModel, which was trained before it was saved. So a pretrained
    backbone passes before its head is trained, and a head trained on a random backbone does not.
    Two faults go unnoticed: a training that was too short, and random convolutions that are frozen
    before a batch normalisation that is trained.

    Args:
        model: A functional model, or one loaded from a file.

    Raises:
        Untrained: If a layer has its initial weights; the message names the layers.
    """
    weighted = [layer for layer in model.layers if layer.weights and type(layer).__name__ != SAVED]
    required = [layer for layer in weighted if is_convolution(layer)] or weighted
    untrained = [layer.name for layer in required if not _is_trained(layer)]
    if untrained:
        names = ", ".join(untrained[:5]) + (", ..." if len(untrained) > 5 else "")
        raise Untrained(
            f"check_trained: {model.name} must be trained before it is explained. Received: "
            f"initial weights in {len(untrained)} of {len(required)} layers ({names}). Train it "
            "first, or load trained weights"
        )


def is_convolution(layer: Any) -> bool:
    """Return whether a layer is a convolution of any sort, over one, two or three axes."""
    from keras import layers

    return isinstance(
        layer,
        (
            layers.Conv1D,
            layers.Conv2D,
            layers.Conv3D,
            layers.Conv1DTranspose,
            layers.Conv2DTranspose,
            layers.Conv3DTranspose,
            layers.DepthwiseConv1D,
            layers.DepthwiseConv2D,
            layers.SeparableConv1D,
            layers.SeparableConv2D,
        ),
    )


def _is_trained(layer: Any) -> bool:
    """Return whether a layer, or a layer that reads its outputs, has left its initial values."""
    moved = _moved(layer)
    if moved:
        return True
    readers = _readers(layer)
    if moved is not None:
        return any(_moved(reader) for reader in readers if type(reader).__name__ == NORMALISATION)
    seen: set[int] = set()
    while readers:
        reader = readers.pop()
        if id(reader) in seen:
            continue
        seen.add(id(reader))
        moved = _moved(reader)
        if moved is None:
            readers.extend(_readers(reader))
        elif moved and reader.trainable == layer.trainable:
            return True
    return False


def _moved(layer: Any) -> bool | None:
    """Return whether a weight has left its constant initial value; None if no weight has one."""
    import keras

    constants = (
        keras.initializers.Zeros,
        keras.initializers.Ones,
        keras.initializers.Constant,
    )
    moved = None
    for weight in layer.weights:
        initialiser = getattr(layer, f"{weight.name}_initializer", None)
        if isinstance(initialiser, constants):
            if not np.array_equal(np.asarray(weight), np.asarray(initialiser(weight.shape))):
                return True
            moved = False
        elif weight.name in ZEROS.get(type(layer).__name__, ()):
            if np.any(np.asarray(weight)):
                return True
            moved = False
    return moved


def _readers(layer: Any) -> list[Any]:
    """Return the layers that read the outputs of a layer."""
    return [node.operation for node in layer._outbound_nodes if hasattr(node.operation, "weights")]
