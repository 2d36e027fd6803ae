"""The section of one model: how it learned, where it errs, what it looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from chapterflow.checks import Check
from chapterflow.explain.sanity import verdicts
from chapterflow.kinds.dataset import get_kind, shape_text
from chapterflow.language import message, recorded, tr, trn
from chapterflow.page.material import SCORE_NAMES, Entry
from chapterflow.page.parts import (
    Album,
    Cell,
    Picture,
    Table,
    answer_cell,
    between,
    example_images,
    number,
)
from chapterflow.page.plots import calibration, curve, learning_curve
from chapterflow.page.svg import Drawing, Pen
from chapterflow.tracking.records import over_folds

#: With more classes, the page lists the largest confusions instead of the whole matrix.
MATRIX_CLASSES = 12
CONFUSIONS = 8
#: Layers whose feature maps are shown, from the first to the last.
LAYERS = 4
#: Hardest examples: pictures, rows of a table, and curves.
TILES, ROWS, CURVES = 12, 8, 3
#: Columns of the verdicts on attribution methods.
ATTRIBUTIONS = message({
    "name": "Method",
    "observed": "Deletion AUC",
    "expected": "Random order",
    "insertion": "Insertion AUC",
    "similarity": "Similarity with random weights",
    "stability": "Stability under noise",
})  # fmt: skip
#: Headings of the explanation's pictures, in the order of the page.
INSIDE = message({
    "walk": "A walk through the feature maps",
    "feature_maps": "Feature maps",
    "attributions": "Attributions",
    "kernels": "Kernels",
    "reactions": "What the model reacts to",
    "nodes": "Nodes",
})  # fmt: skip


@dataclass(frozen=True)
class Hardest:
    """The hardest test examples of a model.

    Attributes:
        lead: What they are.
        tiles: Their pictures, if they can be seen.
        table: Their numbers, if there are no pictures.
        drawings: Curves with the model's answers.
        missing: Why there are no pictures; empty if there are, or cannot be.
    """

    lead: str
    tiles: list[Picture] = field(default_factory=list)
    table: Table | None = None
    drawings: list[Drawing] = field(default_factory=list)
    missing: str = ""


#: Layers that the strip leaves out: they have no weights and keep the shape.
PASSING = ("Dropout", "SpatialDropout2D", "Activation", "Rescaling", "BatchNormalization",
           "ReLU", "Lambda", "FeatureDropout", "ActivityRegularization")  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """One layer of the strip.

    Attributes:
        kind: Class of the layer.
        name: Name of the layer.
        shape: Shape of its output, as text.
        parameters: Number of its weights.
        height: Height of its block in pixels, by the side of its output.
        width: Width of its block in pixels, by the channels of its output.
    """

    kind: str
    name: str
    shape: str
    parameters: int
    height: int
    width: int


@dataclass(frozen=True)
class ModelSection:
    """One model of the page.

    Attributes:
        entry: The model.
        line: Score and size, next to the name of the folded section.
        summary: What the model is.
        facts: Score and costs.
        layers: The layers from the input to the output; none if the run did not record them.
        drawings: Learning curves and calibration.
        confusion: The confusion matrix, or the largest confusions.
        is_matrix: Whether `confusion` is the whole matrix.
        hardest: The hardest test examples.
        inside: Pictures of the explanation below their headings.
        attributions: Whether to believe each attribution method.
    """

    entry: Entry
    line: str
    summary: str
    facts: dict[str, str]
    layers: list[Layer]
    drawings: list[Drawing]
    confusion: Table | None
    is_matrix: bool
    hardest: Hardest | None
    inside: list[tuple[str, list[Picture]]]
    attributions: list[Check]


def model_section(entry: Entry, bins: int, album: Album, pen: Pen) -> ModelSection:
    """Return the section of one model.

    Args:
        entry: The model.
        bins: Bins of the calibration.
        album: Collects the pictures.
        pen: Makes the drawings.
    """
    history, chosen = entry.training
    drawings = []
    if history:
        names = ["loss", *(["accuracy"] if history[0].train_accuracy is not None else [])]
        drawings = [learning_curve(pen, history, name, chosen, entry.label) for name in names]
    arrays = entry.predictions
    if arrays and entry.task.classes:
        drawings.append(calibration(pen, arrays["label"], arrays["probability"], bins, entry.label))
    confusion, is_matrix = _confusion(entry)
    return ModelSection(
        entry=entry,
        line=_line(entry),
        summary=_summary(entry),
        facts=_facts(entry),
        layers=_layers(entry),
        drawings=drawings,
        confusion=confusion,
        is_matrix=is_matrix,
        hardest=hardest(entry, album, pen),
        inside=_inside(entry, album),
        attributions=[
            check.model_copy(update={"reason": "; ".join(map(tr, check.reason.split("; ")))})
            for check in verdicts(entry.explanation.metrics)
        ],
    )


#: The note of a run (`loop.run`) without Markdown.
NOTE = message("{model}: {summary}. Book chapter 5, “{section}”. Trained on {dataset}: {title}.")


def _summary(entry: Entry) -> str:
    """Return what the model is: the note of its run without Markdown."""
    note = entry.facts.tags.get("mlflow.note.content", "")
    return recorded(note.replace("**", "").replace("`", ""))


def _layers(entry: Entry) -> list[Layer]:
    """Return the layers that change the shape or have weights."""
    layers = []
    for layer in entry.explanation.details.get("architecture", []):
        shape, parameters = layer["output_shape"], layer["parameters"]
        if not parameters and layer["kind"] in PASSING:
            continue
        *sides, channels = shape or [1]
        layers.append(
            Layer(
                kind=layer["kind"],
                name=layer["name"],
                shape=shape_text(shape).replace(" x ", " × "),
                parameters=parameters,
                height=round(6 + 11 * np.log2(1 + (sides[0] or 1))) if sides else 10,
                width=round(4 + 5 * np.log2(1 + (channels or 1))),
            )
        )
    return layers


def _line(entry: Entry) -> str:
    """Return score, data and size in one line."""
    folds = over_folds(entry.facts.metrics)
    score = folds[0] if folds else entry.facts.metrics[entry.task.metric]
    facts = {
        "metric": tr(SCORE_NAMES[entry.task.score]),
        "score": f"{score:.4f}",
        "dataset": entry.facts.dataset,
    }
    if (parameters := entry.metric("cost/parameters")) is None:
        return tr("{metric} {score} on {dataset}", **facts)
    return tr(
        "{metric} {score} on {dataset}, {parameters} parameters",
        **facts,
        parameters=f"{parameters:,.0f}",
    )


def _facts(entry: Entry) -> dict[str, str]:
    metrics, task = entry.facts.metrics, entry.task
    facts = {}
    if folds := over_folds(metrics):
        facts[tr("accuracy over the folds")] = f"{folds[0]:.4f} ± {folds[1]:.4f}"
    facts[tr(SCORE_NAMES[task.score])] = f"{metrics[task.metric]:.4f}"
    low, high = (entry.metric(f"{task.metric}_{end}") for end in ("low", "high"))
    if low is not None and high is not None:
        digits = 3 if task.classes else 4
        facts[tr("95 % interval")] = between(f"{low:.{digits}f}", f"{high:.{digits}f}")
    for name, key, form, unit in (
        (tr("training time"), "train/seconds", ".1f", " s"),
        (tr("latency"), "cost/latency_ms_median", ".2f", " ms"),
        (tr("parameters"), "cost/parameters", ",.0f", ""),
        (tr("majority class"), "baseline/majority_accuracy", ".4f", ""),
        (tr("Savitzky-Golay RMSE"), "baseline/savitzky_golay/rmse", ".4f", ""),
    ):
        if key in metrics:
            facts[name] = f"{metrics[key]:{form}}{unit}"
    return facts


def _confusion(entry: Entry) -> tuple[Table | None, bool]:
    """Return the confusion matrix, or the largest confusions of many classes; is it a matrix?"""
    counts = np.array(entry.evaluation.get("confusion") or [], int)
    if not counts.size or entry.card is None:
        return None, False
    classes = entry.card.classes
    if len(classes) > MATRIX_CLASSES:
        off = counts - np.diag(np.diag(counts))
        order = np.argsort(-off, axis=None, kind="stable")[:CONFUSIONS]
        pairs = [np.unravel_index(place, off.shape) for place in order]
        rows = [
            [Cell(classes[t]), Cell(classes[p]), number(float(off[t, p]), 0)]
            for t, p in pairs
            if off[t, p]
        ]
        caption = tr(
            "The largest confusions of {model}, of {count} classes",
            model=entry.label, count=len(classes),
        )  # fmt: skip
        headings = [tr("true class"), tr("answer"), tr("examples")]
        return Table(caption, headings, rows, [False, False, True]), False
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    matrix = [
        [
            Cell(classes[t]),
            *(
                Cell(
                    str(counts[t, p]), tone="" if counts[t, p] else "dim", share=float(shares[t, p])
                )
                for p in range(len(classes))
            ),
        ]
        for t in range(len(classes))
    ]
    return Table(
        tr(
            "Confusion matrix of {model}: true classes in rows, answers in columns",
            model=entry.label,
        ),
        [tr("true class"), *classes], matrix, [False, *[True] * len(classes)],
        sortable=False, small=True,
    ), True  # fmt: skip


def hardest(entry: Entry, album: Album, pen: Pen) -> Hardest | None:
    """Return the test examples with the largest loss; None if the run has no predictions."""
    if not entry.predictions:
        return None
    if not entry.task.classes:
        return _hardest_curves(entry, pen)
    index, label, probability = (
        entry.predictions[name] for name in ("index", "label", "probability")
    )
    answers = probability.argmax(axis=1)
    order = np.argsort(probability[np.arange(len(label)), label], kind="stable")
    wrong = int((answers != label).sum())
    lead = trn(
        "The test examples with the lowest probability of the true class. {count} of {examples} "
        "answers is wrong.",
        "The test examples with the lowest probability of the true class. {count} of {examples} "
        "answers are wrong.",
        count=wrong,
        examples=f"{len(label):,}",
    )
    classes = entry.card.classes if entry.card else [str(n) for n in range(probability.shape[1])]
    if entry.card is None or get_kind(entry.card.kind).look != "picture":
        return Hardest(lead, table=_hardest_table(entry, order, classes))
    if entry.dataset is None:
        table = _hardest_table(entry, order, classes)
        return Hardest(lead, table=table, missing=_missing(entry))
    order = order[:TILES]
    tiles = []
    for place, image in zip(order, example_images(entry.dataset, index[order]), strict=True):
        true, answer = classes[label[place]], classes[answers[place]]
        confident = f"{answer}, {probability[place, answers[place]]:.2f}"
        facts = {"index": index[place], "true": true, "answer": confident}
        alt = tr("Test example {index}: {true}, answered {answer}", **facts)
        caption = tr("{true}: {answer}" if true == answer else "{true}, not {answer}", **facts)
        tiles.append(album.picture(image, alt, caption))
    return Hardest(lead, tiles)


def _missing(entry: Entry) -> str:
    return tr(
        "The pictures are left out: this machine does not have the dataset {dataset!r} of the run.",
        dataset=entry.facts.dataset,
    )


def _hardest_table(entry: Entry, order: NDArray[np.intp], classes: Sequence[str]) -> Table:
    index, label, probability = (
        entry.predictions[name] for name in ("index", "label", "probability")
    )
    dataset = entry.dataset
    columns = dataset.kind.columns if dataset else {}
    rows = []
    for place in order[:ROWS]:
        position, answer = int(index[place]), int(probability[place].argmax())
        counts = [count(dataset, position) for count in columns.values()] if dataset else []
        rows.append(
            [
                Cell(str(position), float(position)),
                *(number(float(count), 0) for count in counts),
                Cell(classes[label[place]]),
                answer_cell(classes[answer], right=bool(answer == label[place])),
                number(float(probability[place, label[place]]), 3),
            ]
        )
    return Table(
        tr("Hardest examples of {model}", model=entry.label),
        [
            *(tr("example"), *map(tr, columns), tr("true class"), tr("answer")),
            tr("probability of the true class"),
        ],
        rows,
        [True, *[True] * len(columns), False, False, True],
        sortable=False,
        small=True,
    )


def _hardest_curves(entry: Entry, pen: Pen) -> Hardest:
    lead = tr("The test curves with the largest error over their scored samples.")
    dataset = entry.dataset
    if dataset is None:
        return Hardest(lead, missing=_missing(entry))
    index, answers = entry.predictions["index"], entry.predictions["prediction"]
    inputs, targets, weights = (
        dataset.inputs(index), dataset.targets(index), dataset.weights(index)
    )  # fmt: skip
    scored = np.ones(targets.shape[:2]) if weights is None else weights
    squares = ((answers - targets)[..., 0] ** 2 * scored).sum(axis=1)
    errors = np.sqrt(squares / np.maximum(scored.sum(axis=1), 1))
    drawings = [
        curve(pen, inputs[place][:, 0], targets[place][:, 0], answers[place][:, 0],
              tr("Test curve {index}: RMSE {error}", index=index[place],
                 error=f"{errors[place]:.4f}"))
        for place in np.argsort(-errors, kind="stable")[:CURVES]
    ]  # fmt: skip
    return Hardest(lead, drawings=drawings)


def _inside(entry: Entry, album: Album) -> list[tuple[str, list[Picture]]]:
    """Return the pictures of the explanation below their headings."""
    pictures = entry.explanation.pictures
    sections = []
    for key in dict.fromkeys([*INSIDE, *(picture.key for picture in pictures)]):
        own = sorted((p for p in pictures if p.key == key), key=lambda picture: picture.step)
        if key == "feature_maps" and len(own) > LAYERS:
            places = np.linspace(0, len(own) - 1, LAYERS).round().astype(int)
            own = [own[place] for place in places]
        if own:
            heading = tr(INSIDE.get(key, key.replace("_", " ").capitalize()))
            captions = [recorded(picture.caption) for picture in own]
            shown = zip(own, captions, strict=True)
            sections.append((heading, [album.picture(p.path, text, text) for p, text in shown]))
    return sections
