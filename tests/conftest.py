"""Fixtures: projects in temporary folders, the real mirror, and a private environment."""

import compileall
import contextlib
import importlib.util
import io
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import pytest
from filelock import FileLock
from hypothesis.configuration import set_hypothesis_home_dir
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

REPOSITORY = Path(__file__).resolve().parents[1]
GUARD = Path(__file__).resolve().parent / "loop" / "guard"

# Before any library is imported: no telemetry, no server or store of the user's.
USERS_OWN = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "PREFECT_API_URL", "CHAPTERFLOW_PROJECT")
for name in USERS_OWN:
    os.environ.pop(name, None)
# Tests read English, whatever the locale of the machine.
os.environ["CHAPTERFLOW_LANG"] = "en"
#: Libraries that tests import set variables of their own, OpenCV for one.
USERS_SHELL = {**os.environ}

from chapterflow.environment import QUIET_AND_PRIVATE, Project, load_tensorflow  # noqa: E402
from chapterflow.tracking import store  # noqa: E402
from tests.forks import SHARED, Forks  # noqa: E402
from tests.loop import stores  # noqa: E402

os.environ.update(QUIET_AND_PRIVATE)

FORKS = Forks(os.environ)
#: The variables of the user's shell, for processes that are forks and have those of libraries.
SHELL = FORKS.folder / "shell.json"
if SHARED in os.environ:
    USERS_SHELL = json.loads(SHELL.read_text())
    # What a test starts by `sys.executable` is to be a new process.
    sys.executable = str(Path(sys.prefix, "bin", "python"))

# How long an example takes depends on what else the machine does; no test is about that. As of
# mutated inputs (`tests/data/test_fuzz.py`), the full suite tries more.
hypothesis.settings.register_profile(
    "untimed", deadline=None, max_examples=100 if "CHAPTERFLOW_FUZZ" in os.environ else 30
)
hypothesis.settings.load_profile("untimed")
# It takes the folder in which it was imported, which in a fork is that of the server.
set_hypothesis_home_dir(REPOSITORY / ".hypothesis")

#: Seconds after which a process hangs: generous, since a busy machine is no fault of the code.
HUNG = 600.0

Run = Callable[..., subprocess.CompletedProcess[str]]

#: Files that go first: what they make for the session takes longest, and others wait for it.
FIRST = ("test_loop.py", "test_bad_input.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of `make faults`."""
    parser.addoption("--faults", action="store_true", help="print a table of the injected faults")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list[Any]) -> None:
    """Let the processes that run tests be forks of one server, whose libraries they share."""
    SHELL.write_text(json.dumps(USERS_SHELL))
    os.environ[SHARED] = str(FORKS.folder)
    for spec in specs:
        spec.python = FORKS.python


def pytest_unconfigure() -> None:
    """End the server of forks."""
    FORKS.close()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print each injected fault, what is promised, and what the tests saw."""
    if not config.getoption("--faults"):
        return
    faults: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for outcome in ("failed", "error", "passed", "skipped"):
        for report in terminalreporter.stats.get(outcome, ()):
            properties = dict(report.user_properties)
            if "fault" in properties and (report.when == "call" or outcome != "passed"):
                fault, promise = properties["fault"]
                results = faults.setdefault((fault, promise), [])
                results.append((outcome, str(properties.get("saw", ""))))
    table = Table(Column("Fault"), Column("Promised"), Column("Seen"), box=box.SIMPLE)
    for (fault, promise), results in sorted(faults.items()):
        counts = Counter(outcome for outcome, _ in results)
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        seen = dict.fromkeys(filter(None, (saw for _, saw in results)))
        table.add_row(escape(fault), escape(promise), escape("; ".join([outcomes, *seen])))
    terminalreporter.section(f"{len(faults)} faults")
    Console(width=max(80, shutil.get_terminal_size().columns)).print(table)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Name each test's fault in its report; put whole runs first.

    So no process is left with a long file at the end.
    """
    for item in items:
        for mark in item.iter_markers("fault"):
            item.user_properties.append(("fault", mark.args))

    def order(item: pytest.Item) -> int:
        if item.path.name in FIRST:
            return FIRST.index(item.path.name)
        return len(FIRST) + (item.path.parent.name != "loop")

    items.sort(key=order)


