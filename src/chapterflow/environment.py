"""Process environment: private and quiet by default, and where the project's folders are.

Import this module before TensorFlow, MLflow, Prefect, DVC or Great Expectations: their switches
are read at import time. Values that the user has set are kept.
"""

import contextlib
import functools
import gc
import os
import platform
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from chapterflow.errors import ConfigError

#: No telemetry from any dependency, and no start-up noise.
QUIET_AND_PRIVATE: Mapping[str, str] = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # With a tracking server MLflow prints links to stdout, which may be a JSON document.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "GX_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # Prefect's own console lines; the API, and so its UI, still receives every record.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "KERAS_BACKEND": "tensorflow",
    "MPLBACKEND": "Agg",
}


@dataclass(frozen=True)
class Project:
    """The folders of one project (a checkout that holds `params.yaml`)."""

    root: Path

    @property
    def params(self) -> Path:
        """`params.yaml`, the one configuration file."""
        return self.root / "params.yaml"

    @property
    def data(self) -> Path:
        """Canonical datasets, tracked by `data.dvc`."""
        return self.root / "data"

    @property
    def data_dvc(self) -> Path:
        """DVC's record of the version of `data/`."""
        return self.root / "data.dvc"

    @property
    def mlruns(self) -> Path:
        """Tracking store (SQLite) and artifacts."""
        return self.root / "mlruns"

    @property
    def scratch(self) -> Path:
        """Checkpoints, locks, downloads, verdicts: can be deleted when nothing runs."""
        return self.root / ".chapterflow"

    @property
    def results(self) -> Path:
        """What the stages of `dvc.yaml` write: small files that git tracks."""
        return self.root / "results"


def find_project(start: Path | None = None) -> Project:
    """Return the project around `start` (default: the current folder).

    `CHAPTERFLOW_PROJECT` names it outright.

    Raises:
        ConfigError: If no folder from `start` upwards holds a `params.yaml`.
    """
    named = os.environ.get("CHAPTERFLOW_PROJECT")
    if named:
        root = Path(named).expanduser().resolve()
        if not (root / "params.yaml").is_file():
            raise ConfigError(
                f"CHAPTERFLOW_PROJECT must name a folder with a params.yaml. Received: {named}"
            )
        return Project(root)
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").is_file():
            return Project(folder)
    raise ConfigError(
        f"No params.yaml in {here} or above it. "
        "Change into the project's folder or set CHAPTERFLOW_PROJECT."
    )


def configure(project: Project) -> None:
    """Set the environment that this process and its children work in."""
    for name, value in QUIET_AND_PRIVATE.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_HOME", str(project.root / ".prefect"))
    os.environ["CHAPTERFLOW_PROJECT"] = str(project.root)


#: Between the two parts of `machine()`; older runs recorded only the first.
THREADS = "; threads: "


def machine() -> str:
    """Return what decides a computation's last bits: processor, cores, system, and threads.

    Two machines with equal texts count as alike; a host's name would say less, and more than others
    need to know. TensorFlow splits sums by its number of threads: the number configured or in the
    environment, else the number of processors that this process may use.
    """
    import psutil

    model = ""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
        model = match[1] if match else ""
    processor = model or platform.processor() or platform.machine()
    cores = psutil.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return (
        f"{processor}, {cores} cores, {platform.system()} {platform.machine()}{THREADS}"
        f"{_threads('intra', usable)} intra-op, {_threads('inter', usable)} inter-op, "
        f"{usable} usable cores"
    )


def _threads(scope: str, default: int) -> int:
    """Return the size of TensorFlow's thread pool, `intra` or `inter`, without importing it."""
    configured = 0
    if config := getattr(sys.modules.get("tensorflow"), "config", None):
        configured = getattr(config.threading, f"get_{scope}_op_parallelism_threads")()
    variable = os.environ.get(f"TF_NUM_{scope.upper()}OP_THREADS", "")
    return configured or (int(variable) if variable.isdecimal() else 0) or default


@contextlib.contextmanager
def project_lock(project: Project, name: str, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold a named lock of the project, so that processes do the same work one after another.

    Args:
        on_wait: Called where another process holds it, before waiting.
    """
    from filelock import FileLock, Timeout

    locks = project.scratch / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def process_identity() -> str:
    """Return `host:pid:start time` of this process, which a recycled pid does not repeat."""
    import psutil

    return f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.2f}"


def process_is_gone(identity: str) -> bool:
    """Tell whether the process of an identity is known to have ended.

    A process of another machine, or an identity that cannot be read, is never called gone.
    """
    import psutil

    read = re.fullmatch(r"(.+):([0-9]{1,9}):([0-9]+[.][0-9]+)", identity)
    if read is None or read[1] != socket.gethostname():
        return False
    try:
        process = psutil.Process(int(read[2]))
        # A process that started at another time has only been given the same number.
        return (
            abs(process.create_time() - float(read[3])) > 1.0
            or process.status() == psutil.STATUS_ZOMBIE
        )
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, OverflowError):
        return False


#: Of two threads that turned stderr away at once, one would give back what the other had put there.
_STDERR = threading.RLock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Turn away what is written to stderr; for imports of TensorFlow, whose libraries write there.

    The lines come from C++ before any log level is read, so the file descriptor itself is turned
    away; errors are raised as ever.
    """
    with _STDERR:
        sys.stderr.flush()
        kept = os.dup(2)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


@functools.cache
def load_tensorflow() -> None:
    """Import TensorFlow without the lines that its libraries write to stderr at start-up."""
    with quiet():
        import tensorflow as tf

        tf.constant(0)  # the device look-up writes some more
    tf.get_logger().setLevel("ERROR")
    # What was imported stays: looking through it again and again takes a tenth of a short training.
    gc.freeze()
