"""The section that puts the same test examples to all models of a test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chapterflow.language import tr
from chapterflow.page.material import Entry, Material
from chapterflow.page.parts import (
    Album,
    Cell,
    Picture,
    Table,
    answer_cell,
    example_images,
    number,
)


@dataclass(frozen=True)
class Probe:
    """One test example with the answers of all models; no picture of a graph or a node."""

    picture: Picture | None
    table: Table


@dataclass(frozen=True)
class SideBySide:
    """The models of one test set side by side."""

    title: str
    probes: list[Probe]


def side_by_side(material: Material, album: Album) -> list[SideBySide]:
    """Return the test sets that several models share."""
    sections = []
    for entries in material.by_test_set():
        examples = probes(entries, album)
        if examples:
            title = tr(
                "{dataset}: {count} models, the same examples",
                dataset=entries[0].facts.dataset,
                count=len(entries),
            )
            sections.append(SideBySide(title, examples))
    return sections


def probes(entries: Sequence[Entry], album: Album) -> list[Probe]:
    """Return up to three test examples with the answers of all models; none for a single model.

    The first test example, the one on which the models differ most, and the hardest for all models
    together.
    """
    entries = [e for e in entries if e.task.classes and e.predictions and e.card is not None]
    if len(entries) < 2:
        return []
    first = entries[0]
    label, index = first.predictions["label"], first.predictions["index"]
    probabilities = np.stack([entry.predictions["probability"] for entry in entries])
    true = probabilities[:, np.arange(len(label)), label]
    reasons = {
        tr("the first of the test split"): 0,
        tr("the models differ most here"): int(true.std(axis=0).argmax()),
        tr("the hardest for all models together"): int(true.mean(axis=0).argmin()),
    }
    # One example may be two of them.
    places = {
        ", ".join(reason for reason, own in reasons.items() if own == place): place
        for place in dict.fromkeys(reasons.values())
    }
    classes = first.card.classes if first.card else []
    result = []
    for reason, place in places.items():
        name = classes[label[place]]
        picture = None
        if first.dataset is not None and first.dataset.kind.look == "picture":
            (image,) = example_images(first.dataset, index[place : place + 1])
            alt = tr("Test example {index}, true class {name}", index=index[place], name=name)
            picture = album.picture(image, alt)
        rows = []
        for entry, own, given in zip(entries, probabilities[:, place], true[:, place], strict=True):
            answer = int(own.argmax())
            rows.append(
                [
                    Cell(entry.label, href=f"#{entry.anchor}"),
                    answer_cell(classes[answer], right=bool(answer == label[place])),
                    number(float(own[answer]), 3),
                    number(float(given), 3),
                ]
            )
        table = Table(
            tr(
                "Test example {index} ({reason}), true class {name}",
                index=index[place],
                reason=reason,
                name=name,
            ),
            [
                *(tr("model"), tr("answer"), tr("its probability")),
                tr("probability of {name}", name=name),
            ],
            rows,
            [False, False, True, True],
            sortable=False,
            small=True,
        )
        result.append(Probe(picture, table))
    return result
