"""Two workers of a Dask cluster next to one, on this machine: wall and CPU seconds.

python -m benchmarks workers [--models dnn lenet5 cnn xcnn]

Each worker has a clone of the commit of its own, and shares a tracking server with the flow. The
cores of one machine are shared, too: two workers save wall time as far as one leaves cores idle.
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from chapterflow.environment import find_project

#: Seconds in which servers must answer.
SECONDS = 300.0


def main(words: list[str] | None = None) -> None:
    """Run the models on one worker, then on two, and print a table in markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["dnn", "lenet5", "cnn", "xcnn"])
    arguments = parser.parse_args(words)
    source = find_project().root
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        clones = [root / name for name in ("flow", "first", "second")]
        for clone in clones:
            subprocess.run(["git", "clone", "-q", source, clone], check=True)
        mlflow, dask = _port(), _port()
        server = f"http://127.0.0.1:{mlflow}"
        os.environ["MLFLOW_TRACKING_URI"] = server
        options = ("--backend-store-uri", f"sqlite:///{root}/mlflow.db", "--workers", "1")
        address = ("--host", "127.0.0.1", "--port")
        with (
            _process(root, "mlflow", "server", *address, str(mlflow), *options),
            _process(
                clones[0], "distributed.cli.dask_scheduler", *address, str(dask), "--no-dashboard"
            ),
        ):
            for port in (mlflow, dask):
                _wait(port)
            for count in (1, 2):
                rows.append(_measure(clones[0], clones[1 : 1 + count], dask, arguments.models))
    print(
        f"{', '.join(arguments.models)}; load of the machine {os.getloadavg()[1]:.0f}, "
        f"{os.cpu_count()} cores"
    )
    print("| workers | flow, wall s | workers, CPU s |\n| --- | --- | --- |")
    for count, (wall, cpu) in enumerate(rows, 1):
        print(f"| {count} | {wall:.1f} | {cpu:.1f} |")


def _measure(
    flow: Path, checkouts: list[Path], port: int, models: list[str]
) -> tuple[float, float]:
    """Return wall seconds of a flow, and CPU seconds of fresh workers, their start included."""
    from distributed import Client

    scheduler = f"tcp://127.0.0.1:{port}"
    options = ("--host", "127.0.0.1", "--nthreads", "1", "--no-nanny", "--no-dashboard")
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(
                _process(checkout, "distributed.cli.dask_worker", scheduler, *options)
            )
            for checkout in checkouts
        ]
        with Client(scheduler, set_as_default=False) as client:
            client.wait_for_workers(len(workers), timeout=SECONDS)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "chapterflow.cli", "run", *models),
                *("--force", "--json", "--engine", "dask", "--address", scheduler),
            ],
            cwd=flow,
            env=_environment(flow),
            stdout=subprocess.PIPE,
            check=True,
        )
        times = [psutil.Process(worker.pid).cpu_times() for worker in workers]
        return json.loads(done.stdout)["seconds"], sum(t.user + t.system for t in times)


@contextlib.contextmanager
def _process(root: Path, module: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a module in a folder until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *words],
        cwd=root,
        env=_environment(root),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _environment(root: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait(port: int) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.2)
    sys.exit(f"A server did not answer within {SECONDS:g} s. Received: port {port}")


if __name__ == "__main__":
    main()
