"""Test accuracy of every model over several training seeds, on the same split.

python -m benchmarks.accuracy [--profile book] [--seeds 1 2 3] [--models dnn cnn]
"""

import argparse
import json
import subprocess
import sys
from statistics import mean, stdev


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
        accuracies = [run["test/accuracy"] for run in runs]
        spread = stdev(accuracies) if len(accuracies) > 1 else 0.0
        seconds = mean(run["train/seconds"] for run in runs)
        each = ", ".join(f"{accuracy:.4f}" for accuracy in accuracies)
        print(
            f"{model}: mean {mean(accuracies):.4f} +- {spread:.4f} ({each}), "
            f"{max(run['train/epochs'] for run in runs):.0f} epochs at most, {seconds:.1f} s"
        )


if __name__ == "__main__":
    main()
