"""A deployment of `prefect.yaml` on a real server, with two workers in processes of their own."""

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import yaml

from chapterflow.environment import process_is_gone
from tests.conftest import (
    FORKS,
    HUNG,
    NO_REPORT,
    REAL_PATH,
    command_environment,
    free_port,
    until,
    using_prefect,
)
from tests.loop import stores

pytestmark = pytest.mark.slow
#: Seconds between runs: shorter than a run takes, so they overlap.
EVERY = 5
#: Variable of a process and all that it starts.
LOG = "CHAPTERFLOW_TEST_LOG"


@contextmanager
def running(words: list[str], log: Path, **options: Any) -> Iterator[None]:
    """Run a process with a file for what it says, and end it and all that it has started."""
    options["env"] = options["env"] | {LOG: str(log)}
    with log.open("w") as out:
        process = subprocess.Popen(
            [FORKS.python, "-m", *words],
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )
        try:
            yield
        finally:
            kill(log)
            process.wait()


def kill(log: Path) -> None:
    """Kill the process of a log and all that it has started, as a loss of power does.

    Forks are children of the server of forks; what asked for them takes them with it.
    """
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(LOG) == str(log):
                process.kill()


def deploy(root: Path, environment: dict[str, str]) -> None:
    """Deploy the chapter with one model, every few seconds."""
    file = root / "prefect.yaml"
    document = yaml.safe_load(file.read_text())
    (block,) = [entry for entry in document["deployments"] if entry["name"] == "chapter-nightly"]
    block["parameters"] |= {"models": ["dnn"], "workers": 1}
    block["schedules"] = [{"interval": EVERY, "active": True}]
    document["deployments"] = [block]
    file.write_text(yaml.safe_dump(document))
    stores.set_param(root, "models.dnn.epochs", 2)
    for words in (
        ["git", "commit", "-qam", "every few seconds"],
        [FORKS.python, "-m", "prefect", "work-pool", "create", "local", "--type", "process"],
        [FORKS.python, "-m", "prefect", "--no-prompt", "deploy", "--all"],
    ):
        done = subprocess.run(
            words, cwd=root, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.fault(
    "Deployment due while no worker is awake, while it runs already, and a worker killed in a run",
    "One missed run happens, others are cancelled; the killed one is Crashed, and a later one ends",
)
def test_a_deployment_fires_twice_though_a_worker_dies(
    checkout: Path,
    prefect_once: Path,
    tmp_path: Path,
    mlflow_server: str,
    record_property: Any,
) -> None:
    shutil.copytree(prefect_once, tmp_path / ".prefect")
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    environment = command_environment(checkout) | {
        "PATH": REAL_PATH,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_HOME": str(tmp_path / ".prefect"),
        "CHAPTERFLOW_REPOSITORY": str(checkout),
        "MLFLOW_TRACKING_URI": mlflow_server,
        **NO_REPORT,
    }

    def runs(*states: str) -> list[dict[str, Any]]:
        query = {"flow_runs": {"state": {"type": {"any_": list(states)}}}}
        answer = requests.post(f"{api}/flow_runs/filter", json=query, timeout=HUNG)
        answer.raise_for_status()
        return list(answer.json())

    from pipelines.housekeeping import PROCESS_TAG, end_dead_flow_runs

    def owner(run: dict[str, Any]) -> str:
        tags = [tag for tag in run["tags"] if tag.startswith(PROCESS_TAG)]
        return tags[0].removeprefix(PROCESS_TAG) if tags else ""

    def healthy() -> bool:
        with suppress(requests.ConnectionError):
            return requests.get(f"{api}/health", timeout=HUNG).ok
        return False

    with ExitStack() as stack:
        words = ["pipelines.prefect_server", str(port), str(os.getpid())]
        server = running(words, tmp_path / "prefect.log", cwd=tmp_path, env=environment)
        stack.enter_context(server)
        until(healthy)
        environment["PREFECT_API_URL"] = api
        deploy(checkout, environment)
        # No worker is awake: runs are missed.
        until(
            lambda: sum(run["estimated_start_time_delta"] > 0 for run in runs("SCHEDULED")) >= 3,
            every=1.0,
        )
        start = ["prefect", "worker", "start", "--pool", "local", "--limit", "1", "--name"]
        logs = [tmp_path / f"worker-{name}.log" for name in ("a", "b")]
        for log in logs:
            worker = running([*start, log.stem], log, cwd=tmp_path, env=environment)
            stack.enter_context(worker)
        (dead,) = until(lambda: [run for run in runs("RUNNING") if owner(run)], every=1.0)

        def workers() -> list[Path]:
            """Both may ask for the run; the server refuses one."""
            run = f"flow run '{dead['id']}'"
            asked, refused = f"submitting {run}", f"Aborted submission of {run}"
            return [
                log for log in logs if asked in (said := log.read_text()) and refused not in said
            ]

        until(lambda: len(workers()) == 1)
        kill(*workers())
        until(lambda: process_is_gone(owner(dead)))
        # As any other flow of the project does; its place would be free after five minutes.
        with using_prefect(
            {name: environment[name] for name in ("PREFECT_HOME", "PREFECT_API_URL")}
        ):
            assert end_dead_flow_runs() == [dead["name"]]
        until(lambda: len(runs("COMPLETED")) >= 2, every=1.0)
        ended = {
            run["id"]: run["state_type"]
            for run in runs("COMPLETED", "CANCELLED", "CRASHED", "FAILED", "RUNNING")
        }
    counts = Counter(ended.values())
    assert ended[dead["id"]] == "CRASHED"
    assert counts["CANCELLED"] >= 2
    assert counts["FAILED"] == 0
    database = tmp_path / "server" / "mlflow.db"
    models = stores.query(
        database,
        "SELECT run_uuid FROM runs JOIN tags USING (run_uuid) "
        "WHERE key = 'chapterflow.kind' AND value = 'model' AND status = 'FINISHED'",
    )
    assert len(models) == 1  # the second time it is reused
    flows = stores.query(
        database,
        "SELECT run_uuid FROM runs JOIN tags USING (run_uuid) "
        "WHERE key = 'chapterflow.kind' AND value = 'flow' AND status = 'FINISHED'",
    )
    assert len(flows) <= 1  # and leaves no run, though its clone had no data
    record_property("saw", f"{counts['CANCELLED']} cancelled, 1 crashed, 2 completed; 1 model")
