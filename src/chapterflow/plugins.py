"""Kinds, sources and models are files: of this package, or of others that name theirs.

Another package names a file of its own by an entry point of the group `chapterflow.kinds`,
`chapterflow.sources` or `chapterflow.models`, in its `pyproject.toml`:

    [project.entry-points."chapterflow.kinds"]
    spectra = "weather.spectra"

The files that the `pyproject.toml` of the project names need no installation: its folder is on the
path of its processes. So several projects can share an environment, and each has its own models.
"""

import importlib
import importlib.util
import os
import pkgutil
import sys
import tomllib
from collections.abc import Collection
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from chapterflow.errors import ConfigError

T = TypeVar("T")

PACKAGE = Path(__file__).parent


def modules(package: str, *, skip: Collection[str] = ()) -> dict[str, str]:
    """Return the module of every kind, source or model, by its name, sorted.

    The file of the name `gcn-node` is `gcn_node.py`.

    Args:
        package: Package of ours that holds the files; the group of entry points is called
            `chapterflow.` and its last part.
        skip: Files of the package that are something else.

    Raises:
        ConfigError: If two files have the same name.
    """
    members = {
        module.name.replace("_", "-"): f"{package}.{module.name}"
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__)
        if not module.ispkg and module.name not in skip
    }
    for name, module in _entry_points(f"chapterflow.{package.rpartition('.')[2]}"):
        if members.setdefault(name, module) != module:
            raise ConfigError(
                f"Two files are called {name!r} in {package}: {members[name]} and {module}. "
                "Rename one, or uninstall its package."
            )
    return dict(sorted(members.items()))


def _entry_points(group: str) -> list[tuple[str, str]]:
    root = os.environ.get("CHAPTERFLOW_PROJECT")
    declared = _declared(Path(root)) if root else {}
    return [*_installed(group), *declared.get(group, {}).items()]


@cache
def _installed(group: str) -> list[tuple[str, str]]:
    return [(point.name, point.module) for point in entry_points(group=group)]


@cache
def _declared(root: Path) -> dict[str, dict[str, str]]:
    """Return the entry points in the `pyproject.toml` of a project, by group.

    If there are any for this package, its folder goes on the path of this process and of those that
    it starts, last in this one: it must not hide an installed package.
    """
    path = root / "pyproject.toml"
    if not path.is_file():
        return {}
    try:
        groups = tomllib.loads(path.read_text(encoding="utf-8"))["project"]["entry-points"]
        declared = {
            group: {name: str(point).partition(":")[0] for name, point in points.items()}
            for group, points in groups.items()
            if group.startswith("chapterflow.")
        }
    except (KeyError, TypeError):
        return {}
    except (AttributeError, ValueError) as error:  # ValueError: no UTF-8, or no TOML
        raise ConfigError(
            f"{path} must be valid TOML, with tables of entry points. Received: {error}"
        ) from error
    if declared:
        folder = str(root)
        if folder not in sys.path:
            sys.path.append(folder)
        paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if folder not in paths:
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*paths, folder]))
    return declared


def load(module: str, attribute: str, record: type[T], name: str) -> T:
    """Return what a file registers under `attribute`.

    Raises:
        ConfigError: If it is not a record of this class and name, or the file of another package
            cannot be imported.
    """
    try:
        registered: Any = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # A file may raise anything when it is imported.
        if module.startswith("chapterflow."):
            raise
        raise ConfigError(
            f"{module} ({record.__name__.lower()} {name!r}) cannot be imported. "
            f"Received: {type(error).__name__}: {error}. Repair the file, or uninstall its package."
        ) from error
    if not isinstance(registered, record) or getattr(registered, "name", None) != name:
        raise ConfigError(
            f"{module.replace('.', '/')}.py must end with "
            f"{attribute} = {record.__name__}({name!r}, ...). "
            f"Received: {getattr(registered, 'name', registered)!r}"
        )
    return registered


def source_file(module: str) -> Path | None:
    """Return the source file of a module; None where it has none."""
    spec = importlib.util.find_spec(module)
    return None if spec is None or spec.origin is None else Path(spec.origin)


def shared_sources(package: Path = PACKAGE) -> list[Path]:
    """Return the source files that decide what every model learns and scores.

    Args:
        package: Folder of the `chapterflow` package.
    """
    return [
        package / "models" / "base.py",
        package / "kinds" / "dataset.py",
        # What models read of graphs, and sums over parts of batches.
        package / "kinds" / "edges.py",
        *(package / "models" / "layers").glob("*.py"),
        *(package / "training").glob("*.py"),
        *(package / "evaluation").glob("*.py"),
    ]
