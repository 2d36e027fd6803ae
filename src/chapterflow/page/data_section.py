"""The sections of data and lineage: what models learned, and where each number comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from chapterflow.checks import Check
from chapterflow.kinds.dataset import SPLITS, Dataset, DatasetCard, shape_text
from chapterflow.language import message, recorded, tr
from chapterflow.page.material import Entry, Material
from chapterflow.page.parts import NONE, Album, Cell, Picture, Table, example_images
from chapterflow.page.plots import balance
from chapterflow.page.svg import Drawing, Pen
from chapterflow.tracking import runs

if TYPE_CHECKING:
    from chapterflow.validation.verdict import Verdict

THUMBNAILS = 12
#: More classes have no bars, which would fill a page.
BARS = 40
#: Headings of the facts that a card may add.
FACTS = message(
    {
        "directed": "Directed",
        "nodes": "Nodes",
        "edges": "Edges",
        "features": "Features",
        "truth": "Truth",
        "noise_levels": "Noise levels",
        "time_unit": "Time unit",
        "constant_step": "Constant step",
    }
)
#: Characters of a hash on the page; a run's whole id is the title of its cell.
SHORT = 10


@dataclass(frozen=True)
class DataSection:
    """One dataset of the page.

    Attributes:
        title: Title of the dataset.
        name: Its name.
        anchor: Id of the section.
        facts: What the card says.
        verdict: What the validation says.
        good: Whether the validation passed.
        expectations: All expectations of the validation.
        docs: Address of the Data Docs; empty if there are none.
        thumbnails: Training examples, if they can be seen.
        balance: Examples by class and split.
        missing: Why thumbnails and balance are left out; empty if they are not.
    """

    title: str
    name: str
    anchor: str
    facts: dict[str, str]
    verdict: str
    good: bool
    expectations: Sequence[Check]
    docs: str
    thumbnails: list[Picture]
    balance: Drawing | None
    missing: str


def data_sections(material: Material, album: Album, pen: Pen) -> list[DataSection]:
    """Return one section for each dataset of the page's models; equal content is one dataset."""
    firsts: dict[str, Entry] = {}
    for entry in material.entries:
        digest = entry.facts.tags.get(runs.DIGEST, entry.facts.dataset)
        firsts.setdefault(digest, entry)
    return [
        _section(entry, digest, material, album, pen)
        for digest, entry in firsts.items()
        if entry.card is not None
    ]


def _section(entry: Entry, digest: str, material: Material, album: Album, pen: Pen) -> DataSection:
    card, dataset, verdict = entry.card, entry.dataset, entry.verdict
    if card is None:
        raise ValueError("a section needs the card of its dataset")
    missing = "" if dataset is not None else (
        tr(
            "Thumbnails and class balance are left out: this machine does not have the dataset "
            "{dataset!r} of the runs.",
            dataset=card.name,
        )
    )  # fmt: skip
    return DataSection(
        title=recorded(card.title),
        name=card.name,
        anchor=f"data-{digest[:12]}",
        facts=_facts(card, entry, digest),
        verdict=_met(verdict) if verdict else tr("The runs lack the verdict of the validation."),
        good=verdict is not None and verdict.success,
        expectations=sorted(verdict.results, key=lambda c: c.passed) if verdict else [],
        docs=material.docs.get(digest, ""),
        thumbnails=_thumbnails(dataset, album) if dataset is not None else [],
        balance=_balance(dataset, pen) if dataset is not None else None,
        missing=missing,
    )


def _facts(card: DatasetCard, entry: Entry, digest: str) -> dict[str, str]:
    tags = entry.facts.tags
    return {
        tr("Dataset"): card.name,
        tr("Source"): card.source,
        tr("Licence"): card.licence,
        tr("Splits"): ", ".join(f"{card.counts.get(split, 0):,} {tr(split)}" for split in SPLITS),
        tr("Shape"): shape_text(card.shape),
        tr("Values"): tr("up to {most}", most=f"{card.value_max:g}"),
        tr("Classes"): f"{len(card.classes)}: {', '.join(card.classes)}"
        if card.classes
        else tr("none"),
        **{
            tr(FACTS.get(name, name.replace("_", " ").capitalize())): _text(fact)
            for name, fact in card.facts.items()
        },
        **({tr("Accepted"): card.accepted_text} if card.accepted else {}),
        tr("Digest"): digest[:SHORT],
        tr("Version of data/"): tags.get(runs.DATA_VERSION, tr("none"))[:SHORT],
    }


