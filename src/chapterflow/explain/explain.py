"""Explaining a trained model: on the probes of its dataset, or on one input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.errors import ConfigError
from chapterflow.explain.attributions import (
    STEPS,
    attribute,
    check_method,
    default_baseline,
    default_stride,
    ranking,
    usable_methods,
)
from chapterflow.explain.explanation import Explanation, Picture
from chapterflow.explain.faithfulness import Faithfulness, faithfulness, pixel_score
from chapterflow.explain.feature_maps import architecture, has_feature_maps
from chapterflow.explain.nodes import node_maps, node_probes, node_score, padded
from chapterflow.explain.outputs import (
    default_targets,
    is_classifier,
    outputs,
    probability,
    reactions,
    target_number,
    values_per_input,
)
from chapterflow.explain.pictures import (
    draw_attributions,
    draw_layers,
    draw_nodes,
    draw_reactions,
)
from chapterflow.explain.sanity import NOISE, Judgement, judge
from chapterflow.explain.untrained import Untrained, check_trained
from chapterflow.kinds.dataset import Dataset
from chapterflow.language import message

if TYPE_CHECKING:
    import keras

#: Captions.
ATTRIBUTED = message(
    "One input with the attributions of the model's answers by {methods}. Better than random "
    "orders: {believed}."
)
ATTRIBUTED_ROWS = message(
    "{count} inputs, a row each, with the attributions of the model's answers by {methods}. "
    "Better than random orders: {believed}."
)
WHOLE_GRAPHS = message(
    "{count} graphs, each with its nodes coloured by how much they support the model's answer. "
    "Better than random orders: {believed}."
)
NEIGHBOURS = message(
    "{count} nodes of one graph (black ring), each with its neighbours, coloured by how much they "
    "support the model's answer. Better than random orders: {believed}."
)
#: Values that all layers may compute for one part of an explanation. A large network is explained
#: on fewer probes, so it takes no longer than a small one.
BUDGET = 2e8
#: Sentence on an input unlike the training data.
OUTSIDE = "The input lies outside what the model knows, so the answer may mean nothing: it is {}."
#: Forward passes for each probe: for its maps with deletion and insertion, and for sanity checks.
MAP_PASSES, SANITY_PASSES = 300, 600
#: Fewest and most probes with maps, and fewest and most probes with sanity checks.
MAPPED, CHECKED = (3, 10), (2, 3)
#: Most graphs with maps, and with sanity checks.
MAPPED_GRAPHS, CHECKED_GRAPHS = 4, 2


def probes(dataset: Dataset) -> NDArray[np.intp]:
    """Return the positions of the dataset's probes, `(at most 10,)`.

    A fixed rule chose them when the data were built, so two models are explained with the same
    examples, and nobody selects the best looking ones.
    """
    return np.asarray(dataset.card.probes or dataset.choose_probes(), np.intp)


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

    A model with initial weights is refused, because pictures of it would mislead: the explanation
    then holds the reason and nothing else.

    Args:
        model: Trained. Its weights change during the explanation and are restored.
        dataset: Its dataset, photos at the model's size.
        folder: Folder of the pictures.
        seed: Seed of random orders, random weights and noise.
        title: First words of all headings.
        probabilities: `(n, classes)` of the test split in stored order; None for no reactions.
        tell: Reports progress.
    """
    try:
        check_trained(model)
    except Untrained as error:
        return Explanation(refusal=str(error))
    folder.mkdir(parents=True, exist_ok=True)
    graphs = dataset.kind.look == "graph"
    explanation = (_explain_nodes if graphs else _explain_pixels)(
        model, dataset, folder, seed, title, tell
    )
    details = explanation.details | {"architecture": architecture(model)}
    explanation = explanation.model_copy(update={"details": details})
    classes = dataset.card.classes
    if probabilities is None or not dataset.card.task.classes:
        return explanation
    test = dataset.indices("test")
    examples = reactions(np.asarray(dataset.labels[test]), probabilities, len(classes))
    positions = {
        classes[int(number)]: {sort: test[places].tolist() for sort, places in sorts.items()}
        for number, sorts in examples.items()
    }
    pictures = list(explanation.pictures)
    if not graphs:
        tell("reactions")
        path = folder / "reactions.png"
        heading = f"{title}: what the model reacts to"
        draw_reactions(dataset, examples, probabilities, heading, path)
        pictures.append(
            Picture(
                key="reactions",
                step=0,
                path=path,
                caption=message(
                    "For each class, the test examples that the model is most sure of, least sure "
                    "of, and wrong about with the highest confidence."
                ),
            )
        )
    details = explanation.details | {"reactions": positions}
    return explanation.model_copy(update={"pictures": pictures, "details": details})


