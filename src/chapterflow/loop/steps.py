"""The steps, in the order in which they run. Read this file first.

prepare -> validate -> begin -> train -> evaluate -> explain -> log; compare over all of them.
Plain functions: Prefect (`pipelines/`), `dvc repro` and tests call the same ones.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chapterflow.config.settings import ExecutionParams, Settings
from chapterflow.data.build import Prepared, refuse_damage, verify_dataset
from chapterflow.data.build import prepare as prepare_dataset
from chapterflow.environment import Project, load_tensorflow
from chapterflow.errors import ConfigError, ValidationFailed
from chapterflow.evaluation.evaluate import Evaluation
from chapterflow.explain.explanation import Explanation
from chapterflow.kinds.dataset import DatasetCard, open_dataset
from chapterflow.kinds.likeness import Likeness
from chapterflow.loop import clusters
from chapterflow.loop.logged_model import log_trained_model
from chapterflow.loop.repetitions import with_seeds
from chapterflow.loop.run import Run
from chapterflow.loop.workers import Workers, default_count
from chapterflow.models.catalog import get_model
from chapterflow.tracking import runs
from chapterflow.tracking.artifacts import (
    EVALUATION,
    EXPLANATION,
    PREDICTIONS,
    TRAINING,
    VALIDATION,
    VERDICT,
    WorkKeeper,
)
from chapterflow.tracking.comparison import current_runs, differences_of, newest_runs
from chapterflow.tracking.fingerprint import validation_folder
from chapterflow.tracking.records import SCORES, Comparison, Outcome
from chapterflow.tracking.session import Session, outcome_of
from chapterflow.tracking.store import is_local, tracking_uri
from chapterflow.tracking.versions import SCORE_TAG, described, register
from chapterflow.training.history import EpochRecord, Training
from chapterflow.types import Tell, silent

if TYPE_CHECKING:
    import keras

    from chapterflow.validation.verdict import Verdict


def check_shared(project: Project, execution: ExecutionParams) -> None:
    """Raise a `ConfigError` unless all workers can reach the tracking store."""
    if execution.is_remote and is_local(project):
        raise ConfigError(
            f"With the engine {execution.engine}, models need a tracking store that all workers "
            f"share. Received: {tracking_uri(project)}. Set MLFLOW_TRACKING_URI to an MLflow "
            "server, see docs/scale.md"
        )


def preload(
    project: Project,
    settings: Settings,
    models: Sequence[str],
    *,
    workers: int | None = None,
    force: bool = False,
    seeds: int = 1,
) -> Workers | None:
    """Open the tracking store, and start what training these models needs.

    That is worker processes for several models, and libraries in this process, whose imports take
    longer than anything else that a small run does before it trains. Where finished runs will be
    reused, nothing starts.

    Args:
        workers: Models to train side by side; by default as `execution.workers` says, or else as
            many as cores and memory, or the cluster's workers, allow.
        force: Whether finished models train again.
        seeds: Number of seeds with which each model trains.

    Returns:
        The workers; None if the models run in this process.

    Raises:
        ConfigError: If other machines are to take part and cannot.
    """
    execution = settings.execution
    check_shared(project, execution)
    pending = len(set(models)) * seeds
    if not force:
        with Session(project, settings) as session:
            for own in with_seeds(settings, seeds):
                types = {runs.MODEL_RUN, runs.MODEL_RUN if own is settings else runs.SEED_RUN}
                pending -= len(list(current_runs(project, own, session, set(models), types)))
    if not pending:
        return None
    wanted = workers or execution.workers
    most = min(wanted, pending) if wanted else pending
    started: Workers | None = None
    if execution.is_remote:
        started = clusters.connect(project, execution, most)
    elif (count := most if wanted else default_count(pending)) > 1:
        started = Workers(project, count)
    else:
        load_tensorflow()
    import chapterflow.validation.validate

    chapterflow.validation.validate.load_great_expectations()
    return started


def prepare(
    project: Project,
    settings: Settings,
    dataset: str,
    *,
    build: bool = True,
    rebuild: bool = False,
    record: bool = True,
    tell: Tell = silent,
) -> Prepared:
    """Bring a dataset onto this machine; as `data.build.prepare`, with the settings' parameters."""
    return prepare_dataset(
        project,
        dataset,
        settings.datasets[dataset],
        profile=settings.profile_datasets(),
        build=build,
        rebuild=rebuild,
        record=record,
        tell=tell,
    )


