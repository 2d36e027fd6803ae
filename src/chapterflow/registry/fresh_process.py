"""A logged model in a fresh process, where only what travels with it is at work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from chapterflow.environment import QUIET_AND_PRIVATE
from chapterflow.errors import StoreError
from chapterflow.shipped import check
from chapterflow.shipped.answers import EXAMPLE_ANSWERS

#: Seconds for a process that starts TensorFlow and answers a few examples.
PATIENCE = 300


@dataclass(frozen=True)
class Elsewhere:
    """How a model answered its own example in another process.

    Attributes:
        examples: Rows of the answer.
        largest_difference: Of a probability, or of a value of a curve, to what it answered when
            it was logged.
        same_classes: Whether it said the same classes.
    """

    examples: int
    largest_difference: float
    same_classes: bool


def answers_elsewhere(folder: Path) -> Elsewhere:
    """Load a logged model in a fresh process without this package, and ask it its own example.

    Args:
        folder: Files of the model, as `mlflow.artifacts.download_artifacts` gives them.

    Raises:
        StoreError: If it cannot be loaded or asked there; the last line of the process says why.
    """
    if not (folder / EXAMPLE_ANSWERS).is_file():
        raise StoreError(
            f"A model must be logged with the answers to its example. Received: {folder}, without "
            f"{EXAMPLE_ANSWERS}. It is older; `chapterflow run MODEL --force` logs it again"
        )
    try:
        done = subprocess.run(
            [sys.executable, check.__file__, str(folder)],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
            env={**QUIET_AND_PRIVATE, **os.environ, "PYTHONWARNINGS": "ignore"},
        )
    except subprocess.TimeoutExpired:
        raise StoreError(
            f"The model must answer in a fresh process within {PATIENCE} s. Received: nothing"
        ) from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise StoreError(f"The model must answer in a fresh process. Received: {last[:500]}")
    return Elsewhere(**json.loads(done.stdout.strip().splitlines()[-1]))
