"""Workers: models of a flow run side by side, each in a process with its own TensorFlow.

A worker is a process that this one starts, or one of a cluster (`loop/clusters.py`).
Steps run in the calling process where there are no workers. The results are the same, bit for bit:
a worker has the settings and libraries of the process that calls it, and on the same machine its
number of threads.
"""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import signal
import socket
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from chapterflow.environment import (
    Project,
    collect_rarely,
    end_with,
    import_tensorflow,
    load_tensorflow,
)
from chapterflow.errors import ChapterflowError, describe
from chapterflow.loop.fork_server import Ended, ForkServer, serve
from chapterflow.models.catalog import FOLDER
from chapterflow.types import Tell

if TYPE_CHECKING:
    from chapterflow.loop.clusters import Cluster

Job = TypeVar("Job")
Result = TypeVar("Result")

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


class Worker(ABC):
    """A process that takes one step after the other.

    Attributes:
        alive: Whether it can take steps.
    """

    alive = True

    @abstractmethod
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

    @abstractmethod
    def interrupt(self) -> None:
        """Interrupt the step under way, as Ctrl-C does."""

    def close(self) -> None:  # noqa: B027 - most workers need nothing
        """End the process if it belongs to this one."""


class ProcessWorker(Worker):
    """A process of this machine, which works in the same checkout.

    It has TensorFlow from the server that forks it, and ends with the process that started it,
    however that ended. What it prints goes to a log in the project's scratch folder.
    """

    def __init__(self, project: Project, number: int, server: ForkServer) -> None:
        self._log = project.scratch / f"worker-{number}.log"
        self._server = server
        self._pipe, theirs = Pipe()
        with theirs, self._log.open("wb") as log:
            self._process = server.fork(theirs.fileno(), log.fileno())

    def call(self, step: Callable[..., Any], *arguments: Any, tell: Tell, **options: Any) -> Any:
        """Send the step through the pipe."""
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
            raise ChapterflowError(
                f"The process of the model ended during `{step.__name__}`. Received: "
                f"{self._end()}. Out of memory? `--workers 1` needs the "
                "least. The same command continues after the last finished epoch; the process's "
                f"output: {self._log}"
            ) from None

    def _end(self) -> str:
        """Return how the process ended, and its last words."""
        log = self._log
        try:
            code = self._process.wait()
            how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        except Ended:
            how, log = "the end of the process that forked it", self._server.log
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"{how}, {lines[-1]}" if lines else how

    def interrupt(self) -> None:
        """Send the signal of Ctrl-C."""
        self._process.kill(signal.SIGINT)

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        with contextlib.suppress(Ended):
            try:
                self._process.wait(10)
            except TimeoutError:
                self._process.kill(signal.SIGKILL)


_active: ContextVar[Workers | None] = ContextVar("workers", default=None)


def active_workers() -> Workers | None:
    """Return the workers of the `with` block around the caller, if there are any."""
    return _active.get()


class Workers:
    """A number of worker processes, for a `with` block.

    Attributes:
        count: How many they are.
        cluster: What they are workers of; None for processes of this machine.
    """

    def __init__(self, project: Project, count: int, cluster: Cluster | None = None) -> None:
        self.count = count
        self.cluster = cluster
        self._project = project
        self._server: ForkServer | None = None
        self._workers = {number: self._new(number) for number in range(1, count + 1)}
        self._idle: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in self._workers:
            self._idle.put(number)

    def _new(self, number: int) -> Worker:
        if self.cluster:
            return self.cluster.worker()
        if self._server is None or not self._server.alive:
            scratch = self._project.scratch
            scratch.mkdir(parents=True, exist_ok=True)
            self._server = ForkServer(__name__, scratch / "workers.log")
        return ProcessWorker(self._project, number, self._server)

    @contextlib.contextmanager
    def taken(self) -> Iterator[Worker]:
        """Wait for an idle worker; it is nobody else's in the block."""
        number = self._idle.get()
        try:
            if not self._workers[number].alive:
                self._workers[number] = self._new(number)
            yield self._workers[number]
        finally:
            self._idle.put(number)

    def spread(
        self,
        take: Callable[[Worker, Job], Result],
        jobs: Sequence[Job],
        *,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> list[Result]:
        """Return the results of jobs, in their order; an idle worker takes the next one.

        If one raises an error, the others are interrupted.

        Args:
            take: Called in a thread with a worker, nobody else's at the time, and a job.
            jobs: What is to be done.
            meanwhile: Called in this thread while the first jobs are under way.
        """

        def in_worker(job: Job) -> Result:
            with self.taken() as worker:
                return take(worker, job)

        with ThreadPoolExecutor(self.count) as threads:
            futures = [threads.submit(copy_context().run, in_worker, job) for job in jobs]
            try:
                meanwhile()
                return [future.result() for future in futures]
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                self.interrupt()
                raise

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
        if self._server:
            self._server.close()
        if self.cluster:
            self.cluster.close()


def _serve(pipe: Connection) -> None:
    """Take steps until the other end of the pipe is closed."""

    def tell(step: str, detail: str) -> None:
        pipe.send(("tell", (step, detail)))

    while True:
        try:
            step, arguments, options = pipe.recv()
        except (EOFError, ConnectionError):
            return
        pipe.send(answer(_interruptible(step), arguments, options, tell))


def _interruptible(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step during which Ctrl-C interrupts; between steps nothing does."""

    def run(*arguments: Any, **options: Any) -> Any:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return step(*arguments, **options)
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    return run


def answer(
    step: Callable[..., Any], arguments: Any, options: dict[str, Any], tell: Tell
) -> tuple[str, Any]:
    """Take a step, and return what it returned or raised, in a form that survives pickling."""
    try:
        return "return", step(*arguments, tell=tell, **options)
    except BaseException as error:
        known = isinstance(error, ChapterflowError | KeyboardInterrupt)
        # Others may not survive pickling, and no traceback does.
        sent = error if known else ChapterflowError(describe(error, FOLDER))
        sent.add_note("In the worker:\n" + "".join(traceback.format_exception(error)))
        return "raise", sent


def main(requests: int) -> None:
    """Import the libraries, and serve steps in forks; `requests` is a socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    collect_rarely()
    import_tensorflow()
    import mlflow  # noqa: F401

    import chapterflow.loop.steps
    import chapterflow.training.fit  # noqa: F401

    # Each fit looks for unreachable objects, and libraries are none. Looked at, they would also be
    # copied into the memory of each fork.
    gc.freeze()
    with socket.socket(fileno=requests) as asked:
        (descriptor, log), server = serve(asked)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    end_with(server)
    load_tensorflow()
    with Connection(descriptor) as pipe, contextlib.suppress(ConnectionError):
        _serve(pipe)
    sys.stdout.flush()
    # The tear-down of TensorFlow takes long, and nothing is left to do.
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
