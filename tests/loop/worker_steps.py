"""Steps that worker processes take in tests: they are imported there by name."""

import os
import signal
import time
from typing import Any

from chapterflow.errors import DataError


def fine(run: Any, *, tell: Any, more: int = 0) -> tuple[Any, int, int]:
    """Report progress, and return the arguments and the number of the process."""
    tell("train", "epoch 1")
    tell("train", "epoch 2")
    return run, more, os.getpid()


def wrong(run: Any, *, tell: Any) -> None:
    """Fail as a check of ours does."""
    raise DataError(f"{run} is wrong")


class Unpicklable(Exception):
    """An exception of a library that cannot be made from its message alone."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def unexpected(run: Any, *, tell: Any) -> None:
    """Fail as libraries do."""
    raise Unpicklable("no such layer", 7)


def killed(run: Any, *, tell: Any) -> None:
    """Be killed, as the system does when memory is short."""
    os.write(1, b"last words\n")
    os.kill(os.getpid(), signal.SIGKILL)


def long(run: Any, *, tell: Any) -> None:
    """Take ten minutes unless interrupted."""
    tell("train", "long")
    time.sleep(600)


def endless(run: Any, *, tell: Any) -> None:
    """Report progress until that is refused."""
    while True:
        tell("train", "epoch 1")
        time.sleep(0.01)


def place(run: Any, *, tell: Any) -> tuple[str, str, str | None]:
    """Return where this process works, what it has imported, and its number of threads."""
    import chapterflow

    return os.getcwd(), chapterflow.__file__, os.environ.get("OMP_NUM_THREADS")
