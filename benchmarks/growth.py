"""Growth: seconds and memory against the size of data, flows and tracking store.

python -m benchmarks growth [--quick] [--only images graphs ...] [--patience 600]

- images, graphs, nodes: validation as before a training, then one epoch (ten of the nodes).
  Graphs have 10 to 30 nodes; large-graphs are graphs of 3,000 nodes.
- models: `run` of so many models in one flow, on embedded digits, one epoch each.
- runs: `run` (which reuses all), `compare`, `report` and the start of `ui` while the tracking store
  grows. The benchmark trains a few models, then adds older runs: copies of the rows of the finished
  ones, with other ids and fingerprints. `--project FOLDER` copies the store of a project instead.

Every point is a fresh process with a time limit; after one that fails or exceeds it, larger sizes
are left out. Seconds are CPU seconds of all its threads and processes: for data those of the
validation or the epoch alone, for commands those of the whole command. `--quick` leaves out the
largest size of each. Results are part of RESULTS.md.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import results
from benchmarks.contest import machine, tell
from chapterflow.config.load import load_settings
from chapterflow.environment import Project, configure, find_project, load_tensorflow
from chapterflow.files import sha256_file
from chapterflow.kinds.dataset import CARD, SPLITS, DatasetCard, FileRecord, open_dataset
from chapterflow.tracking.store import database, relocate

CLI = ("-m", "chapterflow.cli")
SIZES = {
    "images": (10**3, 10**4, 10**5, 10**6),
    "graphs": (10**2, 10**3, 10**4, 10**5),
    "large-graphs": (100, 500, 2000),
    "nodes": (10**3, 10**4, 10**5, 10**6),
    "models": (1, 2, 4, 8, 16, 32, 64),
    "runs": (10, 10**2, 10**3, 10**4),
}
#: What is measured on data, and the model that trains on them.
PARTS = ("validation", "epoch")
MODELS_OF = {"images": "dnn", "graphs": "gcn", "large-graphs": "gcn", "nodes": "gcn-node"}
#: An epoch of nodes is one step; the first one compiles.
EPOCHS = {"images": 1, "graphs": 1, "large-graphs": 1, "nodes": 10}
#: Models that train in the scratch project.
MODELS = ("dnn", "cnn", "lenet5")
#: Tables with one row or more for each run, and their column with the run's id.
OF_RUNS = {"tags": "run_uuid", "params": "run_uuid", "latest_metrics": "run_uuid",
           "metrics": "run_uuid"}  # fmt: skip
#: Largest exponent that is good enough; commands whose cost must not depend on the size, with the
#: CPU seconds that the largest size may cost more than the smallest.
EXPONENT = 1.1
FLAT = {"runs: compare": 0.5}
#: Seconds in which the server of `ui` must answer, and end.
PATIENCE = 180
#: Examples that are written at a time.
BLOCK = 10_000

Point = dict[str, float]


class Failed(Exception):
    """A command ended with an error or took too long."""


def main(words: list[str] | None = None) -> None:
    """Measure the curves, and write them into the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="without the largest sizes")
    parser.add_argument("--only", nargs="+", choices=[*SIZES], default=[*SIZES])
    parser.add_argument("--sizes", nargs="+", type=int, help="other sizes")
    parser.add_argument("--patience", type=float, default=600, help="seconds for a point")
    parser.add_argument("--project", type=Path, help="for runs: copy its store and data")
    parser.add_argument("--point", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.point:
        what, part, folder = options.point
        if part.isdecimal():
            WRITERS[what](Path(folder), int(part))
        else:
            _measure(what, part, Path(folder))
        return
    measured: dict[str, Any] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "quick": options.quick,
        "repetitions": 1,
        "machine": machine({}),
        "missing": [],
        "curves": {},
    }
    before = results.read().get("growth", {})
    # A call with --only keeps the other curves, and says when and where they were measured.
    old = {
        name: {"measured": {"date": before["date"], **before["machine"]}, **curve}
        for name, curve in before.get("curves", {}).items()
    }
    for what in options.only:
        sizes = options.sizes or (SIZES[what][:-1] if options.quick else SIZES[what])
        curves: dict[str, list[tuple[int, Point]]] = {}
        measure = {"models": _flows, "runs": _stores}.get(what, _data)
        try:
            for size, part, point in measure(what, sizes, options):
                curves.setdefault(part, []).append((size, point))
                peak = f", {results.memory(point)}" if "peak" in point else ""
                tell(
                    f"{size:,} {what}, {part}: {point['seconds']:.2f} s of CPU, "
                    f"{point['wall']:.2f} s{peak}"
                )
        except Failed as failed:
            measured["missing"].append(f"{what}: {failed}")
            tell(measured["missing"][-1])
        for part, points in curves.items():
            curve = judged(f"{what}: {part}", points)
            measured["curves"][f"{what}: {part}"] = curve
            tell(f"{what}, {part}: {results.judgement(curve)}")
        results.write("growth", {**measured, "curves": {**old, **measured["curves"]}})


