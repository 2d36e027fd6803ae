"""Graph models on real data: MUTAG under two protocols, Cora over ten seeds.

CHAPTERFLOW_MIRROR=... python -m benchmarks.graphs [--folds 10] [--seeds 10] [--only mutag|cora]
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import mean, median, pstdev
from typing import Any

from chapterflow.config.load import load_settings
from chapterflow.data.build import ensure_dataset
from chapterflow.environment import Project, configure, find_project, load_tensorflow
from chapterflow.kinds.dataset import Dataset, open_dataset
from chapterflow.models.base import ModelParams
from chapterflow.models.catalog import get_model

VARIANTS: dict[str, dict[str, Any]] = {
    "gcn, mean readout": {"convolution": "gcn", "readout": "mean"},
    "gcn, sum readout": {"convolution": "gcn", "readout": "sum"},
    "gcn, max readout": {"convolution": "gcn", "readout": "max"},
    "gin, sum readout": {"convolution": "gin", "readout": "sum"},
    "the same, normalised": {
        "convolution": "gin",
        "readout": "sum",
        "normalize": True,
        "dropout": 0.5,
    },
    "structure-blind, sum readout": {"convolution": "none", "readout": "sum"},
}


def main(words: list[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", choices=["mutag", "cora"])
    options = parser.parse_args(words)
    project = find_project()
    configure(project)
    load_tensorflow()
    settings = load_settings(project.params, profile="book")
    with tempfile.TemporaryDirectory() as folder:

        def dataset(name: str) -> Dataset:
            ensure_dataset(
                Project(Path(folder)), name, settings.datasets[name], on_progress=lambda *_: None
            )
            return open_dataset(Path(folder) / "data" / name)

        if options.only != "cora":
            _mutag(settings.params("gcn"), dataset("mutag"), options.folds, settings.seed)
        if options.only != "mutag":
            _cora(settings.params("gcn-node"), dataset("cora"), options.seeds, Path(folder))


def _mutag(params: ModelParams, dataset: Dataset, folds: int, seed: int) -> None:
    from chapterflow.training.folds import cross_validate

    print(f"mutag, {folds}-fold cross-validation, {params.epochs} epochs, seed {seed}")
    print(f"{'':30} {'inner protocol':17} {'gin protocol':17} seconds  CPU seconds")
    majority = 0.0
    for name, change in VARIANTS.items():
        started, cpu = time.perf_counter(), time.process_time()
        with tempfile.TemporaryDirectory() as work:
            scores = cross_validate(
                get_model("gcn"),
                params.model_copy(update=change),
                dataset,
                folds=folds,
                seed=seed,
                work=Path(work),
            )
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        cells = [
            f"{scores[f'cv/{protocol}/accuracy_mean']:.3f} +- "
            f"{scores[f'cv/{protocol}/accuracy_std']:.3f}"
            for protocol in ("inner", "gin")
        ]
        print(f"{name:30} {cells[0]:17} {cells[1]:17} {seconds:7.1f} {cpu:12.1f}", flush=True)
        majority = scores["cv/majority/accuracy_mean"]
    print(f"{'majority class':30} {majority:.3f}")


def _cora(params: ModelParams, dataset: Dataset, seeds: int, folder: Path) -> None:
    import keras

    from chapterflow.training.batches import predict_full
    from chapterflow.training.fit import fit

    test = dataset.indices("test")
    accuracies, seconds, cpu = [], [], []
    for seed in range(1, seeds + 1):
        work = folder / f"work-{seed}"
        started, before = time.perf_counter(), time.process_time()
        fit(get_model("gcn-node"), params, dataset, seed=seed, work=work)
        seconds.append(time.perf_counter() - started)
        cpu.append(time.process_time() - before)
        logits = predict_full(keras.saving.load_model(work / "model.keras"), dataset)
        accuracies.append(float((logits.argmax(axis=1) == dataset.labels[:])[test].mean()))
    items = ", ".join(f"{accuracy:.3f}" for accuracy in accuracies)
    print(
        f"cora, standard split, {seeds} seeds, {params.epochs} epochs: test accuracy "
        f"{mean(accuracies):.4f} +- {pstdev(accuracies):.4f} ({items}); {median(seconds):.1f} s, "
        f"{median(cpu):.1f} s of CPU, for a training (medians)"
    )


if __name__ == "__main__":
    main()
