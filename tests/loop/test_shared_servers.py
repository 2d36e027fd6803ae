"""The whole life of a model from two clones that share servers, as a team sets them up.

Servers of this module: MLflow with accounts, on PostgreSQL, with its artifacts in S3; Prefect on
PostgreSQL; S3, SSH and a folder for data. Only environment variables tell the clones apart.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import secrets
import shutil
import signal
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import (
    FORKS,
    HUNG,
    NO_REPORT,
    begin,
    call,
    command_environment,
    copy_checkout,
    free_port,
    serving,
    serving_mlflow,
    until,
)
from tests.loop import stores
from tests.tracking.postgres import postgres

pytestmark = pytest.mark.slow

#: Begins every password, each with characters that an address quotes. In no file of the sources.
CANARY = f"canary{secrets.token_hex(4)}"
PASSWORDS = {name: f"{CANARY}/{name}@1" for name in ("database", "ana", "ben", "s3", "ssh")}
BUCKET = "team"
#: Margins that let every later version of dnn pass.
WIDE = [
    *("--set", "promotion.margin=0.5", "--set", "promotion.worst_class_margin=0.5"),
    *("--set", "promotion.calibration_error.digits=0.5"),
]

#: Runs the commands of one person, one after the other, in one process: a line of JSON each.
PERSON = """
import contextlib, io, json, os, sys
wire = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
from chapterflow import cli
from pipelines import prefect_server
prefect_server.leave = lambda code: None
for line in sys.stdin:
    sys.argv, out, err, code = ["chapterflow", *json.loads(line)], io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code or 0
    print(json.dumps([code, out.getvalue(), err.getvalue()]), file=wire, flush=True)
"""


@dataclass
class Team:
    """Servers that run, and what two people need to know of them.

    Attributes:
        root: The folder of all clones, logs and remotes.
        origin: The repository that both clone.
        mlflow: Address of the MLflow server.
        prefect: Address of Prefect's API.
        s3: Address of the S3 server.
        ssh: Address of a folder on the SSH server.
        databases: Addresses of the databases, by what they hold.
        said: What all commands said.
        copied: Versions of the S3 server's objects that were copied, by key.
    """

    root: Path
    origin: Path
    mlflow: str
    prefect: str
    s3: str
    ssh: str
    databases: dict[str, str]
    said: list[str] = field(default_factory=list)
    copied: dict[str, str] = field(default_factory=dict)

    def variables(self, name: str) -> dict[str, str]:
        """Return what one person sets."""
        return {
            "MLFLOW_TRACKING_URI": self.mlflow,
            "MLFLOW_TRACKING_USERNAME": name,
            "MLFLOW_TRACKING_PASSWORD": PASSWORDS[name],
            "PREFECT_API_URL": self.prefect,
            "GIT_AUTHOR_NAME": name,
            "GIT_COMMITTER_NAME": name,
            "COLUMNS": "120",
            # One page of a flow is enough to be searched.
            **(NO_REPORT if name == "ben" else {}),
        }


@contextmanager
def s3_server() -> Iterator[str]:
    """Run an S3 server in a thread of this process; yields its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


@contextmanager
def ssh_server(folder: Path, password: str) -> Iterator[int]:
    """Run an SSH server for files below `folder`, in a thread of this process; yields its port."""
    import asyncssh

    class Login(asyncssh.SSHServer):
        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password_: str) -> bool:
            return password_ == password

    def files(channel: Any) -> asyncssh.SFTPServer:
        return asyncssh.SFTPServer(channel, chroot=os.fsencode(folder))

    folder.mkdir()
    key = asyncssh.generate_private_key("ssh-ed25519")
    loop = asyncio.new_event_loop()
    starting = asyncssh.listen(
        "127.0.0.1", 0, server_factory=Login, server_host_keys=[key], sftp_factory=files
    )
    server = loop.run_until_complete(starting)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.get_port()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.close()


def make_database(server: str, name: str) -> str:
    """Make an empty database; returns its address."""
    import psycopg2

    connection = psycopg2.connect(server)
    connection.autocommit = True
    connection.cursor().execute(f"CREATE DATABASE {name}")
    connection.close()
    return f"{server.rpartition('/')[0]}/{name}"


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """The servers, and a repository with two small models."""
    with servers(tmp_path_factory.mktemp("team")) as team:
        yield team


