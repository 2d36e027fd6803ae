"""Process environment: no telemetry, no start-up noise, and the project's folders.

Import this module before TensorFlow, MLflow, Prefect, DVC or Great Expectations: their switches
are read at import time. Values that the user has set are kept.
"""

import contextlib
import functools
import gc
import logging
import os
import platform
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TextIO
from urllib.parse import unquote, urlsplit

from chapterflow.errors import ConfigError, redacted

#: Turns off the telemetry and the start-up messages of all dependencies, and bounds their waiting.
QUIET_AND_PRIVATE: Mapping[str, str] = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # With a tracking server, MLflow prints links to stdout, where they would corrupt JSON output.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # By default MLflow retries for minutes without a message: these give up after 10 s if a server
    # refuses, and after 90 s if it accepts requests and never answers.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    # Its jobs score answers of language models; their runners are eight more processes of a server.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "GX_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # By default only processors with AVX-512 or AVX-VNNI have oneDNN's operations. With AVX2 alone,
    # too, these are up to ten times as fast as TensorFlow's own, above all convolutions of volumes.
    "TF_ENABLE_ONEDNN_OPTS": "1",
    # Silences Prefect on the console; its API and UI still receive every record.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    # Its client waits 2 + 4 s; by default a lost server costs a minute for each request.
    "PREFECT_CLIENT_MAX_RETRIES": "2",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "KERAS_BACKEND": "tensorflow",
    "MPLBACKEND": "Agg",
}


#: Variable with the address of the storage that the processes of a sweep share: as a variable, its
#: password is in no list of processes, and not in Prefect's database.
SWEEP_STORAGE = "CHAPTERFLOW_SWEEP_STORAGE"
#: Folder of DVC's temporary copies of a project.
EXPERIMENTS = (".dvc", "tmp", "exps")


@dataclass(frozen=True)
class Project:
    """The folders of one project (a checkout that holds `params.yaml`)."""

    root: Path

    @classmethod
    def at(cls, folder: Path) -> Self:
        """Return the project in a folder.

        Raises:
            ConfigError: If the folder has no `params.yaml`.
        """
        root = folder.expanduser().resolve()
        if not (root / "params.yaml").is_file():
            raise ConfigError(f"project must be a folder with a params.yaml. Received: {folder}")
        return cls(root)

    @property
    def home(self) -> Path:
        """Folder of tracking store and scratch: the root.

        `dvc exp run --temp` and `--queue` work in a copy below `.dvc/tmp/exps`, which DVC deletes;
        what they train belongs to the project that the copy was made from.
        """
        parts = self.root.resolve().parts
        for end in range(len(parts) - len(EXPERIMENTS)):
            if parts[end : end + len(EXPERIMENTS)] == EXPERIMENTS:
                original = Path(*parts[:end])
                if (original / "params.yaml").is_file():
                    return original
        return self.root

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
        return self.home / "mlruns"

    @property
    def scratch(self) -> Path:
        """Checkpoints, locks, downloads, verdicts: can be deleted when nothing runs."""
        return self.home / ".chapterflow"

    @property
    def results(self) -> Path:
        """Outputs of the stages of `dvc.yaml`: small files that git tracks."""
        return self.root / "results"


def find_project(start: Path | None = None) -> Project:
    """Return the project around `start` (default: the current folder).

    `CHAPTERFLOW_PROJECT` takes precedence.

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
        "Change to the project's folder or set CHAPTERFLOW_PROJECT."
    )


def collect_rarely() -> None:
    """Let Python look for unreachable cycles of objects less often.

    Importing the libraries creates a million objects that all stay; with Python's own threshold of
    700 new objects, scanning them takes an eighth of all imports. Call it before imports.
    """
    gc.set_threshold(50_000, 10, 10)


#: Variables that `configure` has set for a project, with their values before.
_of_project: dict[str, tuple[str, str | None]] = {}


def configure(project: Project) -> None:
    """Set the environment variables of this process and its children."""
    collect_rarely()
    for name, value in QUIET_AND_PRIVATE.items():
        os.environ.setdefault(name, value)
    if "PREFECT_HOME" not in os.environ:
        _set_for_project("PREFECT_HOME", str(project.root / ".prefect"))
    _set_for_project("CHAPTERFLOW_PROJECT", str(project.root))
    _separate_login()
    if logging.getLogRecordFactory() is not _redacted_record:
        logging.setLogRecordFactory(_redacted_record)


def _set_for_project(name: str, value: str) -> None:
    before = os.environ.get(name)
    if before == value:
        return
    if name in _of_project and _of_project[name][0] == before:
        before = _of_project[name][1]
    _of_project[name] = (value, before)
    os.environ[name] = value


def leave_project() -> None:
    """Restore the variables that name a project, so that this process can work in another one."""
    for name, (value, before) in _of_project.items():
        if os.environ.get(name) != value:
            continue
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
    _of_project.clear()


def _separate_login() -> None:
    """Give MLflow user and password apart from the address of its server.

    MLflow and libraries below it write the address into errors, logs and links.
    """
    address = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", "").strip())
    login, _, place = address.netloc.rpartition("@")
    user, _, password = login.partition(":")
    registry = os.environ.get("MLFLOW_REGISTRY_URI", "")
    # MLflow sends the same login to the registry, which may belong to somebody else.
    shared = not registry or urlsplit(registry).netloc.rpartition("@")[2] == place
    if address.scheme in ("http", "https") and password and shared:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(user)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(password)
        os.environ["MLFLOW_TRACKING_URI"] = address._replace(netloc=place).geturl()
        if registry:
            os.environ["MLFLOW_REGISTRY_URI"] = urlsplit(registry)._replace(netloc=place).geturl()


#: Prefect sends log records to its server, MLflow prints them.
_plain_record = logging.getLogRecordFactory()


def _redacted_record(*args: Any, **options: Any) -> logging.LogRecord:
    record = _plain_record(*args, **options)
    with contextlib.suppress(Exception):  # a record that cannot be formatted is its logger's fault
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        if (clean := redacted(text)) != text:
            record.msg, record.args, record.exc_info = clean, (), None
    return record


class Redacted:
    """A stream of text that removes secrets from what is written to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text without its secrets."""
        self._stream.write(redacted(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def experiment() -> str | None:
    """Return the name of the DVC experiment that this process runs in; None without one."""
    return os.environ.get("DVC_EXP_NAME") or None


#: Between the two parts of `machine()`; older runs recorded only the first.
THREADS = "; threads: "


#: Instruction sets by which libraries choose how to multiply, and so the order of sums. Virtual
#: machines may have one name for processors that differ in them.
VECTORS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def processor(cpuinfo: str) -> str:
    """Return the name of a processor and its vector instructions, from /proc/cpuinfo's text."""
    name = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    if not name:
        return ""
    has = [vector for vector in VECTORS if flags and vector in flags[1].split()]
    return f"{name[1]} ({' '.join(has)})" if has else name[1]


