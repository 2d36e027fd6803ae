"""CPU seconds of each command of `chapterflow` in a small project, from start to end.

python -m benchmarks startup [--project FOLDER]
"""

import argparse
from pathlib import Path

from benchmarks.growth import call, scratch_project

#: Commands by what they load.
COMMANDS = {
    "nothing": ("--help", "run --help"),
    "no store": ("data list", "data verify", "step fingerprint", "doctor"),
    "the store": ("history dnn", "why dnn", "compare", "report"),
    "the store and Prefect": ("run",),
    "a model": ("layers dnn", "explain dnn digits:0", "promote dnn --dry-run --allow-dirty"),
}
#: `promote` and `doctor` may refuse.
CODES = (0, 1, 4)


def main(words: list[str] | None = None) -> None:
    """Print a table in markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--project", type=Path, help="copy a project that has trained dnn")
    options = parser.parse_args(words)
    with scratch_project(options.project) as root:
        print("| loads | command | CPU seconds |\n| --- | --- | --- |")
        for loads, commands in COMMANDS.items():
            for command in commands:
                _, point = call(root, ["-m", "chapterflow.cli", *command.split()], CODES)
                print(f"| {loads} | `{command}` | {point['seconds']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
