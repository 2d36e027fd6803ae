"""The doctor finds what is wrong, says what to do, and neither fails nor changes anything."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import cache_from_source, find_spec
from pathlib import Path
from threading import Thread

import pytest

from chapterflow.checks import Check, State
from chapterflow.cli import doctor
from chapterflow.cli.doctor import diagnose, mend
from chapterflow.environment import Project
from chapterflow.tracking.store import database
from tests.conftest import FORKS
from tests.tracking.proxy import proxy

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def patient(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project in git and DVC in which nothing is wrong."""
    for name in ("PYTHONDONTWRITEBYTECODE", "PREFECT_HOME", "DVC_NO_ANALYTICS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "true")
    monkeypatch.setenv("CHAPTERFLOW_STORE_WAIT", "1")
    # A busy machine may need longer for git and DVC than a user waits.
    monkeypatch.setattr(doctor, "PATIENCE", 60.0)
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(REPOSITORY / name, project.root)
    subprocess.run(["git", "init", "-q"], cwd=project.root, check=True)
    (project.root / ".dvc").mkdir()
    (project.root / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    return project


def passed(name: str, observed: str, state: State = "passed") -> Check:
    return Check(name=name, state=state, observed=observed)


def failed(name: str, observed: str) -> Check:
    return passed(name, observed, "failed")


def check(project: Project, name: str) -> Check:
    """Return one finding, without the time that the others take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "CHECKS", {name: doctor.CHECKS[name]})
        patch.setattr(sys, "executable", FORKS.python)  # for DVC
        (actual,) = diagnose(project)
    assert actual.name == name
    assert actual.observed
    assert "\n" not in str(actual.observed)
    return actual


def test_healthy_project_passes_and_is_not_changed(patient: Project) -> None:
    before = sorted(patient.root.rglob("*"))
    checks = diagnose(patient)
    assert [c.name for c in checks] == list(doctor.CHECKS)
    # Bytecode is a matter of how the machine was set up; it has a test of its own.
    assert [c for c in checks if not c.passed and c.name not in {"Bytecode", "Packages"}] == []
    assert sorted(patient.root.rglob("*")) == before


def test_no_check_imports_a_heavy_library(patient: Project) -> None:
    code = (
        "import sys; from pathlib import Path; from chapterflow.environment import Project;"
        "from chapterflow.cli.doctor import diagnose; diagnose(Project(Path(sys.argv[1])));"
        "heavy = {'tensorflow', 'keras', 'mlflow', 'sqlalchemy', 'prefect', 'dvc'};"
        "print(heavy & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, patient.root], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_trouble_in_a_check_is_a_finding(patient: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_project: Project) -> Check:
        raise RuntimeError("boom")

    monkeypatch.setitem(doctor.CHECKS, "Disk space", broken)
    actual = check(patient, "Disk space")
    assert actual == failed("Disk space", "could not be checked: RuntimeError: boom")
    assert len(diagnose(Project(patient.root / "nowhere"))) == len(doctor.CHECKS)


def test_python_and_packages_are_held_against_the_project(patient: Project) -> None:
    settings = patient.root / "pyproject.toml"
    settings.write_text('[project]\nrequires-python = ">=3.99"\n')
    (patient.root / "requirements.lock").write_text(
        "numpy==1.0 \\\n    --hash=sha256:ab\n"
        "No_Such.Package==2.0 \\\n    --hash=sha256:ab\n"
        "another-one==3 ; sys_platform == 'none' \\\n    --hash=sha256:ab\n"
    )
    assert not check(patient, "Python").passed
    actual = check(patient, "Packages")
    assert "numpy must be 1.0, is " in str(actual.observed)
    assert "No_Such.Package must be 2.0, is missing" in str(actual.observed)
    assert "another-one" not in str(actual.observed)
    assert "requirements.lock" in str(actual.reason)


@pytest.mark.parametrize(
    ("installed", "ok"),
    [
        ({"fastapi": "0.150.0", "sqlalchemy": "2.0.58"}, True),
        ({"fastapi": "0.151.0", "sqlalchemy": "2.0.58"}, False),
        ({"fastapi": "0.150.0", "sqlalchemy": "2.1.0"}, False),
        ({"sqlalchemy": "2.0.58"}, False),
    ],
)
def test_vital_pins(
    installed: dict[str, str], ok: bool, patient: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_installed", lambda: installed)
    assert check(patient, "Pins that Prefect needs").passed is ok


def test_keras_backend_from_environment_or_file(
    patient: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert check(patient, "Keras backend").reason == "Unset KERAS_BACKEND."
    monkeypatch.delenv("KERAS_BACKEND")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert check(patient, "Keras backend").passed
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    assert str(tmp_path / "keras.json") in str(check(patient, "Keras backend").reason)


def test_fault_in_params_is_reported(patient: Project) -> None:
    patient.params.write_text(patient.params.read_text() + "\nsurplus: 1\n")
    actual = check(patient, "params.yaml")
    assert not actual.passed
    assert "surplus: unknown key" in str(actual.observed)


def test_store_is_watched_and_mended(patient: Project, tmp_path: Path) -> None:
    assert "the first run makes it" in str(check(patient, "Tracking store").observed)
    assert mend(patient) == [f"Made the tracking store {database(patient)}."]
    assert mend(patient) == []
    assert "schema current, writable" in str(check(patient, "Tracking store").observed)

    moved = Project(tmp_path / "moved")
    patient.root.rename(moved.root)
    actual = check(moved, "Tracking store")
    assert not actual.passed
    assert f"still names artifacts in {patient.root}" in str(actual.observed)
    assert "doctor --fix" in str(actual.reason)
    (line,) = mend(moved)
    assert "Artifact paths rewritten: 1." in line
    assert check(moved, "Tracking store").passed

    with closing(sqlite3.connect(database(moved))) as db, db:
        db.execute("UPDATE alembic_version SET version_num = '75868b020152'")
    assert "doctor --fix" in str(check(moved, "Tracking store").reason)
    assert "made it again" in mend(moved)[0]

    with closing(sqlite3.connect(database(moved))) as db, db:
        db.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    assert "newer MLflow than the installed one" in str(check(moved, "Tracking store").observed)

    whole = database(moved).read_bytes()
    for damaged in (whole[: len(whole) * 9 // 10], whole[: -(1 << 18)] + bytes(1 << 18)):
        for journal in database(moved).parent.glob("mlflow.db-*"):
            journal.unlink()
        database(moved).write_bytes(damaged)
        actual = check(moved, "Tracking store")
        assert actual.state == "failed"
        assert "Restore it from a copy" in str(actual.observed)
    database(moved).write_bytes(b"no database" * 100)
    assert "file is not a database" in str(check(moved, "Tracking store").observed)


def test_store_elsewhere_is_asked_but_not_mended(
    patient: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    actual = check(patient, "Tracking store")
    assert not actual.passed
    assert "secret" not in str(actual.observed)
    assert mend(patient) == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@127.0.0.1:9/mlflow")
    actual = check(patient, "Tracking store")
    assert not actual.passed
    assert "postgresql://***@127.0.0.1:9/mlflow does not answer" in str(actual.observed)


@pytest.mark.parametrize(
    ("status", "user", "said"),
    [
        ("401", "", "Received: no user. Set MLFLOW_TRACKING_USERNAME"),
        ("401", "ben", "Received: user 'ben' with a password that it refuses."),
        ("403", "ben", "Received: user 'ben' without permission (API request"),
    ],
)
def test_a_refused_login_is_named(
    patient: Project, monkeypatch: pytest.MonkeyPatch, status: str, user: str, said: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    with proxy(fault=status) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
        actual = check(patient, "Tracking store")
    assert actual.state == "failed"
    assert said in str(actual.observed)
    assert "secret" not in str(actual.observed)


@pytest.mark.slow
def test_data_versions(patient: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def actual() -> Check:
        return check(patient, "Data versions")

    assert "the first run records one" in str(actual().observed)
    patient.data.mkdir()
    (patient.data / "a.txt").write_text("first")
    subprocess.run([FORKS.python, "-m", "dvc", "add", "-q", "data"], cwd=patient.root, check=True)
    assert actual() == passed("Data versions", "data/ is what data.dvc records")
    (patient.data / "a.txt").write_text("second")
    assert "is not what data.dvc records" in str(actual().observed)
    with monkeypatch.context() as hurried:
        hurried.setattr(doctor, "PATIENCE", 0.05)
        assert (actual().passed, "not compared within" in str(actual().observed)) == (True, True)
    patient.data_dvc.write_text("no: [yaml")
    assert "dvc data status failed" in str(actual().observed)
    shutil.rmtree(patient.data)
    assert actual().passed
    (patient.root / ".dvc" / "config").write_text("[core]\n    analytics = true\n")
    assert "analytics false" in str(actual().reason)
    shutil.rmtree(patient.root / ".dvc")
    assert str(actual().observed) == "there is no .dvc folder"
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(patient.root.parent))
    shutil.rmtree(patient.root / ".git")
    assert "is no git checkout" in str(actual().observed)


def test_datasets_that_no_version_records_by_design_are_no_failure(patient: Project) -> None:
    """Only whole profiles are recorded; a run may build one dataset of another profile."""
    for name in ("digits", "curves"):
        (patient.data / name).mkdir(parents=True)
        (patient.data / name / "dataset.json").write_text(name)
    subprocess.run([FORKS.python, "-m", "dvc", "add", "-q", "data"], cwd=patient.root, check=True)
    (patient.data / "mnist").mkdir()
    (patient.data / "mnist" / "dataset.json").write_text("mnist")
    shutil.rmtree(patient.data / "curves")
    actual = check(patient, "Data versions")
    assert actual.state == "warning"
    assert "mnist not recorded; curves recorded, but not built" in str(actual.observed)
    assert "chapterflow data fetch" in actual.reason

    (patient.data / "digits" / "more.npy").write_text("more")
    actual = check(patient, "Data versions")
    assert actual.state == "failed"
    assert str(actual.observed).endswith("records: digits")


def test_a_version_that_the_cache_lacks_is_not_compared(
    patient: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a clone: data.dvc is there, and the data it records are not."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    (patient.data / "mnist").mkdir(parents=True)
    (patient.data / "mnist" / "dataset.json").write_text("mnist")
    record = f"outs:\n- md5: {'0' * 32}.dir\n  size: 1\n  nfiles: 1\n  hash: md5\n  path: data\n"
    patient.data_dvc.write_text(record)
    actual = check(patient, "Data versions")
    assert actual.state == "warning"
    assert "cache does not have" in str(actual.observed)


def test_prefect_server_is_asked(patient: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/api/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    assert str(check(patient, "Prefect").observed) == "its own server, on demand"
    server = HTTPServer(("127.0.0.1", 0), Health)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("PREFECT_API_URL", f"{address}/api")
    assert check(patient, "Prefect").passed
    monkeypatch.setenv("PREFECT_API_URL", f"{address}/other")
    assert "answers 404" in str(check(patient, "Prefect").observed)
    server.shutdown()
    server.server_close()
    assert "does not answer" in str(check(patient, "Prefect").observed)

    monkeypatch.setenv("PREFECT_HOME", str(patient.params))
    assert "must be a writable folder" in str(check(patient, "Prefect").observed)


@pytest.mark.parametrize(
    "switch",
    [
        "DO_NOT_TRACK",
        "MLFLOW_DISABLE_TELEMETRY",
        "PREFECT_SERVER_ANALYTICS_ENABLED",
        "GX_ANALYTICS_ENABLED",
        "DVC_NO_ANALYTICS",
        "HF_HUB_DISABLE_TELEMETRY",
    ],
)
def test_each_telemetry_switch_is_watched(
    switch: str, patient: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check(patient, "Telemetry").passed
    monkeypatch.setenv(switch, "true" if switch.endswith("ENABLED") else "false")
    assert str(check(patient, "Telemetry").observed) == f"not switched off by {switch}"


def test_disk_space(patient: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "FREE_GIGABYTES", 1e9)
    actual = check(patient, "Disk space")
    assert not actual.passed
    assert "must be at least" in str(actual.observed)


def test_bytecode(patient: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))
    actual = check(patient, "Bytecode")
    assert not actual.passed
    assert "3 of 3 libraries not compiled" in str(actual.observed)
    assert f"compileall -q {Path(os.__file__).parent}" not in str(actual.reason)
    assert "PYTHONDONTWRITEBYTECODE" not in f"{actual.observed!s} {actual.reason}"
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    actual = check(patient, "Bytecode")
    assert not actual.passed
    assert "PYTHONDONTWRITEBYTECODE prevents it" in str(actual.observed)
    assert str(actual.reason).startswith("Unset PYTHONDONTWRITEBYTECODE. Run `")


@pytest.mark.parametrize("variable", ["", "1"])
def test_compiled_libraries_are_read_whatever_the_variable_says(
    variable: str, patient: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", variable)
    for library in ("keras", "mlflow", "prefect"):
        spec = find_spec(library)
        assert spec
        assert spec.origin
        compiled = Path(cache_from_source(spec.origin))
        compiled.parent.mkdir(parents=True)
        compiled.touch()
    assert check(patient, "Bytecode") == passed("Bytecode", "compiled")
