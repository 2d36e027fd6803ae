"""Take the screenshots of the MLflow UI in docs/images.

chapterflow run && chapterflow ui --port 5001
python docs/screenshots.py http://127.0.0.1:5001        # in another terminal

Needs Chromium. What is clicked has no name in MLflow's pages, so look at the pictures before you
commit them.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from playwright.sync_api import sync_playwright

from chapterflow.tracking.session import charts_of

IMAGES = Path(__file__).parent / "images"
SIZE = {"width": 1500, "height": 1180}
#: Milliseconds in which a page of MLflow draws itself.
DRAWN = 6000
SEARCH = "Search metric charts"


def main(address: str) -> None:
    """Take both screenshots from the UI at an address."""
    client = MlflowClient(address)
    (experiment,) = client.search_experiments(filter_string="name = 'chapterflow'")
    explained, *_ = client.search_runs(
        [experiment.experiment_id], "tags.`mlflow.runName` = 'xcnn on digits'"
    )
    runs = f"{address}/#/experiments/{experiment.experiment_id}/runs"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport=SIZE)
        open_page(page, charts_of(runs, "digits"))
        page.get_by_placeholder(SEARCH).fill("test/errors$|test/log_loss$|train/seconds")
        page.wait_for_timeout(DRAWN)
        page.screenshot(path=IMAGES / "compare.png")
        open_page(page, f"{runs}/{explained.info.run_id}/model-metrics")
        title = page.get_by_text("feature_maps").first
        title.scroll_into_view_if_needed()
        place = title.bounding_box()
        buttons = [button.bounding_box() for button in page.locator("button").all()]
        enlarge = next(
            box for box in buttons if abs(box["y"] - place["y"]) < 40 and box["x"] > place["x"]
        )
        page.mouse.click(enlarge["x"] + enlarge["width"] / 2, enlarge["y"] + enlarge["height"] / 2)
        page.wait_for_timeout(DRAWN)
        page.screenshot(path=IMAGES / "feature-maps.png")
        browser.close()


def open_page(page: Any, address: str) -> None:
    """Open a page of MLflow, and close the panel of its assistant."""
    page.goto(address)
    page.wait_for_timeout(DRAWN)
    panel = page.get_by_text("MLflow Assistant")
    if panel.count():
        box = panel.first.bounding_box()
        page.mouse.click(SIZE["width"] - 37, box["y"] + box["height"] / 2)
        page.wait_for_timeout(DRAWN)


if __name__ == "__main__":
    main(*sys.argv[1:])
