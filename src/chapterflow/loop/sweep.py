"""A sweep: trials of a model with other parameters, judged on the validation split.

Optuna proposes the parameters, and ends trials early that are worse than most others after as many
epochs. Its storage is all that processes of one sweep share: each takes the next trial until there
are enough. The test split is never read, and trials are no challengers: no model of theirs is
logged or registered.
"""

from __future__ import annotations

import difflib
import json
import logging
import math
import os
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from chapterflow.config.load import OWN, load_settings, read_own
from chapterflow.config.settings import Settings
from chapterflow.config.space import Choice, Space, with_parameters, with_values
from chapterflow.environment import (
    SWEEP_STORAGE,
    Project,
    configure,
    find_project,
    load_tensorflow,
    machine,
    process_identity,
    process_is_gone,
    project_lock,
)
from chapterflow.errors import (
    ChapterflowError,
    ConfigError,
    DiskFull,
    StoreUnavailable,
    describe,
    redacted,
)
from chapterflow.files import staged
from chapterflow.kinds.dataset import Task, open_dataset, read_card
from chapterflow.language import message
from chapterflow.loop import clusters, remote, steps
from chapterflow.loop.run import Run
from chapterflow.loop.workers import Worker, Workers
from chapterflow.models.base import ModelParams
from chapterflow.models.catalog import FOLDER, get_model
from chapterflow.tracking import claims, runs
from chapterflow.tracking.artifacts import Artifacts, WorkKeeper
from chapterflow.tracking.fingerprint import fingerprint, fingerprint_parts
from chapterflow.tracking.session import Session
from chapterflow.tracking.store import check_remote, database, is_local, tracking_uri
from chapterflow.training.history import EpochRecord, Training
from chapterflow.types import Strict, Tell, silent

if TYPE_CHECKING:
    import optuna

#: Schema of a PostgreSQL database, so that it may be that of MLflow, which has a table of the same
#: name (`alembic_version`).
SCHEMA = "chapterflow_sweeps"
#: Seconds between two signs of a trial in the storage, and without one until it counts as dead. On
#: one machine, processes see at once that another has ended.
BEAT_SECONDS, GRACE_SECONDS = 10, 60
#: Seconds between two looks at trials of other processes, and to wait for a database.
POLL_SECONDS, DATABASE_SECONDS = 1.0, 10
#: Trials before Optuna learns from them and before it ends others early, and the most reports of a
#: trial, each of which is a write to the storage.
STARTUP, REPORTS = 5, 20
#: Attributes of a trial in the storage.
PROCESS, PLACE, RUN, ERROR, COPY, EPOCHS, SECONDS = (
    *("process", "place", "run_id", "error", "same_as", "epochs", "seconds"),
)
#: Artifacts of a sweep's run.
BEST, PROPOSAL = "best.json", "params.diff"
#: Notes about a proposal; results in another language translate them.
FIXED = message("All trials ran with {options}, which the diff does not contain.")
AFFECTED = message("The change affects the profile '{profile}', too.")


class Trial(Strict):
    """One set of parameters, and what became of it.

    Attributes:
        number: Number in the storage; a trial that another process continued has a new one.
        value: Score on the validation split; of a pruned trial, the last one.
        params: Parameters that vary, by their path below the model.
        epochs: Epochs that ran.
        same_as: Number of a trial with the same parameters, whose result this one has.
    """

    number: int
    state: Literal["finished", "pruned", "failed", "running"]
    value: float | None
    params: dict[str, Any]
    epochs: int
    seconds: float | None
    run_id: str | None
    same_as: int | None = None
    error: str | None = None


class Sweep(Strict):
    """The result of a sweep.

    Attributes:
        study: Its name in the storage: model, and a hash of all that decides it.
        storage: Address of the storage, without password.
        metric: Score on the validation split: `validation/accuracy` or `validation/rmse`.
        run_id: MLflow run that the trials' runs are nested in.
        trials: Trials, the best first, then the pruned, failed and running ones.
        best: The best finished trial; None if there is none.
        diff: Unified diff of `params.yaml` to the best parameters; empty if it has them.
        notes: What the diff changes or needs besides.
    """

    model: str
    dataset: str
    profile: str
    study: str
    storage: str
    metric: str
    higher_is_better: bool
    run_id: str
    trials: list[Trial]
    best: Trial | None
    diff: str
    notes: list[str]


