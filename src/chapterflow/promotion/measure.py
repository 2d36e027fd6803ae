"""What is known of a version: read from its run, and measured anew on the data that are here."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from chapterflow.data.build import verify_dataset
from chapterflow.data.card import Dataset, open_dataset
from chapterflow.environment import Project, load_tensorflow
from chapterflow.errors import ChapterflowError
from chapterflow.lineage import git
from chapterflow.lineage.artifacts import read_json
from chapterflow.models.parts.registry import get_model, model_names
from chapterflow.promotion.trial import WITHDRAWN, Measured
from chapterflow.tracking import runs
from chapterflow.tracking.registry import Version, model_file
from chapterflow.validation.verdict import Verdict as Validation

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from chapterflow.settings import Settings


@dataclass(frozen=True)
class TestData:
    """The dataset that versions are scored on now.

    Attributes:
        dataset: None where it is not here or not what its card says.
        problem: Why not.
    """

    dataset: Dataset | None
    problem: str = ""

    @property
    def digest(self) -> str | None:
        """Hash over its test examples."""
        return self.dataset.card.test_digest if self.dataset else None


def test_data(project: Project, name: str) -> TestData:
    """Open a dataset of `data/`, every file of it checked against its card."""
    folder = project.data / name
    try:
        damage = verify_dataset(folder)
        if damage:
            return TestData(None, damage[0])
        return TestData(open_dataset(folder))
    except ChapterflowError as error:
        return TestData(None, str(error))


def measure(
    project: Project,
    settings: Settings,
    client: MlflowClient,
    version: Version,
    data: TestData,
) -> Measured:
    """Return what is known of a version; what cannot be found out is missing, with the reason."""
    from mlflow.exceptions import MlflowException

    found = Measured(version.uri())
    problems: dict[str, str] = {}
    try:
        run = client.get_run(version.run_id)
        tags = client.get_model_version(version.name, version.number).tags
    except MlflowException as error:
        return replace(found, problems={"test-data": f"its run cannot be read: {error.message}"})
    found = _of_run(project, run, found, problems)
    found = replace(found, withdrawn=tags.get(WITHDRAWN, ""), problems=problems)
    if data.dataset is None:
        problems["test-data"] = data.problem
        return found
    if found.test_digest != data.digest:
        return found
    try:
        return _scored(settings, client, version, run, data.dataset, found)
    except (
        Exception
    ) as error:  # Whatever it is: what was not measured shuts its gates, and says so.
        told = f"{type(error).__name__}: {error}".partition("\n")[0]
        for gate in ("floor", "calibration", "latency", "file-size", "plausible"):
            problems[gate] = told
        return found


def _of_run(project: Project, run: Run, found: Measured, problems: dict[str, str]) -> Measured:
    """Add what the run itself says."""
    tags = run.data.tags
    commit, version = tags.get(runs.COMMIT), tags.get(runs.DATA_VERSION)
    version = None if version == "none" else version
    dirty = {"true": True, "false": False}.get(tags.get(runs.DIRTY, ""))
    validated = None
    try:
        verdict = Validation.model_validate(read_json(run.info.run_id, "validation/verdict.json"))
        validated = verdict.dataset_digest if verdict.success and verdict.results else None
    except Exception as error:  # A store has many ways of not having a file.
        problems["validation"] = f"its run holds no validation: {type(error).__name__}"
    return replace(
        found,
        logged=dict(run.data.metrics),
        test_digest=tags.get(runs.TEST_DIGEST),
        data_digest=tags.get(runs.DIGEST),
        validated=validated,
        commit=commit,
        dirty=dirty,
        commit_known=commit is not None and git.commit_told(project, commit) is not None,
        data_version=version,
        data_known=version is not None and bool(git.commits_of_data(project, version)),
    )


def _scored(
    settings: Settings,
    client: MlflowClient,
    version: Version,
    run: Run,
    dataset: Dataset,
    found: Measured,
) -> Measured:
    load_tensorflow()
    from chapterflow.evaluation.evaluate import score
    from chapterflow.training.pipeline import load_model, sized_for

    file = model_file(client, version)
    size, model = file.stat().st_size, load_model(file)
    if version.model in model_names():
        entry = get_model(version.model)
        params = read_json(run.info.run_id, "fingerprint.json")["params"]
        chosen = entry.params.model_validate_json(json.dumps(params))
        dataset = sized_for(entry, chosen, dataset)
    scored = score(model, dataset, settings.evaluation, file_bytes=size)
    return replace(
        found,
        now=scored.evaluation.metrics,
        file_bytes=size,
        **_by_example(dataset, scored.answers),
    )


def _by_example(dataset: Dataset, answers: dict[str, Any]) -> dict[str, Any]:
    """Return what a paired comparison needs of each test example."""
    if dataset.card.classes:
        return {"right": answers["probability"].argmax(axis=1) == answers["label"]}
    test = dataset.indices("test")
    squared = (answers["prediction"] - dataset.targets(test)).squeeze(-1) ** 2
    weights = dataset.weights(test)
    return {"errors": (squared if weights is None else squared * weights).sum(axis=1)}
