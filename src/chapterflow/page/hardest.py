"""Test examples that models find hard, and the same ones put to all models of a test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.kinds.dataset import Dataset
from chapterflow.kinds.kind import get_kind
from chapterflow.page.material import Entry
from chapterflow.page.parts import Album, Cell, Picture, Table, answered, number, shown
from chapterflow.page.plots import curve
from chapterflow.page.svg import Draughtsman, Drawing

TILES, ROWS, CURVES = 12, 8, 3


@dataclass(frozen=True)
class Hardest:
    """What a model finds hardest; `missing` says why there are no pictures where there could be."""

    lead: str
    tiles: list[Picture] = field(default_factory=list)
    table: Table | None = None
    drawings: list[Drawing] = field(default_factory=list)
    missing: str = ""


def hardest(entry: Entry, album: Album, pen: Draughtsman) -> Hardest | None:
    """Return the test examples with the largest loss; None where the run has no predictions."""
    if not entry.predictions:
        return None
    if "probability" not in entry.predictions:
        return _hardest_curves(entry, pen)
    index, label, probability = (
        entry.predictions[name] for name in ("index", "label", "probability")
    )
    given = probability[np.arange(len(label)), label]
    answers = probability.argmax(axis=1)
    order = np.argsort(given, kind="stable")
    wrong = int((answers != label).sum())
    lead = (
        f"The test examples whose true class gets the least probability; {wrong:,} of "
        f"{len(label):,} are answered wrongly."
    )
    classes = entry.card.classes if entry.card else [str(n) for n in range(probability.shape[1])]
    if entry.card is not None and get_kind(entry.card.kind).look == "picture":
        if entry.dataset is None:
            return Hardest(lead, table=_table(entry, order, classes), missing=_absent(entry))
        chosen = order[:TILES]
        tiles = []
        for place, image in zip(chosen, examples(entry.dataset, index[chosen]), strict=True):
            true, answer = classes[label[place]], classes[answers[place]]
            told = f"{answer}, {probability[place, answers[place]]:.2f}"
            said = f"Test example {index[place]}: {true}, answered {told}"
            caption = f"{true}: {told}" if true == answer else f"{true}, not {told}"
            tiles.append(album.picture(image, said, caption))
        return Hardest(lead, tiles)
    return Hardest(lead, table=_table(entry, order, classes))


def _absent(entry: Entry) -> str:
    return (
        f"The pictures are left out: the dataset {entry.facts.dataset!r} on this machine is not "
        "the one of the run, or is not here."
    )


def examples(dataset: Dataset, positions: NDArray[Any]) -> list[NDArray[np.uint8]]:
    """Return examples of images, photos or volumes as images to look at."""
    # Memory maps are read in the order asked for; photos are decoded one by one.
    return [shown(raw, dataset.card.value_max) for raw in dataset.inputs(np.asarray(positions))]


def _table(entry: Entry, order: NDArray[Any], classes: Sequence[str]) -> Table:
    index, label, probability = (
        entry.predictions[name] for name in ("index", "label", "probability")
    )
    rows = []
    dataset = entry.dataset
    columns = dataset.kind.columns if dataset else {}

    def counts(position: int) -> list[int]:
        return [count(dataset, position) for count in columns.values()] if dataset else []

    for place in order[:ROWS]:
        answer = int(probability[place].argmax())
        rows.append(
            [
                Cell(str(index[place]), float(index[place])),
                *(Cell(f"{count:,}", float(count)) for count in counts(int(index[place]))),
                Cell(classes[label[place]]),
                answered(classes[answer], right=bool(answer == label[place])),
                number(float(probability[place, label[place]]), 3),
            ]
        )
    headings = ["example", *columns, "true", "answer", "probability of true"]
    numeric = [True, *[True] * len(columns), False, False, True]
    return Table(
        f"Hardest examples of {entry.label}", headings, rows, numeric, sortable=False, small=True
    )


def _hardest_curves(entry: Entry, pen: Draughtsman) -> Hardest | None:
    lead = "The test curves with the largest error over their scored samples."
    if entry.dataset is None:
        return Hardest(lead, missing=_absent(entry))
    index = np.asarray(entry.predictions["index"])
    answers = entry.predictions["prediction"]
    dataset = entry.dataset
    inputs, targets, weights = (
        dataset.inputs(index), dataset.targets(index), dataset.weights(index)
    )  # fmt: skip
    mask = np.ones(targets.shape[:2]) if weights is None else weights
    squares = ((answers - targets)[..., 0] ** 2 * mask).sum(axis=1) / np.maximum(
        mask.sum(axis=1), 1
    )
    error = np.sqrt(squares)
    drawings = [
        curve(pen, inputs[place][:, 0], targets[place][:, 0], answers[place][:, 0],
              f"Test curve {index[place]}: RMSE {error[place]:.4f}")
        for place in np.argsort(-error, kind="stable")[:CURVES]
    ]  # fmt: skip
    return Hardest(lead, drawings=drawings)


@dataclass(frozen=True)
class Probe:
    """One test example, put to every model of a test set."""

    title: str
    picture: Picture | None
    table: Table


def probes(entries: Sequence[Entry], album: Album) -> list[Probe]:
    """Return what all models of a test set answer to the same examples; none for a single model.

    The first test example, the one on which the models differ most, and the one that is hardest for
    all of them together.
    """
    kept = [e for e in entries if "probability" in e.predictions and e.card is not None]
    if len(kept) < 2:
        return []
    first = kept[0]
    label, index = first.predictions["label"], first.predictions["index"]
    each = np.stack([e.predictions["probability"] for e in kept])
    true = each[:, np.arange(len(label)), label]
    chosen = {
        "the first of the test split": 0,
        "the one on which the models differ most": int(true.std(axis=0).argmax()),
        "the hardest for all together": int(true.mean(axis=0).argmin()),
    }
    classes = first.card.classes if first.card else []
    found = []
    for told, place in chosen.items():
        name = classes[label[place]]
        picture = None
        if first.dataset is not None and first.dataset.kind.look == "picture":
            image = examples(first.dataset, index[place : place + 1])[0]
            picture = album.picture(image, f"Test example {index[place]}, true class {name}")
        rows = []
        for position, entry in enumerate(kept):
            given = each[position, place]
            answer = int(given.argmax())
            rows.append(
                [
                    Cell(entry.label, href=f"#{entry.anchor}"),
                    answered(classes[answer], right=bool(answer == label[place])),
                    number(float(given[answer]), 3),
                    number(float(true[position, place]), 3),
                ]
            )
        headings = ["model", "answer", "its probability", f"probability of {name}"]
        caption = f"Test example {index[place]}, {told}: true class {name}"
        found.append(
            Probe(
                caption,
                picture,
                Table(
                    caption, headings, rows, [False, False, True, True], sortable=False, small=True
                ),
            )
        )
    return found
