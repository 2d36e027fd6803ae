"""A command in a fork is what it is in a new process."""

import json
import os
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
#: Whether Prefect is imported, then its settings and what it does to logging.
PREFECT = """
import logging, os, sys
print("prefect" in sys.modules, logging.root.handlers)
os.environ["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
os.environ["PREFECT_LOGGING_LEVEL"] = "ERROR"
import prefect.settings
settings = prefect.settings.get_current_settings()
print(settings.api.url, settings.home, prefect.__spec__.origin, prefect.flow.__module__)
for name in ("", "prefect", "prefect.flow_runs"):
    logger = logging.getLogger(name or None)
    print(name, logger.level, [type(handler).__name__ for handler in logger.handlers])
"""
#: What an interpreter does at its end: it waits for threads, then calls what was registered.
ENDING = """
import atexit, logging.handlers, sys, threading, time
atexit.register(print, "registered", end=" ")
memory = logging.handlers.MemoryHandler(9, target=logging.FileHandler("log"))
logging.getLogger().addHandler(memory)
logging.warning("kept")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread", end=" "))).start()
sys.exit(None if sys.argv[1] == "None" else int(sys.argv[1]))
"""
STARTING = """
import os, subprocess, sys
ours, theirs = os.pipe()
subprocess.run([sys.executable, "-m", "started", str(theirs)], pass_fds=[theirs], check=True)
print(os.getpid(), os.read(ours, 1000).decode())
"""
STARTED = """
import os, sys
os.write(int(sys.argv[1]), f"{os.getppid()} {__name__} {'tensorflow' in sys.modules}".encode())
"""
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


def test_prefect_reads_its_settings_where_it_is_imported(tmp_path: Path) -> None:
    variables = {"PREFECT_HOME": str(tmp_path / "home")}
    fork, new = (
        call(tmp_path, python, "-c", PREFECT, **variables) for python in ("python", sys.executable)
    )
    assert fork.stdout == new.stdout, fork.stderr
    assert fork.stdout.startswith(f"False []\nhttp://127.0.0.1:9/api {tmp_path}/home ")


@pytest.mark.parametrize("code", ["None", "0", "3"])
def test_it_ends_what_a_process_ends(tmp_path: Path, code: str) -> None:
    done = call(tmp_path, "python", "-c", ENDING, code)
    assert done.returncode == (0 if code == "None" else int(code))
    assert done.stdout == "thread registered "
    assert (tmp_path / "log").read_text() == "kept\n"


def test_what_a_fork_starts_is_a_fork_with_its_open_files(tmp_path: Path) -> None:
    (tmp_path / "started.py").write_text(STARTED)
    done = call(tmp_path, "python", "-c", STARTING)
    pid, *answer = done.stdout.split()
    assert answer == [pid, "__main__", "True"], done.stderr


def test_a_killed_group_takes_what_its_forks_started(tmp_path: Path) -> None:
    starting = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEPING!r}])"
    process = begin(tmp_path, "python", "-c", starting, start_new_session=True)
    assert process.stdout is not None
    started = psutil.Process(int(process.stdout.readline()))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=HUNG)
    started.wait(HUNG)
