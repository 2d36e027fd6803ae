"""All benchmarks in one place.

python -m benchmarks [--quick]       side by side with peers, as `make bench`
python -m benchmarks NAME [--help]   another one, or the same by its name
"""

import importlib
import sys

#: Why the others are not part of `make bench`: they answer other questions, some for an hour.
BENCHMARKS = {
    "contest": "seconds and accuracy of fits next to PyTorch, Keras and PyTorch Geometric",
    "flow": "wall and CPU seconds of all embedded models, and of the same command again",
    "workers": "two Dask workers next to one, with a core each: minutes",
    "growth": "seconds and memory against the size of data, flows and store: an hour",
    "profile": "where the seconds of an epoch of a model go; to find out why, not how fast",
    "overhead": "training next to a plain `fit`; with models, the seconds of the loop around each",
    "accuracy": "scores of models, variants and folds over several seeds: hours on book data",
    "startup": "CPU seconds of each command in a small project",
    "memory": "peak memory of `predict` against the number of examples",
    "serving": "`serve` next to MLflow's own server, under load for minutes",
    "gpu": "features per second of the backbones, and small fits, on a GPU of Keras' backend",
    "kills": "what SIGKILL at random moments costs: reliability, not speed",
    "results": "write RESULTS.md and the plots again from results.json",
}


def main(words: list[str]) -> None:
    """Run the benchmark that the first word names; the contest if it names none."""
    if words[:1] in (["--help"], ["-h"]):
        print(__doc__)
        print("Part of `make bench` (`make bench ARGS=--quick` takes less than 10 minutes):")
        for name, about in BENCHMARKS.items():
            print(f"  {name:10} {about}")
            if name == "contest":
                print("\nSeparate:")
        return
    name = "contest"
    if words and not words[0].startswith("-"):
        name, *words = words
        if name not in BENCHMARKS:
            sys.exit(f"A benchmark must be one of {', '.join(BENCHMARKS)}. Received: {name}")
    importlib.import_module(f"benchmarks.{name}").main(words)


if __name__ == "__main__":
    main(sys.argv[1:])
