"""A model as one task for another machine: what is sent, and what is checked and brought there.

An order has settings and hashes, no path. The other machine has a checkout of its own and shares
the tracking store; it must have the same code and packages, and brings the data itself.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock

from chapterflow.data.build import prepare, refuse_damage, verify_dataset
from chapterflow.data.versioning import pull
from chapterflow.environment import Project, configure, find_project, project_lock, user_cache
from chapterflow.errors import ConfigError, DataError
from chapterflow.files import publish
from chapterflow.kinds.dataset import CARD, read_card
from chapterflow.loop import steps
from chapterflow.loop.clusters import refuse_other
from chapterflow.loop.run import Run
from chapterflow.tracking import runs
from chapterflow.tracking.records import Outcome
from chapterflow.types import Tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chapterflow.config.settings import Settings
    from chapterflow.validation.verdict import Verdict

#: Seconds after which a dataset that no checkout has copied is removed from this machine's cache.
UNUSED_SECONDS = 30 * 24 * 3600.0


@dataclass(frozen=True)
class Order:
    """A model to run, from look-up to registration.

    Attributes:
        parts: All that decides the run (`tracking.fingerprint.fingerprint_parts`).
        digests: Of the datasets that the model reads, by name.
        flow_run_id: MLflow run of the flow or sweep; the model's run is nested in it.
        label: What tells the run from the others of the flow.
        run_type: As `Run.run_type`.
        force: Train even where a finished run has the fingerprint.
        tags: More tags for the run.
    """

    settings: Settings
    model: str
    parts: dict[str, Any]
    digests: dict[str, str]
    flow_run_id: str
    label: str
    run_type: str
    force: bool = False
    tags: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run, **options: Any) -> Self:
        """Return the order for a run of this checkout."""
        names = run.settings.datasets_of(run.model)
        return cls(
            settings=run.settings,
            model=run.model,
            parts=run.parts,
            label=run.label,
            run_type=run.run_type,
            digests={name: read_card(run.project.data / name).digest for name in names},
            **options,
        )


def take(order: Order, verdicts: Sequence[Verdict], *, tell: Tell) -> Outcome:
    """Run a model here, as ordered from elsewhere.

    Args:
        order: The model.
        verdicts: Of the validation of the datasets that it reads.
        tell: Called with progress.

    Raises:
        ChapterflowError: As `accept`.
    """
    return steps.run_model(
        accept(order, tell=tell),
        verdicts,
        flow_run_id=order.flow_run_id,
        force=order.force,
        tags=order.tags,
        tell=tell,
    )


def accept(order: Order, *, tell: Tell) -> Run:
    """Return an order's run in the checkout around the current folder, with its data.

    Raises:
        ConfigError: If this checkout has other code, numeric libraries or tracking store.
        DataError: If it cannot have the same data.
    """
    project = find_project()
    configure(project)
    for name, digest in order.digests.items():
        _bring(project, order.settings, name, digest, tell)
    run = Run(project, order.settings, order.model, run_type=order.run_type)
    refuse_other("fingerprint", order.parts, run.parts)
    _check_store(run, order.flow_run_id)
    return run


def _bring(project: Project, settings: Settings, name: str, digest: str, tell: Tell) -> None:
    """Bring a dataset onto this machine, once for all workers of a checkout, and verify it."""
    folder = project.data / name
    with project_lock(project, "bring-data", lambda: tell("waiting", "another worker fetches")):
        if not _has(folder, digest):
            tell("data", f"{name}: the version of data.dvc")
            pull(project)
        if not _has(folder, digest):
            _build(project, settings, name, digest, tell)
        refuse_damage(folder, verify_dataset(folder))


def _has(folder: Path, digest: str) -> bool:
    return (folder / CARD).is_file() and read_card(folder).digest == digest


def _build(project: Project, settings: Settings, name: str, digest: str, tell: Tell) -> None:
    """Copy a dataset that a checkout on this machine has built, or build it from its source.

    Raises:
        DataError: If the source has other data than the flow.
    """
    shared = user_cache() / "datasets"
    shared.mkdir(parents=True, exist_ok=True)
    for path in shared.iterdir():
        with contextlib.suppress(OSError):  # another process removed it
            if path.is_dir() and path.stat().st_mtime < time.time() - UNUSED_SECONDS:
                shutil.rmtree(path)
    place = Project(shared / digest)
    built = place.data / name
    with FileLock(shared / f"{digest}.lock"):
        if not _has(built, digest) or verify_dataset(built):
            shutil.rmtree(place.root, ignore_errors=True)
            params, profile = settings.datasets[name], settings.profile_datasets()
            prepare(place, name, params, profile=profile, record=False, tell=tell)
        if not _has(built, digest):
            received = read_card(built).digest
            shutil.rmtree(place.root)
            raise DataError(
                f"data/{name} must be the data of the flow. Received: {received[:12]} from its "
                f"sources, the flow's is {digest[:12]}. Push the flow's version to a DVC remote "
                "(`dvc push`), commit data.dvc, and check that commit out here"
            )
        os.utime(place.root)
        staging = project.scratch / "staging"
        staging.mkdir(parents=True, exist_ok=True)
        project.data.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=staging) as temporary:
            publish(Path(shutil.copytree(built, Path(temporary) / name)), project.data / name)


def _check_store(run: Run, flow_run_id: str) -> None:
    """Raise a `ConfigError` unless the tracking store here has the flow's run."""
    client = run.session.client
    if not runs.runs_of(client, run.session.experiment_id, [flow_run_id]):
        raise ConfigError(
            "A worker must use the flow's tracking store. Received: "
            f"{client.tracking_uri}, which has no run {flow_run_id}. Set MLFLOW_TRACKING_URI where "
            "the worker runs, and start it again"
        )