@pytest.fixture(scope="session")
def tensorflow() -> None:
    """TensorFlow, imported without its noise."""
    load_tensorflow()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with the repository's params.yaml and nothing else."""
    root = tmp_path / "project"
    root.mkdir()
    shutil.copy(REPOSITORY / "params.yaml", root)
    return Project(root)


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The folder of real data that CHAPTERFLOW_MIRROR names."""
    named = os.environ.get("CHAPTERFLOW_MIRROR")
    if not named:
        pytest.skip("CHAPTERFLOW_MIRROR is not set: no real data on this machine")
    return (REPOSITORY / named).resolve()


#: For a command that is to be a new process, not a fork.
REAL_PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def command_environment(root: Path) -> dict[str, str]:
    """Return the environment of a user's shell in a checkout at `root`."""
    return {
        **{name: value for name, value in USERS_SHELL.items() if name not in QUIET_AND_PRIVATE},
        "PATH": os.pathsep.join((str(FORKS.folder), REAL_PATH)),
        # The checkout's own sources, and nothing but loopback connections.
        "PYTHONPATH": os.pathsep.join(map(str, (root / "src", root, GUARD))),
        "CHAPTERFLOW_TEST_NETWORK_LOG": str(root.parent / f"{root.name}-network.log"),
        "PREFECT_HOME": str(root / ".prefect"),
        "GIT_AUTHOR_NAME": "test",
        "GIT_AUTHOR_EMAIL": "test@example.org",
        "GIT_COMMITTER_NAME": "test",
        "GIT_COMMITTER_EMAIL": "test@example.org",
    }