@dataclass(frozen=True)
class Search:
    """What a process needs in order to take part in a sweep; it can be pickled.

    Attributes:
        settings: Settings that all trials share.
        storage: Address of the storage.
        study: Name in the storage.
        run_id: MLflow run of the sweep.
        trials: How many are to be done, by all processes and over all calls.
    """

    settings: Settings
    space: Space
    storage: str
    study: str
    run_id: str
    trials: int

    @property
    def model(self) -> str:
        """The chapter model."""
        return self.space.model

    @property
    def params(self) -> ModelParams:
        """Parameters that a trial starts from."""
        return self.settings.params(self.model)


def sweep(
    project: Project,
    settings: Settings,
    space: Space,
    *,
    trials: int,
    storage: str | None = None,
    workers: int | None = None,
    tags: dict[str, str] | None = None,
    tell_of: Callable[[str], Tell] = lambda subject: silent,
) -> Sweep:
    """Run the trials that are missing, and log what came of all.

    Args:
        project: The project.
        settings: Settings that all trials share.
        space: What varies.
        trials: How many trials there are to be in the end, those of earlier calls included.
        storage: `postgresql://...` or `sqlite:///...`; by default the shared tracking database, or
            else a file of the project.
        workers: Trials to run side by side; by default `execution.workers`, or else one on this
            machine, or one on each worker of the cluster.
        tags: More tags of the MLflow run.
        tell_of: Returns what receives the progress of a subject.

    Raises:
        ConfigError: If the storage is of another kind, or other machines are to take part and
            cannot.
        ValidationFailed: If the data break an expectation; no trial starts.
        StoreUnavailable: If the storage or the tracking store does not answer.
        ChapterflowError: If all trials failed.
    """
    model = space.model
    steps.check_shared(project, settings.execution)
    for dataset in settings.datasets_of(model):
        prepared = steps.prepare(project, settings, dataset, tell=tell_of(dataset))
        steps.validate(project, settings, prepared, tell=tell_of(dataset))
        tell_of(dataset)("checked", "")
    with Session(project, settings) as session:
        runs.sweep(session.client, project, session.experiment_id)
        name = study_name(project, settings, space)
        address = storage_address(project, name, storage, is_remote=settings.execution.is_remote)
        search = Search(settings, space, address, name, "", min(trials, space.size() or trials))
        # Before a run that could only fail.
        open_study(search, _task(project, search))
        with _start_workers(project, search, workers) as started:
            run_id = _open_run(session, project, search, tags or {}, tell_of)
            search = replace(search, run_id=run_id)
            with session.ending_on_error(search.run_id):
                if started is None:
                    take_trials(search, tell=tell_of(model))
                else:
                    _side_by_side(project, search, started, tell_of)
                result = _result(project, search)
                _log(session, search, result)
                runs.close_run(session.client, search.run_id, "FINISHED")
    best = result.best
    if best is None or best.value is None:
        errors = [trial.error for trial in result.trials if trial.error]
        reason = errors[-1] if errors else "no error"
        raise ChapterflowError(
            f"No trial of {len(result.trials)} has finished. Received: {reason}. Narrow the ranges"
        )
    tell_of(model)("trained", f"{len(result.trials)} trials, {result.metric} {best.value:.4f}")
    return result


def study_name(project: Project, settings: Settings, space: Space) -> str:
    """Return the name of a sweep's study: equal for all processes whose trials are comparable.

    It covers the space, and the fingerprint of the model's run without the parameters that vary.
    """
    cards = [read_card(project.data / name) for name in settings.datasets_of(space.model)]
    parts = fingerprint_parts(settings, space.model, cards)
    for dimension in space.dimensions:
        holder = parts["params"]
        *groups, last = dimension.name.split(".")
        for group in groups:
            holder = holder.get(group) or {}
        holder.pop(last, None)
    parts["space"] = {dimension.name: dimension.text for dimension in space.dimensions}
    return f"{space.model}-{fingerprint(parts)[:16]}"