@contextmanager
def servers(root: Path) -> Iterator[Team]:
    """Start the servers, and make a repository with two small models, all below `root`."""
    with ExitStack() as stack:
        database = stack.enter_context(postgres(PASSWORDS["database"]))
        databases = {name: make_database(database, name) for name in ("runs", "accounts", "flows")}
        s3 = stack.enter_context(s3_server())
        assert requests.put(f"{s3}/{BUCKET}", timeout=HUNG).ok
        ssh = stack.enter_context(ssh_server(root / "ssh", PASSWORDS["ssh"]))

        (accounts := root / "accounts.ini").write_text(
            "[mlflow]\ndefault_permission = MANAGE\nauth_cache_ttl_seconds = 60\n"
            f"database_uri = {databases['accounts'].replace('%', '%%')}\n"
        )
        mlflow = stack.enter_context(
            serving_mlflow(
                root / "server",
                databases["runs"],
                *("--app-name", "basic-auth"),
                MLFLOW_AUTH_CONFIG_PATH=str(accounts),
                MLFLOW_AUTH_ADMIN_USERNAME="ana",
                MLFLOW_AUTH_ADMIN_PASSWORD=PASSWORDS["ana"],
                MLFLOW_FLASK_SERVER_SECRET_KEY=f"{CANARY}-key",
                MLFLOW_ARTIFACTS_DESTINATION=f"s3://{BUCKET}/mlflow",
                MLFLOW_S3_ENDPOINT_URL=s3,
                AWS_ACCESS_KEY_ID="team",
                AWS_SECRET_ACCESS_KEY=PASSWORDS["s3"],
                AWS_DEFAULT_REGION="us-east-1",
            )
        )
        answer = requests.post(
            f"{mlflow}/api/2.0/mlflow/users/create",
            json={"username": "ben", "password": PASSWORDS["ben"]},
            auth=("ana", PASSWORDS["ana"]),
            timeout=HUNG,
        )
        assert answer.ok, answer.text

        port = free_port()
        (home := root / "prefect").mkdir()
        environment = {
            **os.environ,
            "PREFECT_HOME": str(home),
            "PREFECT_API_DATABASE_CONNECTION_URL": databases["flows"].replace(
                "postgresql:", "postgresql+asyncpg:"
            ),
        }
        prefect = f"http://127.0.0.1:{port}/api"
        words = [FORKS.python, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
        stack.enter_context(
            serving(
                [*words, "--port", str(port), "--no-ui"],
                [f"{prefect}/health"],
                home / "log",
                environment,
            )
        )

        (first := root / "first").mkdir()
        copy_checkout(first)
        stores.keep_models(first, "dnn", "cnn")
        stores.set_param(first, "models.cnn.epochs", 2)
        call(first, "git", "commit", "-qam", "two models")
        call(root, "git", "clone", "-q", "--bare", "first", "origin.git")
        shutil.rmtree(first)
        ssh_folder = f"ssh://team@127.0.0.1:{ssh}/dvc"
        yield Team(root, root / "origin.git", mlflow, prefect, s3, ssh_folder, databases)


@dataclass
class Person:
    """Somebody with a clone, and a process that takes commands of `chapterflow` there."""

    team: Team
    name: str
    clone: Path
    process: subprocess.Popen[str]

    def __call__(self, *words: str, code: int = 0) -> str:
        """Run a command of `chapterflow`, which must end with `code`; returns its stdout."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, (self.team.root / f"{self.name}.log").read_text()
        actual, out, err = json.loads(line)
        self.team.said += [out, err]
        assert actual == code, f"{words}\n{out}\n{err}"
        return str(out)

    def shell(self, *words: str, **variables: str) -> str:
        """Run any command in the clone, which must succeed."""
        done = call(self.clone, *words, **self.team.variables(self.name) | variables)
        self.team.said += [done.stdout, done.stderr]
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout


@contextmanager
def member(team: Team, name: str) -> Iterator[Person]:
    """Clone the repository for somebody."""
    clone = team.root / name
    cloned = call(team.root, "git", "clone", "-q", str(team.origin), name)
    assert cloned.returncode == 0, cloned.stderr
    with (team.root / f"{name}.log").open("w") as log:
        process = begin(
            clone,
            *("python", "-c", PERSON),
            stdin=subprocess.PIPE,
            stderr=log,
            env=command_environment(clone) | team.variables(name),
        )
        try:
            yield Person(team, name, clone, process)
        finally:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def ana(team: Team) -> Iterator[Person]:
    with member(team, "ana") as person:
        yield person


@pytest.fixture(scope="module")
def ben(team: Team) -> Iterator[Person]:
    with member(team, "ben") as person:
        yield person


def contents(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file, and of the members of an archive."""
    content = path.read_bytes()
    yield content
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield archive.read(name)


def rows(address: str) -> Iterator[tuple[str, str]]:
    """Yield each row of a database as text, with the name of its table."""
    import psycopg2

    connection = psycopg2.connect(address)
    cursor = connection.cursor()
    cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    for (table,) in cursor.fetchall():
        cursor.execute(f'SELECT t::text FROM "{table}" t')
        for (text,) in cursor.fetchall():
            yield table, text
    connection.close()


def objects(team: Team) -> Path:
    """Copy what the S3 server holds into a folder, beside what it held before."""
    import boto3

    folder = team.root / "objects"
    login = {"aws_access_key_id": "team", "aws_secret_access_key": PASSWORDS["s3"]}
    client = boto3.client("s3", endpoint_url=team.s3, region_name="us-east-1", **login)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for item in page.get("Contents", ()):
            if team.copied.get(item["Key"]) == item["ETag"]:
                continue
            target = folder / item["Key"]
            target.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(BUCKET, item["Key"], str(target))
            team.copied[item["Key"]] = item["ETag"]
    return folder


@pytest.fixture(autouse=True)
def no_password(team: Team, record_property: Any) -> Iterator[None]:
    """Search all that the test has said and written."""
    yield
    record_property("saw", f"0 occurrences in {searched(team)}")


def searched(team: Team) -> str:
    """Search all that was said and written for passwords, except where their owner put them."""
    for text in team.said:
        assert CANARY not in text, text
    objects(team)
    put = {team.root / "accounts.ini", *team.root.glob("*/.dvc/config.local")}
    files, texts = 0, 0
    for path in team.root.rglob("*"):
        if path.is_file() and path not in put:
            files += 1
            assert not any(CANARY.encode() in content for content in contents(path)), path
    for name, address in team.databases.items():
        for table, text in rows(address):
            texts += 1
            assert CANARY not in text, (name, table, text)
            assert CANARY.encode().hex() not in text, (name, table)
    assert min(files, texts) > 100
    return f"{files} files, {texts} rows, {len(team.said)} outputs"


def aliases(person: Person, model: str) -> dict[str, str]:
    """Return the versions of a model by alias, from the server itself."""
    answer = requests.get(
        f"{person.team.mlflow}/api/2.0/mlflow/registered-models/get",
        params={"name": model},
        auth=(person.name, PASSWORDS[person.name]),
        timeout=HUNG,
    )
    answer.raise_for_status()
    found = answer.json()["registered_model"].get("aliases", [])
    return {item["alias"]: item["version"] for item in found}


def statuses(said: str) -> dict[str, str]:
    """Return what became of each model of a run."""
    return {model["model"]: model["status"] for model in json.loads(said)["models"]}


@pytest.mark.fault(
    "Passwords of PostgreSQL, MLflow, S3 and SSH in use through the life of a model, two clones",
    "They are in no output, file, database or artifact",
)
def test_the_life_of_a_model_in_two_clones(ana: Person, ben: Person) -> None:
    assert "the first run creates" in ana("doctor")
    assert statuses(ana("run", "dnn", "cnn", "--json")) == {"dnn": "trained", "cnn": "trained"}
    assert "artifacts written and read" in ben("doctor")
    assert statuses(ben("run", "dnn", "cnn", "--json")) == {"dnn": "reused", "cnn": "reused"}
    assert json.loads(ben("compare", "--json")) == json.loads(ana("compare", "--json"))
    ana("explain", "dnn", "digits:0")
    ana("promote", "dnn", "--reason", "the first")
    assert aliases(ben, "dnn") == {"champion": "1"}

    assert statuses(ben("run", "dnn", "--set", "seed=6", "--json")) == {"dnn": "trained"}
    ben("promote", "dnn", "--reason", "another seed", *WIDE)
    assert aliases(ana, "dnn") == {"champion": "2", "previous-champion": "1"}
    ben("rollback", "dnn", "--reason", "not better")
    assert aliases(ana, "dnn")["champion"] == "1"
    entries = json.loads(ana("history", "dnn", "--json"))
    assert [entry["who"].split()[0] for entry in entries] == ["ana", "ben", "ben"]

    commit = ben.shell("git", "rev-parse", "HEAD").strip()
    assert commit[:10] in ben("why", "dnn", "--json")
    ben("reproduce", "dnn")
    assert "dnn/1" in ben("predict", "dnn", "digits", "--json")
    ben("report")
    assert "dnn" in (ben.clone / "report" / "index.html").read_text()

    port = free_port()
    words = ("chapterflow", "serve", "dnn", "--port", str(port))
    process = begin(
        ben.clone,
        *words,
        stderr=subprocess.STDOUT,
        env=command_environment(ben.clone) | ben.team.variables("ben"),
    )
    try:
        answer = until(lambda: asked(f"http://127.0.0.1:{port}/invocations"))
    finally:
        process.send_signal(signal.SIGINT)
        ben.team.said.append(process.communicate(timeout=HUNG)[0])
    assert answer.ok, answer.text
    assert len(answer.json()["predictions"]) == 1


def asked(address: str) -> requests.Response | None:
    """Ask a server about an empty picture; None while it does not listen."""
    with suppress(requests.ConnectionError):
        body = {"instances": [[[[0.0]] * 8] * 8]}
        return requests.post(address, json=body, timeout=HUNG)
    return None


@pytest.mark.fault(
    "Wrong password of an MLflow server, and of a PostgreSQL database",
    "The command ends at once and says which login is refused",
)
def test_a_refused_login_is_named(ben: Person) -> None:
    wrong = {
        "MLFLOW_TRACKING_PASSWORD": f"{CANARY}-wrong",
        "MLFLOW_TRACKING_URI": ben.team.databases["runs"].replace("database", "wrong"),
    }
    said = []
    for name, value in wrong.items():
        variables = ben.team.variables("ben") | {name: value}
        done = call(ben.clone, "chapterflow", "history", "dnn", **variables)
        ben.team.said += [done.stdout, done.stderr]
        assert done.returncode == 1
        said.append(" ".join(done.stderr.split()))
    assert "Received: user 'ben' with a password that it refuses" in said[0]
    assert "password authentication failed" in said[1]
    assert "Correct user, password or database" in said[1]


def test_data_travel_through_every_remote(ana: Person, ben: Person) -> None:
    ana("data", "fetch")
    # The repository names data of models that these clones do not have.
    ana.shell("git", "commit", "-qam", "data")
    ana.shell("git", "push", "-q")
    ben.shell("git", "pull", "-q")
    remotes = {
        "folder": str(ana.team.root / "remote"),
        "s3": f"s3://{BUCKET}/dvc",
        "ssh": ana.team.ssh,
    }
    options = {
        "s3": {
            "endpointurl": ana.team.s3,
            "access_key_id": "team",
            "secret_access_key": PASSWORDS["s3"],
        },
        "ssh": {"password": PASSWORDS["ssh"]},
    }
    for person in (ana, ben):
        for remote, address in remotes.items():
            person.shell("dvc", "remote", "add", "--local", remote, address)
            for option, value in options.get(remote, {}).items():
                person.shell("dvc", "remote", "modify", "--local", remote, option, value)
    for remote in remotes:
        ana.shell("dvc", "push", "-r", remote)
        shutil.rmtree(ben.clone / "data", ignore_errors=True)
        shutil.rmtree(ben.clone / ".dvc" / "cache", ignore_errors=True)
        ben.shell("dvc", "pull", "-r", remote)
        ben("data", "verify")
    assert ana.shell("git", "status", "--porcelain") == ""


def test_a_process_pool_runs_a_deployment(ana: Person, ben: Person) -> None:
    settings = {"CHAPTERFLOW_REPOSITORY": str(ana.team.origin)}
    ana.shell("python", "-m", "prefect", "work-pool", "create", "local", "--type", "process")
    words = ("--no-prompt", "deploy", "--name", "model")
    ana.shell("python", "-m", "prefect", *words, **settings)
    api = ana.team.prefect
    deployment = requests.get(f"{api}/deployments/name/chapter/model", timeout=HUNG).json()
    parameters = {"models": ["dnn"], "workers": 1, "overrides": ["models.dnn.epochs=2"]}
    made = requests.post(
        f"{api}/deployments/{deployment['id']}/create_flow_run",
        json={"parameters": parameters},
        timeout=HUNG,
    )
    assert made.ok, made.text
    (home := ben.team.root / "worker").mkdir()
    worker = begin(
        home,
        *("python", "-m", "prefect", "worker", "start", "--pool", "local", "--run-once"),
        stderr=subprocess.STDOUT,
        env=command_environment(ben.clone) | ben.team.variables("ben"),
    )
    try:
        ben.team.said.append(worker.communicate(timeout=HUNG)[0])
    finally:
        worker.kill()
        worker.wait()
    flow = requests.get(f"{api}/flow_runs/{made.json()['id']}", timeout=HUNG).json()
    assert flow["state_type"] == "COMPLETED", ben.team.said[-1]
