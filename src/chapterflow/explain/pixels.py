"""The explanation of a model of curves, images, photos or volumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.data.card import Dataset
from chapterflow.explain.answers import answered, ranking, usable_methods
from chapterflow.explain.attributions import (
    STEPS,
    attribute,
    background,
    usual_stride,
    values_of,
)
from chapterflow.explain.explanation import Explanation, Picture
from chapterflow.explain.faithfulness import faithfulness, pixel_score
from chapterflow.explain.feature_maps import has_feature_maps
from chapterflow.explain.inside import look_inside
from chapterflow.explain.judging import NOISE, as_details, as_metrics, judge, with_scores
from chapterflow.explain.overlays import draw_attributions
from chapterflow.explain.probes import probes
from chapterflow.explain.trained import check_trained

if TYPE_CHECKING:
    import keras

#: Values that all layers may compute, together, for the maps of all probes, and for the judgement:
#: a large network is judged on fewer probes, so that it takes no longer than a small one.
BUDGET = 2e8
PASSES, JUDGING_PASSES = 300, 600
JUDGED, RANDOMISED = 10, 3


def explain_pixels(
    model: keras.Model,
    dataset: Dataset,
    folder: Path,
    seed: int,
    title: str,
    tell: Callable[[str], None],
) -> Explanation:
    """Explain what a model says of the probes of its dataset; see `explain`.

    Raises:
        Untrained: If the model has the weights that it was built with.
    """
    check_trained(model)
    card = dataset.card
    chosen = probes(dataset)
    inputs = np.asarray(dataset.inputs(chosen), np.float32)
    classes = card.classes
    names = (
        [classes[int(one)] for one in dataset.labels[chosen]]
        if classes
        else [f"curve {one}" for one in chosen]
    )
    pictures: list[Picture] = []
    layers: list[dict[str, Any]] = []
    if has_feature_maps(model):
        tell("feature maps")
        pictures, layers = look_inside(model, inputs, names, folder, title, card.value_max)
    targets, described = answered(model, inputs, classes)
    methods = usable_methods(model)
    tell("attributions")
    within = _within(model, PASSES, 3, JUDGED)
    maps = {name: attribute(model, inputs[:within], targets[:within], name) for name in methods}
    faithful = faithfulness(
        pixel_score(model, inputs[:within], targets[:within]), ranking(model, maps), seed=seed
    )
    tell("checks of the attributions")
    few = _within(model, JUDGING_PASSES, 2, RANDOMISED)
    noise = np.random.default_rng([seed, 7]).normal(0, NOISE * card.value_max, inputs[:few].shape)

    # Coarser than the maps that are drawn, since there are many to compare. The background is the
    # same with noise as without, or the map of the noise would be compared.
    base = background(inputs[:few])
    checked: dict[str, dict[str, Any]] = {
        "integrated-gradients": {"steps": STEPS // 2, "baseline": base},
        "occlusion": {"stride": 2 * usual_stride(inputs.shape[1:-1]), "baseline": base},
    }

    def make(noisy: bool) -> Mapping[str, NDArray[Any]]:
        given = inputs[:few] + noise * noisy
        return {
            name: attribute(model, given, targets[:few], name, **checked.get(name, {}))
            for name in methods
        }

    where = np.abs(inputs[:few] - base).max(axis=-1) > 0
    judged = judge(model, make, faithful, where=where, seed=seed)
    path = folder / "attributions.png"
    said = described["text"]
    draw_attributions(
        inputs[:within],
        maps,
        f"{title}: what speaks for the answer",
        path,
        value_max=card.value_max,
        captions=[
            f"{name}\n{text}" + ("" if row.get("predicted", name) == name else "\n(wrong)")
            for name, text, row in zip(names, said, described["rows"], strict=True)
        ],
        faithful=faithful,
        doubts={name: one.doubts for name, one in judged.items()},
        marks=None if classes else targets,
    )
    believed = [name for name, one in faithful.items() if one.beats_random]
    pictures.append(
        Picture(
            key="attributions",
            step=0,
            path=path,
            caption=f"{within} inputs, and over each what speaks for the model's answer by "
            f"{', '.join(maps)}; better than random orders: {', '.join(believed) or 'none'}.",
        )
    )
    rows = [
        {"index": int(index), "name": name, **row}
        for index, name, row in zip(chosen, names, described["rows"], strict=True)
    ]
    if classes:
        rows = [{**row, "class": classes[int(dataset.labels[row["index"]])]} for row in rows]
    return Explanation(
        metrics=as_metrics(judged),
        pictures=pictures,
        details={
            "probes": with_scores(rows, faithful),
            "layers": layers,
            "methods": as_details(judged),
        },
    )


def _within(model: keras.Model, passes: int, least: int, most: int) -> int:
    """Return how many probes the budget allows, between `least` and `most`."""
    return int(np.clip(BUDGET / (values_of(model) * passes), least, most))