def heed_interrupts() -> None:
    """Let a child process hear SIGINT, as one started in a terminal does.

    Pass it as `preexec_fn`: a test run that was itself started in the background ignores SIGINT,
    and its children would inherit that.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def unhurried(params: str) -> str:
    """Return the text of a params.yaml with a budget of latency that a busy machine keeps too."""
    budget = "latency_ms_p95: 50 "
    assert budget in params
    return params.replace(budget, "latency_ms_p95: 60000 ")


def copy_checkout(root: Path) -> Path:
    """Copy what git would track into `root`, and make it a git repository of its own.

    How fast its models answer on this machine shuts no gate.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    names = [name for name in listed.stdout.split("\0") if name]
    # Compiled modules too: otherwise each checkout would compile its own, for most of a second.
    for folder in ("src", "pipelines"):
        compileall.compile_dir(REPOSITORY / folder, quiet=2)
    names += [importlib.util.cache_from_source(name) for name in names if name.endswith(".py")]
    for name in names:
        if (REPOSITORY / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            # With its time: a compiled module is that of a source file of a certain time.
            shutil.copy2(REPOSITORY / name, root / name)
    params = root / "params.yaml"
    params.write_text(unhurried(params.read_text()))
    environment = command_environment(root)
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        subprocess.run(["git", *words], cwd=root, env=environment, check=True)
    return root


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A fresh git checkout of this repository, as it is in the working tree."""
    root = tmp_path / "checkout"
    root.mkdir()
    return copy_checkout(root)


def _start_forks(words: tuple[str, ...]) -> None:
    if words[0] not in {"git", sys.executable}:
        FORKS.start()


def call(
    root: Path, *words: str, timeout: float = HUNG, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in `root` as a user would, and return what it said.

    `chapterflow`, `dvc`, `mlflow`, `python` and the processes that these start are forks, also
    where a shell calls them, unless PATH is `REAL_PATH`; `sys.executable` is a new process.
    """
    _start_forks(words)
    return subprocess.run(
        words,
        cwd=root,
        env=command_environment(root) | variables,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


#: Runs commands one after the other, and exits with the largest of their codes.
SEVERAL = """
import sys
from chapterflow import cli
codes = [0]
for words in sys.argv[1:]:
    sys.argv = ["chapterflow", *words.split()]
    try:
        cli.main()
    except SystemExit as ended:
        codes.append(ended.code or 0)
sys.exit(max(codes))
"""


#: Variable for flows that other processes run, as `run_flow` does it: no page.
NO_REPORT = {"CHAPTERFLOW_TEST_REPORT": "none"}


def call_several(root: Path, *commands: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run commands of `chapterflow` one after the other in one process."""
    return call(root, "python", "-c", SEVERAL, *commands, **variables)


def begin(root: Path, *words: str, **options: Any) -> subprocess.Popen[str]:
    """Start a command in `root` as a user would in a terminal, where Ctrl-C reaches it."""
    usual: dict[str, Any] = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "env": command_environment(root),
    }
    _start_forks(words)
    return subprocess.Popen(
        words, cwd=root, text=True, preexec_fn=heed_interrupts, **usual | options
    )


def until(true: Callable[[], Any], every: float = 0.2) -> Any:
    """Wait for something to be true, and return it; look every so many seconds."""
    deadline = time.monotonic() + HUNG
    while not (value := true()):
        assert time.monotonic() < deadline
        time.sleep(every)
    return value


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[str]:
    """The address of an MLflow server that keeps the artifacts too, as a team shares it."""
    with serving_mlflow(tmp_path / "server") as address:
        yield address


@contextlib.contextmanager
def serving_mlflow(
    folder: Path, database: str | None = None, *words: str, **variables: str
) -> Iterator[str]:
    """Run an MLflow server on 127.0.0.1, with a database of its own in `folder` by default.

    Args:
        words: More of its command line.
        variables: More of its environment.
    """
    port = free_port()
    folder.mkdir()
    places = {
        "MLFLOW_BACKEND_STORE_URI": database or make_server_store(folder),
        "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
    }
    command = (FORKS.python, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1")
    address = f"http://127.0.0.1:{port}"
    with serving(
        [*command, "--port", str(port), *words],
        # An answer of the API, too: the first takes seconds on a busy machine, as long as commands
        # wait for a server.
        [f"{address}/health", f"{address}/api/2.0/mlflow/experiments/search?max_results=1"],
        folder / "log",
        {**os.environ, **places, **variables},
    ):
        yield address


def make_server_store(folder: Path) -> str:
    """Make the database of a new MLflow server; returns its address.

    The server would make it by migrations (`making_of_stores`).
    """
    path = folder / "mlflow.db"
    store._initialise(path, Project(folder))
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(
            "UPDATE experiments SET artifact_location = 'mlflow-artifacts:/' || experiment_id"
        )
    return f"sqlite:///{path}"


@contextlib.contextmanager
def serving(
    words: list[str], pages: list[str], log: Path, environment: dict[str, str]
) -> Iterator[None]:
    """Run a server until the end, from the moment on at which its pages answer."""
    import requests

    with log.open("wb") as out:
        process = subprocess.Popen(
            words, stdout=out, stderr=out, env=environment, start_new_session=True
        )
    try:
        deadline = time.monotonic() + HUNG
        while True:
            with contextlib.suppress(requests.RequestException):
                # A server with accounts answers 401 to its API.
                if all(requests.get(page, timeout=HUNG).status_code < 500 for page in pages):
                    break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def run(checkout: Path) -> Run:
    """Runs a command in the checkout."""

    def in_checkout(*words: str, **keywords: Any) -> subprocess.CompletedProcess[str]:
        return call(checkout, *words, **keywords)

    return in_checkout


@contextlib.contextmanager
def in_checkout(root: Path, **variables: str) -> Iterator[None]:
    """Let this process work in `root` with the environment that `call` gives a new one."""
    environment = command_environment(root) | variables
    # Its children import what this process does, also where `root` has no sources.
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    before = dict(os.environ)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        # Its children are forks where the server of forks runs, and new processes otherwise.
        patch.setattr(sys, "executable", str(FORKS.folder / "python"))
        os.environ.clear()
        os.environ.update(environment)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def invoke(root: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Call `chapterflow` in this process, in `root`, and return what it said.

    It saves the seconds in which a new process imports the libraries. A command that is interrupted
    needs `call`, and so does a flow, unless the fixture `run_flow` calls it.
    """
    from chapterflow import cli
    from pipelines import prefect_server

    out, err, code = io.StringIO(), io.StringIO(), 0
    if "absl.logging" in sys.modules and "prefect.main" not in sys.modules:
        # Its set-up of logging closes the stream of absl's handler, which is sys.stderr, unless it
        # is sys.stderr at that time, too. It makes a folder where it is imported.
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PREFECT_HOME", str(FORKS.folder / ".prefect"))
            import prefect.main  # noqa: F401
    with in_checkout(root, **{"COLUMNS": "80"} | variables), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["chapterflow", *words])
        # It would end this process.
        patch.setattr(prefect_server, "leave", lambda code: None)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                cli.main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return subprocess.CompletedProcess(
        ["chapterflow", *words], code, out.getvalue(), err.getvalue()
    )


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that `make` fills once in a test session, however many processes ask."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder = base / name
    with FileLock(f"{folder}.lock"):
        if not (folder / "whole").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            (folder / "whole").touch()
    return folder


@pytest.fixture(scope="session", autouse=True)
def making_of_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., None]]:
    """Make one new store, and copies of it where tests of this process need another.

    MLflow makes one by all migrations that it ever had, which takes a second. The tests of that
    restore the function that this yields; other processes than those of pytest have it anyway.
    """
    initialise = store._initialise

    def make(folder: Path) -> None:
        (folder / "mlruns").mkdir()
        initialise(store.database(Project(folder)), Project(folder))

    def copy(path: Path, project: Project) -> None:
        if path.exists():
            initialise(path, project)
            return
        made = Project(once(tmp_path_factory, "store", make))
        shutil.copyfile(store.database(made), path)
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            db.execute(
                "UPDATE experiments SET artifact_location = replace(artifact_location, ?, ?)",
                (str(made.mlruns.resolve()), str(project.mlruns.resolve())),
            )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_initialise", copy)
        if utils := sys.modules.get("mlflow.store.db.utils"):
            # MLflow loads its migrations to compare it with each store that it opens.
            newest = cache(utils._get_latest_schema_revision)
            patch.setattr(utils, "_get_latest_schema_revision", newest)
        yield initialise


