"""The one test example that the picture of every run shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chapterflow.data.card import Dataset
from chapterflow.explain.feature_maps import draw_feature_maps, feature_maps, has_feature_maps

if TYPE_CHECKING:
    import keras

FLAT_KINDS = ("images", "photos")


def draw_example(model: keras.Model, dataset: Dataset, title: str, path: Path) -> bool:
    """Draw the feature maps of the first test example of the first class.

    The same example for every model of a dataset, so that pictures can be laid side by side.

    Args:
        model: A trained model.
        dataset: Its dataset, photos at the size that it takes.
        title: Heading.
        path: Image to write.

    Returns:
        Whether there was something to draw: images or photos, and 2D convolutions.

    Raises:
        Untrained: If the convolutions have the weights that they were built with.
    """
    if dataset.card.kind not in FLAT_KINDS or not has_feature_maps(model):
        return False
    test = dataset.indices("test")
    first = test[np.argsort(dataset.labels[test], kind="stable")[:1]]
    image = dataset.inputs(first)
    maps = {name: answer[0] for name, answer in feature_maps(model, image).items()}
    draw_feature_maps(
        image[0],
        maps,
        title,
        path,
        value_max=dataset.card.value_max,
        caption=dataset.card.classes[int(dataset.labels[first[0]])],
    )
    return True
