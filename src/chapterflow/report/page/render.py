"""The page itself: template, style and script put together, written at once or not at all."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from chapterflow.records import Tell, silent
from chapterflow.report.page.data import data_sections, lineage
from chapterflow.report.page.material import Material
from chapterflow.report.page.models import section, side_by_side
from chapterflow.report.page.pictures import PAGE_BYTES, Album
from chapterflow.report.page.questions import questions
from chapterflow.report.page.results import groups
from chapterflow.report.page.svg import Draughtsman

_TEMPLATES = resources.files("chapterflow.report.page") / "templates"


def render(material: Material, *, tell: Tell = silent, limit: int = PAGE_BYTES) -> str:
    """Return the page as one HTML document that needs nothing but itself.

    Args:
        material: What it shows.
        tell: Told of progress.
        limit: Bytes that the page may have; pictures lose quality to keep it.
    """
    from jinja2 import Environment, StrictUndefined

    # Names, titles and captions come from whoever made data and runs: everything is escaped.
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
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
    page = environment.from_string(_text("page.html.jinja")).render(
        profile=material.profile,
        facts=material.facts,
        groups=results,
        questions=asked,
        beside=beside,
        models=models,
        data=data_sections(material, album, pen),
        lineage=lineage(material.entries),
        style=_text("page.css"),
        script=_text("page.js"),
    )
    tell("report", "pictures")
    return album.fill(page, limit)


def _text(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


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
