"""The fingerprint of a run: equal fingerprints are equal work, which is done once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chapterflow.environment import Project
from chapterflow.files import sha256_file
from chapterflow.kinds.dataset import DatasetCard, kind_modules, read_card
from chapterflow.models.catalog import model_modules
from chapterflow.plugins import PACKAGE, shared_sources, source_file

if TYPE_CHECKING:
    from chapterflow.config.settings import Settings

#: Libraries whose version can change a number.
NUMERIC_LIBRARIES = (
    *("tensorflow", "keras", "tensorflow-hub", "numpy", "scipy", "scikit-learn", "pillow"),
)


def fingerprint_parts(
    settings: Settings, model: str, cards: Sequence[DatasetCard]
) -> dict[str, Any]:
    """Return all that decides a model's run, in a form that people can compare.

    Args:
        settings: Checked settings, profile chosen.
        model: Name of the chapter model.
        cards: Cards of the datasets that it reads, that which it learns first.
    """
    card, *others = cards
    return {
        "model": model,
        "params": settings.params(model).model_dump(mode="json"),
        "evaluation": settings.evaluation.model_dump(mode="json"),
        "seed": settings.seed,
        "dataset": {"name": card.name, "digest": card.digest},
        "other_datasets": {other.name: other.digest for other in others},
        "sources": source_hashes(model, card.kind),
        "files": {name: content_hash(Path(name)) for name in settings.params(model).files()},
        "libraries": dict(_library_versions()),
    }


@cache
def _library_versions() -> dict[str, str]:
    # Reading the metadata of packages takes longer than all other parts.
    return {name: version(name) for name in NUMERIC_LIBRARIES}


def fingerprint(parts: dict[str, Any]) -> str:
    """Return the SHA-256 over the parts, as canonical JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def content_hash(path: Path) -> str:
    """Return a hash over a file or a folder; of no bytes where neither exists."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path).as_posix()} {sha256_file(file)}\n".encode())
    return digest.hexdigest()


def source_hashes(model: str, kind: str, package: Path = PACKAGE) -> dict[str, str]:
    """Return path and hash of every source file that decides what a model learns and scores.

    These are the model's own file, the kind of its data, and the `shared_sources`: what the stage
    `fingerprint` of `dvc.yaml` depends on. Another model's file, or the command line, changes
    nothing. Of a model or a kind from another package its one file counts.

    Args:
        model: Name of the chapter model.
        kind: Kind of its data.
        package: Folder of the `chapterflow` package.
    """
    files = shared_sources(package)
    hashes = {}
    for module in (model_modules().get(model, ""), kind_modules().get(kind, "")):
        top, _, inside = module.partition(".")
        if top == package.name:
            files.append(package.joinpath(*inside.split(".")).with_suffix(".py"))
        elif module and (outside := source_file(module)):
            hashes[f"{module.replace('.', '/')}.py"] = sha256_file(outside)
    hashes |= {
        f"src/{path.relative_to(package.parent).as_posix()}": sha256_file(path) for path in files
    }
    return dict(sorted(hashes.items()))


def validation_folder(project: Project, settings: Settings, dataset: str, digest: str) -> Path:
    """Return where the verdict on a dataset stands: one folder for each data, bounds and checks."""
    kind = read_card(project.data / dataset).kind
    parts = [
        digest,
        settings.validation.bounds(kind).model_dump_json(),
        json.dumps(_check_hashes(kind)),
        version("great-expectations"),
    ]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return project.scratch / "validation" / f"{dataset}-{key}"


def _check_hashes(kind: str) -> dict[str, str]:
    """Return name and hash of the source files that decide a verdict on data of a kind."""
    files = [*(PACKAGE / "validation").glob("*.py"), *(PACKAGE / "kinds").glob("*.py")]
    own = source_file(kind_modules()[kind])
    return {path.name: sha256_file(path) for path in sorted({*files, *([own] if own else [])})}
