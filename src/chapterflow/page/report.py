"""The report: sections, template, style and script as one file, written at once or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from chapterflow.checks import stylesheet, templates
from chapterflow.config.settings import Settings
from chapterflow.environment import Project
from chapterflow.evaluation.compare import Difference
from chapterflow.page.data import data_sections, lineage
from chapterflow.page.material import Entry, Material
from chapterflow.page.models import section, side_by_side
from chapterflow.page.parts import PAGE_BYTES, Album
from chapterflow.page.questions import questions
from chapterflow.page.results import groups
from chapterflow.page.svg import Draughtsman
from chapterflow.tracking.records import RunFacts
from chapterflow.types import Tell, silent
from chapterflow.validation.docs import COLUMNS

_TEMPLATES = Path(__file__).parent / "templates"


def render(material: Material, *, tell: Tell = silent, limit: int = PAGE_BYTES) -> str:
    """Return the page as one HTML document that needs nothing but itself.

    Args:
        material: What it shows.
        tell: Told of progress.
        limit: Bytes that the page may have; pictures lose quality to keep it.
    """
    album, pen = Album(), Draughtsman()
    tell("report", "results")
    results, asked = groups(material, pen), questions(material)
    tell("report", "the same examples put to all models")
    beside = side_by_side(material, album)
    models = []
    for entry in material.entries:
        tell("report", entry.label)
        models.append(section(entry, material.bins, album, pen))
    tell("report", "data and lineage")
    template = templates(_TEMPLATES).get_template("page.html.jinja")
    page = template.render(
        profile=material.profile,
        facts=material.facts,
        groups=results,
        questions=asked,
        beside=beside,
        models=models,
        data=data_sections(material, album, pen),
        lineage=lineage(material.entries),
        columns=COLUMNS,
        style=(_TEMPLATES / "page.css").read_text(encoding="utf-8") + stylesheet("checks"),
        script=(_TEMPLATES / "page.js").read_text(encoding="utf-8"),
    )
    tell("report", "pictures")
    return album.fill(page, limit)


def write(page: str, folder: Path) -> Path:
    """Write the page as `index.html` in a folder, in one step, and return the file.

    A reader or a killed process never leaves half a page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.html"
    partial = folder / f".index-{os.getpid()}.html"
    try:
        partial.write_text(page, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def write_page(
    project: Project,
    settings: Settings,
    facts: Sequence[RunFacts],
    differences: Sequence[Difference],
    *,
    docs: Mapping[str, Path],
    out: Path,
    tell: Tell = silent,
) -> Path:
    """Write `index.html` into `out`, and return it.

    Args:
        project: Where the data are.
        settings: The configuration.
        facts: The runs; their folders are read now.
        differences: Of the pairs that share a test set.
        docs: Pages of Data Docs, by dataset digest.
        out: Folder.
        tell: Told of progress.
    """
    out = out.absolute()
    material = Material(
        profile=" and ".join(
            dict.fromkeys(f.tags.get("chapterflow.profile", settings.profile) for f in facts)
        ),
        entries=[Entry(fact, project.data) for fact in facts],
        differences=differences,
        bins=settings.evaluation.calibration_bins,
        # The page may be moved or sent; what it leads to stays where the data were validated.
        docs={digest: os.path.relpath(page, out) for digest, page in docs.items()},
        facts=_head(facts),
    )
    return write(render(material, tell=tell), out)


def _head(facts: Sequence[RunFacts]) -> dict[str, str]:
    """Return what stands at the head of the page."""
    commits = dict.fromkeys(
        fact.tags.get("mlflow.source.git.commit", "")[:10]
        + (" + changes" if fact.tags.get("chapterflow.git_dirty") == "true" else "")
        for fact in facts
    )
    versions = dict.fromkeys(
        fact.tags.get("chapterflow.data_version", "none")[:16] for fact in facts
    )
    last = datetime.fromtimestamp(max(fact.started for fact in facts) / 1000, UTC)
    return {
        "Written (UTC)": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        "Newest run (UTC)": f"{last:%Y-%m-%d %H:%M}",
        "Git commit": ", ".join(filter(None, commits)) or "none",
        "Version of data/": ", ".join(versions),
    }
