"""From runs to the file: what `steps.report` hands over becomes a page in a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from chapterflow.environment import Project
from chapterflow.evaluation.compare import Difference
from chapterflow.records import RunFacts, Tell, silent
from chapterflow.report.page.material import Entry, Material
from chapterflow.report.page.render import render, write
from chapterflow.settings import Settings


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
