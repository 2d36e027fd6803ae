"""What SIGKILL at random moments costs: champions, duplicate versions, open runs, files.

Each command of a cycle is killed at a moment drawn uniformly from its duration, then called again
until it ends. A cycle trains a new `dnn`, promotes it, predicts with it, writes the report, adds a
dataset, fetches the embedded ones, rolls back and, in every fourth cycle, calls `dvc repro`. The
project is a clone in a temporary folder.

python -m benchmarks kills --cycles 25
"""

import argparse
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from chapterflow.environment import Project, configure, find_project
from tests.forks import Forks

#: Margins that let every new version of dnn pass.
WIDE = ["promotion.margin=1", "promotion.worst_class_margin=1", "promotion.floor.digits=0"]
CALIBRATION = "promotion.calibration_error.digits=1"
#: Where files of unfinished work lie, and how they are called.
UNFINISHED = (".chapterflow/work/*", ".chapterflow/predict/*", "data/.*", "**/*.tmp", "**/*.part")


class Clone:
    """A clone of the repository in which commands are called as forks."""

    def __init__(self, root: Path, forks: Forks) -> None:
        forks.start()
        self.root = root
        self.seconds: dict[str, float] = {}
        self._environment = {
            **os.environ,
            "PATH": f"{forks.folder}{os.pathsep}{os.environ['PATH']}",
        }

    def start(self, words: list[str]) -> subprocess.Popen[str]:
        """Start a command in a process group of its own."""
        return subprocess.Popen(
            words,
            cwd=self.root,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def finish(self, words: list[str], codes: Sequence[int] = (0,)) -> str:
        """Call a command to its end; return what it wrote.

        Raises:
            SystemExit: If it ends with another exit code.
        """
        since = time.monotonic()
        process = self.start(words)
        text, _ = process.communicate()
        self.seconds[words[1]] = time.monotonic() - since
        if process.returncode not in codes:
            sys.exit(f"`{' '.join(words)}` ends with {process.returncode}:\n{text}")
        return text

    def kill(self, words: list[str], after: float) -> bool:
        """Kill a command after some seconds; return whether it was still running."""
        process = self.start(words)
        try:
            process.communicate(timeout=after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return True
        return False


def main(words: list[str] | None = None) -> None:
    """Run the cycles, and print what was killed and what was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cycles", type=int, default=25, help="about 8 kills each")
    parser.add_argument("--seed", type=int, default=5)
    arguments = parser.parse_args(words)
    source = find_project().root
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "clone"
        subprocess.run(["git", "clone", "-q", source, root], check=True)
        _photos(Path(folder) / "photos")
        project = Project(root)
        os.environ["CHAPTERFLOW_PROJECT"] = str(root)
        configure(project)
        from pipelines.prefect_server import prefect_server

        with contextlib.closing(Forks(os.environ)) as forks, prefect_server(project.scratch):
            kills = _cycles(Clone(root, forks), arguments.cycles, rng, Path(folder) / "photos")
        losses = _losses(project)
    _print(kills, losses)


def _photos(folder: Path) -> None:
    rng = np.random.default_rng(5)
    for name, level in (("dark", 60), ("light", 190)):
        (folder / name).mkdir(parents=True)
        for number in range(30):
            pixels = rng.integers(level - 50, level + 50, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def _cycles(clone: Clone, cycles: int, rng: random.Random, photos: Path) -> dict[str, Counter[str]]:
    kills: dict[str, Counter[str]] = defaultdict(Counter)
    wide = [word for margin in (*WIDE, CALIBRATION) for word in ("--set", margin)]
    console = Console(stderr=True)

    def do(*words: str, again: Sequence[str] = (), codes: Sequence[int] = (0,)) -> None:
        command = [*words] if words[0] == "dvc" else ["chapterflow", *words]
        name = command[1]
        after = rng.uniform(0, clone.seconds.get(name, 10.0))
        kills[name]["killed" if clone.kill(command, after) else "ended before"] += 1
        clone.finish([*command, *again], codes)

    clone.finish(["chapterflow", "run", "dnn", "--set", "models.dnn.epochs=3"])
    clone.finish(["chapterflow", "promote", "dnn", *wide])
    for cycle in range(cycles):
        console.print(
            f"cycle {cycle + 1} of {cycles}: {sum(map(Counter.total, kills.values()))} kills"
        )
        few = ["--set", "models.dnn.epochs=3", "--set", f"models.dnn.hidden={16 + cycle}"]
        do("run", "dnn", *few)
        do("promote", "dnn", *wide)
        do("predict", "dnn", "digits:test", "--out", str(clone.root.parent / "out.parquet"))
        do("report")
        do("data", "add", "--kind", "images", f"photos{cycle}", str(photos), again=["--force"])
        do("data", "fetch")
        clone.finish(["git", "commit", "-qam", f"cycle {cycle}"], codes=(0, 1))
        text = clone.finish(["chapterflow", "reproduce", "dnn@champion", "--json"])
        verdict = re.findall(r'"verdict": "(.+)"', text)
        kills["run"][f"made again: {', '.join(verdict)}"] += 1
        # 2: the killed one was finished first, and there is no further champion to return to.
        do("rollback", "dnn", codes=(0, 2))
        if cycle % 4 == 3:
            do("dvc", "repro", "run@dnn")
    return kills


def _losses(project: Project) -> dict[str, int]:
    import mlflow

    from chapterflow.tracking import store

    client = mlflow.MlflowClient(store.open_store(project))
    versions = client.search_model_versions("name = 'dnn'")
    runs = client.search_runs(
        [e.experiment_id for e in client.search_experiments()], max_results=1000
    )
    fingerprints = Counter(
        run.data.tags.get("chapterflow.fingerprint")
        for run in runs
        if run.info.run_id in {version.run_id for version in versions}
    )
    return {
        "champions lost": int("champion" not in client.get_registered_model("dnn").aliases),
        "duplicate versions": len(versions) - len(fingerprints),
        "runs left open": sum(run.info.status == "RUNNING" for run in runs),
        "files left over": sum(len(list(project.root.glob(pattern))) for pattern in UNFINISHED),
    }


def _print(kills: dict[str, Counter[str]], losses: dict[str, int]) -> None:
    table = Table("command", "killed", "ended before", "made again")
    for name, counts in kills.items():
        again = ", ".join(f"{n} {k[12:]}" for k, n in counts.items() if k.startswith("made again"))
        table.add_row(name, str(counts["killed"]), str(counts["ended before"]), again)
    console = Console()
    console.print(table)
    total = sum(counts["killed"] for counts in kills.values())
    console.print(f"{total} SIGKILLs: " + ", ".join(f"{n} {name}" for name, n in losses.items()))


if __name__ == "__main__":
    main()