def _met(verdict: Verdict) -> str:
    """Say how many expectations are met, and which bounds were set for this dataset."""
    count = len(verdict.results)
    facts = {
        "met": count - len(verdict.failures),
        "count": count,
        "dataset": verdict.dataset,
        "accepted": verdict.accepted,
    }
    if verdict.accepted:
        return tr("{met} of {count} expectations of {dataset} are met ({accepted}).", **facts)
    return tr("{met} of {count} expectations of {dataset} are met.", **facts)


def _text(fact: Any) -> str:
    """Return a fact of a card as text."""
    if isinstance(fact, bool):
        return tr("yes") if fact else tr("no")
    if isinstance(fact, list | tuple):
        return ", ".join(map(_text, fact))
    if isinstance(fact, dict):
        return "; ".join(f"{name}: {_text(value)}" for name, value in fact.items())
    return str(fact)


def _thumbnails(dataset: Dataset, album: Album) -> list[Picture]:
    """Return training examples, classes in turn; none if examples are not pictures."""
    card = dataset.card
    if dataset.kind.look != "picture":
        return []
    train = dataset.indices("train")
    labels = np.asarray(dataset.labels[train])
    turns = [train[labels == label] for label in range(len(card.classes))]
    chosen = [
        (label, int(turn[place]))
        for place in range(THUMBNAILS)
        for label, turn in enumerate(turns)
        if place < len(turn)
    ][: max(THUMBNAILS, min(len(card.classes), 2 * THUMBNAILS))]
    images = example_images(dataset, np.array([position for _, position in chosen]))
    return [
        album.picture(
            image, tr("Training example of class {name}", name=card.classes[label]),
            card.classes[label],
        )
        for (label, _), image in zip(chosen, images, strict=True)
    ]  # fmt: skip


def _balance(dataset: Dataset, pen: Pen) -> Drawing | None:
    classes = dataset.card.classes
    if not classes or len(classes) > BARS:
        return None
    counts = [
        np.bincount(dataset.labels[dataset.indices(split)], minlength=len(classes)).tolist()
        for split in SPLITS
    ]
    return balance(pen, counts, SPLITS, classes)


def lineage(entries: Sequence[Entry]) -> Table:
    """Return the origin of each model's numbers: run, data, code, orchestration."""
    rows = []
    for entry in entries:
        tags = entry.facts.tags
        commit = tags.get(runs.COMMIT, "")
        short = commit[:SHORT] or NONE
        dirty = tags.get(runs.DIRTY) == "true"
        digest = tags.get(runs.DIGEST, "")
        data = f"#data-{digest[:12]}" if digest else ""
        when = datetime.fromtimestamp(entry.facts.started / 1000, UTC)
        version = tags.get(runs.MODEL_VERSION)
        rows.append(
            [
                Cell(entry.label, href=f"#{entry.anchor}"),
                Cell(entry.facts.run_id[:SHORT], code=True, title=entry.facts.run_id),
                Cell(tags.get(runs.FINGERPRINT, NONE)[:SHORT], code=True),
                Cell(digest[:SHORT] or NONE, code=True, href=data),
                Cell(tags.get(runs.DATA_VERSION, NONE)[:SHORT], code=True),
                Cell(tr("{commit} + changes", commit=short) if dirty else short, code=True),
                Cell(entry.facts.params.get("seed", NONE)),
                Cell(f"{entry.facts.model} {version}" if version else NONE),
                Cell(tags.get("mlflow.parentRunId", NONE)[:8], code=True),
                Cell(tags.get("prefect.flow_run_id", NONE)[:8], code=True),
                Cell(f"{when:%Y-%m-%d %H:%M}", float(entry.facts.started)),
            ]
        )
    headings = [
        tr("model"), tr("MLflow run"), tr("fingerprint"), tr("dataset digest"),
        tr("version of data/"), tr("git commit"), tr("seed"), tr("registered as"),
        tr("flow's MLflow run"), tr("Prefect flow run"), tr("started (UTC)"),
    ]  # fmt: skip
    return Table(tr("Where every number of a model comes from"), headings, rows)
