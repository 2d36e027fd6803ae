"""Refuses every connection and look-up that would leave this machine, and writes it down.

With CHAPTERFLOW_TEST_KILL=MODULE:NAME:before (or `after`), the process is killed at the first call
of a function, as if it had been killed there by chance.
"""

import importlib.abc
import importlib.util
import os
import signal
import socket
import sys
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


class _Killer(importlib.abc.MetaPathFinder):
    """Replaces a function of a module, as soon as it is imported, by one that is fatal."""

    def __init__(self, module: str, name: str, when: str) -> None:
        self._module, self._name, self._when = module, name, when

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
            *owners, last = self._name.split(".")
            place = module
            for owner in owners:
                place = getattr(place, owner)
            original = getattr(place, last)

            def fatal(*arguments: Any, **keywords: Any) -> None:
                if self._when == "after":
                    original(*arguments, **keywords)
                os.kill(os.getpid(), signal.SIGKILL)

            setattr(place, last, fatal)

        loader.exec_module = exec_module
        return spec


if "CHAPTERFLOW_TEST_KILL" in os.environ:
    sys.meta_path.insert(0, _Killer(*os.environ["CHAPTERFLOW_TEST_KILL"].split(":")))