def judged(name: str, points: Sequence[tuple[int, Point]]) -> dict[str, Any]:
    """Return a curve: its points, the `exponent` of their last half, its goal, whether it is `met`.

    The first half measures fixed costs. A flat curve has `growth` instead: the seconds of the
    largest size without those of the smallest.
    """
    sizes, seconds = [size for size, _ in points], [point["seconds"] for _, point in points]
    half = min(len(points) // 2, max(len(points) - 2, 0))
    slope = results.exponent(sizes[half:], seconds[half:]) if len(points) > 1 else None
    curve: dict[str, Any] = {"points": points, "exponent": slope, "from": sizes[half]}
    if name in FLAT:
        growth = seconds[-1] - seconds[0]
        return curve | {"goal": FLAT[name], "growth": growth, "met": growth <= FLAT[name]}
    return curve | {"goal": EXPONENT, "met": None if slope is None else slope <= EXPONENT}


Points = Iterator[tuple[int, str, Point]]


def _data(what: str, sizes: Sequence[int], options: argparse.Namespace) -> Points:
    """Yield the points of a kind of data."""
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            place = Path(folder) / f"{what}-{size}"
            # In a process of its own: the memory of this one would count as that of its children.
            point_of = partial(call, results.ROOT, patience=options.patience)
            words = ["-m", "benchmarks.growth", "--point", what]
            point_of([*words, str(size), str(place)])
            for part in PARTS:
                printed, point = point_of([*words, part, str(place)])
                yield size, part, {**point, **json.loads(printed.splitlines()[-1])}
            shutil.rmtree(place)


def _measure(what: str, part: str, folder: Path) -> None:
    """Validate a dataset or train on it, and print the seconds."""
    project = find_project()
    configure(project)
    settings = load_settings(project.params)
    dataset = open_dataset(folder)
    with tempfile.TemporaryDirectory() as work:
        if part == "validation":
            from chapterflow.data.build import verify_dataset
            from chapterflow.validation.validate import load_great_expectations, validate_dataset

            load_great_expectations()
            started, cpu = time.perf_counter(), _own_cpu()
            faults = verify_dataset(folder)
            bounds = settings.validation.bounds(dataset.card.kind)
            verdict = validate_dataset(dataset, bounds, Path(work) / "verdict")
            verdict.raise_for_failure()
            assert not faults, faults
        else:
            from chapterflow.models.catalog import get_model
            from chapterflow.training.fit import fit

            load_tensorflow()
            model = MODELS_OF[what]
            params = settings.params(model).model_copy(
                update={"epochs": EPOCHS[what], "beside": {}, "folds": 0}
            )
            started, cpu = time.perf_counter(), _own_cpu()
            fit(get_model(model), params, dataset, seed=5, work=Path(work))
        seconds = {"seconds": _own_cpu() - cpu, "wall": time.perf_counter() - started}
    print(json.dumps(seconds), flush=True)


def _own_cpu() -> float:
    return sum(os.times()[:4])


def _write(folder: Path, kind: str, arrays: dict[str, Any], **facts: Any) -> None:
    """Write a dataset with a card; arrays that were written already are paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        if not isinstance(array, Path):
            np.save(folder / f"{name}.npy", array)
    files = {
        path.name: FileRecord(bytes=path.stat().st_size, sha256=sha256_file(path))
        for path in sorted(folder.glob("*.npy"))
    }
    split = np.load(folder / "split.npy")
    card = DatasetCard(
        name=folder.name,
        kind=kind,
        title="generated",
        source="benchmarks.growth",
        licence="none",
        counts={name: int(np.sum(split == code)) for code, name in enumerate(SPLITS)},
        files=files,
        test_digest="0" * 64,
        recipe={},
        **facts,
    )
    (folder / CARD).write_text(card.to_json(), encoding="utf-8")


def _split(count: int) -> Any:
    """Return split codes: 8 train, 1 validation and 1 test in turn of twenty, for all classes."""
    return np.repeat(np.array([0] * 8 + [1, 2], np.uint8), 10)[np.arange(count) % 100]


def write_images(folder: Path, count: int) -> None:
    """Write noise of 28x28 pixels in ten classes that differ in brightness."""
    folder.mkdir(parents=True)
    labels = (np.arange(count) % 10).astype(np.uint8)
    path = folder / "images.npy"
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 28, 28, 1))
    rng = np.random.default_rng(5)
    for start in range(0, count, BLOCK):
        part = labels[start : start + BLOCK]
        noise = rng.integers(0, 166, (len(part), 28, 28, 1), np.uint8)
        images[start : start + BLOCK] = noise + part[:, None, None, None] * 10
    del images
    arrays = {"images": path, "labels": labels, "split": _split(count)}
    classes = [str(number) for number in range(10)]
    _write(folder, "images", arrays, shape=[28, 28, 1], classes=classes, value_max=255)


def _ring(sizes: Any, rng: np.random.Generator) -> Any:
    """Return edges `(e, 2)` of rings in which each node has one more, random neighbour."""
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    own = np.repeat(sizes, sizes)
    node = np.arange(len(first))
    near = first + (node - first + 1) % own
    far = first + (node - first + 2 + (rng.random(len(node)) * (own - 3)).astype(int)) % own
    pairs = np.concatenate([np.column_stack([node, near]), np.column_stack([node, far])])
    count = np.int64(len(node))
    keys = np.concatenate([pairs[:, 0] * count + pairs[:, 1], pairs[:, 1] * count + pairs[:, 0]])
    keys.sort()  # NumPy's `unique` takes ten times as long as its sort of whole numbers.
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])]
    source = keys // count
    return np.column_stack([source, keys - source * count])


def write_graphs(folder: Path, count: int, nodes: tuple[int, int] = (10, 30)) -> None:
    """Write graphs in two classes that differ in their features.

    Args:
        nodes: Fewest and most nodes of a graph.
    """
    rng = np.random.default_rng(5)
    sizes = rng.integers(nodes[0], nodes[1] + 1, count)
    labels = (np.arange(count) % 2).astype(np.uint8)
    begins = np.concatenate([[0], np.cumsum(sizes)])
    edges = _ring(sizes, rng)
    graph = np.repeat(np.arange(count), sizes)[edges[:, 0]]
    features = rng.random((begins[-1], 4), np.float32)
    features[:, 0] *= np.repeat(1 - 0.5 * labels, sizes)
    arrays = {
        "labels": labels,
        "split": _split(count),
        "features": features,
        "edges": (edges - begins[graph][:, None]).astype(np.int32),
        "node_offsets": begins,
        "edge_offsets": np.concatenate([[0], np.cumsum(np.bincount(graph, minlength=count))]),
    }
    facts = {"nodes": len(features), "edges": len(edges), "directed": False}
    _write(folder, "graphs", arrays, shape=[None, 4], classes=["a", "b"], value_max=1, facts=facts)


def write_nodes(folder: Path, count: int) -> None:
    """Write a graph whose nodes have 16 features and one of five classes."""
    rng = np.random.default_rng(5)
    labels = (np.arange(count) % 5).astype(np.uint8)
    features = rng.random((count, 16), np.float32)
    features[np.arange(count), labels] = 1
    edges = _ring(np.array([count]), rng).astype(np.int32)
    arrays = {"labels": labels, "split": _split(count), "features": features, "edges": edges}
    facts = {"nodes": count, "edges": len(edges), "directed": False}
    classes = [str(number) for number in range(5)]
    _write(folder, "citations", arrays, shape=[16], classes=classes, value_max=1, facts=facts)


WRITERS: dict[str, Callable[[Path, int], None]] = {
    "images": write_images,
    "graphs": write_graphs,
    "large-graphs": partial(write_graphs, nodes=(3000, 3000)),
    "nodes": write_nodes,
}


def _flows(_what: str, sizes: Sequence[int], options: argparse.Namespace) -> Points:
    """Yield the CPU seconds of a flow of so many models, each a model file of its own."""
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            root, package = Path(folder) / "project", Path(folder) / "package"
            names = [f"grown{number}" for number in range(size)]
            _write_models(package, names)
            document = yaml.safe_load(find_project().params.read_text(encoding="utf-8"))
            block = {**document["models"]["dnn"], "epochs": 1}
            document.update(models=dict.fromkeys(names, block), questions={})
            root.mkdir()
            (root / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
            paths = [str(package), os.environ.get("PYTHONPATH", "")]
            more = {"CHAPTERFLOW_PROJECT": str(root), "PYTHONPATH": os.pathsep.join(paths)}
            _, point = call(root, [*CLI, "run"], patience=options.patience, more=more)
            yield size, "run", _of_largest(point)


def _write_models(package: Path, names: Sequence[str]) -> None:
    """Write a package with copies of `dnn` under other names, as if it were installed."""
    about = package / "grown-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: grown\nVersion: 1.0\n")
    points = "".join(f"{name} = {name}\n" for name in names)
    (about / "entry_points.txt").write_text(f"[chapterflow.models]\n{points}")
    for name in names:
        (package / f"{name}.py").write_text(
            "from chapterflow.models.base import ChapterModel\n"
            "from chapterflow.models.dnn import Params, build\n"
            f'MODEL = ChapterModel("{name}", Params, build, "", "a copy of dnn")\n'
        )


def _stores(_what: str, sizes: Sequence[int], options: argparse.Namespace) -> Points:
    """Yield the CPU seconds of commands for each size of the store."""
    with scratch_project(options.project) as root:
        for size in sizes:
            grow(database(Project(root)), size)
            for command in ("run", "compare", "report"):
                _, point = call(root, [*CLI, command], patience=options.patience)
                yield size, command, _of_largest(point)
            yield size, "ui", _ui(root)


def _of_largest(point: Point) -> Point:
    """Return a point without the memory of the first process, where another may be larger."""
    return {name: value for name, value in point.items() if name != "own"}


@contextmanager
def scratch_project(source: Path | None) -> Iterator[Path]:
    """Yield a temporary project, which commands of this process and its children then use.

    Args:
        source: Project to copy; None makes one in which a few models have trained.
    """
    before = os.environ.get("CHAPTERFLOW_PROJECT")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "project"
        if source is None:
            train(root)
        else:
            copy(source, root)
        configure(Project(root))
        yield root
    os.environ.pop("CHAPTERFLOW_PROJECT")
    if before:
        os.environ["CHAPTERFLOW_PROJECT"] = before


def train(root: Path) -> None:
    """Make a project in which a few models have trained for an epoch."""
    root.mkdir()
    document = yaml.safe_load(find_project().params.read_text())
    document["models"] = {name: {**document["models"][name], "epochs": 1} for name in MODELS}
    (root / "params.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    os.environ["CHAPTERFLOW_PROJECT"] = str(root)
    call(root, [*CLI, "run"])


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
        # Looked up once: by these columns SQLite reads the whole table each time.
        models = {run: _model_of(db, run) for run, _ in runs}
        versions = dict(
            db.execute("SELECT name, max(version) FROM model_versions GROUP BY name").fetchall()
        )
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
            logged, name, number_of_version = models[run_id]
            versions[name] += 1
            model = f"m-{position:032x}"
            of_model = f"model_id = '{logged}'"
            _copy_row(db, "logged_models", of_model, model_id=model, source_run_id=new)
            for table in ("logged_model_params", "logged_model_tags"):
                _copy_row(db, table, of_model, model_id=model)
            of_version = f"name = '{name}' AND version = {number_of_version}"
            changes = {"version": versions[name]}
            source = f"models:/{model}"
            _copy_row(db, "model_versions", of_version, **changes, run_id=new, source=source)
            _copy_row(db, "model_version_tags", of_version, **changes)
            for key, value in (
                ("fingerprint", f"{position:064x}"),
                ("logged_model", model),
                ("model_version", versions[name]),
            ):
                db.execute(
                    "UPDATE tags SET value = ? WHERE run_uuid = ? AND key = ?",
                    (value, new, f"chapterflow.{key}"),
                )


def _model_of(db: sqlite3.Connection, run_id: str) -> tuple[str, str, int]:
    """Return the logged model of a run, and the name and number of its registered version."""
    ((logged,),) = db.execute(
        "SELECT value FROM tags WHERE run_uuid = ? AND key = 'chapterflow.logged_model'", (run_id,)
    )
    ((name, version),) = db.execute(
        "SELECT name, version FROM model_versions WHERE run_id = ?", (run_id,)
    )
    return logged, name, version


def _copy_row(db: sqlite3.Connection, table: str, where: str, **changes: Any) -> None:
    """Insert the rows of a table that meet a condition again, with other values in some columns."""
    columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    values = ", ".join("?" if column in changes else column for column in columns)
    given = [changes[column] for column in columns if column in changes]
    names = ", ".join(columns)
    db.execute(f"INSERT INTO {table} ({names}) SELECT {values} FROM {table} WHERE {where}", given)  # noqa: S608


def call(
    root: Path,
    words: Sequence[str],
    codes: Sequence[int] = (0,),
    *,
    patience: float = 600,
    more: dict[str, str] | None = None,
) -> tuple[str, Point]:
    """Run Python in a folder.

    Args:
        codes: Exit codes that are no failure.
        patience: Seconds after which it is killed.
        more: More environment variables.

    Returns:
        What it printed; CPU seconds of the process and its children, `wall` seconds, the `peak`
        memory of the largest of them in bytes, and its `own` peak without pages of files.

    Raises:
        Failed: If it ends with another code, or takes longer.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(
            [sys.executable, *words],
            cwd=root,
            stdout=output,
            stderr=errors,
            env={**os.environ, **(more or {})},
            start_new_session=True,
        )
        own = 0
        try:
            while True:
                own = max(own, _own_memory(child.pid))
                ended, status, used = os.wait4(child.pid, os.WNOHANG)
                wall = time.monotonic() - started
                if ended:
                    break
                if wall > patience:
                    raise Failed(f"`{' '.join(words)}` has not ended after {patience:.0f} s")
                time.sleep(0.02)
        except BaseException:  # Ctrl-C does not reach a session of its own.
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            raise
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        printed = output.read()
        if child.returncode not in codes:
            said = errors.read().strip().splitlines() or ["no message"]
            raise Failed(f"`{' '.join(words)}` ends with {child.returncode}: {said[-1]}")
    unit = 1 if sys.platform == "darwin" else 1024
    cpu = used.ru_utime + used.ru_stime
    return printed, {"seconds": cpu, "wall": wall, "peak": used.ru_maxrss * unit, "own": own}


def _own_memory(process: int) -> int:
    """Return the memory of a process without pages of mapped files, in bytes; 0 if unknown.

    The kernel takes such pages back when it needs memory, and memory-mapped arrays have many.
    """
    try:
        text = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    match = re.search(r"^RssAnon:\s+(\d+) kB$", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def _ui(root: Path) -> Point:
    """Start `chapterflow ui`, ask for the newest runs as the page does, and end it."""
    import requests

    def ask(address: str) -> None:
        answer = requests.post(
            f"{address}/ajax-api/2.0/mlflow/runs/search",
            json={"experiment_ids": ["1"], "max_results": 100},
            timeout=PATIENCE,
        )
        answer.raise_for_status()

    return serving(root, ["ui"], ask)


def serving(root: Path, words: Sequence[str], ask: Callable[[str], None]) -> Point:
    """Start a command that serves, wait until it answers, and end it.

    Args:
        words: The command, without its port.
        ask: Called with the address of the server as soon as its port answers.

    Returns:
        CPU seconds of all its processes, and `wall` seconds, until it has answered.

    Raises:
        Failed: If it ends before, or does not answer.
    """
    import requests

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    name = f"`chapterflow {' '.join(words)}`"
    started = time.monotonic()
    server = subprocess.Popen(
        [sys.executable, *CLI, *words, "--port", str(port)],
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while not _answers(port):
            if server.poll() is not None:
                raise Failed(f"{name} has ended")
            if time.monotonic() - started > PATIENCE:
                raise Failed(f"{name} does not answer after {PATIENCE} s")
            time.sleep(0.2)
        ask(f"http://127.0.0.1:{port}")
        point = {"seconds": _cpu_of(server.pid), "wall": time.monotonic() - started}
        server.send_signal(signal.SIGTERM)
        server.wait(PATIENCE)
    except (requests.RequestException, subprocess.TimeoutExpired) as error:
        raise Failed(f"{name}: {error}") from error
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    return point


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _cpu_of(process: int) -> float:
    """Return the CPU seconds of a running process and its descendants, ended ones included."""
    import psutil

    top, seconds = psutil.Process(process), 0.0
    for each in (top, *top.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            used = each.cpu_times()
            seconds += used.user + used.system + used.children_user + used.children_system
    return seconds


if __name__ == "__main__":
    main()
