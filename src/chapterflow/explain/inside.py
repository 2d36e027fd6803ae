"""Pictures from within a network: the walk, each layer, the first kernels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from chapterflow.explain.explanation import Picture
from chapterflow.explain.feature_maps import (
    draw_feature_maps,
    draw_layer,
    feature_maps,
    mapped_layers,
    sides,
    spread,
)
from chapterflow.explain.kernels import draw_kernels, first_kernels

if TYPE_CHECKING:
    import keras


def look_inside(
    model: keras.Model,
    inputs: NDArray[Any],
    names: Sequence[str],
    folder: Path,
    title: str,
    value_max: float,
    *,
    channels: bool = True,
) -> tuple[list[Picture], list[dict[str, Any]]]:
    """Draw the walk of the first input, each layer for all inputs, and the first kernels.

    Args:
        model: A trained model with convolutions.
        inputs: Raw values `(n, *spatial, channels)`.
        names: What each input is.
        folder: Where the PNGs go.
        title: What all headings begin with.
        value_max: Largest raw value.
        channels: Whether to draw a picture for each layer.

    Returns:
        The pictures, and of each layer its name, kind, output shape and the channels shown.

    Raises:
        Untrained: If its convolutions have the weights that they were built with.
    """
    maps = feature_maps(model, inputs)
    kinds = {layer.name: type(layer).__name__ for layer in mapped_layers(model)}
    steps = {name: step for step, name in enumerate(maps)}
    path = folder / "walk.png"
    draw_feature_maps(
        inputs[0],
        {name: found[0] for name, found in maps.items()},
        f"{title}: {names[0]} on its way through the layers",
        path,
        value_max=value_max,
        caption=names[0],
    )
    last = next(reversed(maps.values())).shape[1:]
    pictures = [
        Picture(
            key="walk",
            step=0,
            path=path,
            caption=f"One input, {names[0]}, through {len(maps)} convolutions and poolings, from "
            f"{sides(inputs.shape[1:])} to {sides(last)}: the maps that answer most.",
        )
    ]
    details: list[dict[str, Any]] = []
    drawn = spread([*maps]) if channels else []
    for name, found in maps.items():
        shape = sides(found.shape[1:])
        detail = {"name": name, "kind": kinds[name], "output_shape": list(found.shape[1:])}
        if name in drawn:
            path = folder / f"feature_maps_{steps[name]:02d}_{name}.png"
            shown = draw_layer(
                inputs,
                found,
                f"{title}: feature maps of {name} ({kinds[name]}, {shape})",
                path,
                value_max=value_max,
                captions=names,
            )
            detail["channels"] = shown
            pictures.append(
                Picture(
                    key="feature_maps",
                    step=steps[name],
                    path=path,
                    caption=f"Layer {name} ({kinds[name]}, {shape}): the channels "
                    f"{', '.join(map(str, shown))} for {len(inputs)} inputs.",
                )
            )
        details.append(detail)
    if channels and (found_kernels := first_kernels(model)):
        name, kernels = found_kernels
        path = folder / "kernels.png"
        count = draw_kernels(name, kernels, f"{title}: kernels of the first convolution", path)
        pictures.append(
            Picture(
                key="kernels",
                step=0,
                path=path,
                caption=f"{count} of {kernels.shape[-1]} kernels of {name}, each "
                f"{sides(kernels.shape[:-1])}.",
            )
        )
    return pictures, details
