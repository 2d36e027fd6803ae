"""`chapterflow init`: a project of one's own, which uses the installed package."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from chapterflow.cli.init import package_name, requirement_of
from chapterflow.environment import leave_project
from chapterflow.errors import ConfigError
from tests.conftest import FORKS, REPOSITORY, Run, invoke


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A project of the test's own, `tried-out`."""
    done = invoke(tmp_path, "init", "tried-out")
    assert done.returncode == 0, done.stderr
    assert "Next: `cd tried-out && make run`" in done.stderr
    return tmp_path / "tried-out"


def documents(root: Path, name: str) -> tuple[dict, dict]:
    """Return a YAML file of a project and of this checkout."""
    return (
        yaml.safe_load((root / name).read_text("utf-8")),
        yaml.safe_load((REPOSITORY / name).read_text("utf-8")),
    )


def test_a_new_project_is_committed_and_formatted(mine: Path) -> None:
    def output(*words: str) -> str:
        done = subprocess.run(words, cwd=mine, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert output("git", "status", "--porcelain") == ""
    assert output("git", "log", "--format=%s") == "Start tried-out\n"
    output("ruff", "check", ".")
    output("ruff", "format", "--check", ".")
    assert output("make", "-n", "run") != ""
    # A placeholder that no value has replaced.
    files = output("git", "ls-files").split()
    text = "".join((mine / name).read_text("utf-8") for name in files)
    assert "@name@" not in text
    assert "@package@" not in text
    point = tomllib.loads((mine / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]
    assert point == {"chapterflow.models": {"residual": "tried_out.residual"}}


def test_a_new_project_has_the_settings_of_the_chapter(mine: Path) -> None:
    params, chapters = documents(mine, "params.yaml")
    for block in ("seed", "validation", "evaluation", "comparison"):
        assert params[block] == chapters[block]
    assert params["datasets"] == {"digits": chapters["datasets"]["digits"]}
    assert params["promotion"].keys() == chapters["promotion"].keys()


def test_a_new_project_has_the_stages_of_the_chapter(mine: Path) -> None:
    stages, chapters = (document["stages"] for document in documents(mine, "dvc.yaml"))
    assert stages.keys() == chapters.keys()
    for name, stage in stages.items():
        own, theirs = stage.get("do", stage), chapters[name].get("do", chapters[name])
        assert own | {"deps": []} == theirs | {"deps": []}
    assert "tried_out" in stages["fingerprint"]["deps"]


def test_the_model_of_a_new_project_is_read(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from chapterflow.config.load import load_settings
    from chapterflow.models.catalog import get_model

    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setenv("CHAPTERFLOW_PROJECT", str(mine))
    settings = load_settings(mine / "params.yaml")
    assert list(settings.models) == ["residual"]
    assert get_model("residual").params.__module__ == "tried_out.residual"
    assert os.environ["PYTHONPATH"] == str(mine)
    monkeypatch.setenv("CHAPTERFLOW_PROJECT", str(REPOSITORY))
    with pytest.raises(KeyError):
        get_model("residual")


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    done = invoke(tmp_path, "init", "full")
    assert done.returncode == 2
    assert "NAME must be a new or empty folder. Received: 'full'" in done.stderr
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Mine", "lower-case letters"),
        ("../mine", "lower-case letters"),
        ("2mine", "from a letter on"),
        ("my--models", "single dashes"),
        ("class", "no word of Python"),
        ("data", "other folders of a project"),
        ("numpy", "an installed package"),
        ("chapterflow", "an installed package"),
    ],
)
def test_a_name_that_cannot_be_a_project_is_refused(name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){reason}.*Received: '{name}'|Received: '{name}'.*"):
        package_name(name)


@pytest.mark.parametrize(
    ("direct", "requirement"),
    [
        (None, "chapterflow==0.1.0"),
        ({"url": "file:///code", "dir_info": {"editable": True}}, "chapterflow @ file:///code"),
        (
            {"url": "https://host/repo", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}},
            "chapterflow @ git+https://host/repo@c0ffee",
        ),
    ],
)
def test_a_project_requires_what_is_installed(direct: dict | None, requirement: str) -> None:
    assert requirement_of("0.1.0", direct)[0] == requirement


def test_every_file_of_the_package_is_in_its_wheel() -> None:
    package = REPOSITORY / "src" / "chapterflow"
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["chapterflow"]
    shipped = {path for pattern in patterns for path in package.glob(pattern)}
    listed = subprocess.run(
        ["git", "ls-files", "-z", str(package)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    files = {REPOSITORY / name for name in listed if name}
    modules = {
        file for file in files if (file.parent / "__init__.py") in files and file.suffix == ".py"
    }
    assert files - modules - shipped == set()


@pytest.mark.slow
def test_the_example_of_a_new_project_trains(
    tmp_path: Path, run_flow: Run, prefect_api: dict[str, str]
) -> None:
    leave_project()
    # A name of its own: this process has imported the model of the other tests.
    assert invoke(tmp_path, "init", "trained-here").returncode == 0
    mine = tmp_path / "trained-here"
    params = mine / "params.yaml"
    params.write_text(params.read_text("utf-8").replace("epochs: 12", "epochs: 1"), "utf-8")
    done = run_flow(mine, "run", report=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 trained." in done.stdout
    assert (mine / "report" / "index.html").is_file()
    own = subprocess.run(
        [FORKS.python, "-m", "trained_here.flows"],
        cwd=mine,
        env=os.environ | prefect_api,
        capture_output=True,
        text=True,
        check=False,
    )
    # Nothing is committed yet, and one epoch is too little for the gates.
    assert "residual: refused. residual/1" in own.stdout, own.stderr
    doctor = invoke(mine, "doctor")
    assert "FAILED" not in doctor.stdout
    graph = subprocess.run(
        [FORKS.python, "-m", "dvc", "dag", "--dot"],
        cwd=mine,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert '"validate@digits" -> "fingerprint"' in graph
    leave_project()
