"""Repetitions: a model that is trained with several seeds, and how much its score varies.

The run of the settings' own seed is that of any command. The others are scored, and neither
explained nor registered; they are nested in a run with mean, deviation and interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from chapterflow.evaluation.significance import SeedScores, over_seeds, seed_differences
from chapterflow.kinds.dataset import task_of
from chapterflow.tracking import runs
from chapterflow.tracking.artifacts import SEEDS, Artifacts

if TYPE_CHECKING:
    from chapterflow.config.settings import Settings
    from chapterflow.loop.run import Run
    from chapterflow.tracking.records import Outcome
    from chapterflow.tracking.session import Session

#: Seeds that a mean and an interval need.
FEWEST = 2


def with_seeds(settings: Settings, count: int) -> list[Settings]:
    """Return the settings, then copies with the seeds that follow theirs."""
    more = range(settings.seed + 1, settings.seed + count)
    return [settings, *(settings.model_copy(update={"seed": seed}) for seed in more)]


def open_parent(run: Run, flow_run_id: str) -> str:
    """Return the run that the repetitions of a model's run are nested in, a new or the earlier one.

    Args:
        run: The run of the settings' own seed.
        flow_run_id: Run to nest a new one in.
    """
    client, experiment_id = run.session.client, run.session.experiment_id
    earlier = runs.runs_of_fingerprint(client, experiment_id, run.fingerprint, {runs.SEEDS_RUN})
    return runs.open_run(
        client,
        experiment_id,
        name=f"{run.title}, seeds",
        run_id=earlier[0].info.run_id if earlier else None,
        tags={
            runs.RUN_TYPE: runs.SEEDS_RUN,
            runs.MODEL: run.model,
            runs.DATASET: run.dataset,
            runs.PROFILE: run.settings.profile,
            runs.FINGERPRINT: run.fingerprint,
            runs.PARENT: flow_run_id,
            runs.COLOUR: runs.colour_of(run.model, run.settings.models),
            "mlflow.note.content": f"How much the score of {run.model} depends on the seed: the "
            f"step of a metric is the number of seeds. `{SEEDS}` names the run of each seed.",
            **runs.git_tags(run.project),
        },
    )


def summarise(session: Session, parent: str, outcomes: Mapping[int, Outcome]) -> dict[str, Any]:
    """Log what a model's scores over seeds have in common, end their run, and return all of it.

    Args:
        session: The tracking store.
        parent: As `open_parent` returns it.
        outcomes: By seed.

    Returns:
        The fields of `SeedScores`, which are None if fewer than two seeds finished; `run_id` of
        the parent; `runs`: id of the run of each seed; `errors` by seed.
    """
    finished = {seed: o for seed, o in outcomes.items() if o.status != "failed"}
    failed = {str(seed): o.error for seed, o in outcomes.items() if o.status == "failed"}
    first = next(iter(outcomes.values()))
    document: dict[str, Any] = dict.fromkeys(SeedScores.model_fields)
    document |= {"model": first.model, "dataset": first.dataset}
    if len(finished) >= FEWEST:
        task = task_of(next(iter(finished.values())).metrics)
        scores = over_seeds(
            first.model,
            first.dataset,
            task,
            {seed: outcome.metrics[task.metric] for seed, outcome in finished.items()},
        )
        document |= scores.model_dump()
        names = ("mean", "std", "low", "high")
        metrics = {f"seeds/{scores.score}_{name}": document[name] for name in names}
        runs.log_metrics(session.client, parent, metrics, len(finished))
    document |= {
        "run_id": parent,
        "runs": {str(seed): outcome.run_id for seed, outcome in finished.items()},
        "errors": failed,
    }
    Artifacts(parent).log_document(document, SEEDS)
    runs.close_run(session.client, parent, "FAILED" if failed else "FINISHED")
    return document


def compare_seeds(documents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compare the models that `summarise` returned, pair by pair."""
    fields = SeedScores.model_fields
    scores = [
        SeedScores.model_validate({name: document[name] for name in fields})
        for document in documents
        if document["values"]
    ]
    return [pair.model_dump() for pair in seed_differences(scores)]
