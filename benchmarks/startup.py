"""CPU seconds of each command of `chapterflow` in a small project, from start to end.

python -m benchmarks startup [--project FOLDER]

Commands that serve are ended as soon as they answer. Seconds are CPU seconds of all processes, and
wall seconds; the former stay comparable on a busy machine.
"""

import argparse
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import requests

from benchmarks.growth import CLI, PATIENCE, call, scratch_project, serving

#: Goal in seconds, and the commands, by what they load.
COMMANDS: dict[str, tuple[float | None, tuple[str, ...]]] = {
    "nothing": (0.1, ("--help", "run --help")),
    "no store": (
        1.5,
        (
            "data list",
            "data verify",
            "data fetch digits",
            "data prune",
            "init of-mine",
            "step fingerprint",
            "step validate digits",
            "doctor",
        ),
    ),
    "the store": (
        1.5,
        (
            *("history dnn", "why dnn", "compare", "step compare", "report", "play"),
            *("gc", "rollback dnn", "data check dnn"),
        ),
    ),
    # Until it answers at this path.
    "a server": (None, ("ui /version", "schedule /api/health", "serve dnn /ping")),
    "the store and Prefect": (None, ("run",)),
    "Great Expectations": (None, ("data add curves-of-mine curves.csv --kind csv",)),
    "a model": (
        None,
        (
            *("layers dnn", "explain dnn digits:0", "predict dnn digits:test"),
            *("promote dnn --dry-run --allow-dirty", "step run dnn", "reproduce dnn"),
        ),
    ),
}
#: `promote`, `rollback`, `doctor` and `reproduce` may refuse.
CODES = (0, 1, 2, 4)


def main(words: list[str] | None = None) -> None:
    """Print a table in markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--project", type=Path, help="copy a project that has trained dnn")
    parser.add_argument("--only", nargs="+", choices=[*COMMANDS], default=[*COMMANDS])
    options = parser.parse_args(words)
    with scratch_project(options.project) as root:
        time = np.arange(100)
        table = ["time,value", *(f"{x},{np.sin(x / 5):.4f}" for x in time)]
        (root / "curves.csv").write_text("\n".join(table), encoding="utf-8")
        shutil.copy(Path(__file__).parent.parent / "dvc.yaml", root)
        print("| loads | command | CPU seconds | wall seconds | goal |")
        print("| --- | --- | --- | --- | --- |")
        for loads in options.only:
            goal, commands = COMMANDS[loads]
            for command in commands:
                if loads == "a server":
                    server, _, path = command.rpartition(" ")
                    point = serving(root, server.split(), partial(_ask, path))
                else:
                    _, point = call(root, [*CLI, *command.split()], CODES)
                wanted = "" if goal is None else f"{goal:g}"
                print(
                    f"| {loads} | `{command}` | {point['seconds']:.2f} | {point['wall']:.1f} "
                    f"| {wanted} |",
                    flush=True,
                )


def _ask(path: str, address: str) -> None:
    requests.get(address + path, timeout=PATIENCE).raise_for_status()


if __name__ == "__main__":
    main()