def _explain_pixels(
    model: keras.Model,
    dataset: Dataset,
    folder: Path,
    seed: int,
    title: str,
    tell: Callable[[str], None],
) -> Explanation:
    """Explain a model of images, photos, volumes or curves."""
    card = dataset.card
    positions = probes(dataset)
    inputs = np.asarray(dataset.inputs(positions), np.float32)
    names = (
        [card.classes[int(label)] for label in dataset.labels[positions]]
        if card.task.classes
        else [f"curve {position}" for position in positions]
    )
    pictures: list[Picture] = []
    layers: list[dict[str, Any]] = []
    if has_feature_maps(model):
        tell("feature maps")
        pictures, layers = draw_layers(model, inputs, names, folder, title, card.value_max)

    tell("attributions")
    targets, rows = default_targets(model, inputs, card.classes)
    methods = usable_methods(model)
    mapped = inputs[: _affordable(model, MAP_PASSES, *MAPPED)]
    maps = {name: attribute(model, mapped, targets[: len(mapped)], name) for name in methods}
    score = pixel_score(model, mapped, targets[: len(mapped)])
    faithful = faithfulness(score, ranking(model, maps), seed=seed)

    tell("checks of the attributions")
    checked = inputs[: _affordable(model, SANITY_PASSES, *CHECKED)]
    noise = np.random.default_rng([seed, 7]).normal(0, NOISE * card.value_max, checked.shape)
    # Coarser than the maps that are drawn, because many are compared. Noisy inputs share the
    # baseline of the others, so the noise of the baseline is not measured.
    base = default_baseline(checked)
    options: dict[str, dict[str, Any]] = {
        "integrated-gradients": {"steps": STEPS // 2, "baseline": base},
        "occlusion": {"stride": 2 * default_stride(inputs.shape[1:-1]), "baseline": base},
    }

    def make(noisy: bool) -> Mapping[str, NDArray[Any]]:
        values = checked + noise * noisy
        return {
            name: attribute(model, values, targets[: len(values)], name, **options.get(name, {}))
            for name in methods
        }

    where = np.abs(checked - base).max(axis=-1) > 0
    judgements = judge(model, make(False), make, faithful, where=where, seed=seed)
    path = folder / "attributions.png"
    draw_attributions(
        mapped,
        maps,
        f"{title}: what supports the answer",
        path,
        value_max=card.value_max,
        captions=[
            f"{name}\n{_answer(row)}" + ("" if row.get("predicted", name) == name else "\n(wrong)")
            for name, row in zip(names, rows, strict=True)
        ],
        faithful=faithful,
        doubts={name: judgement.doubts for name, judgement in judgements.items()},
        targets=None if card.task.classes else targets,
    )
    caption = (ATTRIBUTED if len(mapped) == 1 else ATTRIBUTED_ROWS).format(
        count=len(mapped), methods=", ".join(maps), believed=_believed(faithful)
    )
    pictures.append(Picture(key="attributions", step=0, path=path, caption=caption))
    rows = [
        {"index": int(position), "name": name, **row}
        for position, name, row in zip(positions, names, rows, strict=True)
    ]
    if card.task.classes:
        rows = [{**row, "class": row["name"]} for row in rows]
    return _explanation(pictures, rows, layers, faithful, judgements)


def _explain_nodes(
    model: keras.Model,
    dataset: Dataset,
    folder: Path,
    seed: int,
    title: str,
    tell: Callable[[str], None],
) -> Explanation:
    """Explain a model of graphs, or of the nodes of one graph."""
    tell("nodes")
    card = dataset.card
    positions = probes(dataset)[:MAPPED_GRAPHS]
    network, graphs = node_probes(model, dataset, positions)
    logits = network.logits([(graph, np.ones((1, len(graph.nodes)), bool)) for graph in graphs])
    predicted = logits.argmax(axis=1)
    confidences, targets = probability(logits, predicted), predicted.tolist()
    maps = node_maps(network, graphs, targets)
    faithful = faithfulness(
        node_score(network, graphs, targets),
        maps,
        seed=seed,
        free=padded([graph.free for graph in graphs]),
    )

    tell("checks of the nodes")
    checked = graphs[:CHECKED_GRAPHS]
    noisy = [graph.with_noise(card.value_max, seed) for graph in checked]
    where = padded([graph.free for graph in checked])
    judgements = judge(
        model,
        {name: values[: len(checked), : where.shape[1]] for name, values in maps.items()},
        lambda noise: node_maps(network, noisy if noise else checked, targets[: len(checked)]),
        faithful,
        where=where,
        seed=seed,
    )
    names = [card.classes[int(label)] for label in dataset.labels[positions]]
    rows = [
        {
            "index": int(position),
            "class": name,
            "predicted": card.classes[target],
            "confidence": float(confidence),
            "most": [
                int(graph.nodes[place]) for place in np.argsort(-values[: len(graph.nodes)])[:5]
            ],
        }
        for position, name, target, confidence, graph, values in zip(
            positions, names, targets, confidences, graphs, maps["node-occlusion"], strict=True
        )
    ]
    path = folder / "nodes.png"
    draw_nodes(
        graphs,
        maps,
        f"{title}: the nodes that support the answer",
        path,
        captions=[
            f"{'graph' if graph.focus is None else 'node'} {row['index']}\n"
            f"true: {row['class']}\n{_answer(row)}"
            for graph, row in zip(graphs, rows, strict=True)
        ],
        faithful=faithful,
        doubts={name: judgement.doubts for name, judgement in judgements.items()},
        seed=seed,
    )
    focused = any(graph.focus is not None for graph in graphs)
    caption = (NEIGHBOURS if focused else WHOLE_GRAPHS).format(
        count=len(graphs), believed=_believed(faithful)
    )
    pictures = [Picture(key="nodes", step=0, path=path, caption=caption)]
    return _explanation(pictures, rows, [], faithful, judgements)


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
    unlike: str = "",
) -> Explanation:
    """Explain a trained model's output for one input.

    Args:
        model: Trained.
        inputs: One input with its batch axis, `(1, *spatial, channels)`, raw values.
        classes: Names of the classes; none for a model of curves.
        value_max: Largest raw value.
        folder: Folder of the pictures.
        methods: Names of attribution methods; all that apply to the model by default.
        layer: For `grad-cam`: the layer whose maps are weighed.
        target: Name or number of the class to explain, or number of the sample of a curve; the
            predicted class or the middle of the curve by default.
        title: First words of all headings.
        seed: Seed of the random orders.
        unlike: What makes the input unlike the training data, for the picture.

    Raises:
        ConfigError: If an option or the shape of the input is wrong.
        Untrained: If the model has initial weights.
    """
    values = np.asarray(inputs, np.float32)
    shape = tuple(model.input.shape) if hasattr(model.input, "shape") else None
    if shape is None or values.ndim != len(shape) or len(values) != 1 or not 3 <= values.ndim <= 5:
        raise ConfigError(
            "The input must be one curve, image or volume with its batch axis, of "
            f"shape {shape}. Received: {values.shape}"
        )
    check_trained(model)
    methods = list(methods or usable_methods(model))
    for name in methods:
        check_method(name)
    targets, rows = default_targets(model, values, classes)
    caption = f"input\n{_answer(rows[0])}"
    if target is not None:
        targets = np.array([target_number(target, classes, outputs(model, values).shape[1])])
        caption += f"\nexplained: {classes[targets[0]] if classes else f'sample {targets[0]}'}"
    folder.mkdir(parents=True, exist_ok=True)
    pictures: list[Picture] = []
    layers: list[dict[str, Any]] = []
    if has_feature_maps(model):
        pictures, layers = draw_layers(
            model, values, ["input"], folder, title, value_max, channels=False
        )
    maps = {
        name: attribute(model, values, targets, name, layer=layer if name == "grad-cam" else None)
        for name in methods
    }
    faithful = faithfulness(pixel_score(model, values, targets), ranking(model, maps), seed=seed)
    path = folder / "attributions.png"
    draw_attributions(
        values,
        maps,
        f"{title}: what supports the answer",
        path,
        value_max=value_max,
        captions=[caption],
        faithful=faithful,
        targets=None if is_classifier(model) else targets,
        warning=OUTSIDE.format(unlike) if unlike else "",
    )
    caption = f"The input with the attributions of the answer by {', '.join(maps)}."
    if unlike:
        caption += f" {OUTSIDE.format(unlike)}"
    pictures.append(Picture(key="attributions", step=0, path=path, caption=caption))
    explanation = _explanation(pictures, rows, layers, faithful)
    details = {**explanation.details, "explained": int(targets[0])}
    return explanation.model_copy(update={"details": details})


