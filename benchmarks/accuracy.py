"""Scores of every model, its variants and baselines over several seeds, on one split and in folds.

python -m benchmarks accuracy [--profile book] [--seeds 1 2 3] [--models dnn cnn]

For graphs in the book profile, that includes MUTAG under two protocols of cross-validation, for all
variants; `--models gcn-node --seeds 1 2 3 4 5 6 7 8 9 10` measures Cora as the literature does.
"""

import argparse
import json
import subprocess
import sys
from statistics import mean, stdev

#: Baseline metrics printed with each score.
BASELINES = (
    "baseline/savitzky_golay/rmse",
    "baseline/moving_average/rmse",
    "baseline/rmse_ratio",
    "baseline/majority_accuracy",
)


def main(words: list[str] | None = None) -> None:
    """Run `chapterflow run` once for each seed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="embedded")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--models", nargs="*", default=[])
    options = parser.parse_args(words)
    results: dict[str, list[dict[str, float]]] = {}
    for seed in options.seeds:
        command = [sys.executable, "-m", "chapterflow.cli", "run", *options.models, "--json"]
        command += ["--profile", options.profile, "--set", f"seed={seed}"]
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        for model in json.loads(process.stdout)["models"]:
            results.setdefault(model["model"], []).append(model["metrics"])
    print(f"profile {options.profile}, seeds {options.seeds}")
    for model, runs in results.items():
        seconds = mean(run["train/seconds"] for run in runs)
        epochs = max(run["train/epochs"] for run in runs)
        print(f"{model}: {test_score(runs)}, {epochs:.0f} epochs at most, {seconds:.1f} s")
        for key in sorted(runs[0]):
            if is_score(key) or key in BASELINES:
                print(f"    {key}: {spread([run[key] for run in runs])}")


def is_score(key: str) -> bool:
    """Return whether a metric is a score of a variant or of a cross-validation."""
    group, _, name = key.partition("/")
    folds = key.endswith(("accuracy_mean", "accuracy_std"))
    return folds or (group == "beside" and name.endswith(("/accuracy", "/rmse")))


def test_score(runs: list[dict[str, float]]) -> str:
    """Return the test metric of the runs."""
    key = "test/accuracy" if "test/accuracy" in runs[0] else "test/rmse"
    return f"{key} {spread([run[key] for run in runs])}"


def spread(values: list[float]) -> str:
    """Return mean, standard deviation and each value."""
    deviation = stdev(values) if len(values) > 1 else 0.0
    items = ", ".join(f"{value:.4f}" for value in values)
    return f"{mean(values):.4f} +- {deviation:.4f} ({items})"


if __name__ == "__main__":
    main()
