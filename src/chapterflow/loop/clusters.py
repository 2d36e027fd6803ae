"""Clusters: workers of other machines, which a scheduler of Dask or a head of Ray knows.

A step must bring what it needs: it runs in another checkout, with the same code and packages, and
perhaps twice, since the step of a worker that was lost is repeated.
"""

from __future__ import annotations

import os
import pickle
import queue
import socket
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from chapterflow.environment import Project, find_project, quiet
from chapterflow.errors import ChapterflowError, ConfigError, describe
from chapterflow.files import sha256_file
from chapterflow.loop.workers import Worker, Workers, answer
from chapterflow.models.catalog import FOLDER
from chapterflow.tracking import runs
from chapterflow.types import Tell

if TYPE_CHECKING:
    from chapterflow.config.settings import ExecutionParams

#: Seconds in which a scheduler or head must answer.
ANSWER_SECONDS = 10.0
#: How many workers of Ray a step may lose, as many as Dask allows.
LOSSES = 3


def software(project: Project) -> dict[str, str]:
    """Return the commit of a checkout and the hash of its lock file."""
    lock = project.root / "requirements.lock"
    return {
        "commit": runs.git_tags(project).get(runs.COMMIT, "none"),
        "requirements.lock": sha256_file(lock) if lock.is_file() else "none",
    }


