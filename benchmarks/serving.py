"""`chapterflow serve cnn` under load, against a plain `mlflow models serve` of the same version.

Both servers run; 8 connections on loopback load them in turn, with a real test image per request.
Responses are compared with the images' labels and with direct predictions.

python -m benchmarks serving [--seconds 60]
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import requests

from chapterflow.environment import Project, configure, find_project, load_tensorflow
from chapterflow.kinds.dataset import open_dataset

CLI = [sys.executable, "-m", "chapterflow.cli"]
#: Seconds within which a server must respond after its start.
PATIENCE = 180


def main(words: list[str] | None = None) -> None:
    """Train or reuse the CNN, load both servers in turn, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    seconds = parser.parse_args(words).seconds
    project = find_project()
    configure(project)
    process = subprocess.run([*CLI, "run", "cnn", "--json"], stdout=subprocess.PIPE, check=True)
    version = json.loads(process.stdout)["models"][0]["model_version"]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        file = Path(folder) / "requests.json"
        file.write_text(json.dumps(_requests(project, version)))
        ours = [*CLI, "serve", f"cnn/{version}", "--port"]
        peer = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/cnn/{version}"]
        servers = {
            "chapterflow": [*ours, str(_free_port())],
            "mlflow": [*peer, "--env-manager", "local", "--port", str(_free_port())],
        }
        addresses = {
            name: stack.enter_context(_server(command, Path(folder) / f"{name}.log"))
            for name, command in servers.items()
        }
        rates = [_load(name, address, file, seconds) for name, address in addresses.items()]
    print(f"cnn under load: chapterflow answers {rates[0] / rates[1]:.2f} times what mlflow does")


def _requests(project: Project, version: str) -> list[dict[str, Any]]:
    """Return a request for each test image, with its label and the direct prediction."""
    load_tensorflow()
    import mlflow.pyfunc

    from chapterflow.tracking.store import open_store

    # The servers inherit it: MLflow's own server does not know this project.
    os.environ["MLFLOW_TRACKING_URI"] = open_store(project)
    model = mlflow.pyfunc.load_model(f"models:/cnn/{version}", suppress_warnings=True)
    dataset = open_dataset(project.data / "digits")
    test = dataset.indices("test")
    images = np.asarray(dataset.inputs(test), np.float32)
    labels = [dataset.card.classes[number] for number in dataset.labels[test]]
    return [
        {
            "body": json.dumps({"inputs": [image.tolist()]}),
            "label": label,
            "probabilities": probabilities,
        }
        for image, label, probabilities in zip(
            images, labels, model.predict(images)["probabilities"], strict=True
        )
    ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _server(command: list[str], log: Path) -> Iterator[str]:
    """Run a server, yield its address once it responds, then stop it and its children."""
    address = f"http://127.0.0.1:{command[-1]}"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=os.environ | {"PATH": path},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(process, address, log)
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(requests.ConnectionError):
            requests.get(f"{address}/ping", timeout=PATIENCE)
            return
        time.sleep(0.2)
    raise SystemExit(f"A server must answer at {address}. Received: {log.read_text()}")


def _load(name: str, address: str, file: Path, seconds: float) -> float:
    """Load a server, print the result, and return its responses per second."""
    command = [sys.executable, "-m", "benchmarks.load", address, str(file), str(seconds)]
    process = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    counts = json.loads(process.stdout)
    times = counts["milliseconds"]
    if not times:
        raise SystemExit(f"{name} answered nothing. Received: {counts}")
    p50, p99 = np.percentile(times, [50, 99])
    rate = len(times) / seconds
    print(
        f"{name}: {rate:.0f} requests/s for {seconds:g} s, p50 {p50:.1f} ms, p99 {p99:.1f} ms, "
        f"longest {max(times):.0f} ms; {counts['sent']} sent, {counts['errors']} errors, "
        f"{counts['dropped']} dropped; right {counts['right'] / len(times):.4f}, as the direct "
        f"prediction {counts['equal'] / len(times):.4f}",
        flush=True,
    )
    return rate


if __name__ == "__main__":
    main()
