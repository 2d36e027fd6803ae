"""The examples that are explained: the same for every model of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.errors import ConfigError, nearest
from chapterflow.explain.attributions import (
    METHODS,
    STEPS,
    answers,
    attribute,
    background,
    usual_stride,
    values_of,
)
from chapterflow.explain.explanation import Explanation, Picture, probes
from chapterflow.explain.faithfulness import (
    NOISE,
    as_details,
    as_metrics,
    faithful_metrics,
    faithfulness,
    is_classifier,
    judge,
    pixel_score,
    with_scores,
)
from chapterflow.explain.feature_maps import has_feature_maps, look_inside
from chapterflow.explain.nodes import explain_nodes
from chapterflow.explain.overlays import (
    answered,
    draw_attributions,
    ranking,
    target_number,
    usable_methods,
)
from chapterflow.explain.reactions import draw_reactions, reactions
from chapterflow.explain.untrained import check_trained
from chapterflow.kinds.dataset import Dataset

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


def explain_input(
    model: keras.Model,
    inputs: NDArray[Any],
    classes: Sequence[str],
    value_max: float,
    folder: Path,
    *,
    methods: Sequence[str] | None = None,
    layer: str | None = None,
    target: int | str | None = None,
    title: str = "",
    seed: int = 0,
) -> Explanation:
    """Explain a trained model's answer for one input.

    Args:
        model: Trained.
        inputs: One input as the model takes it, `(1, *spatial, channels)`, raw values.
        classes: Names of the classes; none for a model of curves.
        value_max: Largest raw value.
        folder: Where the pictures go.
        methods: Of `METHODS`; all that the model allows unless given.
        layer: For `grad-cam`: whose maps are weighed.
        target: Name or number of the class to explain (of a curve: the sample); the one that the
            model says unless given.
        title: What all headings begin with.
        seed: Of the random orders.

    Raises:
        ConfigError: If an option or the form of the input is wrong.
        Untrained: If the model has the weights that it was built with.
    """
    given = np.asarray(inputs, np.float32)
    wanted = tuple(model.input.shape) if hasattr(model.input, "shape") else None
    if wanted is None or given.ndim != len(wanted) or len(given) != 1 or not 3 <= given.ndim <= 5:
        raise ConfigError(
            "explain_input: one curve, image or volume with its batch axis is explained, of the "
            f"form {wanted}. Received: {given.shape}"
        )
    check_trained(model)
    folder.mkdir(parents=True, exist_ok=True)
    methods = list(methods or usable_methods(model))
    for name in methods:
        if name not in METHODS:
            raise ConfigError(
                f"method must be one of {', '.join(METHODS)}.{nearest(name, METHODS)} "
                f"Received: {name!r}"
            )
    targets, described = answered(model, given, classes)
    if target is not None:
        targets = np.array([target_number(target, classes, answers(model, given).shape[1])])
    pictures: list[Picture] = []
    layers: list[dict[str, Any]] = []
    if has_feature_maps(model):
        pictures, layers = look_inside(
            model, given, ["input"], folder, title, value_max, channels=False
        )
    maps = {
        name: attribute(model, given, targets, name, layer=layer if name == "grad-cam" else None)
        for name in methods
    }
    faithful = faithfulness(pixel_score(model, given, targets), ranking(model, maps), seed=seed)
    path = folder / "attributions.png"
    text = described["text"][0]
    if target is not None:
        explained = classes[int(targets[0])] if classes else f"sample {targets[0]}"
        text += f"\nexplained: {explained}"
    draw_attributions(
        given,
        maps,
        f"{title}: what speaks for the answer",
        path,
        value_max=value_max,
        captions=[f"input\n{text}"],
        faithful=faithful,
        marks=None if is_classifier(model) else targets,
    )
    pictures.append(
        Picture(
            key="attributions",
            step=0,
            path=path,
            caption=f"The input, and over it what speaks for the answer by {', '.join(maps)}.",
        )
    )
    return Explanation(
        metrics={
            f"explain/{name}/{measure}": value
            for name, one in faithful.items()
            for measure, value in faithful_metrics(one).items()
        },
        pictures=pictures,
        details={
            "probes": with_scores(described["rows"], faithful),
            "explained": int(targets[0]),
            "layers": layers,
        },
    )


def explain(
    model: keras.Model,
    dataset: Dataset,
    folder: Path,
    *,
    seed: int,
    title: str,
    probabilities: NDArray[Any] | None = None,
    tell: Callable[[str], None] = lambda detail: None,
) -> Explanation:
    """Explain a trained model on the probes of its dataset.

    Args:
        model: Trained; its weights are changed for a while, and are as they were afterwards.
        dataset: Its dataset, photos at the size that it takes.
        folder: Where the pictures go.
        seed: Of random orders, random weights and noise.
        title: What all headings begin with.
        probabilities: `(n, classes)` of the test split in stored order; None draws no reactions.
        tell: Is told what is being done.

    Raises:
        Untrained: If the model has the weights that it was built with; it names the layers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if dataset.kind.look == "graph":
        found = explain_nodes(model, dataset, folder, seed=seed, title=title, tell=tell)
    else:
        found = explain_pixels(model, dataset, folder, seed, title, tell)
    if probabilities is None or not dataset.card.task.classes:
        return found
    labels = np.asarray(dataset.labels[dataset.indices("test")])
    sorts = reactions(labels, probabilities, len(dataset.card.classes))
    test = dataset.indices("test")
    details = found.details | {
        "reactions": {
            dataset.card.classes[int(number)]: {
                sort: [int(test[one]) for one in several] for sort, several in own.items()
            }
            for number, own in sorts.items()
        }
    }
    pictures = list(found.pictures)
    if dataset.kind.look != "graph":
        tell("reactions")
        path = folder / "reactions.png"
        draw_reactions(dataset, sorts, probabilities, f"{title}: what the model reacts to", path)
        pictures.append(
            Picture(
                key="reactions",
                step=0,
                path=path,
                caption="For each class the test examples that the model is surest of, least sure "
                "of, and wrong about with most confidence.",
            )
        )
    return Explanation(metrics=found.metrics, pictures=pictures, details=details)