def validate(
    project: Project,
    settings: Settings,
    prepared: Prepared,
    *,
    flow_run_id: str | None = None,
    tell: Tell = silent,
) -> Verdict:
    """Check the arrays that training will read against the suite for their kind.

    A verdict on the same bytes, bounds and checks is reused. It is logged to the flow's run with
    the Data Docs, whether good or bad.

    Raises:
        ValidationFailed: If an expectation is broken; training must not start.
        DataError: If the bytes are not those of the card, though no expectation is broken.
    """
    from chapterflow.validation.docs import PAGE
    from chapterflow.validation.validate import validate_dataset
    from chapterflow.validation.verdict import VERDICT as VERDICT_FILE
    from chapterflow.validation.verdict import read_verdict

    tell("validate", prepared.dataset)
    folder = project.data / prepared.dataset
    out = validation_folder(project, settings, prepared.dataset, prepared.digest)
    damage = verify_dataset(folder)
    verdict = read_verdict(out) if not damage and (out / VERDICT_FILE).is_file() else None
    if verdict is None or not verdict.success:
        dataset = open_dataset(folder)
        verdict = validate_dataset(dataset, settings.validation.bounds(dataset.card.kind), out)
    if flow_run_id is not None:
        with Session(project, settings) as session:
            session.client.log_artifacts(flow_run_id, out, f"{VALIDATION}/{prepared.dataset}")
    try:
        verdict.raise_for_failure()
    except ValidationFailed as failure:
        raise ValidationFailed(f"{failure}\n  All of it on one page: {out / PAGE}") from None
    refuse_damage(folder, damage)
    return verdict


def begin(
    run: Run,
    verdicts: Sequence[Verdict],
    *,
    flow_run_id: str | None = None,
    force: bool = False,
    tags: dict[str, str] | None = None,
    tell: Tell = silent,
) -> Run:
    """Return the run with its MLflow run: a finished, an interrupted, or a new one.

    Call it, and the steps after it, within `run.claim`.

    Args:
        run: The run of a model.
        verdicts: Of the validation of every dataset that the model reads; all must be good.
        flow_run_id: MLflow run to nest this one in.
        force: Train even where a finished run has the fingerprint.
        tags: More tags for the run.
    """
    for verdict in verdicts:
        verdict.raise_for_failure()
    tell("look up", "is there a finished run?")
    if not force and run.reuse(tell):
        # A process that was killed at its very end has left it.
        shutil.rmtree(run.folder, ignore_errors=True)
    else:
        run.start(flow_run_id=flow_run_id, restart=force, tags=tags or {})
    return run


def train(run: Run, *, tell: Tell = silent) -> Training:
    """Train the model, or continue its interrupted training, and log it to the run."""
    params = run.params

    def on_epoch(record: EpochRecord) -> None:
        logger(record)
        if record.epoch > logger.last or not run.resumed:
            progress = f"epoch {record.epoch}/{params.all_epochs()}, validation {record.summary}"
            tell("train", progress + logger.note())
        if run.is_shared and record.epoch > logger.last:
            keep_work(record.epoch)

    with run.ending_on_error():
        logger = runs.EpochLogger(run.session.client, run.id, run.folder, resumed=run.resumed)
        if run.resumed:
            after = f" after epoch {logger.last}" if logger.last else ""
            tell("train", f"continuing an interrupted training{after}")
        tell("train", "starting TensorFlow")
        load_tensorflow()
        from chapterflow.training.batches import sized_for
        from chapterflow.training.fit import fit

        dataset = run.open_dataset()
        with logger, WorkKeeper(run.artifacts, run.folder) as keep_work:
            training = fit(
                run.entry,
                params,
                dataset,
                seed=run.settings.seed,
                work=run.folder,
                on_epoch=on_epoch,
                scratch=run.project.scratch,
            )
        run.has_work = run.continued or keep_work.has_begun
        run.artifacts.log_document(training.model_dump(), TRAINING)
        if not run.becomes_version:
            return training
        sized = sized_for(run.entry, params, dataset)
        run.logged_model = log_trained_model(
            run.session.client,
            run.trained_model(),
            run_id=run.id,
            experiment_id=None if run.continued else run.session.experiment_id,
            name=run.model,
            input_example=sized.example(),
            card=dataset.card,
            likeness=Likeness.of(sized),
            params=params.model_dump(mode="json") | run.logged_params,
        )
    return training


