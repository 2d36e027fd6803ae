"""What a run recorded of a training, as what trains it again: model, parameters, seed, data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from chapterflow.data.build import verify_dataset
from chapterflow.data.card import read_card
from chapterflow.environment import Project
from chapterflow.errors import ChapterflowError, ConfigError, DataError, StoreError
from chapterflow.lineage import past_data
from chapterflow.models.parts.base import ChapterModel, ModelParams
from chapterflow.models.parts.registry import get_model
from chapterflow.records import Tell
from chapterflow.tracking import runs
from chapterflow.tracking.registry import Version

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass(frozen=True)
class Recorded:
    """A training as its run recorded it.

    Attributes:
        digests: Digest of each dataset that it read, by name.
        data_version: Hash of `data/`; None where it was not versioned.
        commit: Of the sources; None where there was none.
    """

    model: str
    entry: ChapterModel[Any]
    params: ModelParams
    seed: int
    dataset: str
    digests: Mapping[str, str]
    data_version: str | None
    commit: str | None


def recorded_model(version: Version, run: Run, parts: Mapping[str, Any]) -> Recorded:
    """Return what a run recorded, checked against today's code.

    Args:
        version: The version that it made.
        run: The run.
        parts: Its `fingerprint.json`.

    Raises:
        ConfigError: If today's code has no such model, or it takes other parameters.
        StoreError: If the record is not whole.
    """
    tags = run.data.tags
    commit = tags.get(runs.COMMIT)
    hint = (
        f"`git worktree add ../{version.model}-{commit[:10]} {commit}` brings the code of that time"
        if commit
        else "the run recorded no commit"
    )
    if tags.get(runs.DIRTY) == "true":
        hint = f"it was trained with changes that no commit has, on {str(commit)[:10]}"
    try:
        model, dataset = parts["model"], parts["dataset"]
        digests = {dataset["name"]: dataset["digest"], **parts["other_datasets"]}
        seed, given = parts["seed"], json.dumps(parts["params"])
        for needed in ("libraries", "sources"):
            parts[needed]
    except (KeyError, TypeError) as error:
        raise StoreError(
            f"fingerprint.json of run {run.info.run_id} must say what was trained. "
            f"Received: no {error}"
        ) from None
    try:
        entry = get_model(model)
        params = entry.params.model_validate_json(given)
    except KeyError:
        raise ConfigError(
            f"{version.uri()} is a {model!r}, which this checkout must have. Received: no such "
            f"model; {hint}"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"{version.uri()} must be trained with the parameters of its run. Received: "
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}; {hint}"
        ) from None
    data_version = tags.get(runs.DATA_VERSION, "none")
    return Recorded(
        model=model,
        entry=entry,
        params=params,
        seed=seed,
        dataset=dataset["name"],
        digests=digests,
        data_version=None if data_version == "none" else data_version,
        commit=commit,
    )


def data_of(project: Project, recorded: Recorded, into: Path, tell: Tell) -> tuple[Path, str]:
    """Return a folder with the data that a run learnt, byte for byte, and where they came from.

    They are those in `data/` where these are the same, or else fetched by DVC.

    Args:
        project: The project.
        recorded: What the run recorded.
        into: Folder for what is fetched.
        tell: Hears of it.

    Raises:
        ChapterflowError: If they cannot be had.
    """
    tell("data", ", ".join(recorded.digests))
    here = {
        name: fault
        for name, digest in recorded.digests.items()
        if (fault := _fault(project.data / name, digest))
    }
    if not here:
        return project.data, "data/, which is as it was"
    told = "; ".join(here.values())
    if recorded.data_version is None:
        raise ChapterflowError(
            f"Data that are the run's must be in data/, or under DVC. Received: {told}, and the "
            "run names no version of data/"
        )
    tell("data", f"version {recorded.data_version[:10]} from DVC")
    try:
        data = past_data.bring(project, recorded.data_version, list(recorded.digests), into)
    except ChapterflowError as error:
        raise ChapterflowError(f"{told}. {error}") from None
    for name, digest in recorded.digests.items():
        if fault := _fault(data / name, digest):
            raise ChapterflowError(
                f"Version {recorded.data_version} of the data must hold what the run learnt. "
                f"Received: {fault}"
            )
    return data, f"version {recorded.data_version} from DVC ({told})"


def _fault(folder: Path, digest: str) -> str | None:
    """Return what is wrong with a dataset that should have a digest; None where nothing is."""
    name = f"{folder.parent.name}/{folder.name}"
    try:
        card = read_card(folder)
        damage = verify_dataset(folder)
    except (DataError, OSError):
        return f"{name} is not there"
    if card.digest != digest:
        return f"{name} has the digest {card.digest[:12]}, the run's is {digest[:12]}"
    return f"{name} is not what its card says" if damage else None
