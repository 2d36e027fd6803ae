"""`chapterflow init`: a project of one's own, which uses the installed package."""

from __future__ import annotations

import json
import keyword
import re
import subprocess
import sys
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from chapterflow.cli.common import say
from chapterflow.errors import ConfigError
from chapterflow.files import staged

#: Where each template goes in a project; `PACKAGE` is the name of its package.
FILES = {
    "params.yaml": "params.yaml",
    "dvc.yaml.in": "dvc.yaml",  # DVC reads every dvc.yaml of a repository
    "pyproject.toml.in": "pyproject.toml",
    "plots.html": ".dvc/plots.html",
    "Makefile": "Makefile",
    "README.md": "README.md",
    "model.py": "PACKAGE/residual.py",
    "flows.py.in": "PACKAGE/flows.py",
    "test_model.py": "tests/test_residual.py",
    "ci.yml": ".github/workflows/ci.yml",
    "gitignore": ".gitignore",
}
#: Files that DVC and Python expect.
SMALL_FILES = {
    "PACKAGE/__init__.py": '"""Models of @name@."""\n',
    ".dvcignore": "# No stage depends on compiled files.\n__pycache__/\n*.pyc\n",
    ".dvc/config": "[core]\n    analytics = false\n[plots]\n    html_template = plots.html\n",
    ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
}
#: Folders of a project that are something else than its package.
TAKEN = ("data", "explanations", "mlruns", "playground", "report", "results", "tests")


def init(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the project, and of its new folder.")
    ],
) -> None:
    """Create a project for your own models and data.

    It is a git and DVC repository with an example model, and uses the installed chapterflow.
    """
    root = Path.cwd() / name
    package = package_name(name)
    if root.is_file() or (root.is_dir() and any(root.iterdir())):
        raise ConfigError(
            f"NAME must be a new or empty folder. Received: {name!r}, which exists in {Path.cwd()} "
            "and is not empty. Choose another name, or remove it"
        )
    about = distribution("chapterflow")
    direct = json.loads(about.read_text("direct_url.json") or "null")
    requirement, origin = requirement_of(about.version, direct)
    values = {
        "name": name,
        "package": package,
        "requirement": requirement,
        "origin": origin,
        "python": about.metadata["Requires-Python"],
    }
    with staged(root) as new:
        for path, text in project_files(values).items():
            file = new / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    say(f"Created {name}/, with the example model {package}/residual.py.")
    if problem := _commit(root):
        say(f"Not committed, so runs will record no commit: {problem}", "yellow")
    say(f"Next: `cd {name} && make run` (or `chapterflow run`) trains it and writes a report.")


def package_name(name: str) -> str:
    """Return the name of the package of a project.

    Raises:
        ConfigError: If `name` cannot be the name of a project.
    """
    package = name.replace("-", "_")
    if not re.fullmatch("[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or keyword.iskeyword(package):
        raise ConfigError(
            "NAME must be of lower-case letters, digits and single dashes, from a letter on, and "
            f"no word of Python. Received: {name!r}. For instance: `chapterflow init my-models`"
        )
    if package in TAKEN:
        raise ConfigError(
            f"NAME must differ from the other folders of a project: {', '.join(TAKEN)}. "
            f"Received: {name!r}. Choose another name"
        )
    if package in sys.stdlib_module_names or find_spec(package):
        raise ConfigError(
            f"NAME must not hide an installed package. Received: {name!r}, which is the name of "
            "a package here. Choose another name"
        )
    return package


def requirement_of(version: str, direct: dict[str, Any] | None) -> tuple[str, str]:
    """Return the requirement of the installed chapterflow, and a remark on where it is from.

    Args:
        version: Its version.
        direct: Content of its `direct_url.json` (PEP 610); None if it comes from an index.
    """
    if direct is None:
        return f"chapterflow=={version}", "The version that this project was created with."
    url = direct["url"]
    if "vcs_info" in direct:
        url = f"{direct['vcs_info']['vcs']}+{url}@{direct['vcs_info']['commit_id']}"
    if "subdirectory" in direct:
        url += f"#subdirectory={direct['subdirectory']}"
    remark = "Where chapterflow was installed from when this project was created."
    if url.startswith("file:"):
        remark = "A folder of this machine: write an address for others, git+https://HOST/REPO say."
    return f"chapterflow @ {url}", remark


def project_files(values: dict[str, str]) -> dict[str, str]:
    """Return the files of a new project by path.

    Args:
        values: By the names that templates write between `@`.
    """
    from chapterflow.checks import TEMPLATES

    templates = {
        path: (TEMPLATES / "project" / source).read_text(encoding="utf-8")
        for source, path in FILES.items()
    }
    return {
        path.replace("PACKAGE", values["package"]): _filled(text, values)
        for path, text in (templates | SMALL_FILES).items()
    }


def _filled(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def _commit(root: Path) -> str:
    """Commit a new project; return why that was not possible, or nothing."""
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", f"Start {root.name}"]):
        try:
            done = subprocess.run(
                ["git", *words], cwd=root, capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            return "git is not installed."
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            return (
                f"`git {' '.join(words[:1])}` failed ({said[-1] if said else 'it said nothing'}). "
                "Run `git add -A && git commit -m Start` there."
            )
    return ""
