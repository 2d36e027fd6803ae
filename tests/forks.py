"""Commands in forks of a process that has imported the libraries, which takes seconds of CPU.

`Forks` makes a folder for PATH, whose `chapterflow`, `dvc`, `mlflow`, `uvicorn` and `python` ask a
server to run the command.
The server imports only libraries, runs no operation of TensorFlow, opens no store and has no
threads of Python's; its forks import the sources of their own PYTHONPATH. What was asked
waits for its fork, forwards signals to it, and ends as it does; killed, it takes the fork with it.
The fork is a child of the server, in a session of its own. Its `sys.executable` is the folder's
`python`, so the processes that it starts are forks, too.
Where pytest distributes the tests to processes, these are forks themselves, of one server.
"""

import atexit
import contextlib
import fcntl
import functools
import importlib
import importlib.abc
import importlib.util
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

#: Imported once by the server.
LIBRARIES = (
    *("tensorflow", "keras", "mlflow.keras", "mlflow.pyfunc", "mlflow.store.db.utils"),
    *("mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store"),
    *("great_expectations.expectations", "sklearn.metrics", "sklearn.model_selection"),
    *("scipy.stats", "scipy.signal", "scipy.ndimage", "pyarrow.parquet", "matplotlib.pyplot"),
    *("networkx", "PIL.Image", "h5py", "typer.rich_utils", "rich.progress", "jinja2", "psutil"),
    *("dvc.cli.parser", "dvc.repo", "dvc.dagascii"),
    *("httpx", "fastapi", "uvicorn", "pydantic_settings", "filelock", "yaml", "requests"),
    "hypothesis.extra.numpy",
)
#: Imported by the server, too; a fork has them as soon as it imports Prefect (`_Prefect`).
PREFECT = ("prefect.main", "prefect.server.api.server")
#: Signals that reach the fork through what was asked.
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
#: Variable with the folder of a server that another process has started.
SHARED = "CHAPTERFLOW_TEST_FORKS"
LENGTH = 8
#: Files that a process can inherit.
STREAMS = 64


class Forks:
    """A server of forks, started by the first command; it ends with this process.

    A process that has `SHARED` in its environment uses the server of the one that set it.

    Attributes:
        folder: To put first on PATH.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Make the folder.

        Args:
            environment: Variables that the libraries read on import.
        """
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        if shared := environment.get(SHARED):
            self.folder = Path(shared)
            return
        self._temporary = tempfile.TemporaryDirectory(prefix="forks-")
        self.folder = Path(self._temporary.name)
        # Forks import from the folders of their own PYTHONPATH only.
        self._environment = {**environment, "PREFECT_HOME": str(self.folder)}
        self._environment.pop("PYTHONPATH", None)
        for name in ("chapterflow", "dvc", "mlflow", "uvicorn", "python"):
            # Isolated and without site-packages, the interpreter starts in some milliseconds.
            script = (
                f"#!{sys.executable} -IS\nimport runpy\nrunpy.run_path({__file__!r})['ask']()\n"
            )
            (self.folder / name).write_text(script)
            (self.folder / name).chmod(0o755)

    @property
    def python(self) -> str:
        """A Python for `-c` or a script, whose processes are forks."""
        self.start()
        return str(self.folder / "python")

    def start(self) -> None:
        """Start the server, unless it runs."""
        if self._temporary is None or self._server is not None:
            return
        with socket.socket(socket.AF_UNIX) as listener, (self.folder / "log").open("w") as log:
            listener.bind(str(self.folder / "socket"))
            listener.listen(64)
            self._server = subprocess.Popen(
                [sys.executable, __file__, str(listener.fileno())],
                env=self._environment,
                cwd="/",
                # The server ends when this end of the pipe is closed, however that happens.
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )

    def close(self) -> None:
        """End the server and remove the folder, unless they are another process's."""
        if self._server is not None:
            self._server.communicate()
        if self._temporary is not None:
            self._temporary.cleanup()


