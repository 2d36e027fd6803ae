"""`chapterflow ui` as a real process: it answers when it says so, and leaves nothing behind."""

import os
import re
import signal
import subprocess
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from chapterflow.tracking.session import charts_of, experiment_note
from chapterflow.tracking.store import EXPERIMENT_ID
from tests.conftest import HUNG, begin, free_port, invoke
from tests.loop import stores

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
