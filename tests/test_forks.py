"""A command in a fork is what it is in a new process."""

import json
import signal
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import HUNG, begin, call

pytestmark = pytest.mark.slow

STATE = """
import json, os, signal, sys, tempfile, threading
import numpy, tensorflow
variables = {name: value for name, value in os.environ.items() if name not in ("PATH", "_")}
state = [sys.argv, sys.path, os.getcwd(), variables, sys.stdin.read(), tempfile.gettempdir()]
state += [threading.active_count(), signal.getsignal(signal.SIGCHLD), sys.flags[:]]
state += [__name__, "__file__" in globals(), tensorflow.executing_eagerly()]
print(json.dumps(state))
print("to stderr", file=sys.stderr)
sys.exit(7)
"""
RANDOM = "import random, numpy; print(random.random(), numpy.random.random())"
SLEEPING = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"


def test_it_has_the_state_of_a_new_process(tmp_path: Path) -> None:
    variables = {"TMPDIR": str(tmp_path), "OF_ITS_OWN": "ä"}
    words = ("-c", STATE, "--one", "two words")
    fork = call(tmp_path, "python", *words, **variables)
    new = call(tmp_path, sys.executable, *words, **variables)
    assert json.loads(fork.stdout) == json.loads(new.stdout)
    assert fork.returncode == new.returncode == 7
    assert fork.stderr == "to stderr\n"
    assert new.stderr.endswith("\nto stderr\n")  # after messages of TensorFlow


def test_it_shares_no_randomness(tmp_path: Path) -> None:
    first, second = (call(tmp_path, "python", "-c", RANDOM).stdout.split() for _ in range(2))
    assert not set(first) & set(second)


def test_it_ends_as_its_fork_was_killed(tmp_path: Path) -> None:
    done = call(tmp_path, "python", "-c", "import os; os.kill(os.getpid(), 9)")
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_it(tmp_path: Path, number: signal.Signals) -> None:
    process = begin(tmp_path, "python", "-c", SLEEPING)
    assert process.stdout is not None
    fork = psutil.Process(int(process.stdout.readline()))
    assert fork.pid != process.pid
    process.send_signal(number)
    process.communicate(timeout=HUNG)
    assert process.returncode == -number
    fork.wait(HUNG)