@pytest.fixture(scope="session")
def fetched_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the embedded data, verdicts on them, and an empty store.

    Copy it with `copy_project`.
    """
    from chapterflow.config.load import load_settings
    from chapterflow.loop import steps

    def make(folder: Path) -> None:
        root = folder / "checkout"
        root.mkdir()
        copy_checkout(root)
        for words in (["data", "fetch"], ["compare"]):
            done = invoke(root, *words)
            assert done.returncode == 0, done.stderr
        project, settings = Project(root), load_settings(root / "params.yaml")
        with in_checkout(root):
            for name in settings.profile_datasets():
                steps.validate(project, settings, steps.prepare(project, settings, name))

    return once(tmp_path_factory, "fetched", make) / "checkout"


@pytest.fixture
def fetched(fetched_once: Path, tmp_path: Path) -> Path:
    """A checkout with the embedded data and an empty store, for one test."""
    return copy_project(fetched_once, tmp_path / "checkout")


#: Starts a project's Prefect server and ends it, which makes its database.
START_PREFECT = """
from chapterflow.environment import configure, find_project
project = find_project()
configure(project)
from pipelines.prefect_server import prefect_server
with prefect_server(project.scratch):
    pass
"""


@pytest.fixture(scope="session")
def prefect_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `.prefect` folder with an empty database, for checkouts in which a flow is not the first.

    Making one takes seconds. `finished_once` and others start without it, as users do.
    """

    def make(folder: Path) -> None:
        shutil.copy(REPOSITORY / "params.yaml", folder)
        done = call(folder, "python", "-c", START_PREFECT, PYTHONPATH=os.pathsep.join(sys.path))
        assert done.returncode == 0, done.stderr

    return once(tmp_path_factory, "prefect", make) / ".prefect"


