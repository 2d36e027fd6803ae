"""A process that imports libraries once, and forks others that have them.

Python's own (`multiprocessing`, method forkserver) is one for the whole program, with the variables
and folder of its first use, and imports the main module again, which runs a script without a guard
a second time.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

#: Files that a request for a fork can pass.
FILES = 8


class Ended(Exception):
    """The server has ended, and its forks with it; how is not known."""


class Fork:
    """A process that a server has been asked for."""

    def __init__(self, status: Connection) -> None:
        self._status = status
        self._received: list[int] = []

    def wait(self, timeout: float | None = None) -> int:
        """Return how the process ended: its exit status, or a signal as a negative number.

        Raises:
            TimeoutError: If it has not ended in time.
            Ended: If the server has ended before it.
        """
        while not self._has(2):
            if not self._status.poll(timeout):
                raise TimeoutError
        return self._received[1]

    def kill(self, number: signal.Signals) -> None:
        """Send a signal, if the process runs."""
        with contextlib.suppress(Ended, ProcessLookupError):
            if not self._has(2) and self._received:
                os.kill(self._received[0], number)

    def _has(self, count: int) -> bool:
        """Receive what the server has sent: the process's number, and how it ended."""
        with contextlib.suppress(EOFError, ConnectionError):
            while len(self._received) < count and self._status.poll():
                self._received.append(self._status.recv())
            return len(self._received) >= count
        raise Ended


class ForkServer:
    """The server; it ends with this process.

    Args:
        module: Run with the number of a socket as its argument; it imports libraries, starts no
            thread that computes, and calls `serve`.
        log: File for its output.
    """

    def __init__(self, module: str, log: Path) -> None:
        self.log = log
        self._requests, theirs = socket.socketpair()
        with theirs, log.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                # Ctrl-C in a terminal goes to the whole group; here it comes from the parent alone,
                # once.
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        """Whether the server runs."""
        return self._process.poll() is None

    def fork(self, *files: int) -> Fork:
        """Ask for a fork with copies of open files; it may begin later, after imports."""
        status, theirs = Pipe(duplex=False)
        with theirs, contextlib.suppress(ConnectionError):
            socket.send_fds(self._requests, [b"f"], [theirs.fileno(), *files])
        return Fork(status)

    def close(self) -> None:
        """End the server, and forks that still run."""
        self._requests.close()
        self._process.wait()


def serve(requests: socket.socket) -> tuple[list[int], int]:
    """Fork for each request; end this process when nobody can ask any more.

    Returns:
        In a fork, the files of its request, and the number of the process that it must end with.
    """
    server = os.getpid()
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    forks: dict[int, Connection] = {}
    while True:
        ready, _, _ = select.select([requests.fileno(), ended], [], [])
        if ended in ready:
            os.read(ended, 1000)
            _tell_ends(forks)
        if requests.fileno() not in ready:
            continue
        asked, files, *_ = socket.recv_fds(requests, 1, FILES)
        if not asked:
            os._exit(0)
        status = Connection(files.pop(0), readable=False)
        if process := os.fork():
            for file in files:
                os.close(file)
            forks[process] = status
            with contextlib.suppress(ConnectionError):
                status.send(process)
            continue
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for other in (status, *forks.values()):
            other.close()
        os.close(ended)
        os.close(wake)
        return files, server


def _tell_ends(forks: dict[int, Connection]) -> None:
    while forks:
        process, status = os.waitpid(-1, os.WNOHANG)
        if not process:
            return
        with contextlib.suppress(ConnectionError), forks.pop(process) as waiting:
            waiting.send(os.waitstatus_to_exitcode(status))
