"""The page in a real browser: it loads nothing, works by keyboard, and everybody can read it."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from chapterflow.page.report import render, write
from tests.page import page_runs
from tests.page.conftest import serious_faults

pytestmark = pytest.mark.slow
#: The table of results.
RESULTS = "table[data-sortable] >> nth=0"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("browser")
    material = page_runs.make_material(root)
    for entry in material.entries[1:]:
        page_runs.explain(entry.facts)
    return write(render(material), root / "report").as_uri()


def opened(browser: Any, address: str, **options: Any) -> Any:
    page = browser.new_context(**options).new_page()
    page.heard = []
    page.on("console", lambda message: page.heard.append(message.text))
    page.on("pageerror", lambda error: page.heard.append(str(error)))
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(address)
    return page


def column(page: Any, number: int) -> list[str]:
    actual: list[str] = (
        page.locator(RESULTS).locator(f"tbody tr > :nth-child({number})").all_inner_texts()
    )
    return actual


def test_nothing_is_fetched_and_nothing_goes_wrong(browser: Any, address: str) -> None:
    page = opened(browser, address)
    fetched = [url for url in page.asked if url != address and not url.startswith("data:")]
    assert fetched == []
    assert page.heard == []


def test_every_picture_and_plot_is_there(browser: Any, address: str) -> None:
    page = opened(browser, address)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    sizes = page.evaluate("[...document.images].map(i => [i.naturalWidth, i.width, i.alt.length])")
    assert len(sizes) > 40
    assert all(min(size) > 0 for size in sizes)
    plots = page.evaluate(
        "[...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().height)"
    )
    assert len(plots) >= 4 + 3 * 3
    assert min(plots) > 60


def test_a_table_is_sorted_by_click_and_by_key(browser: Any, address: str) -> None:
    page = opened(browser, address)
    head = page.locator(RESULTS).locator("th", has_text="accuracy").first
    assert head.get_attribute("aria-sort") == "none"
    scores = [float(text) for text in column(page, 2)]
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert [float(text) for text in column(page, 2)] == sorted(scores)
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(text) for text in column(page, 2)] == sorted(scores, reverse=True)
    page.locator(RESULTS).locator("th button", has_text="model").click()
    assert column(page, 1) == sorted(page_runs.MODELS)
    assert head.get_attribute("aria-sort") == "none"


def test_thousands_are_sorted_as_numbers(browser: Any, address: str) -> None:
    page = opened(browser, address)
    page.locator(RESULTS).locator("th button", has_text="parameters").click()
    shown = [text.split()[0] for text in column(page, 10)]
    assert shown == ["9,610", "19,220", "28,830"]


def test_without_script_it_is_a_plain_page(browser: Any, address: str) -> None:
    page = opened(browser, address, java_script_enabled=False)
    assert page.locator(RESULTS).locator("tbody tr").count() == len(page_runs.MODELS)
    assert page.locator("th button").count() == 0


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_fault_of_accessibility(
    browser: Any, address: str, width: int, scheme: str
) -> None:
    page = opened(browser, address, viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert serious_faults(page) == []


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (390, 844)])
def test_the_first_screen_answers_the_question_of_the_chapter(
    browser: Any, address: str, width: int, height: int
) -> None:
    page = opened(browser, address, viewport={"width": width, "height": height})
    for part in (".verdict", ".bars"):
        box = page.locator(f".card {part}").first.bounding_box()
        assert box["y"] + box["height"] < height


def test_a_link_opens_the_folded_model(browser: Any, address: str) -> None:
    page = opened(browser, address)
    model = page.locator("details.model").nth(1)
    assert model.get_attribute("open") is None
    page.locator(f".card a[href='#{model.get_attribute('id')}']").first.click()
    page.wait_for_selector("details.model:nth-of-type(2)[open]")
    assert model.locator(".facts").is_visible()
    # The address alone opens it, too.
    again = opened(browser, page.url)
    assert again.locator("details.model").nth(1).locator(".facts").is_visible()


def test_a_phone_scrolls_down_only(browser: Any, address: str) -> None:
    page = opened(browser, address, viewport={"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_headings_go_down_one_level_at_a_time(browser: Any, address: str) -> None:
    page = opened(browser, address)
    levels = page.evaluate(
        "[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(h => +h.tagName[1])"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_print_is_on_white_whole_and_without_navigation(
    browser: Any, address: str, tmp_path: Path
) -> None:
    page = opened(browser, address, color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(29, 33, 39)"
    assert not page.locator("nav").is_visible()
    assert page.locator("details td").first.is_visible()
    page.pdf(path=tmp_path / "page.pdf", format="A4")
    assert (tmp_path / "page.pdf").stat().st_size > 50_000
