"""Has a network learnt anything yet? Its picture would not tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chapterflow.errors import ChapterflowError

if TYPE_CHECKING:
    import keras

#: Layers that an untrained network is told by, beside convolutions: they follow one at once.
NORMALISATION = "BatchNormalization"
#: The layer that holds a whole SavedModel.
SAVED = "HubLayer"
#: Weights of this project's layers that begin at 0.
ZEROS = {"GraphConvolution": ("bias",), "GINConvolution": ("eps",)}


class Untrained(ChapterflowError):
    """A network, or a part of it, has the weights that it was built with."""


def check_trained(model: keras.Model) -> None:
    """Refuse a network whose weights are still those that it was built with.

    A layer counts as trained once one of its weights that begin as a known constant (biases at 0,
    the scales, shifts and running averages of a batch normalisation) has another value: the first
    step of training moves them. A convolution shares what the batch normalisation right behind it
    shows. A layer without such weights is judged by the layers that read it, if they were trained
    with it or frozen with it.

    All convolutions must be trained, because they are what is looked into; where there are none,
    all layers but a SavedModel, which is trained before it is one. So a pretrained backbone passes
    before its head is trained, and a head trained on a random backbone does not. What it cannot
    see: whether a training was long enough, and random convolutions that are frozen before a batch
    normalisation that is not.

    Args:
        model: A functional model, or one loaded from a file.

    Raises:
        Untrained: If a layer is untouched; it names the layers.
    """
    weighted = [one for one in model.layers if one.weights and type(one).__name__ != SAVED]
    looked_into = [layer for layer in weighted if is_convolution(layer)] or weighted
    untouched = [layer.name for layer in looked_into if not _trained(layer)]
    if untouched:
        some = ", ".join(untouched[:5]) + (", ..." if len(untouched) > 5 else "")
        raise Untrained(
            f"check_trained: {model.name} must be trained before it is looked into. Received: "
            f"weights as they were built in {len(untouched)} of {len(looked_into)} layers "
            f"({some}). Train it first, or load trained weights"
        )


def is_convolution(layer: Any) -> bool:
    """Return whether a layer is a convolution over one, two or three axes, of any sort."""
    import keras

    sorts = (
        *(keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D),
        *(keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose),
        *(keras.layers.Conv3DTranspose, keras.layers.DepthwiseConv1D),
        *(keras.layers.DepthwiseConv2D, keras.layers.SeparableConv1D),
        keras.layers.SeparableConv2D,
    )
    return isinstance(layer, sorts)


def _trained(layer: Any) -> bool:
    """Return whether a layer, or what its outputs enter, has left its first values."""
    moved = _moved(layer)
    if moved:
        return True
    readers = _readers(layer)
    if moved is not None:
        return any(_moved(one) for one in readers if type(one).__name__ == NORMALISATION)
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
    """Return whether a weight has left its constant first value; None where none begins so."""
    import keras

    constants = (
        keras.initializers.Zeros,
        keras.initializers.Ones,
        keras.initializers.Constant,
    )
    found = None
    for weight in layer.weights:
        first = getattr(layer, f"{weight.name}_initializer", None)
        if isinstance(first, constants):
            if not np.array_equal(np.asarray(weight), np.asarray(first(weight.shape))):
                return True
            found = False
        elif weight.name in ZEROS.get(type(layer).__name__, ()):
            if np.any(np.asarray(weight)):
                return True
            found = False
    return found


def _readers(layer: Any) -> list[Any]:
    """Return the layers that read the outputs of a layer."""
    return [node.operation for node in layer._outbound_nodes if hasattr(node.operation, "weights")]
