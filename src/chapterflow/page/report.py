"""The report: all sections, style and script in one HTML file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from chapterflow.checks import stylesheet, templates
from chapterflow.config.settings import Settings
from chapterflow.environment import Project
from chapterflow.evaluation.compare import Difference
from chapterflow.files import staged
from chapterflow.page.data_section import data_sections, lineage
from chapterflow.page.material import Entry, Material
from chapterflow.page.model_section import ATTRIBUTIONS, model_section
from chapterflow.page.parts import PAGE_BYTES, Album
from chapterflow.page.questions_section import questions
from chapterflow.page.results_section import groups
from chapterflow.page.side_by_side_section import side_by_side
from chapterflow.page.svg import Pen
from chapterflow.tracking.records import RunFacts
from chapterflow.types import Tell, silent
from chapterflow.validation.docs import COLUMNS

_TEMPLATES = Path(__file__).parent / "templates"


def render(material: Material, *, tell: Tell = silent, limit: int = PAGE_BYTES) -> str:
    """Return the page as one HTML document that loads nothing else.

    Args:
        material: Runs and data.
        tell: Reports progress.
        limit: Largest size in bytes; pictures lose quality to keep it.
    """
    album, pen = Album(), Pen()
    tell("report", "results")
    results, answers = groups(material, pen), questions(material)
    tell("report", "the same examples for all models")
    comparisons = side_by_side(material, album)
    models = []
    for entry in material.entries:
        tell("report", entry.label)
        models.append(model_section(entry, material.bins, album, pen))
    tell("report", "data and lineage")
    template = templates(_TEMPLATES).get_template("page.html.jinja")
    page = template.render(
        profile=material.profile,
        facts=material.facts,
        groups=results,
        questions=answers,
        side_by_side=comparisons,
        models=models,
        data=data_sections(material, album, pen),
        lineage=lineage(material.entries),
        columns=COLUMNS,
        attributions=ATTRIBUTIONS,
        style=(_TEMPLATES / "page.css").read_text(encoding="utf-8") + stylesheet("checks"),
        script=(_TEMPLATES / "page.js").read_text(encoding="utf-8"),
    )
    tell("report", "pictures")
    return album.fill(page, limit)


def write(page: str, folder: Path) -> Path:
    """Write the page as `index.html` in a folder, in one step, and return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.html"
    with staged(path) as new:
        new.write_text(page, encoding="utf-8")
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
        project: The checkout with the data.
        settings: The settings.
        facts: The runs; the page reads their folders.
        differences: Differences of the pairs with the same test set.
        docs: Data Docs by dataset digest.
        out: Folder of the page.
        tell: Reports progress.
    """
    out = out.absolute()
    material = Material(
        profile=" and ".join(
            dict.fromkeys(f.tags.get("chapterflow.profile", settings.profile) for f in facts)
        ),
        entries=[Entry(fact, project.data) for fact in facts],
        differences=differences,
        bins=settings.evaluation.calibration_bins,
        questions=settings.questions,
        # Relative, so that the whole checkout can be moved.
        docs={digest: os.path.relpath(page, out) for digest, page in docs.items()},
        facts=_head(facts),
    )
    return write(render(material, tell=tell), out)


def _head(facts: Sequence[RunFacts]) -> dict[str, str]:
    """Return the facts at the head of the page."""
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
