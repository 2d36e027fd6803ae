"""The playground in a real browser: by pen, by key, in both languages, and without network."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.page import page_runs
from tests.page.conftest import serious_faults
from tests.page.play_page import make_page

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("play")
    path = folder / "playground.html"
    path.write_text(make_page(folder), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def opened(browser: Any, address: str) -> Any:
    contexts = []

    def open_page(tab: str = "draw", **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.heard, page.asked = [], []
        page.on("console", lambda message: page.heard.append(message.text))
        page.on("pageerror", lambda error: page.heard.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(f"{address}#{tab}")
        page.wait_for_selector("html[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()


def settle(page: Any) -> None:
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def answers(page: Any) -> list[str]:
    settle(page)
    texts: list[str] = page.locator(".answer").all_inner_texts()
    return texts


def test_nothing_is_fetched_and_nothing_goes_wrong(opened: Any, address: str) -> None:
    page = opened()
    for tab in ("kernel", "graph", "draw"):
        page.locator(f"#tab-{tab}").click()
    for language in ("ko", "en"):
        page.locator(f"[data-language={language}]").click()
    page.locator("#theme").click()
    page.wait_for_selector("#count td")
    assert [url for url in page.asked if not url.startswith(("data:", address))] == []
    assert page.heard == []


def test_a_test_image_reaches_the_models_as_it_is_stored(opened: Any, tmp_path: Path) -> None:
    page = opened()
    actual = page.evaluate("Array.from(drawing.input.data)")
    row = page.evaluate("DATA.examples.index[drawing.example]")
    stored = page_runs.make_data(tmp_path).arrays["images"][row]
    assert np.array_equal(np.reshape(actual, stored.shape), stored)
    # Painting it on the raster of strokes changes no value either.
    page.evaluate("drawing.strokes.push([[-5, -5]])")
    actual = page.evaluate("Array.from(currentInput().data)")
    assert np.array_equal(np.reshape(actual, stored.shape), stored)


def test_a_drawing_has_the_range_size_and_place_of_training_images(opened: Any) -> None:
    page = opened()
    page.locator("#clear").click()
    assert answers(page) == ["Nothing drawn yet"] * 2
    box = page.locator("#pad").bounding_box()
    # A short stroke in a corner.
    page.mouse.move(box["x"] + 30, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + 50, box["y"] + 150, steps=5)
    during = answers(page)
    page.mouse.up()
    assert all(text.startswith("Says ") for text in during)
    values = np.reshape(page.evaluate("Array.from(drawing.input.data)"), (8, 8))
    assert np.array_equal(values, values.round())
    assert values.max() >= 14
    assert (values > 3).any(axis=1).sum() >= 7
    assert abs((values.sum(axis=0) * (np.arange(8) + 0.5)).sum() / values.sum() - 4) < 0.7
    page.locator("#undo").click()
    assert answers(page) == ["Nothing drawn yet"] * 2


def test_a_finger_draws_and_the_page_stays_where_it_is(opened: Any) -> None:
    page = opened(has_touch=True, is_mobile=True, viewport={"width": 390, "height": 844})
    page.locator("#clear").tap()
    page.locator("#pad").scroll_into_view_if_needed()
    box, before = page.locator("#pad").bounding_box(), page.evaluate("scrollY")
    touches = page.context.new_cdp_session(page)
    for kind, y in (("touchStart", 40), ("touchMove", 90), ("touchMove", 140), ("touchEnd", None)):
        points = [] if y is None else [{"x": box["x"] + 60, "y": box["y"] + y}]
        touches.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert page.evaluate("drawing.strokes.length") == 1
    assert answers(page)[0].startswith("Says ")
    assert page.evaluate("scrollY") == before


def test_keys_draw_and_undo(opened: Any) -> None:
    page = opened()
    page.locator("#pad").focus()
    page.keyboard.press("Delete")
    for key in ["Space", *["ArrowDown"] * 4, "ArrowRight", "Space", "ArrowUp"]:
        page.keyboard.press(key)
    assert page.evaluate("drawing.strokes.map((stroke) => stroke.length)") == [6]
    assert answers(page)[0].startswith("Says ")
    page.keyboard.press("Backspace")
    assert page.evaluate("drawing.strokes.length") == 0


def test_changes_of_the_drawing_move_its_pixels(opened: Any) -> None:
    page = opened()
    before = np.reshape(page.evaluate("Array.from(drawing.input.data)"), (8, 8))
    page.locator("#changes input").first.focus()
    page.keyboard.press("ArrowRight")
    settle(page)
    after = np.reshape(page.evaluate("Array.from(drawing.input.data)"), (8, 8))
    assert np.array_equal(after[:, 1:], before[:, :-1])
    assert not after[:, 0].any()
    page.locator("#invert").check()
    settle(page)
    inverted = np.reshape(page.evaluate("Array.from(drawing.input.data)"), (8, 8))
    assert np.array_equal(inverted, 16 - after)
    page.locator("#reset").click()
    settle(page)
    assert np.array_equal(
        np.reshape(page.evaluate("Array.from(drawing.input.data)"), (8, 8)), before
    )


def test_the_calculation_shown_adds_up(opened: Any) -> None:
    page = opened()
    actual = page.evaluate("""() => {
      const column = columns.at(-1);
      const result = [];
      for (const layer of models[column.model].network.layers) {
        if (!/Conv2D|MaxPooling2D/.test(layer.type)) continue;
        const [x] = layer.inputs.map((name) => column.outputs.get(name));
        const output = column.outputs.get(layer.name);
        for (const place of [[0, 0], [output.shape[1] - 1, output.shape[0] - 1]]) {
          picked.place = place;
          let value = -Infinity;
          const [kernel, bias] = layer.weights;
          if (!kernel) value = Math.max(...windowOf(layer, x, place, 1).values);
          else {
            value = bias.data[1];
            for (let c = 0; c < x.shape[2]; c++)
              windowOf(layer, x, place, c).values.forEach((number, k) =>
                (value += number * kernel.data[(k * x.shape[2] + c) * kernel.shape[3] + 1]));
            value = Math.max(value, 0);
          }
          result.push(value - valueAt(output, ...place, 1));
        }
      }
      return result;
    }""")
    assert np.abs(actual).max() < 1e-6
    page.locator(".model").nth(1).locator(".maps").nth(1).hover()
    assert "pool1" in page.locator("#inspector h2").inner_text()
    assert page.locator("#inspector .cells span.best").count() == 1
    page.locator(".maps").first.focus()
    page.keyboard.press("ArrowRight")
    assert "unit 2 of 12" in page.locator("#inspector h2").inner_text()


def test_of_three_models_any_two_are_next_to_each_other(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "three.html"
    path.write_text(make_page(tmp_path, third=True), encoding="utf-8")
    page = browser.new_page()
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    menu = page.get_by_role("combobox", name="Model").last
    assert menu.locator("option").all_inner_texts() == ["dnn", "cnn", "lenet5"]
    before = answers(page)
    menu.select_option("lenet5")
    after = answers(page)
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert page.evaluate("columns.map((column) => models[column.model].document.name)") == [
        "dnn", "lenet5"
    ]  # fmt: skip
    page.locator("#left-out summary").click()
    assert page.locator("#left-out li").all_inner_texts() == ["hub/1: it learnt photos"]
    page.close()


def test_a_setting_without_effect_shows_the_value_that_counts(opened: Any) -> None:
    page = opened("kernel")
    shown = page.locator("#settings output")
    assert shown.all_inner_texts() == ["1", "0", "1", "3"]
    page.locator("#operations [data-word=pointwise]").click()
    assert shown.all_inner_texts() == ["1", "0", "1", "1"]
    page.locator("#operations [data-word=max-pooling]").click()
    assert shown.all_inner_texts() == ["2", "0", "1", "2"]


def test_kernel_stride_padding_and_dilation(opened: Any) -> None:
    page = opened("kernel")

    def set_to(place: int, value: int) -> None:
        page.locator("#settings input").nth(place).fill(str(value))

    assert page.evaluate("[labSide(), labValue([2, 3])]") == [10, 17]
    set_to(0, 2)
    set_to(1, 1)
    set_to(2, 2)
    assert page.evaluate("labSide()") == 5
    lines = page.locator("#formula").inner_text().splitlines()
    assert lines[1:] == ["= ⌊(12 + 2·1 \u2212 2·(3 \u2212 1) \u2212 1) / 2⌋ + 1", "= 5"]
    one = page.locator("#formula .part").last.bounding_box()["height"]
    # None of its lines wraps.
    assert page.locator("#formula").bounding_box()["height"] < 3 * one + 30
    page.get_by_role("radio", name="Max pooling").click()
    assert page.evaluate("[labSide(), labValue([2, 1]), labValue([2, 2])]") == [6, 9, 9]
    page.get_by_role("radio", name="1×1 convolution").click()
    page.get_by_role("button", name="Only red").click()
    assert page.evaluate("labValue([5, 3])") == 9


def test_a_feature_spreads_one_hop_a_layer_and_edges_change_answers(opened: Any) -> None:
    page = opened("graph")
    reached = "hops().at(-1).data.reduce((count, each) => count + (each > 0), 0)"
    assert page.evaluate(f"club.node = 16, showGraph(), {reached}") == 3
    page.locator("#hops").fill("2")
    assert page.evaluate(reached) == 6
    page.get_by_role("radio", name="Add or cut an edge").click()
    before = page.evaluate("club.after[8][0]")
    page.locator("[data-node='8']").click()
    page.locator("[data-node='33']").focus()
    page.keyboard.press("Enter")
    assert "Edge 8\u201333 cut" in page.locator("#graph-status").inner_text()
    assert page.evaluate("club.after[8][0]") != before
    page.get_by_role("button", name="Restore all edges").click()
    assert page.evaluate("club.after[8][0]") == before


def test_the_language_changes_every_word(opened: Any) -> None:
    page = opened(locale="ko-KR")
    for tab in ("draw", "kernel", "graph"):
        page.locator(f"#tab-{tab}").click()
        korean = page.locator(f"#{tab}").inner_text()
        page.locator("[data-language=en]").click()
        english = page.locator(f"#{tab}").inner_text()
        page.locator("[data-language=ko]").click()
        same = {line for line in korean.splitlines() if len(line) > 15} & {*english.splitlines()}
        assert {line for line in same if any(letter.isalpha() for letter in line)} == set()


@pytest.mark.parametrize("tab", ["draw", "kernel", "graph"])
@pytest.mark.parametrize(
    ("width", "scheme", "language"), [(1400, "light", "en"), (390, "dark", "ko")]
)
def test_no_serious_fault_of_accessibility(
    tab: str, width: int, scheme: str, language: str, opened: Any
) -> None:
    page = opened(
        tab, viewport={"width": width, "height": 900}, color_scheme=scheme, locale=language
    )
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert serious_faults(page) == []