def storage_address(
    project: Project, study: str, given: str | None, *, is_remote: bool = False
) -> str:
    """Return the address of the storage: as given, the tracking database, or a file of the project.

    Args:
        project: The checkout.
        study: Name in the storage.
        given: As the user names it.
        is_remote: Whether workers in other checkouts need it, too.

    Raises:
        ConfigError: If it is not a database that Optuna can share.
    """
    uri = given or tracking_uri(project)
    scheme, _, place = uri.partition("://")
    if scheme.partition("+")[0] == "postgresql":
        return uri
    if given is None and is_remote:
        raise ConfigError(
            "On other machines, trials need a database that all workers share. Received: "
            f"{redacted(uri)}. Set {SWEEP_STORAGE} to postgresql://USER@HOST/DATABASE here and "
            "where the workers run, see docs/sweep.md"
        )
    if given is None:
        folder = project.scratch / "sweeps"
        folder.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{folder / study}.db"
    if scheme != "sqlite" or not place.strip("/"):
        raise ConfigError(
            "--storage must be postgresql://USER@HOST/DATABASE, or sqlite:///FILE for processes of "
            f"one machine. Received: {redacted(given)}"
        )
    if Path(place.removeprefix("/")).resolve() == database(project):
        raise ConfigError(
            "--storage must not be the tracking store, whose tables have the same names. "
            f"Received: {given}. Name another file"
        )
    return given


@contextmanager
def _storage_errors(address: str) -> Iterator[None]:
    """Report failures of the storage in one line."""
    import optuna
    import sqlalchemy.exc

    try:
        yield
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        cause = error.__cause__ or error
        reason = str(getattr(cause, "orig", None) or cause).strip().partition("\n")[0]
        raise _unavailable(address, reason) from error


def _unavailable(address: str, reason: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"The storage of the sweep (--storage) does not answer: {reason}. Received: {address}. "
        "Start it; the same command continues, finished trials are kept"
    )


