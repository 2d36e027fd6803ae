"""Ctrl-C waits for a write to the store, and is not lost."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from chapterflow.tracking.runs import unbroken


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    """Heed Ctrl-C: what a shell starts in the background ignores it."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


def test_an_interruption_waits_and_comes() -> None:
    usual, done = signal.getsignal(signal.SIGINT), []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - what happens before it is the point
        with unbroken():
            with unbroken():
                os.kill(os.getpid(), signal.SIGINT)
                done.append("inner")
            done.append("outer")
        done.append("behind")
    assert done == ["inner", "outer"]
    assert signal.getsignal(signal.SIGINT) is usual


def test_an_error_within_is_not_hidden() -> None:
    with pytest.raises(ValueError, match="broken"), unbroken():
        raise ValueError("broken")


def test_other_threads_and_ignored_interruptions_are_left_alone() -> None:
    done = []

    def work() -> None:
        with unbroken():
            done.append("thread")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with unbroken():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("ignored")
    finally:
        signal.signal(signal.SIGINT, usual)
    assert done == ["thread", "ignored"]
