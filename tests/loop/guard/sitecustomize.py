"""Refuses every connection and look-up that would leave this machine, and writes it down."""

import os
import socket

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
