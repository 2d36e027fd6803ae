"""The page of `dvc plots show` in a real browser, without network."""

from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
from dvc_render.html import render_html
from dvc_render.vega import VegaRenderer

from chapterflow.cli.init import project_files
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

CURVE = [
    {"epoch": str(epoch), "validation_loss": str(loss / epoch), "rev": rev}
    for rev, loss in (("main", 1.0), ("workspace", 0.5))
    for epoch in range(1, 6)
]
TABLE = [
    {"actual": actual, "predicted": predicted, "rev": "workspace"}
    for actual, predicted in (("cat", "cat"), ("cat", "cat"), ("dog", "cat"), ("dog", "dog"))
]


def template() -> Path:
    """Return the page that the repository's DVC uses."""
    settings = ConfigParser()
    settings.read(REPOSITORY / ".dvc" / "config")
    return REPOSITORY / ".dvc" / settings["plots"]["html_template"]


def test_lines_and_confusion_are_drawn_without_network(browser: Any, tmp_path: Path) -> None:
    line = {"x": "epoch", "y": "validation_loss", "template": "linear"}
    confusion = {"x": "actual", "y": "predicted", "template": "confusion"}
    scatter = confusion | {"template": "scatter"}
    plots = [
        VegaRenderer(points, name, title=name, **properties)
        for points, name, properties in (
            (CURVE, "results/models/cnn/learning_curve.csv", line),
            (TABLE, "results/models/cnn/confusion.csv", confusion),
            ([], "results/models/conv1d/confusion.csv", confusion),
            (TABLE, "others.csv", scatter),
        )
    ]
    render_html(plots, tmp_path / "index.html", template())
    page = browser.new_context().new_page()
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "index.html").as_uri())
    assert asked == [(tmp_path / "index.html").as_uri()]
    assert heard == []
    headings = page.locator("h2").all_inner_texts()
    assert headings == ["cnn learning curve", "cnn confusion", "others.csv"]
    assert page.locator("polyline").count() == 2
    assert page.get_by_text("― main").is_visible()
    cells = page.locator("rect title").all_text_contents()
    assert "actual dog, predicted cat: 1" in cells
    assert "actual cat, predicted cat: 2" in cells
    assert "actual cat, predicted dog: 0" in cells
    assert page.locator("td").all_inner_texts()[:2] == ["cat", "cat"]


def test_a_new_project_has_the_page_too() -> None:
    files = project_files({"package": "mine", "name": "mine"})
    settings = ConfigParser()
    settings.read_string(files[".dvc/config"])
    assert files[f".dvc/{settings['plots']['html_template']}"] == template().read_text("utf-8")
