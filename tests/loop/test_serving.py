"""Every line of docs/serving.md is run as it stands, against servers as real processes."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from tests.conftest import (
    HUNG,
    NO_REPORT,
    REPOSITORY,
    Finished,
    call,
    command_environment,
    free_port,
    heed_interrupts,
    invoke,
)
from tests.loop import stores

pytestmark = pytest.mark.slow

#: Of the page: commands, and the answer that stands below them, if one does.
BLOCK = re.compile(r"```bash\n(?P<shell>.*?)\n```(?:\n\n```json\n(?P<answer>.*?)\n```)?", re.DOTALL)
BLOCKS = [
    (actual["shell"], actual["answer"])
    for actual in BLOCK.finditer((REPOSITORY / "docs" / "serving.md").read_text())
]
FIRST = BLOCKS[0][0]
SERVERS = [shell for shell, _ in BLOCKS if " serve " in shell]
ASKED = [(shell, answer) for shell, answer in BLOCKS if shell not in (FIRST, *SERVERS)]
#: Ports of the page: `chapterflow serve cnn`, `chapterflow serve gcn/1`, `mlflow models serve`.
CNN, GCN, PEER = "5001", "5002", "5003"


@dataclass
class Lab:
    """A checkout whose models ran once.

    Attributes:
        ports: Free ones, by those of the page.
        servers: Live ones, by their command: leaders of process groups.
    """

    root: Path
    ports: dict[str, int] = field(
        default_factory=lambda: {port: free_port() for port in (CNN, GCN, PEER)}
    )
    servers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def moved(self, shell: str) -> str:
        """Return commands of the page with the ports of this test."""
        if shell == "chapterflow serve cnn":
            shell += f" --port {CNN}"
        for port, own in self.ports.items():
            shell = re.sub(rf"(127\.0\.0\.1:|--port ){port}\b", rf"\g<1>{own}", shell)
        return shell

    def run(self, shell: str, **variables: str) -> subprocess.CompletedProcess[str]:
        words = ("bash", "-euo", "pipefail", "-c", self.moved(shell))
        return call(self.root, *words, **variables)

    def start(self, shell: str) -> None:
        """Start a server as a terminal does: Ctrl-C reaches all of its processes."""
        with self.log(shell).open("wb") as log:
            self.servers[shell] = subprocess.Popen(
                ["bash", "-c", self.moved(shell)],
                cwd=self.root,
                # By default MLflow's server has oneDNN's operations on some processors only; those
                # of TensorFlow differ in the last bits.
                env=command_environment(self.root) | {"TF_ENABLE_ONEDNN_OPTS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=heed_interrupts,
                start_new_session=True,
            )

    def log(self, shell: str) -> Path:
        return self.root.parent / f"{re.sub('[^a-z]+', '-', shell)}.log"

    def wait_for(self, shell: str, text: str, seconds: float = HUNG) -> str:
        """Return what a server says, once it says a text."""
        end = time.monotonic() + seconds
        while text not in (message := self.log(shell).read_text()):
            assert self.servers[shell].poll() is None, message
            assert time.monotonic() < end, message
            time.sleep(0.1)
        return message

    def stop(self, shell: str, with_signal: signal.Signals) -> int:
        """Send a signal as a terminal does, and return the exit code."""
        server = self.servers.pop(shell)
        os.killpg(server.pid, with_signal)
        return server.wait(timeout=HUNG)

    def post(
        self, port: str, body: str | bytes, media: str | None = "application/json"
    ) -> requests.Response:
        address = f"http://127.0.0.1:{self.ports[port]}/invocations"
        headers = {} if media is None else {"Content-Type": media}
        return requests.post(address, data=body, headers=headers, timeout=HUNG)


@pytest.fixture(scope="module")
def lab(finished: Finished, prefect_api: dict[str, str]) -> Iterator[Lab]:
    """A checkout where the page's first commands ran, and its servers, which answer."""
    # Its variants are not served.
    stores.set_param(finished.root, "models.gcn.beside", {})
    stores.set_param(finished.root, "models.gcn.epochs", 2)
    lab = Lab(finished.root)
    ran = lab.run(FIRST, **prefect_api, **NO_REPORT)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    try:
        for shell in SERVERS:
            lab.start(shell)
        for shell in SERVERS:
            lab.wait_for(shell, "Uvicorn running" if "mlflow" in shell else "answers at")
        yield lab
    finally:
        for shell in list(lab.servers):
            lab.stop(shell, signal.SIGTERM)


@pytest.fixture(scope="module")
def digits(lab: Lab) -> tuple[str, list[str]]:
    """A request with all test images, and their labels."""
    from chapterflow.kinds.dataset import open_dataset

    dataset = open_dataset(lab.root / "data" / "digits")
    test = dataset.indices("test")
    labels = [dataset.card.classes[number] for number in dataset.labels[test]]
    return json.dumps({"inputs": np.asarray(dataset.inputs(test)).tolist()}), labels


def predictions(text: str) -> list[dict[str, Any]]:
    """Return the predictions of an answer, which must be sound."""
    actual: list[dict[str, Any]] = json.loads(text)["predictions"]
    for answer in actual:
        assert answer["probabilities"][answer["class"]] == max(answer["probabilities"])
        assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-5)
    return actual


def test_the_page_names_what_is_run_here() -> None:
    assert (FIRST.count("chapterflow"), len(SERVERS), len(ASKED)) == (2, 3, 10)
    assert len([answer for _, answer in ASKED if answer]) == 3