@pytest.fixture(scope="session")
def prefect_api(
    prefect_once: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """The variables of one Prefect server for all flows of this process."""
    from pipelines.prefect_server import prefect_server

    home = tmp_path_factory.mktemp("prefect") / ".prefect"
    shutil.copytree(prefect_once, home)
    real = sys.executable
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        patch.delenv("PREFECT_API_URL", raising=False)
        patch.setattr(sys, "executable", FORKS.python)
        with prefect_server(home) as address:
            # It is for the calls of `run_flow` alone.
            patch.delenv("PREFECT_API_URL")
            patch.setattr(sys, "executable", real)
            yield {"PREFECT_HOME": str(home), "PREFECT_API_URL": address}
            patch.setenv("PREFECT_API_URL", address)


@contextlib.contextmanager
def using_prefect(api: dict[str, str]) -> Iterator[None]:
    """Let Prefect in this process use the server of `prefect_api`."""
    from prefect.context import refresh_global_settings_context

    with pytest.MonkeyPatch.context() as patch:
        for name, value in api.items():
            patch.setenv(name, value)
        refresh_global_settings_context()
        yield
    refresh_global_settings_context()


@pytest.fixture(scope="session")
def run_flow(prefect_api: dict[str, str]) -> Run:
    """Calls a command with a flow in this process, as `invoke` does others.

    For what a flow leaves behind; how it starts, ends and is recorded is tested with `call`. Only
    with `report` does it write its page, a third of the work of a flow that trains one model.
    """

    def with_server(
        root: Path, *words: str, report: bool = False
    ) -> subprocess.CompletedProcess[str]:
        # Without workers, the flow stays in this process.
        options = ("--workers", "1") if words[0] == "run" else ()
        with using_prefect(prefect_api), pytest.MonkeyPatch.context() as patch:
            if not report:
                patch.setattr("pipelines.chapter._report", lambda *_: "")
            return invoke(root, *words, *options, **prefect_api)

    return with_server


def flow_runs(api: dict[str, str]) -> list[dict[str, Any]]:
    """Return the flow runs that the server of `prefect_api` knows, oldest first."""
    import requests

    address = f"{api['PREFECT_API_URL']}/flow_runs/filter"
    answer = requests.post(address, json={"sort": "START_TIME_ASC"}, timeout=HUNG)
    answer.raise_for_status()
    return list(answer.json())


class Finished(NamedTuple):
    """A checkout in which `chapterflow run` went through, its document, and its stderr."""

    root: Path
    document: dict[str, Any]
    stderr: str


#: Models of the finished checkout. The first two learn enough to be promoted.
FINISHED = ("dnn", "cnn", "lenet5")


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the finished checkout (`checkout`) and of a copy (`copy`) to make copies of.

    One module alone looks at the first, where the run took place.
    """

    def make(folder: Path) -> None:
        root = folder / "checkout"
        root.mkdir()
        copy_checkout(root)
        stores.set_param(root, "models.lenet5.epochs", 3)
        call(root, "git", "commit", "-qam", "few epochs")
        done = call(root, "chapterflow", "run", *FINISHED, "--workers", "1", "--json")
        assert done.returncode == 0, done.stderr
        (folder / "said.json").write_text(json.dumps([json.loads(done.stdout), done.stderr]))
        shutil.copytree(root, folder / "copy", symlinks=True)

    return once(tmp_path_factory, "finished", make)


def _link_objects(source: str, target: str) -> str:
    """Copy a file. Objects of Git, half of a checkout, are linked: they never change."""
    if "/.git/objects/" in source:
        os.link(source, target)
        return target
    return str(shutil.copy2(source, target))


def copy_project(source: Path, root: Path) -> Path:
    """Copy a checkout with its data and store, whose paths are rewritten."""
    from chapterflow.tracking.store import relocate

    shutil.copytree(source, root, symlinks=True, copy_function=_link_objects)
    relocate(Project(root))
    return root


@pytest.fixture(scope="module")
def finished(finished_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A copy of the finished checkout for the tests of one module."""
    root = copy_project(finished_once / "copy", tmp_path_factory.mktemp("finished") / "checkout")
    return Finished(root, *json.loads((finished_once / "said.json").read_text()))


@pytest.fixture
def in_project(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The temporary project as the one that this process works in."""
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("CHAPTERFLOW_PROJECT", str(project.root))
    monkeypatch.setenv("PREFECT_HOME", str(project.root / ".prefect"))
    return project
