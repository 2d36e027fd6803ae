"""What the benchmarks compute from measurements, and peers on tiny data."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import contest, gpu, growth, limits, results
from benchmarks.results import OURS
from chapterflow.environment import find_project
from chapterflow.errors import ConfigError
from tests.conftest import FORKS

ROOT = Path(__file__).parent.parent


def fits(**seconds: list[float]) -> dict[str, list[dict[str, float]]]:
    return {
        name: [{"seconds": value, "accuracy": 0.9, "epochs": 2} for value in values]
        for name, values in seconds.items()
    }


def test_a_ratio_is_of_medians_to_the_fastest_peer() -> None:
    measured = fits(chapterflow=[2, 9, 3], slow=[40, 50, 60], fast=[100, 6, 5])
    assert results.ratio(measured) == pytest.approx(3 / 6)


@pytest.mark.parametrize("power", [0, 1, 2])
def test_the_exponent_is_the_slope_of_the_logarithms(power: int) -> None:
    sizes = [10, 100, 1000]
    values = [7.0 * size**power for size in sizes]
    assert results.exponent(sizes, values) == pytest.approx(power)


def test_an_exponent_leaves_out_the_smaller_half_of_the_sizes() -> None:
    points = [(size, {"seconds": max(5.0, size / 100)}) for size in (10, 100, 1000, 10_000)]
    curve = growth.judged("images: epoch", points)
    assert curve["from"] == 1000
    assert curve["exponent"] == pytest.approx(1)
    assert curve["met"]
    assert not growth.judged("images: epoch", [(1, {"seconds": 1}), (10, {"seconds": 20})])["met"]
    assert growth.judged("images: epoch", points[:1])["met"] is None


def test_the_limit_is_the_longer_of_products_and_memory() -> None:
    speeds = {"float32": 100e9, "bfloat16": 200e9, "memory": 10e9}
    products = {"flops": 50e9, "bytes": 1e9, "precision": "float32"}
    assert limits.limit(products, speeds, 4) == pytest.approx(4 * 0.5)
    assert limits.limit(products | {"precision": "bfloat16"}, speeds, 4) == pytest.approx(4 * 0.25)
    assert limits.limit(products | {"bytes": 20e9}, speeds, 4) == pytest.approx(4 * 2)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0123, "0.012"), (0.37, "0.37"), (4.34, "4.3"), (47.7, "47.7")]
)
def test_seconds_have_two_significant_digits(seconds: float, text: str) -> None:
    assert results.number(seconds) == text


def document() -> dict[str, Any]:
    about = {
        "date": "2026-11-27",
        "quick": False,
        "repetitions": 3,
        "machine": {
            "processor": "AMD EPYC",
            "cores": 2,
            "memory": 24 << 30,
            "load": 0.1,
            "threads": {"OMP_NUM_THREADS": "1"},
            "versions": {"torch": "2.13.0"},
        },
    }
    subject = {
        "title": "DNN on MNIST",
        "note": "the same layers",
        "fits": fits(chapterflow=[2, 3, 4], PyTorch=[5, 6, 9]),
        "limits": {OURS: 0.08, "PyTorch": 0.07},
    }
    speeds = {"float32": 444e9, "bfloat16": 600e9, "memory": 20e9}
    points = [
        (10, {"seconds": 1.0, "wall": 1.0, "peak": 300e6}),
        (100, {"seconds": 9.0, "wall": 9}),
    ]
    return {
        "peers": {**about, "speeds": speeds, "subjects": [subject], "missing": ["Keras: exit 1"]},
        "flow": {
            **about,
            "models": ["dnn"],
            "work": {
                "first run": {
                    "goal": 60.0,
                    "points": [{"seconds": 90.0, "wall": 45.0}, {"seconds": 110.0, "wall": 55.0}],
                },
                "second run": {"goal": 6.0, "points": [{"seconds": 7.0, "wall": 7.0}]},
            },
        },
        "growth": {
            **about,
            "quick": True,
            "curves": {
                name: growth.judged(name, points) for name in ("images: epoch", "runs: compare")
            },
            "missing": [],
        },
    }


def test_the_page_has_medians_ranges_ratios_accuracies_and_limits() -> None:
    page = results.markdown(document())
    assert (
        "| DNN on MNIST | chapterflow | 2 | 3.0 s (2.0-4.0) | 0.9000 | 0.080 | **0.50** |" in page
    )
    assert "|  | PyTorch | 2 | 6.0 s (5.0-9.0) | 0.9000 | 0.070 |  |" in page
    assert "444 GFLOP/s" in page
    assert "`chapterflow run dnn`" in page
    assert "| first run | 50.0 s (45.0-55.0) | 100.0 s (90.0-110.0) | 2.0 | 60 s: met |" in page
    assert "| second run | 7.0 s (7.0-7.0) | 7.0 s (7.0-7.0) | 1.0 | 6 s: **missed** |" in page
    assert "20.0 GB/s" in page
    assert "AMD EPYC, 2 cores, 24 GiB" in page
    assert "torch 2.13.0" in page
    assert "OMP_NUM_THREADS=1" in page
    assert "Not measured: Keras: exit 1" in page
    assert "| images | epoch | 10: 1.0 (300 MB), 100: 9.0 | 0.95 (at most 1.1: met) |" in page
    assert "100: 9.0 | +8.0 s (flat, at most +0.5 s: **missed**) |" in page
    # Only the growth was measured quickly.
    assert page.count("Quick:") == 1
    assert page.index("Quick:") > page.index("## Growth")


def test_curves_of_an_earlier_call_say_when_and_where_they_were_measured() -> None:
    measured = document()
    about = {"date": "2026-11-01", "processor": "Other", "load": 2.0}
    measured["growth"]["curves"]["runs: compare"]["measured"] = about
    note = "- Measured earlier, on 2026-11-01, Other, load 2.0 at the start: runs (compare)."
    assert note in results.markdown(measured).splitlines()


def test_the_page_has_speeds_of_backbones_in_a_column_for_each_way() -> None:
    row = {"name": "VGG16", "side": 224, "batch": 256, "images": 9379.2, "flops": 287.9e12}
    measured = {
        "date": "2026-11-27",
        "device": "NVIDIA H100",
        "host": "16 cores",
        "backend": "jax",
        "versions": {"jax": "0.11.2"},
        "products": [{"precision": "float32", "flops": 381e12}],
        "features": [
            row | {"precision": "float32", "xla": True},
            row | {"precision": "mixed_bfloat16", "xla": False, "name": "VGG19"},
        ],
    }
    page = results.markdown({"gpu": {"devices": [measured]}})
    assert "## NVIDIA H100, Keras on jax" in page
    assert "| backbone | side | float32, XLA | mixed_bfloat16 |" in page
    assert "| VGG16 | 224 | 9,379 (288) |  |" in page
    assert "| VGG19 | 224 |  | 9,379 (288) |" in page


def test_operations_of_a_backbone_are_those_of_its_convolutions() -> None:
    import keras

    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3, padding="same"),
            keras.layers.SeparableConv2D(5, 3, padding="same"),
            keras.layers.MaxPooling2D(),
        ]
    )
    multiplied = 64 * (3 * 3 * 3 * 4 + 3 * 3 * 4 + 4 * 5)
    assert gpu.operations(model) == 2 * multiplied


def test_a_part_of_the_results_replaces_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "FILE", tmp_path / "results.json")
    monkeypatch.setattr(results, "TABLE", tmp_path / "RESULTS.md")
    monkeypatch.setattr(results, "draw", lambda document: None)
    both = document()
    for part in ("growth", "flow", "peers"):
        results.write(part, both[part])
    assert (tmp_path / "RESULTS.md").read_text() == results.markdown(both)


def test_generated_graphs_are_undirected_and_have_the_sizes_of_proteins() -> None:
    sizes, labels, types, edges = contest.protein_like(40)
    assert (sizes.min(), sizes.max()) == (3, 620)
    assert set(labels) == {0, 1}
    assert len(types) == sizes.sum()
    pairs = {tuple(edge) for edge in edges.tolist()}
    assert len(pairs) == len(edges)
    assert pairs == {(target, source) for source, target in pairs}
    graph = np.repeat(np.arange(40), sizes)
    assert (graph[edges[:, 0]] == graph[edges[:, 1]]).all()


def test_a_point_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with pytest.raises(growth.Failed, match="after 0 s"):
        growth.call(tmp_path, ["-c", "import time; time.sleep(60)"], patience=0.3)


def test_a_point_has_what_it_printed_and_its_peak(tmp_path: Path) -> None:
    printed, point = growth.call(tmp_path, ["-c", "x = bytearray(50 << 20); print(len(x))"])
    assert printed == f"{50 << 20}\n"
    assert point["peak"] > 50 << 20
    with pytest.raises(growth.Failed, match="ends with 1: ZeroDivisionError"):
        growth.call(tmp_path, ["-c", "1 / 0"])


def test_a_benchmark_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="exit 1: ValueError: no data"):
        contest.call([sys.executable, "-c", "raise ValueError('no data')"])


# Peers, each where its environment exists: `make bench` makes it.


def _peer_python() -> Path | None:
    try:
        python = find_project(ROOT).scratch / "benchmarks" / "peers" / "bin" / "python"
    except ConfigError:
        return None
    return python if (python.parent.parent / "requirements.txt").is_file() else None


PEERS = {
    "keras_images dnn": ["--model", "dnn"],
    "torch_images dnn": ["--model", "dnn"],
    "torch_images cnn": ["--model", "cnn"],
    "torch_images lenet5": ["--model", "lenet5"],
    "pyg_nodes dense": ["--features", "dense"],
    "pyg_nodes sparse": ["--features", "sparse"],
    "pyg_graphs gcn": ["--convolution", "gcn"],
    "pyg_graphs folds": ["--convolution", "gin", "--parts", "PARTS"],
}
AVAILABLE = [name for name in PEERS if name.startswith("keras") or _peer_python()]


@pytest.mark.slow
@pytest.mark.parametrize("peer", AVAILABLE)
def test_a_peer_fits_and_scores_the_test_split(peer: str, tmp_path: Path) -> None:
    writers = {"images": growth.write_images, "nodes": growth.write_nodes}
    module = peer.split(maxsplit=1)[0]
    folder = tmp_path / "data"
    writers.get(module.partition("_")[2], growth.write_graphs)(folder, 200)
    split = np.load(folder / "split.npy")
    np.save(tmp_path / "parts.npy", np.stack([split, split]))
    rest = [str(tmp_path / "parts.npy") if word == "PARTS" else word for word in PEERS[peer]]
    python = FORKS.python if module.startswith("keras") else str(_peer_python())
    done = subprocess.run(
        [python, "-m", f"benchmarks.peers.{module}", str(folder), "--epochs", "2", *rest],
        cwd=ROOT,
        # Threads of PyTorch that wait for each other take minutes on a busy machine.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed["seconds"] > 0
    assert 0 <= printed["accuracy"] <= 1
    assert printed["epochs"] == 2