def storage_of(address: str) -> optuna.storages.RDBStorage:
    """Open the storage of an address; it is created if it is not there.

    Raises:
        ConfigError: If the driver of the database is missing.
        StoreUnavailable: If it does not answer.
    """
    import optuna
    import sqlalchemy

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    # It warns that heartbeats and others may change in its next version; ours is pinned.
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    options: dict[str, Any] = {"timeout": DATABASE_SECONDS}
    with _storage_errors(address):
        if urlsplit(address).scheme.startswith("postgresql"):
            try:
                check_remote(address)  # which takes seconds; a driver may wait for ever
            except StoreUnavailable:
                raise _unavailable(address, "no answer") from None
            options = {"connect_timeout": DATABASE_SECONDS, "options": f"-csearch_path={SCHEMA}"}
            try:
                engine = sqlalchemy.create_engine(address, connect_args=options)
            except ImportError as error:
                raise ConfigError(
                    f"--storage needs the database's driver. Received: {error}. Install it: "
                    "`pip install 'chapterflow[postgres]'`"
                ) from None
            # Two processes may create it at once; then one of them fails.
            with (
                suppress(sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError),
                engine.begin() as connection,
            ):
                connection.execute(sqlalchemy.text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
            engine.dispose()
        create = partial(
            optuna.storages.RDBStorage,
            address,
            engine_kwargs={"connect_args": options},
            heartbeat_interval=BEAT_SECONDS,
            grace_period=GRACE_SECONDS,
            heartbeat_stale_trial_callback=_repeat,
        )
        # Where processes create the tables at once, a table of another may be in the way.
        deadline = time.monotonic() + DATABASE_SECONDS
        while True:
            try:
                return create()
            except sqlalchemy.exc.SQLAlchemyError as error:
                taken = re.search("already exists|unique", str(error), re.IGNORECASE)
                if not taken or time.monotonic() > deadline:
                    raise
            time.sleep(0.05)


def _open_run(
    session: Session,
    project: Project,
    search: Search,
    tags: dict[str, str],
    tell_of: Callable[[str], Tell],
) -> str:
    """Open the MLflow run of a sweep, or continue it, and return its id."""
    client, experiment_id, model = session.client, session.experiment_id, search.model

    def on_wait() -> None:
        tell_of(model)("waiting", "another process opens the sweep")

    with claims.Claim(client, experiment_id, f"sweep-{search.study}", on_wait).held():
        earlier = client.search_runs(
            [experiment_id],
            f"tags.`{runs.STUDY}` = '{search.study}' and tags.`{runs.RUN_TYPE}` = '{runs.SWEEP}'",
            max_results=1,
        )
        dataset = search.settings.dataset_of(model)
        run_id = runs.open_run(
            client,
            experiment_id,
            name=f"sweep of {model} on {dataset}",
            run_id=earlier[0].info.run_id if earlier else None,
            tags={
                **_tags(search, runs.SWEEP),
                "mlflow.note.content": f"Trials of **{model}** on `{dataset}`, judged on the "
                f"validation split. `{BEST}` has the best parameters, and `{PROPOSAL}` the change "
                "of `params.yaml`.",
                **runs.git_tags(project),
                **tags,
            },
        )
    if not earlier:
        space = {f"space.{each.name}": each.text for each in search.space.dimensions}
        fixed = {"model": model, "dataset": dataset, "seed": search.settings.seed}
        runs.log_params(client, run_id, fixed | space)
    return run_id


def _tags(search: Search, kind: str) -> dict[str, str]:
    # No fingerprint and no role: what looks for runs of models finds none of these.
    return {
        runs.RUN_TYPE: kind,
        runs.STUDY: search.study,
        runs.MODEL: search.model,
        runs.DATASET: search.settings.dataset_of(search.model),
        runs.PROFILE: search.settings.profile,
        runs.COLOUR: runs.colour_of(search.model, search.settings.models),
    }


def _start_workers(
    project: Project, search: Search, count: int | None
) -> AbstractContextManager[Workers | None]:
    """Return the workers for trials side by side; None if the trials run in this process."""
    execution = search.settings.execution
    wanted = min(count or execution.workers or search.trials, search.trials)
    if execution.is_remote:
        return clusters.connect(project, execution, wanted)
    if wanted == 1 or not (count or execution.workers):
        return nullcontext()
    return Workers(project, wanted)


def _side_by_side(
    project: Project, search: Search, workers: Workers, tell_of: Callable[[str], Tell]
) -> None:
    """Let workers take the trials."""
    step: Callable[..., None] = take_trials
    arguments: tuple[Any, ...] = (search,)
    if workers.cluster:
        order = remote.Order.of(
            Run(project, search.settings, search.model), flow_run_id=search.run_id
        )
        # Workers have their own access to the storage, as to the tracking store: no password
        # passes through the cluster.
        step, arguments = take_remotely, (order, replace(search, storage=""))

    def in_worker(worker: Worker, number: int) -> Exception | None:
        tell = tell_of(f"worker {number}")
        try:
            worker.call(step, *arguments, tell=tell)
        except Exception as error:
            tell("failed", str(error))
            return error
        return None

    failures = workers.spread(in_worker, range(1, workers.count + 1))
    # The others have done the trials of a process that ended.
    if failures[0] and all(failures):
        raise failures[0]


def take_remotely(order: remote.Order, search: Search, *, tell: Tell) -> None:
    """Run trials of a sweep in the checkout around the current folder, as ordered from elsewhere.

    Args:
        order: A run with the settings that all trials share.
        search: The sweep; its storage is that of this process's environment.
        tell: Called with progress.

    Raises:
        ConfigError: If this checkout has other code, packages, stores.
        DataError: If it cannot have the same data.
    """
    import optuna

    run = remote.accept(order, tell=tell)
    given = os.environ.get(SWEEP_STORAGE) or None
    address = storage_address(run.project, search.study, given, is_remote=True)
    with _storage_errors(address):
        studies = optuna.get_all_study_names(storage_of(address))
    if search.study not in studies:
        raise ConfigError(
            "A worker must use the storage of the sweep. Received: "
            f"{redacted(address)}, which has no study {search.study}. Set {SWEEP_STORAGE} where "
            "the worker runs, and start it again"
        )
    take_trials(replace(search, storage=address), tell=tell)


def open_study(search: Search, task: Task) -> optuna.Study:
    """Open the study of a sweep; it is created if the storage does not have it."""
    import optuna

    with _storage_errors(search.storage):
        return optuna.create_study(
            study_name=search.study,
            storage=storage_of(search.storage),
            direction="maximize" if task.higher_is_better else "minimize",
            load_if_exists=True,
            # The first quarter says little: the learning rate is still rising.
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=STARTUP, n_warmup_steps=1 + search.params.all_epochs() // 4
            ),
        )


