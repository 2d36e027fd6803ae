"""Which version or run people mean."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from chapterflow.errors import ConfigError, StoreError
from chapterflow.settings import Profile
from chapterflow.tracking import runs
from chapterflow.tracking.registry import (
    CHALLENGER,
    CHAMPION,
    Version,
    find_version,
    holder,
    version_of,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

#: How a run's id begins; fewer characters could be meant as anything.
_RUN = re.compile(r"[0-9a-f]{4,32}")


@dataclass(frozen=True)
class Asked:
    """A version that was asked for.

    Attributes:
        note: Which version was taken, where the reference did not say.
    """

    version: Version
    note: str | None = None


def find(client: MlflowClient, reference: str) -> Asked:
    """Return the version that `NAME`, `NAME/VERSION` or `NAME@ALIAS` names.

    NAME alone is the champion; before there is one, the challenger, or else the newest version.

    Raises:
        ConfigError: If there is none.
    """
    if "@" in reference or "/" in reference:
        return Asked(find_version(client, reference))
    if champion := holder(client, reference, CHAMPION):
        return Asked(champion)
    if challenger := holder(client, reference, CHALLENGER):
        return Asked(challenger, f"{reference} has no champion; this is its challenger.")
    newest = find_version(client, reference)
    return Asked(newest, f"{reference} has no champion and no challenger; this is its newest.")


def find_run(client: MlflowClient, experiment_id: str, reference: str) -> tuple[Run, Asked]:
    """Return the finished model run that a reference names, and the version that it made.

    Args:
        client: MlflowClient.
        experiment_id: Where runs are looked for.
        reference: A run's id or how it begins, or what `find` takes.

    Raises:
        ConfigError: If there is none, or several begin so.
        StoreError: If a version's run, or a run's version, is gone.
    """
    from mlflow.exceptions import MlflowException

    fitting = []
    if _RUN.fullmatch(reference) and not _is_registered(client, reference):
        fitting = [
            run
            for profile in get_args(Profile)
            for run in runs.finished_model_runs(client, experiment_id, profile)
            if run.info.run_id.startswith(reference)
        ]
        if len(fitting) > 1:
            raise ConfigError(
                f"The id of a run must be given in full, or as far as it is one run's. "
                f"Received: {reference!r}, with which {len(fitting)} runs begin"
            )
    if not fitting:
        asked = find(client, reference)
        try:
            run = client.get_run(asked.version.run_id)
        except MlflowException:
            run = None
        if run is None or run.info.lifecycle_stage != "active":
            raise StoreError(
                f"{asked.version.told()} was made by a run that the store must still have. "
                f"Received: no run {asked.version.run_id}"
            )
        return run, asked
    (run,) = fitting
    tags = run.data.tags
    try:
        made = client.get_model_version(tags[runs.MODEL], tags[runs.MODEL_VERSION])
    except (MlflowException, KeyError):
        raise StoreError(
            f"Run {run.info.run_id} must have a version in the registry: its model is compared "
            f"with. Received: {tags.get(runs.MODEL)}/{tags.get(runs.MODEL_VERSION)}, which is gone"
        ) from None
    return run, Asked(version_of(made))


def _is_registered(client: MlflowClient, name: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException:
        return False
    return True
