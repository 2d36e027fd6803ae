"""What the peers share: arguments, arrays, and the line of JSON that each prints."""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Codes in `split.npy`.
TRAIN, VALIDATION, TEST = 0, 1, 2


def options(about: str | None, words: Sequence[str] | None, **more: Any) -> argparse.Namespace:
    """Return the arguments of a peer.

    Args:
        more: Further options by name, with the keyword arguments of `add_argument`.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("data", type=Path, help="folder of .npy arrays")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, required=True)
    for name, details in more.items():
        parser.add_argument(f"--{name}", **details)
    return parser.parse_args(words)


def arrays(folder: Path, *names: str) -> list[NDArray[Any]]:
    """Return arrays of a dataset."""
    return [np.load(folder / f"{name}.npy", allow_pickle=False) for name in names]


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that a call takes, and its result."""
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def report(seconds: float, accuracy: float, chosen: argparse.Namespace, **more: float) -> None:
    """Print the result of a fit.

    Args:
        seconds: Wall time of the fit, without imports, reading and scoring.
        accuracy: On the test split.
    """
    result = {"seconds": seconds, "accuracy": accuracy, "epochs": chosen.epochs}
    print(json.dumps({**result, "seed": chosen.seed, **more}), flush=True)
