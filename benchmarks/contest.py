"""Side by side with peers: the same data and test set, in turn, each fit in a fresh process.

python -m benchmarks [--quick] [--repetitions N] [--only SUBJECT ...]

Peers run in environments of their own below `.chapterflow/benchmarks`, made on the first call by
pip with the index that it is configured for. Where that index has PyTorch with CUDA only, several
GB are downloaded; name another one with PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS. Plain Keras runs in
the environment of chapterflow, with the same versions.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import results
from benchmarks.limits import limit
from benchmarks.results import OURS
from chapterflow.environment import Project, configure, find_project

ROOT = Path(__file__).parent.parent
REQUIREMENTS = ROOT / "benchmarks" / "peers" / "requirements.txt"
#: Seeds of the repetitions: others than those that recipes were chosen with.
FIRST_SEED = 11
#: Variables that limit the threads of a contestant.
THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
#: Seconds after which a fit is given up.
PATIENCE = 900


@dataclass(frozen=True)
class Subject:
    """Work that several contestants do.

    Attributes:
        ours: Arguments of `benchmarks.ours`.
        dataset: Dataset that all read, in the book profile.
        peers: Module and arguments by contestant; the modules are in `benchmarks.peers`.
        note: What differs between contestants.
        folds: Folds of a cross-validation.
        quick: Whether a quick run has it.
    """

    name: str
    title: str
    ours: tuple[str, ...]
    dataset: str
    peers: dict[str, tuple[str, ...]]
    note: str
    folds: int = 0
    quick: bool = True


def _images(model: str, title: str, *, quick: bool) -> Subject:
    rest = ("--model", model, "--epochs", "5")
    return Subject(
        model,
        title,
        (model,),
        "mnist",
        {"PyTorch": ("torch_images", *rest), "Keras": ("keras_images", *rest)},
        "the same layers and train split; each with the batches, rate and number of epochs of its "
        "documentation. Ours also validates after each epoch, peers do not.",
        quick=quick,
    )


#: The epochs and the schedule of the profile `embedded`; those of `book` are for MUTAG.
GIN = ("folds=0", "epochs=15", "schedule=cosine", "convolution=gin", "normalize=false")
SUBJECTS = (
    _images("dnn", "DNN on MNIST", quick=True),
    _images("cnn", "the book's CNN on MNIST", quick=False),
    _images("lenet5", "LeNet-5 on MNIST", quick=True),
    Subject(
        "cora",
        "GCN on Cora, 200 epochs",
        ("gcn-node",),
        "cora",
        {
            "PyTorch Geometric": ("pyg_nodes", "--features", "dense", "--epochs", "200"),
            "PyTorch Geometric, sparse features": (
                *("pyg_nodes", "--features", "sparse", "--epochs", "200"),
            ),
        },
        "the same network and hyperparameters. Its documentation has dense features. Ours also "
        "validates after each epoch, peers do not. Accuracies are those of single trainings.",
    ),
    Subject(
        "mutag",
        "GCN on MUTAG, 10 folds, 100 epochs",
        ("gcn",),
        "mutag",
        {"PyTorch Geometric": ("pyg_graphs", "--convolution", "gcn", "--epochs", "100")},
        "the same network, folds and protocols: each fold trains twice, with a validation split "
        "that chooses the epoch (this accuracy), and by the protocol of the GIN paper.",
        folds=10,
        quick=False,
    ),
    Subject(
        "proteins",
        "GIN on 1,113 graphs of 3 to 620 nodes",
        ("gcn", *(word for change in GIN for word in ("--set", f"models.gcn.{change}"))),
        "proteins",
        {"PyTorch Geometric": ("pyg_graphs", "--convolution", "gin", "--epochs", "30")},
        "generated graphs with the sizes and degrees of PROTEINS; the same network and batches. "
        "Our rate warms up, then decays along a cosine; the peer's is constant. Ours also "
        "validates after each epoch, the peer does not.",
    ),
)


def main(words: list[str] | None = None) -> None:
    """Measure, and write `RESULTS.md`, `results.json` and the plot."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="one repetition, fewer subjects")
    parser.add_argument("--repetitions", type=int, help="3 by default, 1 with --quick")
    names = [subject.name for subject in SUBJECTS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="SUBJECT", help=str(names))
    options = parser.parse_args(words)
    subjects = [
        subject
        for subject in SUBJECTS
        if subject.name in (options.only or names) and (subject.quick or not options.quick)
    ]
    home = find_project().scratch / "benchmarks"
    project = scratch_project(home / "project")
    environments, missing = _environments(home, subjects)
    repetitions = options.repetitions or (1 if options.quick else 3)
    measured: dict[str, Any] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "quick": options.quick,
        "repetitions": repetitions,
        "machine": machine(environments),
        "speeds": call([sys.executable, "-m", "benchmarks.limits"]),
        "subjects": [],
        "missing": missing,
    }
    tell(f"speeds: {measured['speeds']}")
    for subject in subjects:
        row = _measure(
            subject, project, home, environments, repetitions, measured["speeds"], missing
        )
        if row:
            measured["subjects"].append(row)
    earlier = results.read().get("peers", {}) if options.only else {}
    measured["subjects"] = with_earlier(measured["subjects"], earlier)
    results.write("peers", measured)
    tell(f"written: {results.TABLE}")


