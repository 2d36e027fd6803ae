"""A canary in the address of the tracking server: no command writes it anywhere."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from chapterflow import cli
from chapterflow.environment import Project
from chapterflow.errors import StoreError, redacted
from chapterflow.tracking import store
from tests.conftest import invoke, using_prefect
from tests.tracking.proxy import proxy

PASSWORD = "canary-Pa55/w@rd"
QUOTED = "canary-Pa55%2Fw%40rd"
#: Each command with arguments that take it to the tracking store.
COMMANDS: dict[str, list[str]] = {
    "init": ["params.yaml"],
    "run": ["dnn"],
    "compare": [],
    "sweep": ["dnn", "--set", "models.dnn.hidden=8,16"],
    "layers": ["dnn"],
    "explain": ["dnn", "digits:0"],
    "play": ["dnn"],
    "report": [],
    "promote": ["dnn"],
    "rollback": ["dnn"],
    "history": ["dnn"],
    "why": ["dnn"],
    "reproduce": ["dnn"],
    "serve": ["dnn", "--port", "0"],
    "predict": ["dnn", "digits"],
    "ui": [],
    "schedule": ["--port", "1"],
    "gc": [],
    "doctor": [],
    "data fetch": ["digits"],
    "data list": [],
    "data verify": [],
    "data add": ["nowhere"],
    "data prune": [],
    "data check": ["dnn"],
    "step validate": ["digits"],
    "step run": ["dnn"],
    "step compare": [],
    "step fingerprint": [],
}


def commands(group: Any, prefix: str = "") -> Iterator[str]:
    """Yield the names of all commands, those of groups with the group's name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name


def written(root: Path) -> str:
    return "".join(
        path.read_bytes().decode("latin-1") for path in root.rglob("*") if path.is_file()
    )


def test_every_command_has_arguments_here() -> None:
    assert set(commands(typer.main.get_command(cli.app))) == set(COMMANDS)


@pytest.mark.slow
@pytest.mark.fault(
    "Password in the address of a tracking server that fails, every command",
    "It is in no output and no file",
)
@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_no_command_writes_the_password(
    scheme: str, project: Project, record_property: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The proxy never answers a client of PostgreSQL.
    monkeypatch.setattr(store, "ANSWER_SECONDS", 5.0 if scheme == "http" else 0.3)
    with proxy(fault="broken") as server:
        place = server.address.removeprefix("http://")
        login = f"user:{QUOTED}@"
        variables = {
            "MLFLOW_TRACKING_URI": f"{scheme}://{login}{place}",
            "PREFECT_API_URL": f"http://{login}127.0.0.1:9/api",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        }
        texts = {}
        for command, words in COMMANDS.items():
            if scheme == "http" or not command.startswith(("data", "schedule")):
                done = invoke(project.root, "--debug", *command.split(), *words, **variables)
                texts[command] = done.stdout + done.stderr
        sent = {login for *_, login in server.seen if login}
    assert "does not answer" in texts["history"]
    for command, text in texts.items():
        assert "canary" not in text, command
    assert "canary" not in written(project.root)
    if scheme == "http":
        # It reached the server that it is for.
        assert sent == {"Basic dXNlcjpjYW5hcnktUGE1NS93QHJk"}
    record_property("saw", f"0 occurrences in the output of {len(texts)} commands and all files")


@pytest.mark.slow
@pytest.mark.fault(
    "Password in a value of --set", "The flow reads it; Prefect's database does not hold it"
)
def test_parameters_of_flows_have_no_login(
    prefect_api: dict[str, str], record_property: Any
) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client

    from pipelines.prefect_server import outcome_of

    override = f"datasets.mnist.upstream=[https://user:{QUOTED}@127.0.0.1/]"

    @flow(name="canary", flow_run_name="{overrides}", persist_result=False)
    def canary(overrides: list[str], count: int = 0) -> tuple[list[str], int]:
        return overrides, count

    with using_prefect(prefect_api):
        assert outcome_of(canary, overrides=[override], count=3) == ([override], 3)
        with get_client(sync_client=True) as client:
            (run,) = [run for run in client.read_flow_runs() if "count" in run.parameters]
    assert run.parameters["count"] == 3
    assert run.parameters["overrides"] == [override.replace(f"user:{QUOTED}", "***")]
    assert "canary-" not in written(Path(prefect_api["PREFECT_HOME"]))
    record_property("saw", "0 occurrences in Prefect's database")


def test_a_schedule_takes_no_login(project: Project) -> None:
    override = f"datasets.mnist.upstream=[https://user:{QUOTED}@127.0.0.1/]"
    done = invoke(project.root, "schedule", "--set", override)
    assert done.returncode == 2
    assert "the --set of a schedule in its database" in done.stderr
    assert "canary" not in done.stderr


def test_what_counts_as_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abcdef123")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://me:{QUOTED}@host/db")
    assert redacted("Bearer abcdef123") == "Bearer ***"
    assert redacted(f"{PASSWORD} {QUOTED}") == "*** ***"
    assert redacted("https://a:b@example.org/x and s3://k@h") == (
        "https://***@example.org/x and s3://***@h"
    )
    assert redacted("mail me@example.org, models://x") == "mail me@example.org, models://x"
    assert str(StoreError(f"at http://me:{QUOTED}@host")) == "at http://***@host"


def test_log_records_have_no_secrets(
    project: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from chapterflow.environment import configure

    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abcdef123")
    configure(project)
    try:
        raise ValueError("refused abcdef123")
    except ValueError:
        logging.getLogger("any").exception("with %s", "abcdef123")
    assert "refused ***" in caplog.text
    assert "abcdef123" not in caplog.text
