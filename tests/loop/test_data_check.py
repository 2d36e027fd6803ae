"""The closed loop: new data become a champion, bad data change nothing, somebody hears of it."""

import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chapterflow.data.build import record_version
from tests.conftest import Run, flow_runs, in_checkout, invoke
from tests.loop import stores
from tests.loop.test_bad_input import write_idx

pytestmark = pytest.mark.slow


OWN = ("--set", "roles.digits.embedded=own")


class Inbox(BaseHTTPRequestHandler):
    """Keeps the documents that are posted to it."""

    documents: list[dict[str, Any]]

    def do_POST(self) -> None:
        """Keep the document."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.documents.append(json.loads(body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Stay silent."""


@pytest.fixture
def inbox() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a webhook, and the documents that it has received."""
    received: list[dict[str, Any]] = []
    handler = type("Handler", (Inbox,), {"documents": received})
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook", received
    server.shutdown()
    server.server_close()


def write_source(folder: Path, train: int) -> None:
    """Write digits as IDX files, always with the same test examples."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = (digits.images * 15).astype(np.uint8), digits.target.astype(np.uint8)
    folder.mkdir(exist_ok=True)
    for part, chosen in (("train", slice(400, 400 + train)), ("t10k", slice(0, 400))):
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", images[chosen])
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels[chosen])


def aliases(root: Path) -> dict[str, int]:
    rows = stores.query(
        root / "mlruns/mlflow.db",
        "SELECT alias, version FROM registered_model_aliases WHERE name = 'dnn'",
    )
    return dict(rows)  # type: ignore[arg-type]


@pytest.mark.fault(
    "New data that break an expectation, noticed by `data check`",
    "Training does not start; dataset and champion stay; `notify:` is called once",
)
def test_new_data_become_a_champion_and_bad_data_do_not(
    fetched: Path,
    tmp_path: Path,
    run_flow: Run,
    prefect_api: dict[str, str],
    inbox: tuple[str, list[dict[str, Any]]],
    record_property: Any,
) -> None:
    root, source, mail = fetched, tmp_path / "source", tmp_path / "mail.json"
    write_source(source, 800)
    added = invoke(root, "data", "add", "own", str(source), "--kind", "idx")
    assert added.returncode == 0, added.stderr
    stores.set_param(root, "models.dnn.epochs", 12)
    stores.set_param(root, "promotion.floor.digits", 0.5)
    stores.set_param(root, "promotion.calibration_error.digits", 0.9)
    stores.set_param(root, "notify.command", ["sh", "-c", f"cat > {mail}"])
    trained = run_flow(root, "run", "dnn", *OWN)
    assert trained.returncode == 0, trained.stderr

    def check(*words: str, code: int = 0) -> dict[str, Any]:
        done = run_flow(root, "data", "check", "dnn", "--json", *OWN, *words)
        assert done.returncode == code, done.stdout + done.stderr
        return dict(json.loads(done.stdout))

    before = len(stores.mlflow_runs(root))
    same = check()
    assert (same["verdict"], same["models"], same["faults"]) == ("unchanged", [], [])
    assert not mail.exists()
    assert len(stores.mlflow_runs(root)) == before

    write_source(source, 1200)
    good = check("--allow-dirty")
    assert [look["state"] for look in good["datasets"]] == ["new"]
    assert [(m["model"], m["status"], m["model_version"]) for m in good["models"]] == [
        ("dnn", "trained", "2")
    ]
    assert good["verdict"] == "promoted", good
    assert aliases(root) == {"champion": 2}
    document = json.loads(mail.read_text())
    assert (document["verdict"], document["where"]["project"]) == ("promoted", root.name)
    states = {run["name"]: run["state"]["type"] for run in flow_runs(prefect_api)[-3:]}
    assert set(states.values()) == {"COMPLETED"}
    card = (root / "data/own/dataset.json").read_bytes()
    version = (root / "data.dvc").read_bytes()

    address, received = inbox
    stores.set_param(root, "notify", {"webhook": address})
    write_idx(source / "train-images-idx3-ubyte.gz", np.zeros((1200, 8, 8), np.uint8))
    runs = len(stores.mlflow_runs(root))
    bad = check("--allow-dirty", code=3)
    assert (bad["verdict"], bad["models"], bad["promotion"]) == ("bad data", [], [])
    # As in the clone that a worker makes for each run.
    (root / ".chapterflow/data-check.json").unlink()
    assert check("--allow-dirty", code=3)["notified"] == "said before"
    (document,) = received
    assert document["verdict"] == "bad data"
    assert "own" in document["what"]
    assert aliases(root) == {"champion": 2}
    assert (root / "data/own/dataset.json").read_bytes() == card
    assert (root / "data.dvc").read_bytes() == version
    assert len(stores.mlflow_runs(root)) == runs
    assert flow_runs(prefect_api)[-1]["state"]["type"] == "FAILED"
    record_property("saw", f"exit 3, {document['what'].partition(chr(10))[0][:80]}")


def test_the_version_that_data_dvc_names_is_brought(fetched: Path, tmp_path: Path) -> None:
    from chapterflow.environment import Project
    from chapterflow.errors import DataError
    from chapterflow.loop.incoming import bring_version

    project, pointer = Project(fetched), fetched / "data.dvc"
    card = fetched / "data/digits/dataset.json"
    with in_checkout(fetched):
        assert "here already" in bring_version(project)
        assert "as before" in bring_version(project)
        whole = pointer.read_bytes()
        shutil.rmtree(fetched / "data/digits")
        record_version(project)
        bring_version(project)
        fewer = pointer.read_bytes()
        assert fewer != whole
        # As after `git pull`.
        pointer.write_bytes(whole)
        assert "brought" in bring_version(project)
        assert card.is_file()
        pointer.write_bytes(re.sub(rb"md5: [0-9a-f]+", b"md5: " + b"0" * 32, fewer, count=1))
        with pytest.raises(DataError, match="DVC cannot bring it"):
            bring_version(project)
    assert card.is_file()
