"""Checks of this machine and project; a check that fails says what to do."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distributions, requires
from importlib.util import cache_from_source, find_spec
from pathlib import Path
from typing import Any

from chapterflow.checks import Check, State
from chapterflow.environment import QUIET_AND_PRIVATE, Project
from chapterflow.errors import ChapterflowError, redacted

#: Newer releases install without a complaint and break Prefect 3.8.
VITAL_PINS = ("fastapi<0.151", "sqlalchemy<2.1")
FREE_GIGABYTES = 2.0
#: Seconds for what may hang: a locked store, a server, a large data folder.
PATIENCE = 3.0
INSTALL = "Run `make run` (or `pip install -r requirements.lock`) again."
FIX = "`chapterflow doctor --fix` does it, and so does any run."


def diagnose(project: Project) -> list[Check]:
    """Return all findings, in a fixed order; takes a few seconds and changes nothing."""
    with ThreadPoolExecutor() as pool:  # most of the time is spent waiting for others
        return list(pool.map(lambda item: _guarded(item[0], item[1], project), CHECKS.items()))


def mend(project: Project) -> list[str]:
    """Create, upgrade or relocate the project's tracking store; return a line for each thing done.

    Raises:
        StoreError: If the store cannot be mended; it was not changed.
    """
    from chapterflow.tracking.store import Schema, database, is_local, open_store, schema

    if not is_local(project):
        return []
    done: list[str] = []
    missing = schema(project) is Schema.MISSING
    open_store(project, on_note=done.append)
    return [f"Made the tracking store {database(project)}.", *done] if missing else done


def _passed(name: str, observed: str) -> Check:
    return Check(name=name, state="passed", observed=observed)


def _failed(name: str, observed: str, remedy: str = "", state: State = "failed") -> Check:
    return Check(name=name, state=state, observed=observed, reason=remedy)


def _guarded(name: str, check: Callable[[Project], Check], project: Project) -> Check:
    try:
        return check(project)
    except Exception as error:  # one broken check must not hide the others
        return _failed(name, f"could not be checked: {type(error).__name__}: {error}")


def _python(project: Project) -> Check:
    from packaging.specifiers import SpecifierSet

    wanted = _pyproject(project)["requires-python"]
    received = ".".join(map(str, sys.version_info[:3]))
    if received in SpecifierSet(wanted):
        return _passed("Python", f"{received} at {sys.executable}")
    remedy = "Make a new environment: `make clean`, then `make run PYTHON=python3.12`."
    return _failed("Python", f"must be {wanted}. Received: {received}", remedy)


def _pyproject(project: Project) -> dict[str, Any]:
    text = (project.root / "pyproject.toml").read_text(encoding="utf-8")
    table: dict[str, Any] = tomllib.loads(text)["project"]
    return table


def _packages(project: Project) -> Check:
    from packaging.requirements import Requirement

    lock, document = project.root / "requirements.lock", _pyproject(project)
    if lock.is_file():
        source, text = "in requirements.lock", lock.read_text("utf-8")
        lines = re.findall(r"^[A-Za-z0-9][^\\\n]*==[^\\\n]*", text, re.MULTILINE)
    elif document["name"] == "chapterflow":
        return _failed("Packages", f"{lock} is missing", "Restore it from git.")
    else:
        # A project of its own, which may have no lock.
        source = "chapterflow and pyproject.toml require"
        lines = [*document.get("dependencies", []), *(requires("chapterflow") or [])]
    pins = [Requirement(line) for line in lines]
    active = [pin for pin in pins if pin.marker is None or pin.marker.evaluate({"extra": ""})]
    installed = _installed()
    wrong = [
        f"{pin.name} must be {str(pin.specifier).removeprefix('==')}, "
        f"is {installed.get(_plain(pin.name), 'missing')}"
        for pin in active
        if installed.get(_plain(pin.name), "0.dev0") not in pin.specifier
    ]
    if not wrong:
        return _passed("Packages", f"all {len(active)} as {source}")
    more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    return _failed("Packages", "; ".join(wrong[:5]) + more, INSTALL)


def _pins(_project: Project) -> Check:
    from packaging.requirements import Requirement

    installed = _installed()
    pins = [Requirement(pin) for pin in VITAL_PINS]
    versions = ", ".join(f"{pin.name} {installed.get(pin.name, 'missing')}" for pin in pins)
    if all(installed.get(pin.name, "999") in pin.specifier for pin in pins):
        return _passed("Pins that Prefect needs", versions)
    wanted = " and ".join(VITAL_PINS)
    return _failed("Pins that Prefect needs", f"{versions}; must be {wanted}", INSTALL)


def _installed() -> dict[str, str]:
    return {_plain(package.name): package.version for package in distributions() if package.name}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _backend(_project: Project) -> Check:
    backend, source = os.environ.get("KERAS_BACKEND"), "KERAS_BACKEND"
    if not backend:
        home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
        source = str(home / "keras.json")
        given = json.loads(Path(source).read_text("utf-8")) if Path(source).is_file() else {}
        backend = given.get("backend", "tensorflow")
    if backend == "tensorflow":
        return _passed("Keras backend", backend)
    remedy = "Unset KERAS_BACKEND." if source == "KERAS_BACKEND" else f"Change it in {source}."
    return _failed("Keras backend", f"must be tensorflow. Received: {backend!r}", remedy)


def _params(project: Project) -> Check:
    from chapterflow.config.load import load_settings

    try:
        settings = load_settings(project.params)
    except ChapterflowError as error:
        return _failed("params.yaml", "; ".join(str(error).splitlines()), "Correct the file.")
    summary = f"{len(settings.models)} models, profile {settings.profile}"
    return _passed("params.yaml", summary)


def _store(project: Project) -> Check:
    from chapterflow.tracking import store

    name, uri = "Tracking store", store.tracking_uri(project)
    try:
        if store.is_local(project):
            return _local_store(project)
        store.check_remote(uri)
        return _passed(name, f"{redacted(uri)}, {_remote_artifacts(project, uri)}")
    except ChapterflowError as error:
        return _failed(name, str(error))


def _remote_artifacts(project: Project, uri: str) -> str:
    """Return that the experiment's artifacts can be written and read, in a few words.

    Raises:
        ConfigError: If MLflow cannot use the address.
        StoreError: If the server refuses, or artifacts cannot be written and read.
    """
    from chapterflow.config.load import load_settings
    from chapterflow.tracking.store import check_artifacts, open_client, store_errors

    name = load_settings(project.params, models=False).tracking.experiment
    with store_errors(uri):
        experiment = open_client(uri).get_experiment_by_name(name)
    if experiment is None:
        return f"the first run creates the experiment {name}"
    check_artifacts(uri, experiment.artifact_location)
    return "artifacts written and read"


def _local_store(project: Project) -> Check:
    from chapterflow.tracking.store import (
        Schema,
        check_intact,
        check_writable,
        database,
        relocation,
        schema,
    )

    name, path = "Tracking store", database(project)
    state = schema(project, wait=PATIENCE)
    if state is Schema.MISSING:
        return _passed(name, f"{path}: the first run makes it")
    check_intact(project, PATIENCE)
    if state is Schema.NEWER:
        remedy = "Install that MLflow again, or set MLFLOW_TRACKING_URI to another store."
        return _failed(name, f"{path} was {state.value} than the installed one", remedy)
    if state is Schema.OLDER:
        return _failed(name, f"{path} was {state.value} than the installed one", FIX)
    if moved := relocation(project, wait=PATIENCE):
        detail = f"{path} still names artifacts in {moved.old}: the project was moved or copied"
        return _failed(name, detail, FIX)
    check_writable(project)
    return _passed(name, f"{path}, schema current, writable")


def _data_versions(project: Project) -> Check:
    name = "Data versions"
    git = _run(["git", "rev-parse", "--is-inside-work-tree"], project)
    if git is None or git.returncode != 0:
        remedy = "Runs work, but record no version of code and data. Clone the project with git."
        return _failed(name, f"{project.root} is no git checkout", remedy)
    if not (project.root / ".dvc").is_dir():
        return _failed(name, "there is no .dvc folder", "Restore it from git.")
    settings = configparser.ConfigParser()
    settings.read([project.root / ".dvc" / "config", project.root / ".dvc" / "config.local"])
    if settings.get("core", "analytics", fallback="true").strip().lower() != "false":
        remedy = "Run `dvc config core.analytics false`."
        return _failed(name, "core.analytics must be false in .dvc/config", remedy)
    if not project.data_dvc.is_file():
        return _passed(name, "none yet: the first run records one")
    if not project.data.is_dir():
        return _passed(name, "recorded in data.dvc; data/ itself is fetched by the first run")
    return _data_status(project)


def _data_status(project: Project) -> Check:
    name = "Data versions"
    command = [sys.executable, "-m", "dvc", "data", "status", "--granular", "--json"]
    done = _run(command, project)
    if done is None:
        return _passed(name, f"recorded in data.dvc; not compared within {PATIENCE:g} s")
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        return _failed(name, f"dvc data status failed: {said[-1]}", "Run `dvc data status`.")
    changes = json.loads(done.stdout or "{}").get("uncommitted", {})
    if not changes:
        return _passed(name, "data/ is what data.dvc records")
    if "unknown" in changes or (set(changes) == {"modified"} and changes["modified"] == ["data/"]):
        remedy = "`chapterflow data fetch` builds the datasets of a profile and records them."
        observed = "data.dvc records a version that DVC's cache does not have: not compared"
        return _failed(name, observed, remedy, "warning")
    return _data_changes(project, changes)


def _data_changes(project: Project, changes: dict[str, list[str]]) -> Check:
    """Return whether datasets that data.dvc records were changed.

    Only whole profiles are recorded: a dataset that a run has built on its own is in `data/` and in
    no version, and one that no run has needed is in a version and not in `data/`.
    """
    name = "Data versions"
    by_kind = {kind: _datasets(paths) for kind, paths in changes.items()}
    cards = {f"data/{dataset}/dataset.json" for dataset in by_kind.get("added", set())}
    new = {path.split("/")[1] for path in cards & set(changes.get("added", []))}
    absent = {d for d in by_kind.get("deleted", set()) if not (project.data / d).exists()}
    if changed := set().union(*by_kind.values()) - new - absent:
        remedy = (
            "`chapterflow data verify` finds damage; `chapterflow data fetch --force NAME` builds "
            "a dataset again. If all are well, `chapterflow data fetch` records them (`dvc "
            "checkout data.dvc` would delete what is not recorded)."
        )
        observed = f"data/ is not what data.dvc records: {', '.join(sorted(changed))}"
        return _failed(name, observed, remedy)
    notes = [
        f"{', '.join(sorted(datasets))} {state}"
        for datasets, state in ((new, "not recorded"), (absent, "recorded, but not built"))
        if datasets
    ]
    remedy = "Only whole profiles are recorded: `chapterflow data fetch` builds and records one."
    return _failed(name, f"recorded datasets are unchanged; {'; '.join(notes)}", remedy, "warning")


def _datasets(paths: list[str]) -> set[str]:
    return {path.split("/")[1] for path in paths if path.count("/") > 1 or path[-1] != "/"}


def _run(command: list[str], project: Project) -> subprocess.CompletedProcess[str] | None:
    """Return what a command said, or None if it is not installed or takes too long."""
    try:
        return subprocess.run(
            command,
            cwd=project.root,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def _prefect(project: Project) -> Check:
    home = Path(os.environ.get("PREFECT_HOME") or project.root / ".prefect").expanduser()
    existing = next(folder for folder in (home, *home.absolute().parents) if folder.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        remedy = "Change its permissions or set PREFECT_HOME to another folder."
        return _failed("Prefect", f"PREFECT_HOME must be a writable folder: {home}", remedy)
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return _passed("Prefect", "its own server, on demand")
    import requests

    address = redacted(url)
    try:
        answer = requests.get(f"{url.rstrip('/')}/health", timeout=PATIENCE)
    except requests.RequestException as error:
        fault = f"PREFECT_API_URL is {address}, which does not answer ({type(error).__name__})"
    else:
        if answer.ok:
            return _passed("Prefect", f"server at {address}")
        fault = f"PREFECT_API_URL is {address}, which answers {answer.status_code}"
    remedy = "Start that server (`prefect server start`), or unset PREFECT_API_URL."
    return _failed("Prefect", fault, remedy)


def _telemetry(_project: Project) -> Check:
    switches = {
        name: value
        for name, value in QUIET_AND_PRIVATE.items()
        if re.search("TRACK$|TELEMETRY|ANALYTICS", name)
    }
    wrong = [name for name in switches if not _same(os.environ.get(name, ""), switches[name])]
    if not wrong:
        return _passed("Telemetry", f"off ({len(switches)} switches)")
    remedy = "Unset them: chapterflow then sets each one itself."
    return _failed("Telemetry", f"not switched off by {', '.join(wrong)}", remedy)


def _same(received: str, wanted: str) -> bool:
    on, off = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}
    return any(received.lower() in values and wanted.lower() in values for values in (on, off))


def _disk(project: Project) -> Check:
    free = shutil.disk_usage(project.root).free / 1e9
    if free >= FREE_GIGABYTES:
        return _passed("Disk space", f"{free:.1f} GB free")
    remedy = "Free some: `.chapterflow/` can be deleted when nothing runs."
    fault = f"{free:.1f} GB free, must be at least {FREE_GIGABYTES:g} GB"
    return _failed("Disk space", fault, remedy)


def _bytecode(_project: Project) -> Check:
    name, slow = "Bytecode", "imports take about three times as long"
    sources = [spec.origin for library in HEAVY if (spec := find_spec(library)) and spec.origin]
    missing = [s for s in sources if not Path(cache_from_source(s)).is_file()]
    if not missing:
        return _passed(name, "compiled")
    fault = f"{len(missing)} of {len(sources)} libraries not compiled: {slow}"
    command = [sys.executable, "-m", "compileall", "-q", str(Path(missing[0]).parent.parent)]
    remedy = f"Run `{shlex.join(command)}`."
    # It keeps Python from writing compiled files, but not from reading existing ones.
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        fault += "; PYTHONDONTWRITEBYTECODE prevents it"
        remedy = f"Unset PYTHONDONTWRITEBYTECODE. {remedy}"
    return _failed(name, fault, remedy)


#: Their import time is what a command spends at its start; where they are compiled, the rest is.
HEAVY = ("keras", "mlflow", "prefect")
CHECKS: dict[str, Callable[[Project], Check]] = {
    "Python": _python,
    "Packages": _packages,
    "Pins that Prefect needs": _pins,
    "Keras backend": _backend,
    "params.yaml": _params,
    "Tracking store": _store,
    "Data versions": _data_versions,
    "Prefect": _prefect,
    "Telemetry": _telemetry,
    "Disk space": _disk,
    "Bytecode": _bytecode,
}