def take_trials(search: Search, *, tell: Tell = silent) -> None:
    """Run trials of a sweep in this process until there are enough.

    Trials of processes that have ended are repeated, with what they had done on this machine. Where
    others run the last ones, this process waits: it takes over what they do not finish.
    """
    project = find_project()
    configure(project)
    import optuna

    task = _task(project, search)
    study = open_study(search, task)
    with _storage_errors(search.storage):
        work = _Work(project, search, study, task, tell)
        while True:
            _repeat_dead(study)
            listed = study.get_trials(deepcopy=False)
            done = [trial for trial in listed if _is_done(trial)]
            running = [trial for trial in listed if trial.state.name == "RUNNING"]
            if len(done) >= search.trials:
                return
            if len(done) + len(running) >= search.trials:
                numbers = ", ".join(str(trial.number) for trial in running)
                tell("waiting", f"another process runs trial {numbers}")
                time.sleep(POLL_SECONDS)
                continue
            load_tensorflow()
            study.sampler = _sampler(search, len(listed))
            # A machine that slept for longer than the grace period has lost its trial.
            with suppress(optuna.exceptions.UpdateFinishedTrialError):
                work.take_one()


def _sampler(search: Search, count: int) -> optuna.samplers.BaseSampler:
    """Return what proposes the next parameters.

    Its seed depends on the number of trials, so a sweep that was continued goes the way of one that
    was not interrupted.
    """
    import optuna

    seed = (search.settings.seed * 100_003 + count) % 2**32
    size = search.space.size()
    if size is not None and size <= search.trials:
        return optuna.samplers.BruteForceSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=2 * STARTUP)


def _task(project: Project, search: Search) -> Task:
    return read_card(project.data / search.settings.dataset_of(search.model)).task


def _is_done(trial: Any) -> bool:
    """Tell whether a trial counts: those that failed with their process are repeated."""
    state = trial.state.name
    return state in ("COMPLETE", "PRUNED") or (state == "FAIL" and ERROR in trial.user_attrs)


def _repeat(study: optuna.Study, trial: Any) -> None:
    """Queue the parameters of a trial that was not finished, with its MLflow run."""
    kept = {RUN: trial.user_attrs[RUN]} if RUN in trial.user_attrs else {}
    study.enqueue_trial(trial.params, user_attrs=kept)


def _repeat_dead(study: optuna.Study) -> None:
    """Repeat the trials of processes that have ended, here or, after a minute, elsewhere."""
    import optuna

    optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
        known = trial.user_attrs
        if known.get(PLACE) == claims.place() and process_is_gone(known.get(PROCESS, "")):
            # Another process may have done it.
            with suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                _repeat(study, trial)


def _score(task: Task, record: EpochRecord) -> float:
    """Return the score of an epoch on the validation split."""
    if task.classes:
        return float(record.validation_accuracy or 0.0)
    return math.sqrt(record.validation_loss)


class _Failed(Exception):
    """A trial failed for reasons of its own; the sweep goes on."""


