"""The pages of a validation: the verdict, and Data Docs that need no network."""

from __future__ import annotations

from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

from chapterflow.checks import render_verdict, stylesheet
from chapterflow.kinds.dataset import SPLITS, DatasetCard, shape_text
from chapterflow.language import message
from chapterflow.validation.verdict import Verdict

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuite, ExpectationSuiteValidationResult

PAGE = "index.html"
#: Headings of the expectations, by field of `Check`.
COLUMNS = message({
    "name": "Expectation",
    "expected": "Expected",
    "observed": "Observed",
    "examples": "Offending examples",
})  # fmt: skip


def render_page(verdict: Verdict, card: DatasetCard, docs: str) -> str:
    """Return the page of a verdict: failed expectations first, then those that are met.

    Args:
        verdict: The verdict on the dataset.
        card: Its card.
        docs: Relative address of the Data Docs.
    """
    count = len(verdict.results)
    summary = f"Passed: all {count} expectations are met."
    if not verdict.success:
        summary = (
            f"Failed: {len(verdict.failures)} of {count} expectations are not met. No model is "
            "trained on this dataset."
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
        **{name.replace("_", " ").capitalize(): str(fact) for name, fact in card.facts.items()},
        **({"Accepted": card.accepted_text} if card.accepted else {}),
        "Digest": verdict.dataset_digest,
    }
    return render_verdict(
        card.title,
        verdict.results,
        COLUMNS,
        passed=verdict.success,
        summary=summary,
        facts=facts,
        heading="Expectations",
        link=(docs, "Data Docs of Great Expectations with the same results"),
    )


RESULTS = "index.html"
SUITE = "suite.html"
#: Elements without an end tag.
_VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source"}
#: Elements that fetch something or run code, and those that are replaced or not needed.
_DROPPED = {"script", "link", "style", "img", "iframe", "object", "embed", "footer", "title", "hr"}
#: Classes of parts that are dead without scripts or without the site's index: bars and filters.
_DEAD = {"navbar-expand-md", "btn-group", "card-header", "card-text"}
_KEPT = {"id", "class", "colspan", "rowspan", "scope", "hidden", "name", "content", "charset"}
#: Icons of a font that is fetched, as characters of any font.
_ICONS = {"text-success": ("✓", "passed"), "text-danger": ("✗", "failed")}
#: What Great Expectations writes for a divergence of zero, as for one that has no value.
_ZERO = "None (-infinity, infinity, or NaN)"


def write_offline_docs(
    suite: ExpectationSuite, result: ExpectationSuiteValidationResult, out: Path
) -> None:
    """Write the two pages of the Data Docs of one validation into the new folder `out`.

    They are `index.html` (results) and `suite.html` (expectations), linked to one another and to
    the verdict's page in the folder above. A site of Data Docs has an index, too: a table that
    scripts draw, under addresses with the time in them.
    """
    from chapterflow.validation.renderers import results_page, suite_page

    out.mkdir()
    for page, name, title in (
        (results_page(result), RESULTS, "Validation results"),
        (suite_page(suite), SUITE, "Expectation suite"),
    ):
        (out / name).write_text(offline(page, title), encoding="utf-8")


def offline(html: str, title: str) -> str:
    """Return a page of Data Docs that fetches nothing and runs nothing."""
    cleaner = _Cleaner()
    cleaner.feed(html)
    cleaner.close()
    style = stylesheet("common", "docs")
    links = "".join(
        f'<a href="{address}">{text}</a> '
        for address, text in (
            ("../index.html", "Verdict"),
            (RESULTS, "Validation results"),
            (SUITE, "Expectation suite"),
        )
    )
    head = f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>"
    page = "".join(cleaner.parts)
    page = page.replace("<html>", '<html lang="en">', 1).replace("</head>", head, 1)
    return page.replace("<body>", f'<body>\n<p class="trail">{links}</p>', 1)


class _Cleaner(HTMLParser):
    """Copies a page, leaving out the elements and attributes that fetch, run or style."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.parts: list[str] = []
        # The tag of the element that is being left out, and how many of that tag are open.
        self._skipping: str | None = None
        self._depth = 0
        self._passed = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skipping:
            self._depth += tag == self._skipping
            return
        values = dict(attrs)
        classes = set((values.get("class") or "").split())
        if tag == "i":
            for name in _ICONS.keys() & classes:
                mark, word = _ICONS[name]
                self._passed = word == "passed"
                self.parts.append(f'<b class="{name}" role="img" aria-label="{word}">{mark}</b>')
        toggle = values.get("data-toggle") == "collapse"
        if tag not in _DROPPED | {"i"} and not classes & _DEAD and not toggle:
            self.parts.append(f"<{tag}{_attributes(values)}>")
        elif tag not in _VOID:
            self._skipping, self._depth = tag, 1

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._skipping:
            self._depth -= tag == self._skipping
            self._skipping = self._skipping if self._depth else None
        elif tag not in _VOID:
            self.parts.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if not self._skipping:
            # No expectation is met without a value.
            self.parts.append(data.replace(_ZERO, "0") if self._passed else data)

    def handle_entityref(self, name: str) -> None:
        self.handle_data(f"&{name};")

    def handle_charref(self, name: str) -> None:
        self.handle_data(f"&#{name};")

    def handle_decl(self, decl: str) -> None:
        self.parts.append(f"<!{decl}>")


def _attributes(values: dict[str, str | None]) -> str:
    """Return the attributes that are kept; of links, those within the page and to the suite."""
    kept = {name: value for name, value in values.items() if name in _KEPT}
    target = values.get("href") or ""
    if target.startswith("#"):
        kept["href"] = target
    elif "/expectations/" in target:
        kept["href"] = SUITE
    return "".join(
        f" {name}" if value is None else f' {name}="{escape(value)}"'
        for name, value in kept.items()
    )
