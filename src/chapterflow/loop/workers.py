"""Worker processes: models of a flow run side by side, each in a process with its own TensorFlow.

Steps run in the calling process where there are no workers. The results are the same, bit for bit:
a worker has the settings, the libraries and the number of threads of the process that started it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from chapterflow.environment import Project, collect_rarely, end_with, load_tensorflow
from chapterflow.errors import ChapterflowError, describe
from chapterflow.models.catalog import FOLDER
from chapterflow.types import Tell

#: Bytes of memory that a model of the chapter may take, its libraries included.
MEMORY = 2_500_000_000


def default_count(models: int) -> int:
    """Return how many models to run side by side: one for each core, as far as memory allows.

    With a GPU it is one at a time, since TensorFlow takes the memory of the whole device.

    Args:
        models: Number of models that will train.
    """
    import psutil

    if Path("/dev/nvidia0").exists():
        return 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    fitting = psutil.virtual_memory().available // MEMORY
    return int(max(1, min(usable or 1, models, fitting)))


class Worker:
    """A process that takes one step of a run after the other.

    It imports TensorFlow as soon as it starts, and ends with the process that started it, however
    that ended. What it prints goes to a log in the project's scratch folder.

    Attributes:
        alive: Whether it can take steps.
    """

    def __init__(self, project: Project, number: int) -> None:
        self._log = project.scratch / f"worker-{number}.log"
        project.scratch.mkdir(parents=True, exist_ok=True)
        self._pipe, theirs = Pipe()
        with theirs, self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "chapterflow.loop.workers"),
                    *(str(theirs.fileno()), str(os.getpid())),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in a terminal goes to the whole group; here it comes from the parent alone,
                # once.
                start_new_session=True,
            )
        self.alive = True

    def call(self, step: Callable[..., Any], *arguments: Any, tell: Tell, **options: Any) -> Any:
        """Run a step in the process; return what it returns, or raise what it raises.

        Args:
            step: A function of a module.
            arguments: Its arguments; they and the result are pickled.
            tell: Called with the progress of the step.
            options: Its keyword arguments.

        Raises:
            ChapterflowError: If the process ended; also for exceptions of other types.
        """
        try:
            self._pipe.send((step, arguments, options))
            while True:
                what, value = self._pipe.recv()
                if what == "return":
                    return value
                if what == "raise":
                    raise value
                tell(*value)
        except (EOFError, ConnectionError):
            self.alive = False
            code = self._process.wait()
            how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise ChapterflowError(
                f"The process of the model ended during `{step.__name__}`. Received: {how}"
                f"{f', {lines[-1]}' if lines else ''}. Out of memory? `--workers 1` needs the "
                "least. The same command continues after the last finished epoch; the process's "
                f"output: {self._log}"
            ) from None

    def interrupt(self) -> None:
        """Interrupt the step under way, as Ctrl-C does."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGINT)

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


_active: ContextVar[Workers | None] = ContextVar("workers", default=None)


def active_workers() -> Workers | None:
    """Return the workers of the `with` block around the caller, if there are any."""
    return _active.get()


class Workers:
    """A number of worker processes, for a `with` block.

    Attributes:
        count: How many they are.
    """

    def __init__(self, project: Project, count: int) -> None:
        self.count = count
        self._project = project
        self._workers = {number: Worker(project, number) for number in range(1, count + 1)}
        self._idle: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in self._workers:
            self._idle.put(number)

    @contextlib.contextmanager
    def taken(self) -> Iterator[Worker]:
        """Wait for an idle worker; it is nobody else's in the block."""
        number = self._idle.get()
        try:
            if not self._workers[number].alive:
                self._workers[number] = Worker(self._project, number)
            yield self._workers[number]
        finally:
            self._idle.put(number)

    def interrupt(self) -> None:
        """Interrupt all steps under way."""
        for worker in self._workers.values():
            worker.interrupt()

    def __enter__(self) -> Self:
        self._token = _active.set(self)
        return self

    def __exit__(self, *exception: object) -> None:
        _active.reset(self._token)
        self.close()

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers.values():
            worker.close()


def _serve(pipe: Connection) -> None:
    """Take steps until the other end of the pipe is closed."""

    def tell(step: str, detail: str) -> None:
        pipe.send(("tell", (step, detail)))

    while True:
        try:
            step, arguments, options = pipe.recv()
        except (EOFError, ConnectionError):
            return
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                answer = ("return", step(*arguments, tell=tell, **options))
            finally:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
        except BaseException as error:
            known = isinstance(error, ChapterflowError | KeyboardInterrupt)
            # Others may not survive pickling, and no traceback does.
            sent = error if known else ChapterflowError(describe(error, FOLDER))
            sent.add_note("In the worker:\n" + "".join(traceback.format_exception(error)))
            answer = ("raise", sent)
        pipe.send(answer)


def main(descriptor: int, parent: int) -> None:
    """Serve steps over a pipe that the process `parent` has opened."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(parent)
    collect_rarely()
    load_tensorflow()
    import chapterflow.loop.steps
    import chapterflow.training.fit  # noqa: F401

    with Connection(descriptor) as pipe, contextlib.suppress(ConnectionError):
        _serve(pipe)
    sys.stdout.flush()
    # The tear-down of TensorFlow takes long, and nothing is left to do.
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
