"""Test score of every model and of what stands beside it, over several seeds, on one split.

python -m benchmarks.accuracy [--profile book] [--seeds 1 2 3] [--models dnn cnn]
"""

import argparse
import json
import subprocess
import sys
from statistics import mean, stdev

#: Further figures that belong beside a score.
BESIDE = (
    "baseline/savitzky_golay/rmse",
    "baseline/moving_average/rmse",
    "baseline/rmse_ratio",
    "baseline/majority_accuracy",
)


def main(words: list[str] | None = None) -> None:
    """Run the loop once for each seed, through the command line, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="embedded")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--models", nargs="*", default=[])
    chosen = parser.parse_args(words)
    found: dict[str, list[dict[str, float]]] = {}
    for seed in chosen.seeds:
        command = [sys.executable, "-m", "chapterflow.cli", "run", *chosen.models, "--json"]
        command += ["--profile", chosen.profile, "--set", f"seed={seed}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        for model in json.loads(done.stdout)["models"]:
            found.setdefault(model["model"], []).append(model["metrics"])
    print(f"profile {chosen.profile}, seeds {chosen.seeds}")
    for model, runs in found.items():
        seconds = mean(run["train/seconds"] for run in runs)
        epochs = max(run["train/epochs"] for run in runs)
        print(f"{model}: {told(runs)}, {epochs:.0f} epochs at most, {seconds:.1f} s")
        for key in sorted(runs[0]):
            scored = key.startswith("beside/") and key.rpartition("/")[2] in ("accuracy", "rmse")
            if scored or key in BESIDE:
                print(f"    {key}: {spread([run[key] for run in runs])}")


def told(runs: list[dict[str, float]]) -> str:
    """Return what the runs scored."""
    key = "test/accuracy" if "test/accuracy" in runs[0] else "test/rmse"
    return f"{key} {spread([run[key] for run in runs])}"


def spread(values: list[float]) -> str:
    """Return mean, standard deviation and each value."""
    deviation = stdev(values) if len(values) > 1 else 0.0
    each = ", ".join(f"{value:.4f}" for value in values)
    return f"{mean(values):.4f} +- {deviation:.4f} ({each})"


if __name__ == "__main__":
    main()
