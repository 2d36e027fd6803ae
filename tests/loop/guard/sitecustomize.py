"""Refuses every connection and look-up that would leave this machine, and writes it down.

With CHAPTERFLOW_TEST_KILL=MODULE:NAME:before (or `after`), the process is killed at the first call
of a function, as if it had been killed there by chance. With CHAPTERFLOW_TEST_KEEP=FILE, it keeps
the work of its trainings after every epoch, and writes the runs that it continues into the file.
Where there is FILE.kill, the first process that has kept a second epoch renames it to FILE.killed,
writes its run into it, and is killed. With CHAPTERFLOW_TEST_REPORT=none, its flows write no page.
"""

import contextlib
import importlib.abc
import importlib.util
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

_LOG = os.environ["CHAPTERFLOW_TEST_NETWORK_LOG"]
_HERE = ("127.", "::1", "localhost", "0.0.0.0")
_connect, _lookup = socket.socket.connect, socket.getaddrinfo


def _check(host: object) -> None:
    if isinstance(host, bytes):
        host = host.decode()
    if isinstance(host, str) and host and not host.startswith(_HERE):
        with open(_LOG, "a", encoding="utf-8") as log:
            log.write(f"{os.getpid()}: {host}\n")
        raise OSError(f"network is off in this test: {host}")


def connect(self: socket.socket, address: object) -> None:
    """Connect, unless the address is elsewhere."""
    if self.family in {socket.AF_INET, socket.AF_INET6} and isinstance(address, tuple):
        _check(address[0])
    return _connect(self, address)


def getaddrinfo(host: object, *args: object, **keywords: object) -> object:
    """Look a name up, unless it is one of elsewhere."""
    _check(host)
    return _lookup(host, *args, **keywords)


socket.socket.connect = connect  # type: ignore[method-assign]
socket.getaddrinfo = getaddrinfo  # type: ignore[assignment]


class _Changed(importlib.abc.MetaPathFinder):
    """Changes a module as soon as it is imported."""

    def __init__(self, module: str, change: Callable[[Any], None]) -> None:
        self._module, self._change = module, change

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """Return the module's own spec, with another end of its execution."""
        if name != self._module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        loader: Any = spec and spec.loader
        execute = loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            self._change(module)

        loader.exec_module = exec_module
        return spec


def _kill_at(name: str, when: str) -> Callable[[Any], None]:
    def change(module: Any) -> None:
        *owners, last = name.split(".")
        place = module
        for owner in owners:
            place = getattr(place, owner)
        original = getattr(place, last)

        def fatal(*arguments: Any, **keywords: Any) -> None:
            if when == "after":
                original(*arguments, **keywords)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(place, last, fatal)

    return change


def _keep_each_epoch(artifacts: Any) -> None:
    artifacts.KEEP_SECONDS = artifacts.KEEP_SHARE = 0
    name = os.environ["CHAPTERFLOW_TEST_KEEP"]
    restore, keep = artifacts.Artifacts.restore_work, artifacts.WorkKeeper.__call__

    def write(run_id: str, file: str) -> None:
        with open(file, "a", encoding="utf-8") as log:
            log.write(f"{run_id}\n")

    def restored(self: Any, folder: Any) -> Any:
        if done := restore(self, folder):
            write(self.run_id, name)
        return done

    def kept(self: Any, epoch: int) -> None:
        keep(self, epoch)
        self._thread.join()
        if epoch == 2:
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{name}.kill", f"{name}.killed")
                write(self._artifacts.run_id, f"{name}.killed")
                os.kill(os.getpid(), signal.SIGKILL)

    artifacts.Artifacts.restore_work = restored
    artifacts.WorkKeeper.__call__ = kept


def _write_no_report(chapter: Any) -> None:
    chapter._report = lambda *_: ""


if os.environ.get("CHAPTERFLOW_TEST_REPORT") == "none":
    sys.meta_path.insert(0, _Changed("pipelines.chapter", _write_no_report))
if "CHAPTERFLOW_TEST_KILL" in os.environ:
    _module, *_how = os.environ["CHAPTERFLOW_TEST_KILL"].split(":")
    sys.meta_path.insert(0, _Changed(_module, _kill_at(*_how)))
if "CHAPTERFLOW_TEST_KEEP" in os.environ:
    sys.meta_path.insert(0, _Changed("chapterflow.tracking.artifacts", _keep_each_epoch))