class _Work:
    """The trials of this process."""

    def __init__(
        self, project: Project, search: Search, study: optuna.Study, task: Task, tell: Tell
    ) -> None:
        self._project = project
        self._search = search
        self._study = study
        self._task = task
        self._tell = tell
        self._session = Session(project, search.settings)
        # Other machines may continue a trial.
        self._is_shared = not is_local(project)
        self._dataset = open_dataset(project.data / search.settings.dataset_of(search.model))

    def take_one(self) -> None:
        """Run one trial; interrupted, it is queued again."""
        running: list[optuna.Trial] = []

        def objective(trial: optuna.Trial) -> float:
            running.append(trial)
            return self._objective(trial)

        try:
            self._study.optimize(objective, n_trials=1, catch=(_Failed,))
        except (KeyboardInterrupt, StoreUnavailable, DiskFull):
            for trial in running:
                frozen = self._study.trials[trial.number]
                if frozen.state.name == "FAIL":
                    _repeat(self._study, frozen)
            raise

    def _objective(self, trial: optuna.Trial) -> float:
        import optuna

        search = self._search
        values = _suggested(search.space, trial)
        trial.set_user_attr(PLACE, claims.place())
        trial.set_user_attr(PROCESS, process_identity())
        others = trial.study.get_trials(deepcopy=False)
        counted = [
            other
            for other in others[: trial.number]
            if _is_done(other) or other.state.name == "RUNNING"
        ]
        if len(counted) >= search.trials:
            raise _Failed  # Two processes took the last one.
        state = optuna.trial.TrialState
        for other in counted:
            if other.state.name in ("COMPLETE", "PRUNED") and values == _values(search, other):
                trial.set_user_attr(COPY, other.number)
                if other.state == state.PRUNED:
                    raise optuna.TrialPruned
                return float(other.value)
        try:
            params = with_values(search.params, values)
            return self._train(trial, params)
        except (StoreUnavailable, DiskFull, optuna.exceptions.OptunaError):  # also TrialPruned
            raise
        except Exception as error:  # A model may not fit into memory, or a loss become infinite.
            trial.set_user_attr(ERROR, redacted(describe(error, FOLDER)))
            raise _Failed from error

    def _train(self, trial: optuna.Trial, params: ModelParams) -> float:
        import optuna

        from chapterflow.training.fit import fit

        search, session = self._search, self._session
        settings = search.settings
        step = f"trial {trial.number}"
        folder = self._folder(params)
        every = max(1, search.params.all_epochs() // REPORTS)

        def on_epoch(record: EpochRecord) -> None:
            logger(record)
            trial.set_user_attr(EPOCHS, record.epoch)
            score = _score(self._task, record)
            epochs = f"epoch {record.epoch}/{params.all_epochs()}"
            self._tell(step, f"{epochs}, validation {record.summary}{logger.note()}")
            if self._is_shared and record.epoch > logger.last:
                keep_work(record.epoch)
            if record.epoch % every == 0:
                trial.report(score, record.epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned

        def on_wait() -> None:
            self._tell("waiting", "another process trains with these parameters")

        with project_lock(self._project, f"run-{folder.name}", on_wait):
            run_id = self._open_run(trial, params)
            with session.ending_on_error(run_id):
                started = time.monotonic()
                training: Training | None = None
                artifacts = Artifacts(run_id)
                if self._is_shared and not folder.is_dir():
                    artifacts.restore_work(folder)
                logger = runs.EpochLogger(session.client, run_id, folder)
                with logger, WorkKeeper(artifacts, folder) as keep_work:
                    self._tell(step, "starting")
                    try:
                        training = fit(
                            get_model(search.model),
                            params,
                            self._dataset,
                            seed=settings.seed,
                            work=folder,
                            on_epoch=on_epoch,
                            scratch=self._project.scratch,
                        )
                    except optuna.TrialPruned:
                        pass
                    except (StoreUnavailable, DiskFull):
                        raise
                    except Exception:
                        shutil.rmtree(folder, ignore_errors=True)  # It would fail there again.
                        raise
                trial.set_user_attr(SECONDS, round(time.monotonic() - started, 3))
                value = self._close_run(artifacts, training)
            shutil.rmtree(folder, ignore_errors=True)
        if value is None:
            raise optuna.TrialPruned
        return value

    def _close_run(self, artifacts: Artifacts, training: Training | None) -> float | None:
        """End the MLflow run of a trial and return its score; None for a pruned trial."""
        client, run_id = self._session.client, artifacts.run_id
        value, metrics, tags = None, {}, {"chapterflow.trial": "pruned"}
        if training:
            chosen = next(
                record for record in training.history if record.epoch == training.chosen_epoch
            )
            value = _score(self._task, chosen)
            metrics = {f"sweep/{self._task.score}": value}
            tags = {"chapterflow.trial": "finished"}
        runs.log_metrics(client, run_id, metrics, 0, tags)
        if self._is_shared:
            artifacts.delete_work()
        runs.close_run(client, run_id, "FINISHED")
        return value

    def _folder(self, params: ModelParams) -> Path:
        """Return the folder of a trial, where its training resumes; equal for equal parameters."""
        key = f"{self._search.study} {params.model_dump_json()}"
        return self._project.scratch / "work" / f"trial-{fingerprint({'trial': key})[:16]}"

    def _open_run(self, trial: optuna.Trial, params: ModelParams) -> str:
        """Open the MLflow run of a trial, or the one in which another process began the trial."""
        search, client = self._search, self._session.client
        earlier = trial.user_attrs.get(RUN)
        run_id = runs.open_run(
            client,
            self._session.experiment_id,
            name=f"trial {trial.number} of {search.model}",
            run_id=earlier,
            tags={
                **_tags(search, runs.TRIAL),
                runs.PARENT: search.run_id,
                runs.MACHINE: machine(),
                **runs.git_tags(self._project),
            },
        )
        trial.set_user_attr(RUN, run_id)
        if run_id != earlier:
            fixed = {
                "model": search.model,
                "dataset": search.settings.dataset_of(search.model),
                "seed": search.settings.seed,
            }
            runs.log_params(client, run_id, fixed | params.model_dump(mode="json"))
        return run_id


def _suggested(space: Space, trial: optuna.Trial) -> dict[str, Any]:
    """Return the parameters that Optuna proposes for a trial."""
    values: dict[str, Any] = {}
    for dimension in space.dimensions:
        name = dimension.name
        if isinstance(dimension, Choice):
            values[name] = dimension.value(trial.suggest_categorical(name, dimension.labels()))
        elif dimension.whole:
            low, high = int(dimension.low), int(dimension.high)
            values[name] = trial.suggest_int(name, low, high, log=dimension.log)
        else:
            number = trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)
            values[name] = dimension.rounded(number)
    return values


def _values(search: Search, trial: Any) -> dict[str, Any]:
    """Return the parameters of a trial in the storage, as it was trained with them."""
    return {
        each.name: each.value(trial.params[each.name])
        if isinstance(each, Choice)
        else each.rounded(trial.params[each.name])
        for each in search.space.dimensions
        if each.name in trial.params
    }


def _result(project: Project, search: Search) -> Sweep:
    """Return what came of all trials of a sweep so far."""
    import optuna

    task = _task(project, search)
    with _storage_errors(search.storage):
        study = optuna.load_study(study_name=search.study, storage=storage_of(search.storage))
        listed = study.get_trials(deepcopy=False)
    states = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}
    trials = [
        Trial(
            number=trial.number,
            state=states[trial.state.name],  # type: ignore[arg-type]
            value=trial.value,
            params=_values(search, trial),
            epochs=trial.user_attrs.get(EPOCHS, 0),
            seconds=trial.user_attrs.get(SECONDS),
            run_id=trial.user_attrs.get(RUN),
            same_as=trial.user_attrs.get(COPY),
            error=trial.user_attrs.get(ERROR),
        )
        for trial in listed
        if _is_done(trial) or trial.state.name == "RUNNING"
    ]
    order = list(states.values())

    def rank(trial: Trial) -> tuple[int, float, int]:
        value = trial.value if trial.value is not None else math.inf
        better = -value if task.higher_is_better and trial.value is not None else value
        return order.index(trial.state), better, trial.number

    trials.sort(key=rank)
    best = trials[0] if trials and trials[0].state == "finished" else None
    diff, notes = _proposal(project, search, best) if best else ("", [])
    return Sweep(
        model=search.model,
        dataset=search.settings.dataset_of(search.model),
        profile=search.settings.profile,
        study=search.study,
        storage=redacted(search.storage),
        metric=f"validation/{task.score}",
        higher_is_better=task.higher_is_better,
        run_id=search.run_id,
        trials=trials,
        best=best,
        diff=diff,
        notes=notes,
    )