def machine() -> str:
    """Return what determines the last bits of a computation: processor, cores, system, threads.

    Machines with the same text count as the same; a host name would say less about the computation
    and disclose more. TensorFlow splits sums by its number of threads: the configured number, the
    number in the environment, or else the number of processors that this process may use.
    """
    import psutil

    name = ""
    with contextlib.suppress(OSError):
        name = processor(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    name = name or platform.processor() or platform.machine()
    cores = psutil.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return (
        f"{name}, {cores} cores, {platform.system()} {platform.machine()}{THREADS}"
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
    """Hold a named lock of the project, so that processes do the same work in turn.

    Args:
        on_wait: Called before waiting if another process holds the lock.
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


def user_cache() -> Path:
    """Return the folder of what all checkouts of a user on this machine share; safe to delete."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "chapterflow"


def process_identity() -> str:
    """Return `host boot.namespace:pid:start time` of this process, which no other one repeats.

    Containers may share the name of a host; a number then means another process in each of them.
    """
    import psutil

    started = psutil.Process().create_time()
    return f"{' '.join([socket.gethostname(), *_place()])}:{os.getpid()}:{started:.2f}"


@functools.cache
def _place() -> tuple[str, ...]:
    """Return what names the start of this machine and the numbering of its processes, on Linux."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ()
    return (f"{boot[:8]}.{namespace.strip('pid:[]')}",)


def process_is_gone(identity: str) -> bool:
    """Tell whether the process of an identity is known to have ended.

    False for a process on another machine or in another container, and for an identity that cannot
    be parsed.
    """
    import psutil

    pattern = r"(.+?)(?: ([0-9a-f]{8})[.]([0-9]+))?:([0-9]{1,9}):([0-9]+[.][0-9]+)"
    match = re.fullmatch(pattern, identity)
    if match is None or match[1] != socket.gethostname():
        return False
    here, started = _place(), float(match[5])
    if match[2] and here and (f"{match[2]}.{match[3]}",) != here:
        # After a restart of this machine, none of its earlier processes lives.
        return not here[0].startswith(match[2]) and started < psutil.boot_time()
    try:
        process = psutil.Process(int(match[4]))
        # A different start time means that another process has reused the number. It counts from
        # the start of the machine, which the kernel gives in whole seconds: setting the clock by
        # milliseconds may change it by one.
        return (
            abs(process.create_time() - started) > 1.5 or process.status() == psutil.STATUS_ZOMBIE
        )
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, OverflowError):
        return False


def end_with(parent: int) -> None:
    """End this process as soon as its parent process is gone, however that ended.

    Args:
        parent: The parent's number; it may be gone before this process can ask for it.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


@functools.cache
def repeat_lost_interrupts() -> None:
    """Interrupt this process again if Ctrl-C came where Python cannot raise an exception.

    In a callback of a weak reference, such as every import has, and in `__del__`, Python prints
    the KeyboardInterrupt and goes on; a server would then never end.
    """
    usual = sys.unraisablehook

    def hook(lost: "sys.UnraisableHookArgs") -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            usual(lost)
            return
        # Later, when the callback has ended. The main thread's system calls end, too.
        main = threading.main_thread().ident or 0
        again = threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGINT))
        again.daemon = True
        again.start()

    sys.unraisablehook = hook


#: Without it, two threads could each restore the other's redirection of stderr.
_STDERR = threading.RLock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discard everything written to stderr, for imports of TensorFlow.

    Its C++ libraries write there before any log level applies, so the file descriptor itself is
    redirected. Exceptions are raised as usual.
    """
    with _STDERR:
        sys.stderr.flush()
        stderr = os.dup(2)
        devnull = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(devnull, 2)
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            os.close(devnull)


@functools.cache
def import_tensorflow() -> None:
    """Import TensorFlow without its start-up messages on stderr.

    No operation runs, so its runtime has no threads yet, and this process may fork.
    """
    with quiet():
        import tensorflow as tf
    tf.get_logger().setLevel("ERROR")
    # Imported modules are never freed; scanning them repeatedly takes a tenth of a short training.
    gc.freeze()


@functools.cache
def load_tensorflow() -> None:
    """Import TensorFlow, and start its runtime, without messages on stderr."""
    import_tensorflow()
    with quiet():
        import tensorflow as tf

        tf.constant(0)  # The search for devices writes messages, too.
