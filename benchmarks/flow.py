"""All embedded models in a new project, and the same command again, which reuses all runs.

python -m benchmarks flow [--repetitions 3]

Results are part of RESULTS.md.
"""

import argparse
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.contest import machine, tell
from benchmarks.growth import CLI, call
from chapterflow.environment import find_project

#: Work, with its goal in wall seconds on two quiet cores.
WORK = {"first run": 60.0, "second run, nothing changed": 6.0}


def main(words: list[str] | None = None) -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", help="all of params.yaml by default")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args(words)
    measured: dict[str, Any] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "quick": False,
        "repetitions": options.repetitions,
        "machine": machine({}),
        "models": options.models,
        "work": {work: {"goal": goal, "points": []} for work, goal in WORK.items()},
    }
    for _ in range(options.repetitions):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(find_project().params, folder)
            for work in WORK:
                _, point = call(
                    Path(folder), [*CLI, "run", *options.models], patience=3600,
                    more={"CHAPTERFLOW_PROJECT": folder},
                )  # fmt: skip
                measured["work"][work]["points"].append(point)
                tell(f"{work}: {point['wall']:.1f} s, {point['seconds']:.1f} s of CPU")
    results.write("flow", measured)


if __name__ == "__main__":
    main()
