"""CPU seconds of commands while the number of runs in the tracking store grows.

The benchmark trains models in a temporary project, or copies the store of a project that has
trained, and adds older runs: copies of the rows of the finished ones, with other ids and
fingerprints. Each command runs in a new process, whose start is measured too.

python -m benchmarks.store_growth [--runs 10 100 1000 10000] [--project FOLDER]
"""

import argparse
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml

from chapterflow.environment import Project, configure, find_project
from chapterflow.tracking.store import database, relocate

MODELS = ("dnn", "cnn", "lenet5")
#: A new process that opens the store, and no more.
OPEN = "import chapterflow.tracking.session as s; from chapterflow.cli.common import start; "
OPEN += "s.Session(*start())"
#: Tables with one row or more for each run, and their column with the run's id.
OF_RUNS = {"tags": "run_uuid", "params": "run_uuid", "latest_metrics": "run_uuid",
           "metrics": "run_uuid"}  # fmt: skip


def main(words: list[str] | None = None) -> None:
    """Print a table of CPU seconds against the number of runs, and the exponents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", nargs="*", type=int, default=[10, 100, 1_000, 10_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--project", type=Path, help="copy its store, params.yaml and data")
    options = parser.parse_args(words)
    with scratch_project(options.project) as root:
        commands = {
            "process": ["-c", OPEN],
            "run": ["-m", "chapterflow.cli", "run"],
            "compare": ["-m", "chapterflow.cli", "compare"],
            "report": ["-m", "chapterflow.cli", "report"],
            "ui": [],
        }
        print(f"{'runs':>7} " + " ".join(f"{name:>9}" for name in commands) + "   (CPU seconds)")
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for number in options.runs:
            grow(database(Project(root)), number)
            for name, command in commands.items():
                measured = [
                    cpu(root, command) if command else _ui(root) for _ in range(options.repeats)
                ]
                seconds[name].append(median(measured))
            row = " ".join(f"{seconds[name][-1]:>9.2f}" for name in commands)
            print(f"{number:>7,} {row}", flush=True)
        if len(options.runs) > 1:
            slopes = [
                np.polyfit(np.log(options.runs), np.log(values), 1)[0]
                for values in seconds.values()
            ]
            print(f"{'exp.':>7} " + " ".join(f"{slope:>9.2f}" for slope in slopes))


@contextmanager
def scratch_project(source: Path | None) -> Iterator[Path]:
    """Yield a temporary project, which commands of this process and its children then use.

    Args:
        source: Project to copy; None makes one in which a few models have trained.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "project"
        if source is None:
            train(root)
        else:
            copy(source, root)
        os.environ["CHAPTERFLOW_PROJECT"] = str(root)
        configure(Project(root))
        yield root


def train(root: Path) -> None:
    """Make a project in which a few models have trained for an epoch."""
    root.mkdir()
    document = yaml.safe_load(find_project().params.read_text())
    document["models"] = {name: {**document["models"][name], "epochs": 1} for name in MODELS}
    (root / "params.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    os.environ["CHAPTERFLOW_PROJECT"] = str(root)
    cpu(root, ["-m", "chapterflow.cli", "run"])


def copy(source: Path, root: Path) -> None:
    """Copy what the commands of a project read."""
    root.mkdir()
    shutil.copy(source / "params.yaml", root)
    for name in ("data", "mlruns", ".chapterflow", "report"):
        if (source / name).is_dir():
            shutil.copytree(source / name, root / name)
    relocate(Project(root))


def grow(path: Path, number: int) -> None:
    """Add older runs to a store until it has `number` finished runs of models.

    Every run has a registered version, as trained models have.
    """
    with closing(sqlite3.connect(path)) as db, db:
        finished = db.execute(
            "SELECT runs.run_uuid, start_time FROM runs JOIN tags USING (run_uuid) "
            "WHERE status = 'FINISHED' AND key = 'chapterflow.kind' AND value = 'model' "
            "ORDER BY start_time"
        ).fetchall()
        runs, there = [run for run in finished if not run[0].startswith("c0")], len(finished)
        oldest = runs[0][1]
        for position in range(there, number):
            run_id, _ = runs[position % len(runs)]
            new = f"c0{position:030x}"
            _copy_row(
                db, "runs", f"run_uuid = '{run_id}'",
                run_uuid=new, start_time=oldest - 60_000 * position,
            )  # fmt: skip
            for table, column in OF_RUNS.items():
                _copy_row(db, table, f"{column} = '{run_id}'", **{column: new})
            db.execute(
                "UPDATE tags SET value = ? WHERE run_uuid = ? AND key = 'chapterflow.fingerprint'",
                (f"{position:064x}", new),
            )
            _copy_model(db, run_id, new, position)


def _copy_model(db: sqlite3.Connection, run_id: str, new: str, position: int) -> None:
    """Copy the logged model of a run and its registered version."""
    model = f"m-{position:032x}"
    ((old,),) = db.execute(
        "SELECT value FROM tags WHERE run_uuid = ? AND key = 'chapterflow.logged_model'", (run_id,)
    )
    of_model = f"model_id = '{old}'"
    _copy_row(db, "logged_models", of_model, model_id=model, source_run_id=new)
    for table in ("logged_model_params", "logged_model_tags"):
        _copy_row(db, table, of_model, model_id=model)
    ((name, number),) = db.execute(
        "SELECT name, version FROM model_versions WHERE run_id = ?", (run_id,)
    )
    ((version,),) = db.execute(
        "SELECT max(version) + 1 FROM model_versions WHERE name = ?", (name,)
    )
    of_version = f"name = '{name}' AND version = {number}"
    _copy_row(
        db, "model_versions", of_version, version=version, run_id=new, source=f"models:/{model}"
    )
    _copy_row(db, "model_version_tags", of_version, version=version)
    for key, value in (("logged_model", model), ("model_version", version)):
        db.execute(
            "UPDATE tags SET value = ? WHERE run_uuid = ? AND key = ?",
            (value, new, f"chapterflow.{key}"),
        )


def _copy_row(db: sqlite3.Connection, table: str, where: str, **changes: Any) -> None:
    """Insert the rows of a table that meet a condition again, with other values in some columns."""
    columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    values = ", ".join("?" if column in changes else column for column in columns)
    given = [changes[column] for column in columns if column in changes]
    names = ", ".join(columns)
    db.execute(f"INSERT INTO {table} ({names}) SELECT {values} FROM {table} WHERE {where}", given)  # noqa: S608


def cpu(root: Path, words: Sequence[str], codes: Sequence[int] = (0,)) -> float:
    """Run Python in the project; return the CPU seconds of the process and its children.

    Raises:
        SystemExit: If it ends with another code than these.
    """
    before = os.times()
    done = subprocess.run(
        [sys.executable, *words], cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode not in codes:
        sys.exit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


def _ui(root: Path) -> float:
    """Start `chapterflow ui`, ask for the newest runs as the page does, and end it."""
    import requests

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    before = os.times()
    server = subprocess.Popen(
        [sys.executable, "-m", "chapterflow.cli", "ui", "--port", str(port)],
        cwd=root,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in _until_answer(port):
            if server.poll() is not None:
                sys.exit("`chapterflow ui` has ended")
        answer = requests.post(
            f"http://127.0.0.1:{port}/ajax-api/2.0/mlflow/runs/search",
            json={"experiment_ids": ["1"], "max_results": 100},
            timeout=60,
        )
        answer.raise_for_status()
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


def _until_answer(port: int) -> Iterator[None]:
    """Yield until a port of this machine answers."""
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        yield
        time.sleep(0.2)


if __name__ == "__main__":
    main()