def tell(message: str) -> None:
    """Print progress with the time."""
    print(f"{time.strftime('%H:%M:%S')}  {message}", flush=True)


def with_earlier(rows: list[dict[str, Any]], earlier: dict[str, Any]) -> list[dict[str, Any]]:
    """Return rows of subjects with those that were measured earlier, which say when."""
    when = {key: earlier.get(key) for key in ("date", "repetitions")}
    kept = {row["name"]: {"measured": when, **row} for row in earlier.get("subjects", [])}
    known = kept | {row["name"]: row for row in rows}
    return [known[subject.name] for subject in SUBJECTS if subject.name in known]


def scratch_project(root: Path) -> Project:
    """Return the project in which chapterflow trains: parameters of this one, its own store."""
    source = find_project()
    shutil.rmtree(root / "mlruns", ignore_errors=True)
    shutil.rmtree(root / ".chapterflow", ignore_errors=True)
    proteins = root / "proteins"
    proteins.mkdir(parents=True, exist_ok=True)
    document = yaml.safe_load(source.params.read_text(encoding="utf-8"))
    document["datasets"]["proteins"] = {"kind": "tu", "seed": 5, "path": str(proteins)}
    (root / "params.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    if not (proteins / "PROTEINS-LIKE_graph_labels.txt").is_file():
        write_tu(proteins, *protein_like(1113))
    os.environ["CHAPTERFLOW_PROJECT"] = str(root)
    configure(Project(root))
    return Project(root)


def protein_like(count: int, seed: int = 5) -> tuple[Any, Any, Any, Any]:
    """Return graphs with the sizes, degrees and features of PROTEINS (Dobson & Doig 2003).

    A chain of secondary structures, each next to its two to three nearest neighbours in space.
    Features are one of three types. Chains of the first class repeat types, those of the second
    alternate them; a tenth of the labels is wrong.

    Returns:
        Nodes of each graph `(count,)`; class `(count,)`; type of each node `(nodes,)`; edges
        `(e, 2)` in both directions, numbered through all graphs.
    """
    from scipy.spatial import cKDTree

    rng = np.random.default_rng(seed)
    sizes = np.clip(rng.lognormal(np.log(26), 0.9, count).astype(int), 3, 620)
    sizes[:2] = 3, 620
    classes = np.arange(count) % 2
    types, edges, first = [], [], 0
    for size, label in zip(sizes, classes, strict=True):
        changes = rng.random(size) < (0.25, 0.6)[label]
        types.append((np.cumsum(changes * rng.integers(1, 3, size)) + rng.integers(3)) % 3)
        places = np.cumsum(rng.normal(size=(size, 3)), axis=0)
        _, near = cKDTree(places).query(places, k=min(4, size))
        pairs = np.column_stack(
            [np.repeat(np.arange(size), near.shape[1] - 1), near[:, 1:].ravel()]
        )
        chain = np.column_stack([np.arange(size - 1), np.arange(1, size)])
        pairs = np.concatenate([pairs, chain])
        pairs = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
        edges.append(pairs + first)
        first += size
    labels = np.where(rng.random(count) < 0.1, 1 - classes, classes)
    return sizes, labels, np.concatenate(types), np.concatenate(edges)


def write_tu(folder: Path, sizes: Any, labels: Any, types: Any, edges: Any) -> None:
    """Write graphs in the format of the TU collection."""
    start = folder / "PROTEINS-LIKE"
    for name, array in {
        "A": edges + 1,
        "graph_indicator": np.repeat(np.arange(len(sizes)), sizes) + 1,
        "node_labels": types,
        "graph_labels": labels + 1,
    }.items():
        np.savetxt(f"{start}_{name}.txt", array, fmt="%d", delimiter=", ")


def _environments(home: Path, subjects: Sequence[Subject]) -> tuple[dict[str, str], list[str]]:
    """Return the Python of each peer, by the first part of its module's name, and what is missing.

    An environment that exists with the same requirements is used again.
    """
    pythons = {"keras": sys.executable}
    folder = home / "peers"
    wanted = REQUIREMENTS.read_text(encoding="utf-8")
    stamp = folder / "requirements.txt"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        tell("installing PyTorch and PyTorch Geometric (once)")
        shutil.rmtree(folder, ignore_errors=True)
        # pip, not uv: it follows the same configuration everywhere, wheels on this disk included.
        install = [str(folder / "bin" / "python"), "-m", "pip", "install", "-qq"]
        try:
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            subprocess.run(
                [*install, "--disable-pip-version-check", "-r", str(REQUIREMENTS)], check=True
            )
        except (subprocess.CalledProcessError, OSError) as error:
            peers = {name for subject in subjects for name in subject.peers} - {"Keras"}
            return pythons, [f"{', '.join(sorted(peers))}: cannot be installed ({error})"]
        stamp.write_text(wanted, encoding="utf-8")
    python = str(folder / "bin" / "python")
    return {**pythons, "torch": python, "pyg": python}, []


def machine(environments: dict[str, str]) -> dict[str, Any]:
    """Return facts about this machine and the versions of the libraries."""
    import psutil

    from chapterflow.environment import machine as described

    versions = {"Python": sys.version.split()[0]}
    for python, names in (
        (sys.executable, ("tensorflow", "keras", "numpy")),
        (environments.get("torch"), ("torch", "torch_geometric")),
    ):
        if python:
            code = "import importlib.metadata as m, json, sys; "
            code += "print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
            versions |= call([python, "-c", code, *names])
    return {
        "processor": described().split(", ")[0],
        "cores": psutil.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "load": os.getloadavg()[0],
        # What a user has set counts for all contestants.
        "threads": {name: os.environ[name] for name in THREADS if name in os.environ},
        "versions": versions,
    }


def call(command: Sequence[str], patience: float = PATIENCE) -> dict[str, Any]:
    """Run a command at the root of the repository; return the JSON document that it prints last.

    Raises:
        RuntimeError: If it fails, or takes longer than `patience` seconds.
    """
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=patience
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"no result after {patience:.0f} s") from None
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = (done.stderr.strip() or "no output").splitlines()
        raise RuntimeError(f"exit {done.returncode}: {said[-1]}")
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def _measure(
    subject: Subject,
    project: Project,
    home: Path,
    environments: dict[str, str],
    repetitions: int,
    speeds: dict[str, float],
    missing: list[str],
) -> dict[str, Any] | None:
    """Let the contestants of a subject fit in turn; return its part of the results.

    A contestant that fails is left out and reported; without ours, the subject is.
    """
    ours = [sys.executable, "-m", "benchmarks.ours", *subject.ours]
    if subject.name == "proteins":
        ours += ["--set", "roles.graphs.book=proteins"]
    fits: dict[str, list[dict[str, Any]]] = {OURS: []}
    fits |= {
        name: [] for name, (module, *_) in subject.peers.items()
        if module.partition("_")[0] in environments
    }  # fmt: skip
    for repetition in range(repetitions):
        seed = FIRST_SEED + repetition
        for name in list(fits):
            words = ["--seed", str(seed)]
            if name == OURS:
                command = [*ours, *words]
            else:
                module, *rest = subject.peers[name]
                if subject.folds:
                    rest += ["--parts", str(_parts(project, subject, home, seed))]
                python = environments[module.partition("_")[0]]
                command = [python, "-m", f"benchmarks.peers.{module}"]
                command += [str(project.data / subject.dataset), *words, *rest]
            try:
                fit = call(command)
            except RuntimeError as error:
                missing.append(f"{name}, {subject.title}: {error}")
                tell(missing[-1])
                if name == OURS:
                    return None
                del fits[name]
                continue
            fits[name].append(fit)
            tell(
                f"{subject.title}, {repetition + 1}/{repetitions}, {name}: {fit['seconds']:.2f} s, "
                f"accuracy {fit['accuracy']:.4f}"
            )
    work = fits[OURS][0]
    limits = {
        # Peers compute in float32.
        name: limit(work if name == OURS else work | {"precision": "float32"}, speeds, epochs)
        for name, epochs in ((name, runs[0]["epochs"]) for name, runs in fits.items())
    }
    if len(fits) > 1:
        tell(f"{subject.title}: {results.ratio(fits):.2f} times the fastest peer")
    return {
        "name": subject.name,
        "title": subject.title,
        "note": subject.note,
        "fits": fits,
        "limits": limits,
    }


def _parts(project: Project, subject: Subject, home: Path, seed: int) -> Path:
    """Write the split of each graph in each fold, as our cross-validation draws it."""
    from sklearn.model_selection import StratifiedKFold, train_test_split

    from chapterflow.training.folds import INNER

    labels = np.load(project.data / subject.dataset / "labels.npy").astype(np.int64)
    parts = np.zeros((subject.folds, len(labels)), np.int8)
    splitter = StratifiedKFold(subject.folds, shuffle=True, random_state=seed)
    for fold, (rest, test) in enumerate(splitter.split(labels, labels)):
        _, validation = train_test_split(
            rest, test_size=INNER, stratify=labels[rest], random_state=seed
        )
        parts[fold, test], parts[fold, validation] = 2, 1
    path = home / f"parts-{subject.name}-{seed}.npy"
    np.save(path, parts)
    return path


if __name__ == "__main__":
    main()