def untrained(
    project: Project, settings: Settings, model: str, *, build: bool = True
) -> keras.Model:
    """Return a model as training starts with it, for the data of its role.

    Args:
        build: Whether to build datasets that are not there.
    """
    from chapterflow.training.batches import input_spec, sized_for
    from chapterflow.training.epochs import built
    from chapterflow.training.weights import with_files

    for name in settings.datasets_of(model):
        prepare(project, settings, name, build=build)
    entry, params = get_model(model), settings.params(model)
    dataset = open_dataset(project.data / settings.dataset_of(model))
    dataset = sized_for(entry, params, dataset)
    params = with_files(params, dataset, project.scratch)
    return built(entry, params, input_spec(entry, params, dataset))


def evaluate(run: Run, training: Training, *, tell: Tell = silent) -> Evaluation:
    """Score the trained model on the test split, and its variants, and log scores and figures.

    A repetition with another seed has scores alone.
    """
    load_tensorflow()
    from chapterflow.evaluation import figures
    from chapterflow.evaluation.evaluate import evaluate as score
    from chapterflow.evaluation.variants import cross_validated, score_variants

    tell("evaluate", "scoring the test split")
    entry, params, seed = run.entry, run.params, run.settings.seed
    with run.ending_on_error():
        dataset = run.open_dataset()
        evaluation = score(
            entry,
            params,
            run.model_file(),
            training,
            dataset,
            run.settings.evaluation,
            model=run.trained_model(),
        )
        artifacts = run.artifacts
        if not run.becomes_version:
            artifacts.log_document(evaluation.model_dump(), EVALUATION)
            return evaluation
        more = score_variants(
            entry,
            params,
            dataset,
            seed=seed,
            work=run.folder,
            scratch=run.project.scratch,
            tell=lambda name: tell("beside", f"variant {name}"),
        )
        if params.folds:
            more |= cross_validated(
                entry,
                params,
                dataset,
                seed=seed,
                work=run.folder,
                tell=lambda fold: tell("cross-validation", fold),
            )
        evaluation = evaluation.model_copy(update={"metrics": evaluation.metrics | more})
        artifacts.log_document(evaluation.model_dump(), EVALUATION)
        np.savez_compressed(run.folder / PREDICTIONS, **evaluation.predictions)
        artifacts.log_file(run.folder / PREDICTIONS)
        pictures = figures.draw(training, evaluation, dataset, run.title, run.folder)
        # Images with a step, which the UI lays next to the images of other runs.
        artifacts.log_pictures((path, path.stem, len(training.history)) for path in pictures)
    return evaluation


def explain(run: Run, evaluation: Evaluation, *, tell: Tell = silent) -> Explanation:
    """Draw what the trained model looks at, judge whether to believe it, and log both.

    Where the network has learnt nothing, the explanation says so and has no pictures.
    """
    load_tensorflow()
    from chapterflow.explain.explain import explain as explain_model
    from chapterflow.explain.explanation import EXPLANATION as EXPLANATION_DOCUMENT
    from chapterflow.training.batches import sized_for

    started = time.monotonic()
    folder = run.folder / EXPLANATION
    with run.ending_on_error():
        dataset = sized_for(run.entry, run.params, run.open_dataset())
        explanation = explain_model(
            run.trained_model(),
            dataset,
            folder,
            seed=run.settings.seed,
            title=run.title,
            probabilities=evaluation.predictions.get("probability"),
            tell=lambda detail: tell("explain", detail),
        )
        if explanation.refusal is None:
            metrics = explanation.metrics | {"explain/seconds": time.monotonic() - started}
            explanation = explanation.model_copy(update={"metrics": metrics})
        explanation.save(folder)
        # The step of a feature map is its layer.
        run.artifacts.log_pictures((p.path, p.key, p.step) for p in explanation.pictures)
        # Last: it names the pictures. They are not logged again as files next to it, each of which
        # would be one more request to a tracking server.
        run.artifacts.log_file(folder / EXPLANATION_DOCUMENT, EXPLANATION)
    # No path of this machine leaves the step.
    return explanation.model_copy(
        update={
            "pictures": [
                picture.model_copy(update={"path": Path(picture.path.name)})
                for picture in explanation.pictures
            ]
        }
    )


