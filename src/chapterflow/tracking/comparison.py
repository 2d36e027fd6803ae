"""Which runs represent the models of a profile, and which differences between them are real."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from chapterflow.config.settings import Settings
from chapterflow.environment import Project
from chapterflow.kinds.dataset import CARD, CLASSIFICATION, read_card
from chapterflow.tracking import runs
from chapterflow.tracking.artifacts import Artifacts
from chapterflow.tracking.fingerprint import fingerprint, fingerprint_parts
from chapterflow.tracking.session import Session
from chapterflow.tracking.versions import registered_models

if TYPE_CHECKING:
    from mlflow.entities import Run

    from chapterflow.evaluation.significance import Difference


def newest_runs(project: Project, settings: Settings, session: Session) -> list[Run]:
    """Return the runs that represent the models of the active profile.

    Runs of one dataset follow each other; datasets and models have the order of `params.yaml`,
    which is the chapter's.
    """
    client = session.client
    # All that have finished runs, also those that params.yaml no longer has.
    registered = registered_models()
    current = {
        run.data.tags[runs.MODEL]: run
        for run in current_runs(
            project, settings, session, [name for name in settings.models if name in registered]
        )
    }
    newest = list(current.values())
    for model in registered:
        digests = [current[model].data.tags[runs.TEST_DIGEST]] if model in current else []
        newest.extend(
            runs.newest_by_test_set(client, session.experiment_id, settings.profile, model, digests)
        )
    order = {name: position for position, name in enumerate(settings.models)}

    def place(run: Run) -> int:
        return order.get(run.data.tags[runs.MODEL], len(order))

    newest.sort(key=place)
    datasets = list(dict.fromkeys(run.data.tags[runs.DATASET] for run in newest))
    return sorted(newest, key=lambda run: (datasets.index(run.data.tags[runs.DATASET]), place(run)))


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
    pairs = []
    for digest in dict.fromkeys(run.data.tags[runs.TEST_DIGEST] for run in chosen):
        same = {
            (names or {}).get(run.info.run_id, run.data.tags[runs.MODEL]): run
            for run in chosen
            if run.data.tags[runs.TEST_DIGEST] == digest
            and CLASSIFICATION.metric in run.data.metrics
        }
        if same:  # Empty for curves: their predictions are not right or wrong.
            pairs.extend(_differences(session, settings, same))
    return pairs


def current_runs(
    project: Project,
    settings: Settings,
    session: Session,
    models: Iterable[str],
    run_types: Collection[str] = (runs.MODEL_RUN,),
) -> Iterator[Run]:
    """Yield the finished runs of models with today's parameters, data and sources.

    A run that lost an artifact represents its model, too: whoever needs the artifact names it, and
    no run with other parameters takes its place unnoticed.
    """
    for model in models:
        folders = [project.data / name for name in settings.datasets_of(model)]
        if all((folder / CARD).is_file() for folder in folders):
            cards = [read_card(folder) for folder in folders]
            key = fingerprint(fingerprint_parts(settings, model, cards))
            same = runs.runs_of_fingerprint(session.client, session.experiment_id, key, run_types)
            finished = [run for run in same if run.info.status == "FINISHED"]
            if len(finished) > 1:
                whole = (run for run in finished if runs.is_whole(session.client, run))
                yield next(whole, finished[0])
            else:
                yield from finished


def models_of_other_data(
    project: Project, settings: Settings, session: Session, models: Iterable[str]
) -> list[str]:
    """Return the models whose newest finished run learned another version of today's data.

    Models without a finished run on the dataset are left out: no new data made them so.
    """
    behind = []
    for model in models:
        learned = settings.dataset_of(model)
        run = runs.newest_on(
            session.client, session.experiment_id, settings.profile, model, learned
        )
        if run is None:
            continue
        cards = {name: read_card(project.data / name) for name in settings.datasets_of(model)}
        recorded = {learned: run.data.tags.get(runs.DIGEST)}
        if len(cards) > 1:
            recorded |= Artifacts(run.info.run_id).fingerprint().get("other_datasets", {})
        if any(recorded.get(name) != card.digest for name, card in cards.items()):
            behind.append(model)
    return behind


def _differences(session: Session, settings: Settings, same: Mapping[str, Run]) -> list[Difference]:
    from chapterflow.evaluation.significance import differences

    labels = np.empty(0)
    predicted = {}
    for name, run in same.items():
        predictions = Artifacts(run.info.run_id).predictions()
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