def _affordable(model: keras.Model, passes: int, least: int, most: int) -> int:
    """Return the number of probes within the budget, between `least` and `most`."""
    return int(np.clip(BUDGET / (values_per_input(model) * passes), least, most))


def _answer(row: Mapping[str, Any]) -> str:
    """Return what the model outputs for a probe, for a picture."""
    if "value" in row:
        return f"value {row['value']:.3g}\nin the middle"
    return f"model: {row['predicted']}, {row['confidence']:.2f}"


def _believed(faithful: Mapping[str, Faithfulness]) -> str:
    return ", ".join(name for name, measured in faithful.items() if measured.beats_random) or "none"


def _explanation(
    pictures: Sequence[Picture],
    rows: Sequence[Mapping[str, Any]],
    layers: Sequence[Mapping[str, Any]],
    faithful: Mapping[str, Faithfulness],
    judgements: Mapping[str, Judgement] | None = None,
) -> Explanation:
    """Return pictures and measures as an explanation.

    Args:
        pictures: All pictures.
        rows: Name and output of each probe; the first ones have maps.
        layers: Layers with the channels drawn.
        faithful: Deletion and insertion, by method.
        judgements: With the sanity checks; None if there were none.
    """
    measured = judgements or faithful
    details: dict[str, Any] = {
        "probes": [
            {
                **row,
                "maps": {
                    method: result.of_example(number)
                    for method, result in faithful.items()
                    if number < len(result.deletion)
                },
            }
            for number, row in enumerate(rows)
        ],
        "layers": list(layers),
    }
    if judgements:
        details["methods"] = {name: result.details for name, result in judgements.items()}
    return Explanation(
        metrics={
            f"explain/{method}/{measure}": value
            for method, result in measured.items()
            for measure, value in result.metrics.items()
        },
        pictures=list(pictures),
        details=details,
    )
