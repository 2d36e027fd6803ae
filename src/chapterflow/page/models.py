"""The section of models: how each learned, where it errs, what it looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from chapterflow.page.hardest import Hardest, Probe, hardest, probes
from chapterflow.page.material import Entry, Material
from chapterflow.page.parts import Album, Cell, Picture, Table, number
from chapterflow.page.plots import calibration, learning_curve
from chapterflow.page.svg import Draughtsman, Drawing

#: A matrix of more classes is no longer read; its largest confusions are.
MATRIX_CLASSES = 12
CONFUSIONS = 8
#: Layers whose feature maps are shown, from the first to the last; the walk goes through more.
LAYERS = 4
#: Headings of the pictures of a model's inside, in the order of the page.
INSIDE = {
    "walk": "A walk through the feature maps",
    "feature_maps": "Feature maps",
    "attributions": "Attributions",
    "kernels": "Kernels",
    "reactions": "What the model reacts to",
    "nodes": "Nodes",
}


@dataclass(frozen=True)
class Section:
    """One model of the page."""

    entry: Entry
    summary: str
    facts: dict[str, str]
    drawings: list[Drawing]
    confusion: Table | None
    hardest: Hardest | None
    inside: list[tuple[str, list[Picture]]]
    scores: Table | None
    heat: bool = False


@dataclass(frozen=True)
class SideBySide:
    """The same examples put to all models of one test set."""

    title: str
    probes: list[Probe]
    attributions: list[Picture] = field(default_factory=list)


def section(entry: Entry, bins: int, album: Album, pen: Draughtsman) -> Section:
    """Return what there is to say about one model.

    Args:
        entry: The model.
        bins: Bins of the calibration.
        album: Takes the pictures.
        pen: Makes the drawings.
    """
    history, chosen = entry.training
    drawings = []
    if history:
        names = ["loss", *(["accuracy"] if history[0].train_accuracy is not None else [])]
        drawings = [learning_curve(pen, history, name, chosen, entry.label) for name in names]
    if "probability" in entry.predictions:
        found = entry.predictions
        drawings.append(calibration(pen, found["label"], found["probability"], bins, entry.label))
    matrix, heat = _confusion(entry)
    return Section(
        entry=entry,
        summary=_summary(entry),
        facts=_facts(entry),
        drawings=drawings,
        confusion=matrix,
        hardest=hardest(entry, album, pen),
        inside=_inside(entry, album),
        scores=_scores(entry),
        heat=heat,
    )


def _summary(entry: Entry) -> str:
    """Return what the model is, without the markup of the store's note."""
    note = entry.facts.tags.get("mlflow.note.content", "")
    return note.replace("**", "").replace("`", "")


def _facts(entry: Entry) -> dict[str, str]:
    m = entry.facts.metrics
    score = m[f"test/{entry.score}"]
    digits = 3 if entry.score == "accuracy" else 4
    facts = {entry.score if entry.score == "accuracy" else "RMSE": f"{score:.4f}"}
    low, high = (m.get(f"test/{entry.score}_{end}") for end in ("low", "high"))
    if low is not None and high is not None:
        facts["95 % interval"] = f"{low:.{digits}f} to {high:.{digits}f}"
    for name, key, form, unit in (
        ("training time", "train/seconds", ".1f", " s"),
        ("latency", "cost/latency_ms_median", ".2f", " ms"),
        ("parameters", "cost/parameters", ",.0f", ""),
        ("majority class", "baseline/majority_accuracy", ".4f", ""),
        ("Savitzky-Golay RMSE", "baseline/savitzky_golay/rmse", ".4f", ""),
    ):
        if key in m:
            facts[name] = f"{m[key]:{form}}{unit}"
    return facts


def _confusion(entry: Entry) -> tuple[Table | None, bool]:
    """Return the confusion matrix, or of many classes the largest confusions; is it a matrix?"""
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
        caption = f"The largest confusions of {entry.label}, of {len(classes)} classes"
        return Table(caption, ["true", "answered", "examples"], rows, [False, False, True]), False
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
        f"Confusion matrix of {entry.label}: true classes in rows, answers in columns",
        ["true", *classes], matrix, [False, *[True] * len(classes)], sortable=False, small=True,
    ), True  # fmt: skip


def _inside(entry: Entry, album: Album) -> list[tuple[str, list[Picture]]]:
    """Return the pictures of the model's inside below their headings."""
    found = entry.explanations
    keys = [*INSIDE, *dict.fromkeys(e.key for e in found if e.key not in INSIDE)]
    shown = []
    for key in keys:
        mine = sorted((e for e in found if e.key == key), key=lambda e: e.step)
        if key == "feature_maps" and len(mine) > LAYERS:
            places = np.linspace(0, len(mine) - 1, LAYERS).round().astype(int)
            mine = [mine[place] for place in places]
        if mine:
            heading = INSIDE.get(key, key.replace("_", " ").capitalize())
            shown.append((heading, [album.picture(e.file, e.caption, e.caption) for e in mine]))
    return shown


def _scores(entry: Entry) -> Table | None:
    """Return the scores of the attribution methods, one row for each method."""
    methods: dict[str, dict[str, float]] = {}
    for name, value in entry.explain_metrics.items():
        parts = name.removeprefix("explain/").rsplit("/", 1)
        if len(parts) == 2:
            methods.setdefault(parts[0], {})[parts[1]] = value
    if not methods:
        return None
    columns = list(dict.fromkeys(key for found in methods.values() for key in found))
    rows = [
        [Cell(method.replace("_", " ")), *(number(found.get(key), 3) for key in columns)]
        for method, found in methods.items()
    ]
    headings = ["method", *(column.replace("_", " ").replace("auc", "AUC") for column in columns)]
    return Table(
        f"Scores of the attributions of {entry.label}", headings, rows,
        [False, *[True] * len(columns)], small=True,
    )  # fmt: skip


def side_by_side(material: Material, album: Album) -> list[SideBySide]:
    """Return the test sets of several models, with the same examples put to all of them."""
    found = []
    for entries in material.by_test_set():
        asked = probes(entries, album)
        if asked:
            title = f"{entries[0].facts.dataset}: {len(entries)} models, the same examples"
            found.append(SideBySide(title, asked, _attributions(entries, album)))
    return found


def _attributions(entries: Sequence[Entry], album: Album) -> list[Picture]:
    """Return each model's first picture of attributions, which are of the same examples."""
    firsts = [
        (entry, next((e for e in entry.explanations if e.key == "attributions"), None))
        for entry in entries
    ]
    there = [(entry, picture) for entry, picture in firsts if picture is not None]
    if len(there) < 2:
        return []
    return [
        album.picture(picture.file, f"{entry.label}: {picture.caption}", entry.label)
        for entry, picture in there
    ]