def ask() -> NoReturn:
    """Let the server run this process's command, and end as it does.

    Without a server, the command itself is run.
    """
    folder, name = Path(sys.argv[0]).parent, Path(sys.argv[0]).name
    real = Path(sys.executable).parent / name
    streams = _inherited()
    request = {
        "argv": [str(real), *sys.argv[1:]],
        "cwd": os.getcwd(),
        "environ": {**os.environ},
        "executable": str(folder / "python"),
        "pid": os.getpid(),
        "streams": streams,
    }
    body = json.dumps(request).encode()
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(folder / "socket"))
    except OSError:
        os.execv(real, request["argv"])
    for number in FORWARDED:
        signal.signal(number, lambda number, _: connection.sendall(bytes([number])))
    header = len(body).to_bytes(LENGTH, "big")
    socket.send_fds(connection, [header], streams)
    connection.sendall(body)
    status = connection.recv(LENGTH)
    if not status:
        sys.exit(f"The server of forks has ended:\n{(folder / 'log').read_text()}")
    code = int.from_bytes(status, "big", signed=True)
    if code < 0:
        with contextlib.suppress(OSError):  # of SIGKILL
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _inherited() -> list[int]:
    """Return the open files that this process has from the one that started it."""
    streams = [0, 1, 2]
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # of the folder itself
            if int(name) not in streams and os.get_inheritable(int(name)):
                streams.append(int(name))
    return streams


def serve(listener: socket.socket) -> dict[str, Any]:
    """Fork for each request until stdin is closed.

    Returns:
        In a fork, the request.
    """
    base = [*sys.path[1:]]
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    asking: dict[int, socket.socket] = {}
    while True:
        ready = select.select([0, ended, listener, *asking.values()], [], [])[0]
        if 0 in ready:
            for child in asking:
                _kill(child)
            os._exit(0)
        # First signals: the number of a child is its own until it is waited for.
        for child, connection in asking.items():
            if connection in ready:
                _forward(child, connection)
        if ended in ready:
            os.read(ended, 1000)
            _tell_ends(asking)
        if listener in ready:
            connection, _ = listener.accept()
            header, streams, *_ = socket.recv_fds(connection, LENGTH, STREAMS)
            with connection.makefile("rb") as body:
                request = json.loads(body.read(int.from_bytes(header, "big")))
            if child := os.fork():
                asking[child] = connection
                for stream in streams:
                    os.close(stream)
                continue
            signal.set_wakeup_fd(-1)
            for other in (listener, connection, *asking.values()):
                other.close()
            os.close(ended)
            os.close(wake)
            numbers = request.pop("streams")
            copies = [fcntl.fcntl(stream, fcntl.F_DUPFD, max(numbers) + 1) for stream in streams]
            for stream in streams:
                os.close(stream)
            for number, copy in zip(numbers, copies, strict=True):
                os.dup2(copy, number)
                os.close(copy)
            return {"base": base, **request}


def _forward(child: int, connection: socket.socket) -> None:
    with contextlib.suppress(ConnectionError):
        if numbers := connection.recv(1):
            os.kill(child, numbers[0])
            return
    _kill(child)


def _kill(child: int) -> None:
    """Kill a fork and the processes that it has started in its session."""
    with contextlib.suppress(ProcessLookupError):  # it has not made its session yet
        os.killpg(child, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)


def _tell_ends(asking: dict[int, socket.socket]) -> None:
    while asking:
        child, status = os.waitpid(-1, os.WNOHANG)
        if not child:
            return
        with contextlib.suppress(ConnectionError), asking.pop(child) as connection:
            code = os.waitstatus_to_exitcode(status)
            connection.sendall(code.to_bytes(LENGTH, "big", signed=True))