@pytest.mark.parametrize(("shell", "answer"), ASKED)
def test_a_line_of_the_page(lab: Lab, shell: str, answer: str | None) -> None:
    done = lab.run(shell)
    assert done.returncode == 0, done.stderr
    if answer is None:
        assert predictions(done.stdout)
    else:
        pattern = re.escape(answer).replace(re.escape("..."), ".*")
        assert re.fullmatch(pattern, done.stdout), done.stdout
    if "predictions" in (answer or ""):
        predictions(done.stdout)


def test_forms_of_one_image_or_graph_get_one_answer(lab: Lab) -> None:
    literal = [
        shell for shell, answer in ASKED if " -d '" in shell and "error" not in (answer or "")
    ]
    for port, count in ((CNN, 4), (GCN, 3)):
        shells = [shell for shell in literal if f":{port}/" in shell]
        assert len(shells) == count
        assert len({lab.run(shell).stdout for shell in shells}) == 1


def test_the_line_that_a_server_prints(lab: Lab) -> None:
    for shell in SERVERS:
        if "mlflow" not in shell:
            message = lab.wait_for(shell, "curl")
            assert re.search(r"\d\.\d s after the start", message)
            (line,) = [line for line in message.splitlines() if line.startswith("curl")]
            assert predictions(lab.run(line).stdout)


def test_answers_are_right_and_those_of_mlflow_s_own_server(
    lab: Lab, digits: tuple[str, list[str]]
) -> None:
    body, labels = digits
    ours, peer = (predictions(lab.post(port, body).text) for port in (CNN, PEER))
    right = np.mean([answer["label"] == label for answer, label in zip(ours, labels, strict=True)])
    assert right > 0.95
    assert [answer["class"] for answer in ours] == [answer["class"] for answer in peer]
    for one, other in zip(ours, peer, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)


IMAGE = json.dumps({"inputs": np.full((1, 8, 8, 1), 3.5).tolist()})


@pytest.mark.parametrize(
    ("body", "media", "status", "says"),
    [
        ('{"inputs": [[1, 2]]}', "application/json", 400, "Received: (1, 2)"),
        (IMAGE.replace("[[[[", "[[[").replace("]]]]", "]]]"), "application/json", 400, "shape"),
        (IMAGE.replace("3.5", '"3"'), "application/json", 400, "numbers. Received: text"),
        (IMAGE.replace("3.5", "null"), "application/json", 400, "must hold numbers"),
        (IMAGE.replace("3.5", "NaN"), "application/json", 400, "must be finite. Received: NaN"),
        (IMAGE.replace("3.5", "1e999"), "application/json", 400, "finite numbers"),
        (IMAGE.replace("3.5", "0.1e3"), "application/json", 400, "from 0 to 16"),
        ("not JSON", "application/json", 400, "must be a JSON document"),
        (b"\xff\xfe\x00", "application/json", 400, "must be a JSON document"),
        ("", "application/json", 400, "must be a JSON document"),
        ("{}", "application/json", 400, "one of the keys inputs"),
        (IMAGE, "text/csv", 415, "must be application/json. Received: text/csv"),
        (IMAGE, None, 415, "must be application/json. Received: none"),
        (b" " * 64_000_001, "application/json", 413, "at most 64 MB"),
    ],
)
def test_bad_input_is_refused_and_the_next_is_answered(
    lab: Lab, body: str | bytes, media: str | None, status: int, says: str
) -> None:
    refused = lab.post(CNN, body, media)
    assert refused.status_code == status
    assert says in refused.json()["message"]
    assert len(refused.text) < 300
    good = lab.post(CNN, IMAGE)
    assert good.status_code == 200
    assert len(predictions(good.text)) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (f"cnn --port {CNN}", "is taken. Choose another with --port"),
        ("cmn", "No registered model is called 'cmn'"),
        ("cnn/9", "'cnn/9' is not in the registry. cnn has version 1"),
        ("gcn@champion", "`chapterflow promote gcn` promotes one"),
        ("cnn --port 99999", "65535"),
        ("cnn --max-mb 0", "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_served(lab: Lab, words: str, says: str) -> None:
    port = [] if "--port" in words else ["--port", "0"]
    refused = invoke(lab.root, "serve", *words.replace(CNN, str(lab.ports[CNN])).split(), *port)
    assert refused.returncode == 2
    assert says in refused.stderr
    assert "Traceback" not in refused.stderr


def test_ctrl_c_while_it_loads(lab: Lab) -> None:
    shell = f"chapterflow serve cnn --port {free_port()}"
    lab.start(shell)
    lab.wait_for(shell, "Loading cnn")
    taken = lab.run(shell)
    assert taken.returncode == 2
    assert "is taken" in taken.stderr
    assert lab.stop(shell, signal.SIGINT) == 0
    assert "Traceback" not in lab.log(shell).read_text()


def test_ctrl_c_ends_a_server_that_a_client_holds_on_to(lab: Lab) -> None:
    """The last test: it ends one of the page's servers."""
    (shell,) = [shell for shell in SERVERS if "gcn/1" in shell]
    with requests.Session() as client:  # whose connection stays open
        address = f"http://127.0.0.1:{lab.ports[GCN]}"
        assert client.get(f"{address}/ping", timeout=HUNG).status_code == 200
        assert lab.stop(shell, signal.SIGINT) == 0
    assert "Traceback" not in lab.log(shell).read_text()
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{address}/ping", timeout=HUNG)