def refuse_other(what: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raise a `ConfigError` that names what differs between two machines."""
    differences = list(_differences(theirs, ours))
    if differences:
        listed = "; ".join(
            f"{name} {str(here)[:40]} instead of {str(there)[:40]}"
            for name, there, here in differences[:4]
        )
        raise ConfigError(
            f"A worker must have the {what} of the flow. Received: {listed}. Check out the flow's "
            "commit where the worker runs, without changes, install its requirements.lock, and "
            "start the worker again"
        )


def _differences(theirs: Any, ours: Any, name: str = "") -> Any:
    """Yield name, their value and our value of each leaf that differs."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted({*theirs, *ours}):
            yield from _differences(
                theirs.get(key, "none"), ours.get(key, "none"), f"{name}.{key}".lstrip(".")
            )
    elif theirs != ours:
        yield name, theirs, ours


class Cluster(ABC):
    """Workers of other machines.

    Attributes:
        size: How many steps it takes side by side.
    """

    size: int

    @abstractmethod
    def worker(self) -> Worker:
        """Return a place in its queue; the cluster chooses the worker for each step."""

    @abstractmethod
    def close(self) -> None:
        """End the connection."""


def connect(project: Project, execution: ExecutionParams, most: int) -> Workers:
    """Return the workers of the cluster that the settings name, up to a number.

    Raises:
        ConfigError: If its library is not installed, or it does not answer or has no worker.
    """
    engine = {"dask": Dask, "ray": Ray}[execution.engine]
    cluster = engine(str(execution.address), software(project))
    return Workers(project, min(cluster.size, most), cluster)


def _missing(engine: str, package: str) -> ConfigError:
    return ConfigError(
        f"The engine {engine} needs the package `{package}`. Install it: "
        f"`pip install 'chapterflow[{engine}]'`"
    )


def _failed(engine: str, step: Callable[..., Any], error: Exception) -> ChapterflowError:
    return ChapterflowError(
        f"{engine} could not run `{step.__name__}`. Received: {describe(error, FOLDER)}. The "
        "logs of the workers say more. The same command continues after the last epoch that was "
        "kept"
    )


def _answer(payload: bytes, theirs: dict[str, str], tell: Tell) -> tuple[str, Any]:
    """Take a step in the checkout around the current folder, unless it has other software.

    The step is pickled apart, since other code may not be able to read it.
    """

    def take(*, tell: Tell) -> Any:
        refuse_other("software", theirs, software(find_project()))
        step, arguments, options = pickle.loads(payload)  # noqa: S301 - workers run what they are sent
        return step(*arguments, tell=tell, **options)

    return answer(take, (), {}, tell)


class Dask(Cluster):
    """The workers of a Dask scheduler.

    Args:
        address: Of the scheduler: `tcp://HOST:8786`.
        ours: What `software` returns here.
    """

    def __init__(self, address: str, ours: dict[str, str]) -> None:
        try:
            from distributed import Client
        except ImportError:
            raise _missing("dask", "distributed") from None
        try:
            self._client = Client(address, timeout=ANSWER_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"execution.address (--address) must be a Dask scheduler that answers. Received: "
                f"{address} ({error}). Start it with `dask scheduler`, see docs/scale.md"
            ) from None
        self._software = ours
        self.size = len(self._client.scheduler_info(n_workers=-1)["workers"])
        if not self.size:
            self._client.close()
            raise ConfigError(
                f"The Dask scheduler {address} must have a worker. Received: 0. Start one in a "
                f"checkout: `dask worker {address} --nthreads 1`, see docs/scale.md"
            )

    def worker(self) -> Worker:
        """Return a place in the scheduler's queue."""
        return DaskWorker(self._client, self._software)

    def close(self) -> None:
        """End the connection."""
        self._client.close()


class DaskWorker(Worker):
    """A place in the queue of a Dask scheduler, which repeats the step of a lost worker."""

    def __init__(self, client: Any, ours: dict[str, str]) -> None:
        self._client = client
        self._software = ours
        self._future: Any = None

    def call(self, step: Callable[..., Any], *arguments: Any, tell: Tell, **options: Any) -> Any:
        """Submit the step to the scheduler."""
        from distributed import CancelledError

        key = f"chapterflow-{uuid.uuid4().hex}"
        self._client.subscribe_topic(key, lambda event: tell(*event[1]))
        try:
            # As bytes: the scheduler has no use for the arguments.
            payload = pickle.dumps((step, arguments, options))
            self._future = self._client.submit(
                _answer_dask, payload, self._software, key, key=key, pure=False
            )
            what, value = self._future.result()
        except CancelledError:
            raise KeyboardInterrupt from None
        except Exception as error:
            raise _failed("Dask", step, error) from error
        finally:
            self._future = None
            self._client.unsubscribe_topic(key)
        if what == "raise":
            raise value
        return value

    def interrupt(self) -> None:
        """Cancel the step; it ends at its next report of progress."""
        if (future := self._future) is not None:
            future.cancel()


def _answer_dask(payload: bytes, theirs: dict[str, str], topic: str) -> tuple[str, Any]:
    """Take a step in a worker of Dask."""
    from distributed import get_worker

    worker = get_worker()

    def tell(step: str, detail: str) -> None:
        # Dask lets a task run on when it is cancelled, or when whoever submitted it has gone.
        task = worker.state.tasks.get(topic)
        if task is None or task.state == "cancelled":
            raise KeyboardInterrupt
        worker.log_event(topic, (step, detail))

    return _answer(payload, theirs, tell)


class Ray(Cluster):
    """The CPUs of a Ray cluster; nodes are started with one each.

    Args:
        address: Of the head: `HOST:6379`. This machine must be one of its nodes.
        ours: What `software` returns here.
    """

    def __init__(self, address: str, ours: dict[str, str]) -> None:
        try:
            import ray
            from ray._private import worker as messages
            from ray.job_config import JobConfig
        except ImportError:
            raise _missing("ray", "ray") from None
        # Ray would put the folders of this process first on the path of its workers, which have
        # checkouts of their own. It has no option against that.
        config = type(
            "Config",
            (JobConfig,),
            {"_py_driver_sys_path": property(lambda _: [], lambda _, folders: None)},
        )
        # A worker that was lost is reported on stdout, which may be a JSON document.
        messages._worker_logs_enabled = False
        # By default Ray waits for minutes.
        os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")
        try:
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
            with quiet():
                ray.init(address, log_to_driver=False, configure_logging=False, job_config=config())
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(
                "execution.address (--address) must be the head of a Ray cluster that this machine "
                f"is a node of: HOST:6379. Received: {address} ({error}). Start the node with "
                "`ray start`, see docs/scale.md"
            ) from None
        self._answer = ray.remote(num_cpus=1, num_returns="streaming", max_retries=0)(_answer_ray)
        self._software = ours
        self.size = int(ray.cluster_resources().get("CPU", 0))
        if not self.size:
            ray.shutdown()
            raise ConfigError(
                f"The Ray cluster {address} must have a CPU. Received: 0. Start a node in a "
                f"checkout: `ray start --address {address} --num-cpus 1`, see docs/scale.md"
            )

    def worker(self) -> Worker:
        """Return a place in the cluster's queue."""
        return RayWorker(self._answer, self._software)

    def close(self) -> None:
        """End the connection, and the processes that nodes have started for it."""
        import ray

        ray.shutdown()


class RayWorker(Worker):
    """A place in the queue of a Ray cluster.

    Ray itself could repeat the step of a lost worker, but expects the same progress again, and a
    training that is continued reports less.
    """

    def __init__(self, function: Any, ours: dict[str, str]) -> None:
        self._answer = function
        self._software = ours
        self._stream: Any = None

    def call(self, step: Callable[..., Any], *arguments: Any, tell: Tell, **options: Any) -> Any:
        """Submit the step to the cluster, again where a worker is lost."""
        from ray.exceptions import (
            NodeDiedError,
            ObjectLostError,
            RayError,
            TaskCancelledError,
            WorkerCrashedError,
        )

        payload = pickle.dumps((step, arguments, options))
        losses = 0
        while True:
            try:
                what, value = self._submit(payload, tell)
                break
            except TaskCancelledError:
                raise KeyboardInterrupt from None
            except (WorkerCrashedError, NodeDiedError, ObjectLostError) as error:
                losses += 1
                if losses > LOSSES:
                    raise _failed("Ray", step, error) from error
            except RayError as error:
                raise _failed("Ray", step, error) from error
        if what == "raise":
            raise value
        return value

    def _submit(self, payload: bytes, tell: Tell) -> tuple[str, Any]:
        import ray

        self._stream = self._answer.remote(payload, self._software)
        what = "tell"
        try:
            for reference in self._stream:
                what, value = ray.get(reference)
                if what == "tell":
                    tell(*value)
        finally:
            self._stream = None
        if what == "tell":
            # A cancelled stream may also end without an error.
            raise KeyboardInterrupt
        return what, value

    def interrupt(self) -> None:
        """Cancel the step; it ends at its next report of progress."""
        import ray

        if (stream := self._stream) is not None:
            ray.cancel(stream)


def _answer_ray(payload: bytes, theirs: dict[str, str]) -> Iterator[tuple[str, Any]]:
    """Take a step in a worker of Ray; yield its progress, at last what it returned or raised."""
    import psutil

    # Ray sets it for its tasks alone, and sums depend on the number of threads.
    if "OMP_NUM_THREADS" not in psutil.Process().environ():
        os.environ.pop("OMP_NUM_THREADS", None)
    reports: queue.Queue[tuple[str, Any]] = queue.Queue()
    cancelled = threading.Event()

    def tell(step: str, detail: str) -> None:
        if cancelled.is_set():
            raise KeyboardInterrupt
        reports.put(("tell", (step, detail)))

    thread = threading.Thread(target=lambda: reports.put(_answer(payload, theirs, tell)))
    thread.start()
    try:
        what = "tell"
        while what == "tell":
            try:
                # Ray interrupts this thread, but does not wake it.
                what, value = reports.get(timeout=0.5)
            except queue.Empty:
                continue
            yield what, value
    finally:
        cancelled.set()
        thread.join()