def _proposal(project: Project, search: Search, best: Trial) -> tuple[str, list[str]]:
    """Return the change of `params.yaml` to the best parameters, as a diff, and notes about it."""
    before = project.params.read_text(encoding="utf-8")
    try:
        after = proposed_text(project, search.space, search.settings.profile, best.params)
    except ChapterflowError as error:
        return "", [str(error)]
    diff = "".join(
        difflib.unified_diff(
            before.splitlines(keepends=True),
            after.splitlines(keepends=True),
            "a/params.yaml",
            "b/params.yaml",
        )
    )
    notes = []
    if search.space.fixed:
        options = " ".join(f"--set {override}" for override in search.space.fixed)
        notes.append(FIXED.format(options=options))
    now, then = (_read(project, text).models[search.model] for text in (before, after))
    notes += [
        AFFECTED.format(profile=profile)
        for profile in now
        if profile != search.settings.profile and now[profile] != then[profile]
    ]
    return diff, notes


def proposed_text(project: Project, space: Space, profile: str, values: dict[str, Any]) -> str:
    """Return the text of `params.yaml` with the best values, comments and order kept.

    Raises:
        ChapterflowError: If the file has a form that cannot be changed in this way.
    """
    text = with_parameters(project.params.read_text(encoding="utf-8"), space.model, profile, values)
    with suppress(ConfigError):
        params = _read(project, text, profile).params(space.model)
        if params == with_values(params, values):
            return text
    options = " ".join(f"--set {override}" for override in space.overrides(values))
    raise ChapterflowError(
        f"params.yaml cannot be changed by a program. Received: {options} as the best parameters. "
        "Write them into the file"
    )


