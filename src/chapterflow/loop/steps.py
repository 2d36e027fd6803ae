"""The steps, in the order in which they run. Read this file first.

prepare -> validate -> train -> evaluate -> explain -> log; compare and report over all. Plain
functions: Prefect (`pipelines/`), `dvc repro` and tests call the same ones.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from chapterflow.config.settings import Settings
from chapterflow.data.build import ensure_dataset, refuse_damage, verify_dataset
from chapterflow.data.versioning import can_version, data_version, record_version
from chapterflow.environment import Project, held, load_tensorflow
from chapterflow.errors import ConfigError, ValidationFailed
from chapterflow.kinds.dataset import CARD, open_dataset, read_card
from chapterflow.models.catalog import get_model
from chapterflow.tracking import runs
from chapterflow.tracking.fingerprint import fingerprint, fingerprint_parts, validation_folder
from chapterflow.tracking.records import Comparison, Outcome, Prepared, Reported, RunFacts, Trained
from chapterflow.tracking.runs import labels, named_runs, newest_flow_run, read_run
from chapterflow.tracking.session import Session, outcome_of
from chapterflow.training.history import EpochRecord
from chapterflow.types import Tell, silent

if TYPE_CHECKING:
    import keras
    from mlflow.entities import Run

    from chapterflow.evaluation.compare import Difference
    from chapterflow.validation.verdict import Verdict


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
    from chapterflow.page.report import write_page

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


def preload(project: Project, settings: Settings, models: Sequence[str]) -> None:
    """Open the tracking store, and import what running these models will need.

    Imports take longer than anything else that a small run does before it trains. Where finished
    runs will be reused, they are left out.
    """
    with Session(project, settings) as session:
        done = {
            run.data.tags[runs.MODEL] for run in current_runs(project, settings, session, models)
        }
    if not done.issuperset(models):
        load_tensorflow()
        import chapterflow.validation.validate

        chapterflow.validation.validate.load_great_expectations()


def prepare(
    project: Project,
    settings: Settings,
    dataset: str,
    *,
    build: bool = True,
    rebuild: bool = False,
    tell: Tell = silent,
) -> Prepared:
    """Bring a dataset onto this machine; the last one of the profile brings them under DVC.

    Raises:
        DataError: If the source is damaged, or `build` is off and the dataset is not there.
        FetchError: If it cannot be fetched.
    """

    def progress(name: str, received: int, total: int | None) -> None:
        share = f" of {total / 1e6:.1f}" if total else ""
        tell("fetch", f"{name}: {received / 1e6:.1f}{share} MB")

    tell("data", dataset)
    card, built = ensure_dataset(
        project,
        dataset,
        settings.datasets[dataset],
        on_progress=progress,
        build=build,
        rebuild=rebuild,
    )
    if built and can_version(project) and _is_complete(project, settings):
        tell("data", "versioning data/ with DVC")
        record_version(project)
    return Prepared(dataset=dataset, digest=card.digest, built=built, version=data_version(project))


def _is_complete(project: Project, settings: Settings) -> bool:
    """Tell whether every dataset of the profile is here.

    `data.dvc` versions all of `data/`: half of it would be recorded as a new version without the
    other half.
    """
    names = (by_profile[settings.profile] for by_profile in settings.roles.values())
    return all((project.data / name / CARD).is_file() for name in names)


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
    from chapterflow.validation.verdict import VERDICT, read_verdict

    tell("validate", prepared.dataset)
    folder = project.data / prepared.dataset
    out = validation_folder(project, settings, prepared.dataset, prepared.digest)
    damage = verify_dataset(folder)
    verdict = read_verdict(out) if not damage and (out / VERDICT).is_file() else None
    if verdict is None or not verdict.success:
        dataset = open_dataset(folder)
        verdict = validate_dataset(dataset, settings.validation.bounds(dataset.card.kind), out)
    if flow_run_id is not None:
        with Session(project, settings) as session:
            session.client.log_artifacts(flow_run_id, out, f"validation/{prepared.dataset}")
    try:
        verdict.raise_for_failure()
    except ValidationFailed as failure:
        raise ValidationFailed(f"{failure}\n  All of it on one page: {out / PAGE}") from None
    refuse_damage(folder, damage)
    return verdict


@contextmanager
def claim(
    project: Project, settings: Settings, model: str, *, tell: Tell = silent
) -> Iterator[None]:
    """Hold a model's fingerprint while it is trained, evaluated and logged.

    Two processes that want the same run do it once: the second waits, then reuses it.
    """
    cards = [read_card(project.data / name) for name in settings.datasets_of(model)]
    key = fingerprint(fingerprint_parts(settings, model, cards))[:16]
    with held(project, f"run-{key}", lambda: tell("waiting", "another process trains this model")):
        yield


def train(
    project: Project,
    settings: Settings,
    model: str,
    verdicts: Sequence[Verdict],
    *,
    flow_run_id: str | None = None,
    force: bool = False,
    tags: dict[str, str] | None = None,
    tell: Tell = silent,
) -> Trained:
    """Train a model, continue its interrupted training, or find the run that did it already.

    Call it within `claim`.

    Args:
        verdicts: Of the validation of every dataset that the model reads; all must be good.
        flow_run_id: Run to nest this one in.
        force: Train even where a finished run has the fingerprint.
        tags: More tags for the run.
    """
    for verdict in verdicts:
        verdict.raise_for_failure()
    tell("look up", "is there a finished run?")
    dataset = settings.dataset_of(model)
    dataset_folder = project.data / dataset
    cards = [read_card(project.data / name) for name in settings.datasets_of(model)]
    parts = fingerprint_parts(settings, model, cards)
    key = fingerprint(parts)
    work = project.scratch / "work" / key[:16]
    with Session(project, settings) as session:
        done = None if force else runs.find_finished(session.client, session.experiment_id, key)
        if done is not None:
            return Trained(
                model=model,
                dataset=dataset,
                fingerprint=key,
                run_id=done.info.run_id,
                status="reused",
                work="",
            )
        if force:
            shutil.rmtree(work, ignore_errors=True)
        done_before = 0
        if work.is_dir():
            history = work / "history.jsonl"
            done_before = len(history.read_bytes().splitlines()) if history.is_file() else 0
            behind = f" behind epoch {done_before}" if done_before else ""
            tell("train", f"continuing an interrupted training{behind}")
        work.mkdir(parents=True, exist_ok=True)
        (work / "fingerprint.json").write_text(json.dumps(parts, indent=2), encoding="utf-8")
        run_id = session.start_model_run(
            model, parts, cards[0], work, flow_run_id=flow_run_id, tags=tags or {}
        )
        params = settings.params(model)
        logger = runs.EpochLogger(session.client, run_id)

        def on_epoch(record: EpochRecord) -> None:
            logger(record)
            if record.epoch > done_before:
                told = f"epoch {record.epoch}/{params.all_epochs()}, validation {record.told}"
                tell("train", told)

        with session.ending_on_error(run_id):
            tell("train", "starting TensorFlow")
            load_tensorflow()
            from chapterflow.training.fit import fit

            training = fit(
                get_model(model),
                params,
                open_dataset(dataset_folder),
                seed=settings.seed,
                work=work,
                on_epoch=on_epoch,
                scratch=project.scratch,
            )
        (work / "training.json").write_text(training.model_dump_json(), encoding="utf-8")
    return Trained(
        model=model,
        dataset=dataset,
        fingerprint=key,
        run_id=run_id,
        status="trained",
        work=str(work),
    )


def untrained(
    project: Project, settings: Settings, model: str, *, build: bool = True
) -> keras.Model:
    """Return a model as training starts with it, for the data of its role.

    Args:
        build: Whether to build datasets that are not there.
    """
    from chapterflow.training.batches import input_spec, sized_for
    from chapterflow.training.fit import built, with_files

    for name in settings.datasets_of(model):
        prepare(project, settings, name, build=build)
    entry, params = get_model(model), settings.params(model)
    dataset = open_dataset(project.data / settings.dataset_of(model))
    dataset = sized_for(entry, params, dataset)
    params = with_files(entry, params, dataset, project.scratch)
    return built(entry, params, input_spec(entry, params, dataset))


def evaluate(
    project: Project, settings: Settings, trained: Trained, *, tell: Tell = silent
) -> Trained:
    """Score a model trained now on the test split; a reused one has its scores.

    Writes `evaluation.json` and `predictions.npz` into the training's work folder.
    """
    if trained.status == "reused":
        return trained
    load_tensorflow()
    from chapterflow.evaluation.evaluate import evaluate as score
    from chapterflow.evaluation.variants import cross_validated, score_variants
    from chapterflow.training.fit import Training

    tell("evaluate", "scoring the test split")
    work = Path(trained.work)
    with Session(project, settings) as session, session.ending_on_error(trained.run_id):
        entry, params = get_model(trained.model), settings.params(trained.model)
        dataset = open_dataset(project.data / trained.dataset)
        evaluation = score(
            entry,
            params,
            work / "model.keras",
            Training.model_validate_json((work / "training.json").read_text(encoding="utf-8")),
            dataset,
            settings.evaluation,
            predictions=work / runs.PREDICTIONS,
        )
        beside = score_variants(
            entry,
            params,
            dataset,
            seed=settings.seed,
            work=work,
            scratch=project.scratch,
            tell=lambda name: tell("beside", f"variant {name}"),
        )
        if params.folds:
            beside |= cross_validated(
                entry,
                params,
                dataset,
                seed=settings.seed,
                tell=lambda fold: tell("cross-validation", fold),
            )
        evaluation = evaluation.model_copy(update={"metrics": evaluation.metrics | beside})
        (work / runs.EVALUATION).write_text(evaluation.model_dump_json(indent=2), encoding="utf-8")
    return trained


def explain(
    project: Project, settings: Settings, trained: Trained, *, tell: Tell = silent
) -> Trained:
    """Draw what a model trained now looks at, and judge whether to believe it.

    Writes pictures and `explain.json` into `explain/` of the training's work folder; where the
    network has learnt nothing, the reason alone.
    """
    if trained.status == "reused":
        return trained
    load_tensorflow()
    import numpy as np

    from chapterflow.explain.explain import explain as explain_model
    from chapterflow.explain.explanation import write_explanation, write_refusal
    from chapterflow.explain.untrained import Untrained
    from chapterflow.training.batches import load_model, sized_for

    started = time.monotonic()
    work = Path(trained.work)
    entry, params = get_model(trained.model), settings.params(trained.model)
    with Session(project, settings) as session, session.ending_on_error(trained.run_id):
        dataset = sized_for(entry, params, open_dataset(project.data / trained.dataset))
        with np.load(work / runs.PREDICTIONS, allow_pickle=False) as predictions:
            probabilities = predictions.get("probability")
        try:
            found = explain_model(
                load_model(work / "model.keras"),
                dataset,
                work / runs.EXPLAIN,
                seed=settings.seed,
                title=f"{trained.model} on {trained.dataset}",
                probabilities=probabilities,
                tell=lambda detail: tell("explain", detail),
            )
        except Untrained as refusal:
            # The run is as good as its metrics; only pictures would mislead.
            write_refusal(work / runs.EXPLAIN, str(refusal))
        else:
            metrics = found.metrics | {"explain/seconds": time.monotonic() - started}
            write_explanation(found.model_copy(update={"metrics": metrics}), work / runs.EXPLAIN)
    return trained


def log(
    project: Project,
    settings: Settings,
    trained: Trained,
    verdict: Verdict,
    *,
    tell: Tell = silent,
) -> Outcome:
    """Log metrics, figures and the model, register the model as challenger, and end the run.

    A reused run has all that; its version becomes the challenger.
    """
    with Session(project, settings) as session:
        if trained.status == "trained":
            tell("log", "figures, model and registry")
            with session.ending_on_error(trained.run_id):
                session.finish_model_run(
                    trained.model,
                    trained.run_id,
                    Path(trained.work),
                    open_dataset(project.data / trained.dataset),
                    verdict,
                )
            shutil.rmtree(trained.work)
        else:
            session.confirm(trained.run_id)
        return session.outcome(trained.run_id, trained.status)
