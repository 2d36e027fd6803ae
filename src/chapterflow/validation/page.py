"""The verdict on one page that needs nothing but itself."""

from __future__ import annotations

from importlib import resources

from chapterflow.data.card import SPLITS, DatasetCard, shape_text
from chapterflow.validation.verdict import Verdict

PAGE = "index.html"
_TEMPLATES = resources.files("chapterflow.validation") / "templates"


def stylesheet(name: str) -> str:
    """Return the text of a stylesheet, for a page to hold inline."""
    return (_TEMPLATES / f"{name}.css").read_text(encoding="utf-8")


def render_page(verdict: Verdict, card: DatasetCard, docs: str) -> str:
    """Return the page of a verdict: failures first, then what was found to be in order.

    Args:
        verdict: What was found.
        card: What the dataset says about itself.
        docs: Relative address of the Data Docs.
    """
    from jinja2 import Environment, StrictUndefined

    # Titles, sources and licences come from whoever made the dataset: everything is escaped.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(
        (_TEMPLATES / "verdict.html.jinja").read_text(encoding="utf-8")
    )
    facts = {
        "Dataset": card.name,
        "Source": card.source,
        "Licence": card.licence,
        "Examples": f"{verdict.examples:,}",
        "Splits": ", ".join(f"{card.counts.get(split, 0):,} {split}" for split in SPLITS),
        "Shape": shape_text(card.shape),
        "Values": f"up to {card.value_max:g}",
        "Classes": f"{len(card.classes)}: {', '.join(card.classes)}" if card.classes else "none",
        **{name.replace("_", " ").capitalize(): fact for name, fact in card.facts.items()},
        "Digest": verdict.dataset_digest,
    }
    page = template.render(
        verdict=verdict,
        results=sorted(verdict.results, key=lambda result: result.success),
        title=card.title,
        facts=facts,
        docs=docs,
        style=stylesheet("common") + stylesheet("verdict"),
    )
    return page + "\n"