def _read(project: Project, text: str, profile: str | None = None) -> Settings:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / project.params.name
        path.write_text(text, encoding="utf-8")
        return load_settings(path, profile=profile, own=read_own(project.root / OWN))


def apply(project: Project, space: Space, result: Sweep) -> None:
    """Write the best parameters to `params.yaml`."""
    if result.best is not None:
        text = proposed_text(project, space, result.profile, result.best.params)
        with staged(project.params) as new:
            new.write_text(text, encoding="utf-8")


def _log(session: Session, search: Search, result: Sweep) -> None:
    """Log the best trial, the proposal and Optuna's pictures to the run of a sweep."""
    client, best = session.client, result.best
    counts = {f"chapterflow.trials.{state}": "0" for state in ("finished", "pruned", "failed")}
    for state in counts:
        name = state.rpartition(".")[2]
        counts[state] = str(sum(trial.state == name for trial in result.trials))
    if best is None or best.value is None:
        runs.set_tags(client, search.run_id, counts)
        return
    tags = {f"chapterflow.best.{name}": str(value) for name, value in best.params.items()}
    score = result.metric.rpartition("/")[2]
    runs.log_metrics(client, search.run_id, {f"sweep/{score}": best.value}, 0, counts | tags)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / BEST).write_text(json.dumps(best.model_dump(), indent=2) + "\n")
        (folder / PROPOSAL).write_text(result.diff, encoding="utf-8")
        _draw(search, result, folder)
        client.log_artifacts(search.run_id, str(folder))


def _draw(search: Search, result: Sweep, folder: Path) -> None:
    """Draw Optuna's pictures as PNG files; those that need more or other trials are left out."""
    import matplotlib.pyplot as plt
    import optuna

    with _storage_errors(search.storage):
        study = optuna.load_study(study_name=search.study, storage=storage_of(search.storage))
    for name, draw in {
        "history": optuna.visualization.matplotlib.plot_optimization_history,
        "importance": optuna.visualization.matplotlib.plot_param_importances,
        "parallel_coordinate": optuna.visualization.matplotlib.plot_parallel_coordinate,
    }.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                figure = draw(study, target_name=result.metric).figure
                figure.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
            except (ValueError, RuntimeError) as error:
                logging.getLogger(__name__).debug("No picture %s: %s", name, error)
            finally:
                plt.close("all")
