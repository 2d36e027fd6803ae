"""`chapterflow ui` as a real process: it answers when it says so, and leaves nothing behind."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from chapterflow.tracking.session import charts_of, experiment_note
from chapterflow.tracking.store import EXPERIMENT_ID
from tests.conftest import HUNG, REPOSITORY, begin, command_environment, free_port, invoke
from tests.loop import stores
from tests.page.conftest import CHROMIUM, FLAGS

pytestmark = pytest.mark.slow


def test_the_ui_answers_and_stops_cleanly(checkout: Path) -> None:
    import requests

    port = free_port()
    words = ["chapterflow", "ui", "--port", str(port)]
    process = begin(checkout, *words, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        assert process.stderr is not None
        result = ""
        for line in process.stderr:
            result += line
            if "MLflow UI:" in line:
                break
        address = f"http://127.0.0.1:{port}"
        assert address in result
        page = requests.get(address, timeout=HUNG)
        processes = stores.processes_of(checkout)
        taken = invoke(checkout, "ui", "--port", str(port))
    finally:
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=HUNG)
    assert page.ok
    assert not [words for words in processes if "mlflow.server.jobs" in words]
    assert "mlflow" in page.text.lower()
    assert process.returncode == 0
    assert stores.processes_of(checkout) == {}
    assert taken.returncode == 2
    assert f"Port {port} on 127.0.0.1 is taken" in taken.stderr


def test_the_ui_of_prefect_asks_no_other_host(prefect_once: Path, tmp_path: Path) -> None:
    """With `--prefect`: the pages are drawn, and the browser connects to this server only."""
    import requests

    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    shutil.copytree(prefect_once, tmp_path / ".prefect")
    port = free_port()
    words = ["chapterflow", "ui", "--prefect", "--port", str(port)]
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment = command_environment(tmp_path) | paths
    process = begin(tmp_path, *words, env=environment, start_new_session=True)
    try:
        assert process.stderr is not None
        said = ""
        while "Ctrl-C ends it" not in said and (line := process.stderr.readline()):
            said += line
        address = f"http://127.0.0.1:{port}"
        assert address in said
        with playwright.sync_playwright() as started:
            chromium = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = chromium.new_page()
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            # Also the pages that would ask an analytics host, which a browser may remember.
            for path in ("/", "/deployments", "/v2/dashboard"):
                page.goto(address + path)
                page.get_by_text("Work Pools").first.wait_for()
            chromium.close()
        policy = requests.get(address, timeout=HUNG).headers["Content-Security-Policy"]
    finally:
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=HUNG)
    assert {urlsplit(url).netloc for url in asked if url.startswith("http")} == {
        f"127.0.0.1:{port}"
    }
    assert "connect-src 'self'" in policy
    assert process.returncode == 0


def test_the_link_of_a_role_opens_the_charts_of_its_models() -> None:
    page, _, query = charts_of("http://127.0.0.1:5000/#/experiments/1/runs", "digits").partition(
        "?"
    )
    assert page == "http://127.0.0.1:5000/#/experiments/1/runs"
    assert parse_qs(query) == {
        "searchFilter": ["tags.`chapterflow.role`='digits'"],
        "orderByKey": ["tags.`mlflow.runName`"],
        "orderByAsc": ["true"],
        "compareRunsMode": ["CHART"],
    }


def test_a_port_that_cannot_be_is_refused(checkout: Path) -> None:
    refused = invoke(checkout, "ui", "--port", "99999")
    assert refused.returncode == 2
    assert "65535" in refused.stderr


def test_the_first_line_of_the_experiment_links_the_charts_of_each_role() -> None:
    first, *rest = experiment_note(["digits", "curves"]).splitlines()
    links = re.findall(r"\[(\w+)\]\(([^)]+)\)", first)
    page = f"#/experiments/{EXPERIMENT_ID}/runs"
    assert links == [(role, charts_of(page, role)) for role in ("digits", "curves")]
    # MLflow's Markdown ends a link at a space.
    assert not [address for _, address in links if " " in address]
    assert [line for line in rest if line.startswith("| `test/`")]