class _Prefect(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Prefect's modules, which a fork has as soon as it imports one.

    Imported there, Prefect would read its settings and set up logging; it does both then.
    """

    def __init__(self) -> None:
        from unittest import mock

        with mock.patch("logging.config.dictConfig"):
            for module in PREFECT:
                importlib.import_module(module)
        names = [name for name in sys.modules if name.partition(".")[0] == "prefect"]
        self._modules = {name: sys.modules.pop(name) for name in names}
        self._spec = self._modules["prefect"].__spec__
        self._origin = self._modules["prefect"].__file__

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Return a specification of Prefect."""
        if name != "prefect":
            return None
        return importlib.util.spec_from_loader(name, self, origin=self._origin, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return Prefect."""
        sys.meta_path.remove(self)
        sys.modules.update(self._modules)
        return self._modules["prefect"]

    def exec_module(self, module: ModuleType) -> None:
        """Do again what depends on the process."""
        module.__spec__ = self._spec
        self._modules["prefect.context"].refresh_global_settings_context()
        configuration = self._modules["prefect.logging.configuration"]
        configuration.PROCESS_LOGGING_CONFIG.clear()
        configuration.setup_logging()


def _parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def become(
    argv: list[str],
    cwd: str,
    environ: dict[str, str],
    executable: str,
    pid: int,
    base: list[str],
) -> None:
    """Make this fork what a new process is that runs a script, a module (`-m`) or code (`-c`).

    Args:
        argv: Its command; the first word is a real path.
        cwd: Its working directory.
        environ: Its environment.
        executable: Python for the processes that it starts.
        pid: The process that asked for it, whose parent is its own.
        base: What follows PYTHONPATH in `sys.path`.
    """
    import time

    import numpy as np

    os.setsid()
    for number in (signal.SIGCHLD, *FORWARDED):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    time.tzset()
    tempfile.tempdir = None
    np.random.seed()
    words = argv[1:] if argv[0] == sys.executable else argv
    if words[0] == "-u":
        words.pop(0)
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(write_through=True)
    name, code, start = words[0], "", str(Path(words[0]).parent)
    if words[0] == "-c":
        name, code, start = "<string>", words.pop(1), ""
    elif words[0] == "-m":
        name, start = words.pop(1), cwd
    else:
        code = Path(name).read_text()
    sys.argv = words
    sys.executable = executable
    real, os.getppid = os.getppid, functools.partial(_parent_of, pid)
    # Its own forks have the real parent.
    os.register_at_fork(after_in_child=lambda: setattr(os, "getppid", real))
    sys.path[:] = [start, *filter(None, environ.get("PYTHONPATH", "").split(os.pathsep)), *base]
    importlib.invalidate_caches()
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module("sitecustomize")
    if words[0] == "-m":
        runpy.run_module(name, run_name="__main__", alter_sys=True)
        return
    module = ModuleType("__main__")
    if start:
        module.__file__ = name
    sys.modules["__main__"] = module
    exec(compile(code, name, "exec"), module.__dict__)


def main() -> None:
    """Import the libraries, and serve."""
    import gc

    codes: list[int] = []

    def end() -> None:
        if codes:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(codes[0])

    # Called last at exit, for it is registered first. What the interpreter would do next, clearing
    # every module, takes half a second and copies the pages that a fork shares with the server.
    assert "logging" not in sys.modules
    atexit.register(end)
    before = {**os.environ}
    # What is imported stays: scanning it again and again would take an eighth of the time.
    gc.disable()
    # Imported last, it would look through the objects of all others, for two seconds.
    importlib.import_module("hypothesis.strategies")
    prefect = _Prefect()
    for library in LIBRARIES:
        importlib.import_module(library)
    # TensorFlow and OpenCV set variables.
    imported = dict(os.environ.items() - before.items())
    sys.modules.pop("sitecustomize", None)
    sys.meta_path.insert(0, prefect)
    assert threading.active_count() == 1
    gc.freeze()  # Collections in forks would copy the pages of what they look at.
    gc.enable()
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        request = serve(listener)
    # A caller that has imported them, too, has its own values.
    request["environ"] = imported | request["environ"]
    try:
        become(**request)
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            codes.append(ended.code or 0)
        raise
    codes.append(0)


if __name__ == "__main__":
    main()
