"""Steps over all models: compare and report; they read what finished runs left."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chapterflow.data.card import CARD, read_card
from chapterflow.environment import Project
from chapterflow.errors import ConfigError
from chapterflow.records import Comparison, Reported, RunFacts, Tell, silent
from chapterflow.settings import Settings
from chapterflow.tracking import runs
from chapterflow.tracking.fingerprint import fingerprint, fingerprint_parts, validation_folder
from chapterflow.tracking.read import labels, named_runs, newest_flow_run, read_run
from chapterflow.tracking.session import Session, outcome_of

if TYPE_CHECKING:
    from mlflow.entities import Run

    from chapterflow.evaluation.compare import Difference


def compare(project: Project, settings: Settings) -> Comparison:
    """Compare all models in the active profile, pair by pair where they share a test set.

    A model is represented by its finished run with today's parameters, data and sources; where
    there is none, by its newest finished run.
    """
    with Session(project, settings) as session:
        chosen = newest_runs(project, settings, session)
        found = differences_of(session, settings, chosen)
    return Comparison(
        profile=settings.profile,
        models=[outcome_of(run) for run in chosen],
        differences=found,
    )


def report(
    project: Project,
    settings: Settings,
    *,
    out: Path,
    wanted: Sequence[str] = (),
    flow_run_id: str | None = None,
    tell: Tell = silent,
) -> Reported:
    """Write one page of all that runs and their data tell, and log it.

    Args:
        out: Folder of the page, `index.html`.
        wanted: Ids of runs, or how they begin; those that `compare` compares by default.
        flow_run_id: Run that the page is logged to; by default the newest of the wanted ones, or
            else the newest flow's.

    Raises:
        ConfigError: If there is no finished run, a wanted one is not there, or `out` is a file.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out must be a folder. Received: the file {out}")
    from chapterflow.report.page.build import write_page

    started = time.monotonic()
    with Session(project, settings) as session, tempfile.TemporaryDirectory() as copies:
        client, experiment = session.client, session.experiment_id
        tell("report", "looking up runs")
        chosen = (
            named_runs(client, experiment, wanted)
            if wanted
            else newest_runs(project, settings, session)
        )
        if not chosen:
            raise ConfigError(
                f"A report needs a finished run in the profile {settings.profile!r}; "
                "`chapterflow run` makes some. Received: a store without any"
            )
        names = labels(chosen)
        facts = [
            read_run(client, run, names[run.info.run_id], Path(copies), tell=tell) for run in chosen
        ]
        page = write_page(
            project,
            settings,
            facts,
            differences_of(session, settings, chosen, names),
            docs=_data_docs(project, settings, facts),
            out=out,
            tell=tell,
        )
        run_id = (
            flow_run_id
            # A page of some runs must not take the place of the flow's page of all.
            or (None if wanted else newest_flow_run(client, experiment, settings.profile))
            or max(facts, key=lambda fact: fact.started).run_id
        )
        tell("report", "logging the page")
        client.log_artifact(run_id, str(page), runs.REPORT)
    return Reported(
        page=page,
        size=page.stat().st_size,
        models=[fact.label for fact in facts],
        run_id=run_id,
        artifact=f"{runs.REPORT}/{page.name}",
        seconds=round(time.monotonic() - started, 3),
    )


def _data_docs(project: Project, settings: Settings, facts: Sequence[RunFacts]) -> dict[str, Path]:
    """Return the Data Docs on this machine of the datasets that the runs learned, by digest."""
    found = {}
    for fact in facts:
        digest = fact.tags.get("chapterflow.dataset_digest", "")
        if not (project.data / fact.dataset / CARD).is_file():
            continue
        folder = validation_folder(project, settings, fact.dataset, digest)
        docs = folder / "data_docs" / "index.html"
        if docs.is_file():
            found[digest] = docs
    return found


def newest_runs(project: Project, settings: Settings, session: Session) -> list[Run]:
    """Return the runs that represent the models of the active profile, by dataset and model."""
    newest: dict[tuple[str, str], Run] = {}
    for run in (
        *current_runs(project, settings, session, settings.models),
        *runs.finished_model_runs(session.client, session.experiment_id, settings.profile),
    ):
        tags = run.data.tags
        newest.setdefault((tags[runs.MODEL], tags[runs.TEST_DIGEST]), run)
    order = {name: position for position, name in enumerate(settings.models)}
    return sorted(
        newest.values(),
        key=lambda run: (
            run.data.tags[runs.DATASET],
            order.get(run.data.tags[runs.MODEL], len(order)),
        ),
    )


def differences_of(
    session: Session,
    settings: Settings,
    chosen: Sequence[Run],
    names: Mapping[str, str] | None = None,
) -> list[Difference]:
    """Return the differences of all pairs of runs that share a test set.

    Args:
        names: What each run is called, by run id; its model by default.
    """
    found = []
    for digest in dict.fromkeys(run.data.tags[runs.TEST_DIGEST] for run in chosen):
        same = {
            (names or {}).get(run.info.run_id, run.data.tags[runs.MODEL]): run
            for run in chosen
            if run.data.tags[runs.TEST_DIGEST] == digest and "test/accuracy" in run.data.metrics
        }
        if same:  # None where the digest is that of curves, which have no right and wrong.
            found.extend(_differences(session, settings, same))
    return found


def current_runs(
    project: Project, settings: Settings, session: Session, models: Iterable[str]
) -> Iterator[Run]:
    """Yield the finished runs of models with today's parameters, data and sources."""
    for model in models:
        folders = [project.data / name for name in settings.datasets_of(model)]
        if all((folder / CARD).is_file() for folder in folders):
            cards = [read_card(folder) for folder in folders]
            key = fingerprint(fingerprint_parts(settings, model, cards))
            if run := runs.find_finished(session.client, session.experiment_id, key):
                yield run


def _differences(session: Session, settings: Settings, same: Mapping[str, Run]) -> list[Difference]:
    import numpy as np

    from chapterflow.evaluation.compare import differences

    labels = np.empty(0)
    predicted = {}
    for name, run in same.items():
        path = session.client.download_artifacts(run.info.run_id, runs.PREDICTIONS)
        with np.load(path, allow_pickle=False) as predictions:
            labels = predictions["label"]
            predicted[name] = predictions["probability"].argmax(axis=1)
    return differences(
        next(iter(same.values())).data.tags[runs.DATASET],
        labels,
        predicted,
        {name: run.data.metrics["train/seconds"] for name, run in same.items()},
        resamples=settings.comparison.bootstrap_resamples,
        seed=settings.seed,
    )
