"""A model with four seeds on one and on two Dask workers, with a core each.

python -m benchmarks workers [cnn ...] [--seeds 4] [--repetitions 3]

Results are part of RESULTS.md. A worker has a clone of the commit, keeps to its core, and has
imported TensorFlow before; flow, scheduler and tracking server take what the workers leave.
"""

import argparse
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.contest import machine, tell
from benchmarks.growth import CLI, call
from chapterflow.environment import find_project
from chapterflow.tracking import runs

#: Seconds in which servers must answer.
SECONDS = 600.0
#: Metrics that differ from run to run.
MEASURED = re.compile(r"seconds|_ms|per_second|bytes")


def main(words: list[str] | None = None) -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=["cnn"])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args(words)
    command = ["run", *options.models, "--seeds", str(options.seeds)]
    measured: dict[str, Any] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "quick": False,
        "repetitions": options.repetitions,
        "machine": machine({}),
        "command": f"chapterflow {' '.join(command)}",
        "workers": {"1": [], "2": []},
    }
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        sys.exit(f"Two workers need two cores. Received: {len(cores)}. Take a larger machine")
    scores = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        root = Path(folder)
        flow, *clones = (root / name for name in ("flow", "first", "second"))
        for clone in (flow, *clones):
            subprocess.run(["git", "clone", "-q", find_project().root, clone], check=True)
        port = _port()
        server = f"http://127.0.0.1:{port}"
        stack.enter_context(
            _process(
                root,
                *("mlflow", "server", "--workers", "1", "--host", "127.0.0.1"),
                *("--port", str(port), "--backend-store-uri", f"sqlite:///{root}/mlflow.db"),
                *("--artifacts-destination", str(root / "artifacts")),
            )
        )
        _wait(port)
        os.environ["MLFLOW_TRACKING_URI"] = server
        clusters = {
            str(count): _cluster(stack, flow, dict(zip(clones[:count], cores, strict=False)))
            for count in (1, 2)
        }
        for repetition in range(options.repetitions + 1):
            for count, (address, workers) in clusters.items():
                before = sum(map(_cpu, workers))
                words = [*command, "--force", "--json", "--engine", "dask", "--address", address]
                printed, point = call(flow, [*CLI, *words], patience=600, more=_environment(flow))
                document = json.loads(printed)
                # The first flow brings the data and imports TensorFlow.
                if not repetition:
                    continue
                scores.append(_scores(document))
                row = {
                    "models": _seconds(server, options.seeds * len(options.models)),
                    "flow": document["seconds"],
                    "command": point["wall"],
                    "cpu": sum(map(_cpu, workers)) - before,
                }
                measured["workers"][count].append(row)
                tell(f"{count} workers: " + ", ".join(f"{k} {v:.1f} s" for k, v in row.items()))
    measured["equal"] = all(score == scores[0] for score in scores)
    tell(f"scores are {'equal' if measured['equal'] else 'NOT equal'}")
    results.write("workers", measured)


def _cluster(
    stack: contextlib.ExitStack, flow: Path, clones: dict[Path, int]
) -> tuple[str, list[int]]:
    """Start a scheduler and a worker in each clone on its core; return address and processes."""
    from distributed import Client

    port = _port()
    address = f"tcp://127.0.0.1:{port}"
    local = ("--host", "127.0.0.1", "--no-dashboard")
    stack.enter_context(
        _process(flow, "distributed.cli.dask_scheduler", *local, "--port", str(port))
    )
    _wait(port)
    options = ("--nthreads", "1", "--no-nanny", "--local-directory", f".chapterflow/dask-{port}")
    workers = [
        stack.enter_context(
            _process(
                clone, "distributed.cli.dask_worker", address, *local, *options, cores={core}
            )
        )
        for clone, core in clones.items()
    ]  # fmt: skip
    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(len(workers), timeout=SECONDS)
    return address, workers


@contextlib.contextmanager
def _process(root: Path, module: str, *words: str, cores: set[int] | None = None) -> Iterator[int]:
    """Run a module in a folder until the block ends; yields the number of the process."""
    usual = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores or usual)  # The process inherits it.
    process = subprocess.Popen(
        [sys.executable, "-m", module, *words],
        cwd=root,
        env=os.environ | _environment(root),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.sched_setaffinity(0, usual)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def _environment(root: Path) -> dict[str, str]:
    return {
        "PYTHONPATH": os.pathsep.join((str(root / "src"), str(root))),
        "CHAPTERFLOW_PROJECT": str(root),
    }


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(port: int) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.2)
    sys.exit(f"A server must answer within {SECONDS:g} s. Received: nothing from port {port}")


def _cpu(process: int) -> float:
    """Return the CPU seconds of a process so far."""
    import psutil

    times = psutil.Process(process).cpu_times()
    return float(times.user + times.system)


def _seconds(server: str, count: int) -> float:
    """Return the seconds from the start of the first to the end of the last of the newest runs."""
    from mlflow import MlflowClient

    client = MlflowClient(server, server)
    newest = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()],
        order_by=["attributes.start_time DESC"],
    )
    kinds = (runs.MODEL_RUN, runs.SEED_RUN)
    infos = [run.info for run in newest if run.data.tags.get(runs.RUN_TYPE) in kinds][:count]
    ended = max(info.end_time for info in infos)
    return float(ended - min(info.start_time for info in infos)) / 1000


def _scores(document: dict[str, Any]) -> Any:
    """Return what must not depend on the workers."""
    models = [
        {name: value for name, value in model["metrics"].items() if not MEASURED.search(name)}
        for model in document["models"]
    ]
    return models, [seeds["values"] for seeds in document["seeds"]]


if __name__ == "__main__":
    main()
