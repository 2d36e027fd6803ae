"""The stages of `dvc.yaml`: the same steps as the flow, with results in files that git tracks."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from chapterflow.config.settings import Settings
from chapterflow.environment import Project, experiment
from chapterflow.errors import StoreError
from chapterflow.kinds.dataset import read_card
from chapterflow.loop import steps
from chapterflow.loop.progress import tell_about
from chapterflow.loop.run import Run
from chapterflow.loop.tables import differences_markdown, results_markdown
from chapterflow.tracking import runs
from chapterflow.tracking.artifacts import Artifacts
from chapterflow.tracking.fingerprint import fingerprint_parts
from chapterflow.tracking.session import Session


def validate_stage(project: Project, settings: Settings, role: str) -> None:
    """Validate a role's dataset, and write the verdict to `results/validation/<role>.json`."""
    dataset = settings.roles[role][settings.profile]
    prepared = steps.prepare(project, settings, dataset, build=False)
    verdict = steps.validate(project, settings, prepared, tell=tell_about(dataset))
    _write(project.results / "validation" / f"{role}.json", verdict.to_json())


def fingerprint_stage(project: Project, settings: Settings) -> None:
    """Write what decides the run of each model to `results/fingerprints/<model>.json`."""
    for model in settings.models:
        cards = [read_card(project.data / name) for name in settings.datasets_of(model)]
        parts = fingerprint_parts(settings, model, cards)
        text = json.dumps(parts, indent=2, sort_keys=True) + "\n"
        _write(project.results / "fingerprints" / f"{model}.json", text)


def run_stage(project: Project, settings: Settings, model: str) -> None:
    """Run one model, and write what `dvc metrics` and `dvc plots` read."""
    tell = tell_about(model)
    dataset = settings.dataset_of(model)
    verdicts = [
        steps.validate(
            project, settings, steps.prepare(project, settings, name, build=False), tell=tell
        )
        for name in settings.datasets_of(model)
    ]
    session = Session(project, settings)
    runs.sweep(session.client, project, session.experiment_id)
    outcome = steps.run_model(Run(project, settings, model, session), verdicts, tell=tell)
    tell(outcome.status, f"run {outcome.run_id}")
    if name := experiment():
        version = f"{model}/{outcome.model_version}"
        note = f"experiment {name}, not a challenger; `chapterflow promote {version}` judges it"
        tell("registered", f"{version}: {note}")

    folder = project.results / "models" / model
    metrics: dict[str, Any] = {}
    artifacts = Artifacts(str(outcome.run_id))
    values = artifacts.evaluation().metrics | artifacts.explanation().metrics
    for name, value in sorted(values.items()):
        if not is_timing(name):
            group, _, key = name.partition("/")
            metrics.setdefault(group, {})[key] = value
    _write(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    history = [record.model_dump() for record in artifacts.training().history]
    columns = [key for key, value in history[0].items() if value is not None and not is_timing(key)]
    curve = ([row[key] for key in columns] for row in history)
    _write_csv(folder / "learning_curve.csv", columns, curve)
    classes = read_card(project.data / dataset).classes
    labels = predicted = np.empty(0, int)  # curves have no classes to confuse
    if classes:
        predictions = artifacts.predictions()
        labels, predicted = predictions["label"], predictions["probability"].argmax(axis=1)
    _write_csv(
        folder / "confusion.csv",
        ("actual", "predicted"),
        ((classes[a], classes[p]) for a, p in zip(labels, predicted, strict=True)),
    )


def compare_stage(project: Project, settings: Settings) -> None:
    """Compare all models, and write `results/comparison.json` and `results/comparison.md`.

    Raises:
        StoreError: If a model has no run in the tracking store: in a fresh clone DVC finds the
            stages unchanged and runs nothing, and their results must not be overwritten.
    """
    comparison = steps.compare(project, settings)
    missing = [name for name in settings.models if name not in {m.model for m in comparison.models}]
    if missing:
        raise StoreError(
            f"No finished run of {', '.join(missing)} in the tracking store, so there is nothing "
            "to compare. `chapterflow run` makes one of each (so does `dvc repro --force`)."
        )
    _write(
        project.results / "comparison.json",
        json.dumps(
            [pair.model_dump(exclude={"training_time_ratio"}) for pair in comparison.differences],
            indent=2,
        )
        + "\n",
    )
    models = results_markdown(comparison.models, timings=False)
    pairs = differences_markdown(comparison.differences, timings=False)
    _write(project.results / "comparison.md", f"{models}\n{pairs}")


#: The last words of a name of a time, or of work per time.
_TIMING = re.compile(r"(^|[/_])(seconds|per_second|latency_ms(_\w+)?)$")


def is_timing(name: str) -> bool:
    """Tell whether a metric is a time: it differs in each repetition, so MLflow alone has it."""
    return _TIMING.search(name) is not None


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _write_csv(path: Path, heading: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(heading)
        writer.writerows(rows)
