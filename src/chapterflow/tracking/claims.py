"""Which processes are alive, and which of them works on what, as all machines of a store see it.

A process that works on runs signs the experiment every few seconds, with a tag of its own. A claim
is a tag, too: its key names what is claimed and by whom. So two processes that share nothing but
the tracking store take turns, and what a dead one has claimed expires. A claim is tried in two
steps, as in a bakery: whoever has called it taken and then sees no other that has, owns it.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from chapterflow.environment import process_identity, process_is_gone
from chapterflow.errors import ChapterflowError, StoreError
from chapterflow.tracking.reader import suppress_refusals
from chapterflow.tracking.store import check_remote

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Prefixes of tags of an experiment. What follows: a process; what is claimed, and a process.
ALIVE, CLAIM = "chapterflow.alive.", "chapterflow.claim."
#: States of a claim.
WAITING, TAKEN = "waiting", "taken"
#: Seconds between two signs of a process.
BEAT_SECONDS = 10.0
#: Seconds without a new sign after which a waiting process takes a claim over. They are counted
#: there, so that neither clocks that differ nor a store that did not answer end a claim.
EXPIRY_SECONDS = 60.0
#: Seconds to wait for a sign on its way before the signs of a process are removed.
CLOSING_SECONDS = 2.0
#: Age of the last sign after which a run counts as abandoned, by the clock of who looks.
ABANDONED_SECONDS = 600.0
#: Seconds between two looks at a claim of another process.
POLL_SECONDS = 1.0


@cache
def place() -> str:
    """Return what processes have in common that see each other by their numbers.

    Host names do not tell: containers may share them.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


class Heart:
    """Signs this process in an experiment while it has runs or claims there."""

    def __init__(self, client: MlflowClient, experiment_id: str) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self._names: set[str] = set()
        self._changing = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, name: str) -> None:
        """Sign before something of this name is made in the store."""
        with self._changing:
            if not self._names:
                self._sign()
                self._stop = threading.Event()
                self._thread = threading.Thread(
                    target=self._beat, args=[self._stop], name="heartbeat", daemon=True
                )
                self._thread.start()
            self._names.add(name)

    def discard(self, name: str) -> None:
        """Remove the sign after the last of the names has ended."""
        with self._changing:
            if name not in self._names:
                return
            self._names.remove(name)
            if not self._names:
                self._stop.set()
                if self._thread:
                    # A sign that the store takes after its removal would outlive the process.
                    self._thread.join(CLOSING_SECONDS)
                _delete(self._client, self._experiment_id, ALIVE + process_identity())

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(BEAT_SECONDS):
            with suppress(Exception):  # the next beat tries again
                self._sign()

    def _sign(self) -> None:
        sign = f"{time.time():.1f} {place()}"
        self._client.set_experiment_tag(self._experiment_id, ALIVE + process_identity(), sign)


_hearts: dict[tuple[int, str, str], Heart] = {}


def end(name: str) -> None:
    """Remove this process's signs if nothing but `name` is left to sign for."""
    for own in list(_hearts.values()):
        own.discard(name)


def heart(client: MlflowClient, experiment_id: str) -> Heart:
    """Return the heart of this process in an experiment."""
    # A forked process has a heart of its own.
    key = os.getpid(), client.tracking_uri, str(experiment_id)
    return _hearts.setdefault(key, Heart(client, experiment_id))


def has_ended(tags: Mapping[str, str], process: str) -> bool:
    """Tell whether a process that worked on runs has ended, or was silent for very long.

    Args:
        tags: Tags of the experiment.
        process: Its identity (`environment.process_identity`).
    """
    sign = tags.get(ALIVE + process)
    return _is_known_dead(sign, process) or time.time() - _time(sign) > ABANDONED_SECONDS


def forget_dead(client: MlflowClient, experiment_id: str) -> None:
    """Remove the signs and claims of processes that have ended."""
    tags = client.get_experiment(experiment_id).tags
    for key in tags:
        if key.startswith((ALIVE, CLAIM)) and has_ended(tags, _owner(key)):
            _delete(client, experiment_id, key)


def _is_known_dead(sign: str | None, process: str) -> bool:
    # It signs before it makes anything, and removes the sign last.
    return sign is None or (sign.partition(" ")[2] == place() and process_is_gone(process))


def _time(sign: str | None) -> float:
    with suppress(ValueError):
        return float((sign or "").partition(" ")[0])
    return 0.0


def _owner(key: str) -> str:
    """Return the process of a sign or claim: claimed names have no slash."""
    return key.removeprefix(ALIVE).rpartition("/")[2]


def _delete(client: MlflowClient, experiment_id: str, key: str) -> None:
    # Another process may have removed it. One that cannot be removed within seconds expires.
    with suppress_refusals(StoreError):
        check_remote(client.tracking_uri)
        client.delete_experiment_tag(experiment_id, key)


class Claim:
    """The right of this process to work on something, for a `with` block.

    Args:
        name: What is claimed, without a slash.
        on_wait: Called once if another process has it.
    """

    def __init__(
        self, client: MlflowClient, experiment_id: str, name: str, on_wait: Callable[[], None]
    ) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self._prefix = f"{CLAIM}{name}/"
        self._key = self._prefix + process_identity()
        self._on_wait = on_wait
        #: The last sign of each process that this one waits for, and when it was first seen.
        self._signs: dict[str, tuple[str | None, float]] = {}

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the claim and keep it for the block."""
        pulse = heart(self._client, self._experiment_id)
        pulse.add(self._key)
        try:
            self._take()
            yield
        finally:
            _delete(self._client, self._experiment_id, self._key)
            pulse.discard(self._key)

    def check(self) -> None:
        """Raise an error if another process has taken the claim over."""
        tags = self._client.get_experiment(self._experiment_id).tags
        if tags.get(self._key) != TAKEN:
            raise ChapterflowError(
                "This process must have signed the tracking store within the last "
                f"{EXPIRY_SECONDS:g} s. Received: its claim on {self._prefix[:-1]} has been taken "
                "over by another process. Run the command again: it uses what the other has done."
            )

    def _take(self) -> None:
        # Nearly always nobody else wants it.
        self._write(TAKEN)
        if TAKEN not in self._others().values():
            return
        self._write(WAITING)
        is_waiting = False
        while True:
            others = self._others()
            # Of two that wait, the smaller key goes first.
            if not any(state == TAKEN or key < self._key for key, state in others.items()):
                self._write(TAKEN)
                if TAKEN not in self._others().values():
                    return
                self._write(WAITING)
            elif not is_waiting:
                self._on_wait()
                is_waiting = True
            time.sleep(POLL_SECONDS)

    def _write(self, state: str) -> None:
        self._client.set_experiment_tag(self._experiment_id, self._key, state)

    def _others(self) -> dict[str, str]:
        """Return the claims of other processes; remove those that have expired."""
        tags = self._client.get_experiment(self._experiment_id).tags
        others = {}
        for key, state in tags.items():
            if key.startswith(self._prefix) and key != self._key:
                if self._is_expired(_owner(key), tags.get(ALIVE + _owner(key))):
                    _delete(self._client, self._experiment_id, key)
                else:
                    others[key] = state
        return others

    def _is_expired(self, process: str, sign: str | None) -> bool:
        if _is_known_dead(sign, process):
            return True
        last, since = self._signs.get(process, (None, 0.0))
        if sign != last:
            self._signs[process] = sign, time.monotonic()
            return False
        return time.monotonic() - since > EXPIRY_SECONDS
