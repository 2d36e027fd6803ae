"""1D convolution that smooths a curve: residual blocks estimate the noise, which is subtracted.

Book: chapter 5, "1D, 2D and 3D convolution".
Paper: Zhang et al., "Beyond a Gaussian denoiser: residual learning of deep CNN for image
denoising", IEEE Transactions on Image Processing 26 (2017).
Expected: less than half the error of the best Savitzky-Golay filter on `curves` (0.42 of it) in
15 s, on two cores.
Command: chapterflow run conv1d
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chapterflow.models.base import ChapterModel, InputSpec, ModelParams
from chapterflow.types import PositiveInt

if TYPE_CHECKING:
    import keras

#: Deviation, in the unit of the data, below which a curve counts as flat (`own_scale` only).
FLAT = 1e-3


class Params(ModelParams):
    """Width and depth of the network.

    Attributes:
        filters: Channels between the first and the last convolution.
        blocks: Residual blocks; each doubles the dilation, and with it the receptive field.
        kernel: Kernel size in samples.
        own_scale: Whether to normalise each curve by its own mean and deviation instead of the
            largest value of the dataset (Kim et al. 2022, "Reversible instance normalization").
            Use it for series whose windows differ greatly in level or unit.
    """

    filters: PositiveInt = 32
    blocks: PositiveInt = 3
    kernel: PositiveInt = 5
    own_scale: bool = False


def build(params: Params, data: InputSpec) -> keras.Model:
    """Return a model `(batch, length, 1)` -> the smoothed curve, of any length.

    The network estimates the noise, which is subtracted from the input. For a clean curve it only
    has to learn to output 0, not to copy the input (Zhang et al. 2017). `same` padding keeps the
    length.
    """
    import keras
    from keras import layers

    inputs = keras.Input(data.shape, name="curve")
    if params.own_scale:
        mean = layers.GlobalAveragePooling1D(keepdims=True, name="mean")(inputs)
        centred = layers.Subtract(name="centred")([inputs, mean])
        square = layers.Multiply(name="square")([centred, centred])
        power = layers.GlobalAveragePooling1D(keepdims=True, name="power")(square)
        # The constant keeps the scale of a flat curve away from 0.
        scale = keras.ops.sqrt(power + FLAT**2)
        x = keras.ops.divide(centred, scale)
    else:
        x = layers.Rescaling(1 / data.value_max, name="rescale")(inputs)

    def convolution(filters: int, name: str, dilation: int = 1, **options: Any) -> Any:
        return layers.Conv1D(
            filters, params.kernel, padding="same", dilation_rate=dilation, name=name, **options
        )

    x = layers.Activation("relu", name="relu0")(convolution(params.filters, "conv0")(x))
    for block in range(1, params.blocks + 1):
        dilation = 2 ** (block - 1)
        inner = convolution(params.filters, f"block{block}_conv1", dilation)(x)
        inner = layers.Activation("relu", name=f"block{block}_relu1")(inner)
        inner = convolution(params.filters, f"block{block}_conv2")(inner)
        x = layers.Add(name=f"block{block}_add")([x, inner])
        x = layers.Activation("relu", name=f"block{block}_relu2")(x)
    # A zero kernel makes the untrained model the identity, so training starts from the input.
    noise = convolution(1, "noise", kernel_initializer="zeros")(x)
    if params.own_scale:
        noise = layers.Multiply(name="unscale")([noise, scale])
    else:
        noise = layers.Rescaling(data.value_max, name="unscale")(noise)
    return keras.Model(inputs, layers.Subtract(name="smooth")([inputs, noise]), name="conv1d")


MODEL = ChapterModel(
    "conv1d", Params, build, "1D, 2D and 3D convolution", "1D convolution that smooths a curve"
)