def log(
    run: Run,
    verdict: Verdict,
    evaluation: Evaluation,
    explanation: Explanation | None,
    *,
    tell: Tell = silent,
) -> Outcome:
    """Log the final metrics, register the model as challenger, and end the run.

    A repetition with another seed has no explanation and is not registered.
    """
    from chapterflow.evaluation.scores import check_metrics

    tell("log", "metrics and registry")
    client = run.session.client
    with run.ending_on_error():
        run.artifacts.log_document(verdict.model_dump(), VERDICT)
        tags = {}
        metrics = check_metrics(evaluation.metrics | (explanation.metrics if explanation else {}))
        if explanation:
            tags[runs.MODEL_VERSION] = _register(run, run.artifacts.card(), metrics)
            if explanation.refusal:
                tags["chapterflow.explain"] = explanation.refusal
        # At step 0 the UI draws bars, one for each run, not single points over epochs.
        runs.log_metrics(client, run.id, metrics, 0, tags)
        if run.is_shared and run.has_work:
            run.artifacts.delete_work()
        last = run.artifacts.training().history[-1]
        runs.close_run(client, run.id, "FINISHED")
        if explanation:
            about = {runs.MODEL: run.model, runs.DATASET: run.dataset, runs.ROLE: run.params.role}
            run.session.challenge(tags | about, is_new=not run.continued)
    run.discard()
    return Outcome(
        model=run.model,
        dataset=run.dataset,
        status="trained",
        run_id=run.id,
        model_version=tags.get(runs.MODEL_VERSION),
        # As the store has them: the last of each.
        metrics=metrics | runs.epoch_metrics(last),
    )


def _score_in_words(run: Run, metrics: Mapping[str, float]) -> str:
    """Return the score of a run with its interval, for the list of versions."""
    name = next(score for score in SCORES if f"test/{score}" in metrics)
    score, low, high = (metrics[f"test/{name}{end}"] for end in ("", "_low", "_high"))
    label = "RMSE" if name == "rmse" else name.capitalize()
    return f"{label} {score:.4f} (95 % interval {low:.3f} to {high:.3f}) on {run.dataset}"


def _register(run: Run, card: DatasetCard, metrics: Mapping[str, float]) -> str:
    """Make the run's logged model the next version of its registered model; return the version."""
    scores = {
        f"{SCORE_TAG}{score}": f"{metrics[f'test/{score}']:.4f}"
        for score in SCORES
        if f"test/{score}" in metrics
    }
    answers = (
        f"class, label and {len(card.classes)} probabilities out; the Keras flavour gives logits."
        if card.task.classes
        else "the smoothed curves out."
    )
    return register(
        f"models:/{run.find_logged_model()}",
        run.model,
        run_id=run.id,
        tags={runs.DATASET: run.dataset, runs.PROFILE: run.settings.profile, **scores},
        description=f"{_score_in_words(run, metrics)}. {run.entry.summary or run.model}. Raw "
        f"{card.kind} in, values up to {card.value_max:g}; {answers}",
        about=described(
            f"**No champion yet**: `chapterflow promote {run.model}` judges the challenger. The "
            f"first version: {_score_in_words(run, metrics)}.",
            f"{run.introduction} Each version is one training: its tags say on which data and how "
            "well it did there, its run has the curves, pictures and figures.",
        ),
        about_tags=run.about_tags,
        is_new=not run.continued,
    )


def reuse(run: Run, *, tell: Tell = silent) -> Outcome:
    """Return the outcome of a finished run; its version becomes the challenger."""
    tell("look up", "the finished run")
    if not run.becomes_version:
        return outcome_of(run.session.client.get_run(run.id))
    return outcome_of(run.session.confirm(run.id))


def run_model(
    run: Run, verdicts: Sequence[Verdict], *, tell: Tell = silent, **options: Any
) -> Outcome:
    """Take a run through all steps, or reuse the finished one.

    Args:
        run: The run of a model.
        verdicts: As `begin` takes them.
        tell: Called with progress.
        options: More options of `begin`.
    """
    with run.claim(tell) as claim:
        run = begin(run, verdicts, tell=tell, **options)
        if run.finished:
            return reuse(run, tell=tell)
        training = train(run, tell=tell)
        evaluation = evaluate(run, training, tell=tell)
        explanation = explain(run, evaluation, tell=tell) if run.becomes_version else None
        claim.check()
        return log(run, verdicts[0], evaluation, explanation, tell=tell)


def compare(project: Project, settings: Settings) -> Comparison:
    """Compare all models in the active profile, pair by pair where they share a test set.

    A model is represented by its finished run with today's parameters, data and sources; where
    there is none, by its newest finished run.
    """
    with Session(project, settings, reading=True) as session:
        chosen = newest_runs(project, settings, session)
        differences = differences_of(session, settings, chosen)
    return Comparison(
        profile=settings.profile,
        models=[outcome_of(run) for run in chosen],
        differences=differences,
    )
