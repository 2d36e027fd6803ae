"""The pages are readable without a network, and safe whatever a dataset calls itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chapterflow.kinds.dataset import Dataset
from chapterflow.kinds.pixels import ImageExpectations
from chapterflow.validation.docs import offline, render_page
from chapterflow.validation.validate import validate_dataset
from chapterflow.validation.verdict import Verdict

#: Attributes whose value a browser fetches or runs without being asked.
FETCHED = {"src", "srcset", "data", "poster", "background", "action", "formaction", "style"}


class Page(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.fetched: list[tuple[str, str, str | None]] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in {"meta", "link", "br", "hr", "input"}:
            self.open.append(tag)
        for name, value in attrs:
            if name in FETCHED or name.startswith("on") or (tag == "link" and name == "href"):
                self.fetched.append((tag, name, value))
            if tag == "a" and name == "href":
                self.links.append(value or "")
            if name == "id" and value:
                self.ids.add(value)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(params=["passed", "failed"])
def out(request: pytest.FixtureRequest) -> Path:
    """The folder of a verdict, of each kind."""
    folder: Path = request.getfixturevalue(request.param)[1]
    return folder


def test_the_folder_holds_these_files_and_no_others(out: Path) -> None:
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert files == {
        "verdict.json",
        "index.html",
        "data_docs/index.html",
        "data_docs/suite.html",
    }


@pytest.mark.parametrize("name", ["index.html", "data_docs/index.html", "data_docs/suite.html"])
def test_nothing_is_fetched_or_run_and_links_lead_somewhere(out: Path, name: str) -> None:
    text = (out / name).read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "img", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert page.fetched in ([], [("link", "href", "data:,")])
    assert not re.search(r"url\(|@import|http-equiv", text)
    assert page.open == []
    assert page.unbalanced == []
    assert page.links
    for link in page.links:
        address, _, anchor = link.partition("#")
        assert "//" not in address
        target = (out / name).parent / address if address else out / name
        assert target.is_file(), link
        if anchor:
            assert anchor in Page(target.read_text(encoding="utf-8")).ids, link


def test_data_docs_keep_what_great_expectations_says(
    passed: tuple[Verdict, Path], failed: tuple[Verdict, Path]
) -> None:
    for verdict, out in (passed, failed):
        results = Page((out / "data_docs" / "index.html").read_text(encoding="utf-8"))
        suite = Page((out / "data_docs" / "suite.html").read_text(encoding="utf-8"))
        for result in verdict.results:
            answer = f"{result.name}: {result.expected}. {result.title}"
            assert answer in results.text
            assert answer in suite.text
        assert ("Succeeded" if verdict.success else "Failed") in results.text
        # Marks in place of an icon font: one for each expectation and one for the whole.
        assert results.text.count("✗") == (0 if verdict.success else len(verdict.failures) + 1)
        assert results.text.count("✓") == len(verdict.results) - len(verdict.failures) + (
            1 if verdict.success else 0
        )
    assert "7 unexpected values found" in results.text


def test_data_docs_have_the_order_of_the_suite(
    passed: tuple[Verdict, Path],
) -> None:
    verdict, out = passed
    for name in ("index.html", "suite.html"):
        html = (out / "data_docs" / name).read_text(encoding="utf-8")
        listed = re.findall(r'href="#section-\d+">\s*(\w+)\s*</a>', html)
        columns = dict.fromkeys(result.value("column") for result in verdict.results)
        assert [name for name in listed if name != "id"] == [*filter(None, columns)]


def test_equal_shares_of_named_classes_have_no_divergence(
    corrupt: Callable[[Callable[[Any], None]], Dataset], bounds: ImageExpectations, tmp_path: Path
) -> None:
    def balance(arrays: Any) -> None:
        (validation,) = np.nonzero(arrays.split == 1)
        arrays.split[validation[170:]] = 0
        arrays.labels[validation[:170]] = np.arange(170) % 10

    digits = corrupt(balance)
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    card = digits.card.model_copy(update={"classes": names})
    validate_dataset(replace(digits, card=card), bounds, tmp_path / "out")
    html = (tmp_path / "out" / "data_docs" / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"KL Divergence: (\S+)", html)[1] == "0"
    assert "label-set: 0 to 9 (zero, one, two, three, four, five, six, seven, eight, nine)." in html


def test_the_page_tells_failures_first_with_ids(failed: tuple[Verdict, Path]) -> None:
    verdict, out = failed
    text = (out / "index.html").read_text(encoding="utf-8")
    assert f"Failed: {len(verdict.failures)} of 21 expectations are not met" in text
    names = re.findall(r'<span class="name">([\w-]+)</span>', text)
    assert names[: len(verdict.failures)] == [result.name for result in verdict.failures]
    assert len(names) == 21
    assert "<code>train/00003</code>" in text
    assert "and 2 more" in text  # of seven labels that are out of range
    assert text.count('scope="col"') == 4
    assert text.count('scope="row"') == 21


def test_the_page_of_a_success_says_so(passed: tuple[Verdict, Path]) -> None:
    text = (passed[1] / "index.html").read_text(encoding="utf-8")
    assert "Passed: all 21 expectations are met" in text
    assert "Failed" not in text


def test_hostile_names_are_shown_and_not_run(passed: tuple[Verdict, Path], digits: Dataset) -> None:
    hostile = "</title></style><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7 * 7 }}"
    card = digits.card.model_copy(
        update={"name": hostile, "title": hostile, "source": hostile, "licence": hostile}
        | {"classes": [hostile] * 10}
    )
    result = (
        passed[0]
        .results[0]
        .model_copy(
            update={"observed": hostile, "expected": hostile, "examples": [hostile]}
            | {"examples_count": 1, "title": hostile}
            | {"details": {"type": "x", "column": hostile}}
        )
    )
    text = render_page(
        passed[0].model_copy(update={"results": [result]}), card, docs="data_docs/index.html"
    )
    page = Page(text)
    clean = Page((passed[1] / "index.html").read_text(encoding="utf-8"))
    assert set(page.tags) <= set(clean.tags) | {"ul", "li"}
    assert page.fetched == clean.fetched
    assert page.text.count(hostile) >= 9


def test_a_hostile_dataset_gets_through_as_a_whole(
    digits: Dataset, bounds: ImageExpectations, tmp_path: Path
) -> None:
    card = digits.card.model_copy(update={"title": "<script>alert(1)</script>", "name": "../<b>"})
    validate_dataset(replace(digits, card=card), bounds, tmp_path / "out")
    for path in (tmp_path / "out").rglob("*.html"):
        assert "<script" not in path.read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("html", "left"),
    [
        ('<p onclick="x()" style="color:red" class="a">1 &lt; 2 &#8776;</p>', None),
        ('<script src="//evil.test/x.js">if (a < b) {}</script>', ""),
        ('<img src="https://evil.test/x.png"/>', ""),
        ('<div class="modal btn-group"><div>x</div><div>y</div></div>', ""),
        ('<a href="https://evil.test">text</a>', "<a>text</a>"),
        ('<a href="javascript:alert(1)">text</a>', "<a>text</a>"),
        ('<a href="../../expectations/images.html">s</a>', '<a href="suite.html">s</a>'),
        ('<a href="#x&quot;y">s</a>', '<a href="#x&quot;y">s</a>'),
        ('<i class="fas fa-times text-danger"></i>x', None),
    ],
)
def test_cleaning_leaves_text_and_drops_the_rest(html: str, left: str | None) -> None:
    if left is None:
        left = {
            "<p": '<p class="a">1 &lt; 2 &#8776;</p>',
            "<i": '<b class="text-danger" role="img" aria-label="failed">✗</b>x',
        }[html[:2]]
    page = offline(f"<html><head></head><body>{html}</body></html>", "T")
    assert page.endswith(f"</p>{left}</body></html>")
