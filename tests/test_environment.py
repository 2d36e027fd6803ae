"""Where the project is, what a process inherits, and which processes have ended."""

import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chapterflow.environment import (
    QUIET_AND_PRIVATE,
    Project,
    configure,
    find_project,
    machine,
    process_identity,
    process_is_gone,
)
from chapterflow.errors import ConfigError

HOST = socket.gethostname()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until it is killed."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def identity_of(pid: int, *, later: float = 0.0) -> str:
    return f"{HOST}:{pid}:{psutil.Process(pid).create_time() + later:.2f}"


def test_an_identity_is_host_pid_and_start() -> None:
    host, pid, started = process_identity().rsplit(":", 2)
    assert host.split(" ")[0] == HOST
    assert int(pid) == os.getpid()
    assert float(started) == pytest.approx(psutil.Process().create_time(), abs=0.01)
    assert process_identity() == process_identity()
    assert not process_is_gone(process_identity())


def test_a_finished_process_is_gone() -> None:
    code = "from chapterflow.environment import process_identity; print(process_identity())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process_is_gone(done.stdout.strip())
    assert not done.stderr


def test_a_running_process_is_not_gone_until_it_is_killed(
    sleeper: subprocess.Popen[bytes],
) -> None:
    identity = identity_of(sleeper.pid)
    assert not process_is_gone(identity)
    sleeper.kill()
    while psutil.Process(sleeper.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    # Nobody has waited for it yet, so its pid is still taken.
    assert process_is_gone(identity)
    sleeper.wait()
    assert process_is_gone(identity)


def test_a_stopped_process_is_not_gone(sleeper: subprocess.Popen[bytes]) -> None:
    identity = identity_of(sleeper.pid)
    os.kill(sleeper.pid, signal.SIGSTOP)
    assert not process_is_gone(identity)


def test_a_process_lives_on_when_the_clock_is_set(sleeper: subprocess.Popen[bytes]) -> None:
    for later in (-1.0, 1.0):
        assert not process_is_gone(identity_of(sleeper.pid, later=later))


@pytest.mark.parametrize("later", [-3600, -2, 2, 3600])
def test_a_recycled_pid_is_another_process(sleeper: subprocess.Popen[bytes], later: float) -> None:
    assert process_is_gone(identity_of(sleeper.pid, later=later))
    assert not process_is_gone(identity_of(sleeper.pid, later=later / abs(later) * 0.02))


def test_nothing_is_known_of_other_machines() -> None:
    host, rest = process_identity().split(":", 1)
    assert not process_is_gone(f"other-{host}:{rest}")
    assert not process_is_gone(f"{host}.example.org:999999:1.00")
    assert not process_is_gone("999999:1.00")


def test_nothing_is_known_of_containers_with_the_name_of_this_host() -> None:
    place, _, _ = process_identity().rsplit(":", 2)
    dead = f"{place}:999999999:1.00"
    assert process_is_gone(dead)
    if " " not in place:
        return  # Only Linux numbers processes by container.
    boot, namespace = place.rpartition(" ")[2].split(".")
    assert not process_is_gone(dead.replace(f"{boot}.{namespace}", f"{boot}.1"))
    # Of a machine that has restarted since, everything is known.
    earlier = dead.replace(boot, "00000000")
    assert process_is_gone(earlier)
    assert not process_is_gone(earlier.replace(":1.00", f":{time.time():.2f}"))


@pytest.mark.parametrize(
    "identity",
    [
        "",
        ":",
        "::",
        "rubbish",
        "HOST",
        "HOST:",
        "HOST:x:1.0",
        "HOST:-1:1.0",
        "HOST::1.0",
        "HOST:1.5:1.0",
        "HOST:²:1.0",
        "HOST:PID",
        "HOST:PID:",
        "HOST:PID:abc",
        "HOST:PID:nan",
        "HOST:PID:inf",
    ],
)
def test_what_cannot_be_read_is_never_called_gone(identity: str) -> None:
    identity = identity.replace("HOST", HOST).replace("PID", str(os.getpid()))
    assert process_is_gone(identity) is False


@given(st.text(max_size=20), st.text(max_size=8), st.booleans())
def test_no_text_is_too_strange(pid: str, started: str, ours: bool) -> None:
    assert process_is_gone(f"{HOST if ours else 'elsewhere'}:{pid}:{started}") in (True, False)


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHAPTERFLOW_PROJECT", raising=False)


@pytest.mark.usefixtures("clean")
def test_the_project_is_around_the_current_folder(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = project.root / "a" / "b"
    inner.mkdir(parents=True)
    assert find_project(project.root) == project
    assert find_project(inner) == project
    monkeypatch.chdir(inner)
    assert find_project() == project
    # The nearest one, where one lies in another.
    (project.root / "a" / "params.yaml").touch()
    assert find_project() == Project(project.root / "a")
    # A folder of that name is no configuration.
    (inner / "params.yaml").mkdir()
    assert find_project() == Project(project.root / "a")


@pytest.mark.usefixtures("clean")
def test_no_project(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No params\.yaml in .* or above it") as caught:
        find_project(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "CHAPTERFLOW_PROJECT" in str(caught.value)


def test_the_variable_names_the_project_outright(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHAPTERFLOW_PROJECT", str(project.root))
    assert find_project() == project
    other = tmp_path / "other"
    other.mkdir()
    (other / "params.yaml").touch()
    assert find_project(other) == project
    monkeypatch.setenv("CHAPTERFLOW_PROJECT", "other")  # from the current folder
    assert find_project(project.root) == Project(other)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CHAPTERFLOW_PROJECT", "~/other")
    assert find_project() == Project(other)
    monkeypatch.setenv("CHAPTERFLOW_PROJECT", "")
    with pytest.raises(ConfigError):
        find_project(tmp_path)


def test_the_variable_must_name_a_project(
    tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("CHAPTERFLOW_PROJECT", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"must name a folder with a params\.yaml\. Received: "):
        find_project()


def test_folders_lie_in_the_project(project: Project) -> None:
    folders = [project.params, project.data, project.data_dvc, project.mlruns, project.scratch]
    assert [folder.relative_to(project.root).as_posix() for folder in folders] == [
        "params.yaml",
        "data",
        "data.dvc",
        "mlruns",
        ".chapterflow",
    ]


def test_a_bare_environment_becomes_quiet_and_private(project: Project) -> None:
    with patch.dict(os.environ, {"PATH": os.environ["PATH"]}, clear=True):
        configure(project)
        assert QUIET_AND_PRIVATE.items() <= os.environ.items()
        assert os.environ["PREFECT_HOME"] == str(project.root / ".prefect")
        assert os.environ["CHAPTERFLOW_PROJECT"] == str(project.root)


def test_every_dependency_is_reported_not_to_report() -> None:
    assert {
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "GX_ANALYTICS_ENABLED": "false",
        "DVC_NO_ANALYTICS": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }.items() <= QUIET_AND_PRIVATE.items()


def test_what_the_user_has_set_is_kept(project: Project) -> None:
    theirs = dict.fromkeys((*QUIET_AND_PRIVATE, "PREFECT_HOME"), "theirs")
    with patch.dict(os.environ, theirs | {"CHAPTERFLOW_PROJECT": "/elsewhere"}, clear=True):
        configure(project)
        assert theirs.items() <= os.environ.items()
        # But for the project, which was found already.
        assert os.environ["CHAPTERFLOW_PROJECT"] == str(project.root)


def python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {n: v for n, v in os.environ.items() if n not in QUIET_AND_PRIVATE}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_tensorflow_starts_without_a_word() -> None:
    done = python(
        "import sys\n"
        "from pathlib import Path\n"
        "from chapterflow.environment import Project, configure, load_tensorflow\n"
        "configure(Project(Path.cwd()))\n"
        "load_tensorflow()\n"
        "load_tensorflow()\n"
        "import tensorflow as tf\n"
        "assert float(tf.reduce_sum(tf.ones((3, 3)))) == 9\n"
        "sys.stderr.write('still heard')\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "still heard")


def test_a_broken_tensorflow_is_reported(tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").write_text("raise ImportError('libsomething.so is missing')\n")
    done = python(
        "from chapterflow.environment import load_tensorflow\nload_tensorflow()\n",
        PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    )
    assert done.returncode == 1
    assert "ImportError: libsomething.so is missing" in done.stderr


def machine_of(*, processors: int | None = None, **variables: str) -> str:
    """Return the machine as another process sees it, which never imports TensorFlow."""
    code = "import os, sys; "
    if processors is not None:
        code += f"os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:{processors}]); "
    code += "from chapterflow.environment import machine; print(machine()); "
    code += "assert 'tensorflow' not in sys.modules"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_NUM_")} | variables
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system pins no process")
def test_the_machine_includes_the_threads_of_a_computation() -> None:
    pinned = machine_of(processors=1)
    assert pinned.endswith("; threads: 1 intra-op, 1 inter-op, 1 usable cores")
    usable = len(os.sched_getaffinity(0))
    limited = machine_of(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="3")
    assert limited.endswith(f"; threads: 1 intra-op, 3 inter-op, {usable} usable cores")
    usual = machine_of()
    assert usual.endswith(f"; threads: {usable} intra-op, {usable} inter-op, {usable} usable cores")
    assert usual.partition(";")[0] == limited.partition(";")[0] == pinned.partition(";")[0]
    assert machine_of(TF_NUM_INTRAOP_THREADS="many") == usual


def test_threads_that_tensorflow_was_configured_with_come_first(
    tensorflow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    monkeypatch.setattr(tf.config.threading, "get_intra_op_parallelism_threads", lambda: 7)
    assert "; threads: 7 intra-op" in machine()


def test_processors_of_one_name_differ_by_their_vector_instructions() -> None:
    from chapterflow.environment import processor

    older = "model name\t: AMD EPYC\nflags\t\t: fpu fma avx avx2\n\nmodel name\t: AMD EPYC\n"
    newer = older.replace("avx2", "avx2 avx512f avx512_bf16")
    assert processor(older) == "AMD EPYC (avx2)"
    assert processor(newer) == "AMD EPYC (avx2 avx512f avx512_bf16)"
    assert processor("model name\t: Cortex-A76\n") == "Cortex-A76"
    assert processor("Features\t: fp asimd\n") == ""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors have no oneDNN")
def test_tensorflow_has_the_operations_of_onednn_on_every_processor() -> None:
    from tensorflow.python.framework import test_util

    assert test_util.IsMklEnabled()


def test_ctrl_c_in_a_callback_is_not_lost_by_a_command() -> None:
    """Python itself would print the exception and go on."""
    done = python(
        "import signal, sys, time, weakref\n"
        "from chapterflow import cli\n"
        "sys.argv = ['chapterflow', '--help']\n"
        "try:\n"
        "    cli.main()\n"
        "except SystemExit:\n"
        "    pass\n"
        "kept = {1}\n"
        "reference = weakref.ref(kept, lambda _: signal.raise_signal(signal.SIGINT))\n"
        "try:\n"
        "    del kept\n"
        "    print('goes on')\n"
        "    time.sleep(600)\n"
        "except KeyboardInterrupt:\n"
        "    print('is interrupted')\n"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-2:] == ["goes on", "is interrupted"]
