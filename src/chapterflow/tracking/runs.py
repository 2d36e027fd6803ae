"""MLflow runs: opened or resumed, logged to, found and read again."""

from __future__ import annotations

import json
import logging
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

from pydantic import ValidationError

from chapterflow.environment import Project, process_identity, project_lock
from chapterflow.errors import ConfigError, StoreError, StoreUnavailable, redacted
from chapterflow.explain.explanation import EXPLANATION as DOCUMENT
from chapterflow.kinds.dataset import DatasetCard
from chapterflow.tracking import claims
from chapterflow.tracking.artifacts import DAMAGED, EXPLANATION, REPORTED, REQUIRED, picture
from chapterflow.tracking.reader import ACTIVE, DELETED, refusals, suppress_refusals
from chapterflow.tracking.records import RunFacts
from chapterflow.tracking.store import insert
from chapterflow.training.history import EpochRecord
from chapterflow.types import Strict, Tell, silent

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

#: Tags, all under one prefix so that the UI lists them together.
RUN_TYPE = "chapterflow.kind"  # `flow`: over several models; others below
STUDY = "chapterflow.study"  # of a sweep and its trials: all that decides them, as a hash
FINGERPRINT = "chapterflow.fingerprint"
MODEL = "chapterflow.model"
MODEL_VERSION = "chapterflow.model_version"
MODEL_SHA256 = "chapterflow.model_sha256"  # of a logged model: its `.keras` file as it was logged
FILES_SHA256 = "chapterflow.files_sha256"  # of a logged model: its `versions.MANIFEST`
DATASET = "chapterflow.dataset"
PROFILE = "chapterflow.profile"
ROLE, BOOK_SECTION = "chapterflow.role", "chapterflow.book_section"
TEST_DIGEST = "chapterflow.test_digest"
PROCESS = "chapterflow.process"
ERROR = "chapterflow.error"
COMMIT, DIRTY = "mlflow.source.git.commit", "chapterflow.git_dirty"
DIGEST, DATA_VERSION = "chapterflow.dataset_digest", "chapterflow.data_version"
#: Where it was trained: `chapterflow.environment.machine`, and the version of Python.
MACHINE, PYTHON = "chapterflow.machine", "chapterflow.python"
PARENT = "mlflow.parentRunId"
COLOUR = "mlflow.runColor"  # of a run's lines and bars in the UI
WORKERS = "chapterflow.workers"  # models that ran side by side, which seconds depend on
REPRODUCES = "chapterflow.reproduces"  # of a reproduction: the run that it repeats
MODEL_URI = "chapterflow.model_uri"  # of a batch of predictions: the version that made them
EXPERIMENT = "chapterflow.experiment"  # name of the DVC experiment that trained it
#: Of a run: the logged model that it trained. Of a logged model: the weights that were trained.
LOGGED_MODEL, TRAINED_SHA256 = "chapterflow.logged_model", "chapterflow.trained_sha256"
#: Values of RUN_TYPE: the run of a model, which becomes a version; a repetition of it with another
#: seed, which does not; what the repetitions are nested in.
MODEL_RUN, SEED_RUN, SEEDS_RUN = "model", "seed", "seeds"
#: And: a sweep, and a set of parameters in it, of which nothing is registered.
SWEEP, TRIAL = "sweep", "trial"
#: Types of runs that are kept and removed with the run that they are nested in.
PARTS = (SEED_RUN, TRIAL)
#: File in a run's folder: the id of the MLflow run that works there.
RUN_ID = "run_id"
#: File in a run's folder: metrics that the store does not have yet, one epoch a line.
KEPT = "unlogged.jsonl"
#: MLflow takes 1,000 metrics in a request.
EPOCHS_PER_REQUEST = 100
#: Seconds between attempts to deliver epochs; for the last attempt, after training and after a
#: failure.
RETRY_SECONDS, DELIVERY_SECONDS, CLOSING_SECONDS = 5.0, 30.0, 2.0
#: Seconds between deliveries, at least, and as a share of the training's duration so far.
PAUSE_SECONDS, PAUSE_SHARE = 2.0, 0.25
_log = logging.getLogger(__name__)
#: Colours of models in the UI, in the order of `params.yaml`.
COLOURS = (
    "#3a60c4", "#d9622b", "#2f8f6b", "#8a5ac2", "#c9a227", "#1aa6b7",
    "#b3261e", "#6b7a2a", "#d65a9c", "#7a4a2b", "#5f6b7a", "#1d3b73",
)  # fmt: skip
#: Files that git tracks and no training reads.
NOT_SOURCES = (":!data.dvc", ":!dvc.lock", ":!results")


@contextmanager
def unbroken() -> Iterator[None]:
    """Delay Ctrl-C until a write to the store has finished, which takes milliseconds.

    Interrupted within a transaction, SQLite would stay locked and the run could not be ended.
    """
    usual = signal.getsignal(signal.SIGINT)
    # Python interrupts the main thread alone, and only where a function of its own does it.
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield
        return
    waiting: list[FrameType | None] = []
    signal.signal(signal.SIGINT, lambda _, frame: waiting.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
        if waiting:
            usual(signal.SIGINT, waiting[0])


def git_tags(project: Project) -> dict[str, str]:
    """Return the commit of the checkout and whether it has uncommitted changes; {} without git.

    A changed `data.dvc` does not count: the version of the data has a tag of its own. Nor does what
    `dvc repro` writes: nothing is trained from it.
    """

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *words], cwd=project.root, capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return {}
    return {
        COMMIT: commit,
        DIRTY: str(bool(git("status", "--porcelain", "--", *NOT_SOURCES))).lower(),
    }


def colour_of(model: str, models: Iterable[str]) -> str:
    """Return the colour of a model in the UI, the same in every run.

    Args:
        models: All models, in the order of `params.yaml`; beyond twelve they share colours.
    """
    names = list(models)
    return COLOURS[(names.index(model) if model in names else len(names)) % len(COLOURS)]


@unbroken()
def open_run(
    client: MlflowClient,
    experiment_id: str,
    *,
    name: str,
    tags: Mapping[str, str],
    run_id: str | None = None,
) -> str:
    """Start a run, or continue `run_id` if the store still has it, and return its id.

    The run is tagged with this process, which signs the experiment until the run is closed
    (`claims.Heart`), so another process can tell when it has ended.
    """
    from mlflow.entities import RunStatus

    owned = {**tags, PROCESS: process_identity()}
    heart = claims.heart(client, experiment_id)
    if run_id is not None:
        heart.add(run_id)
        try:
            # First of all, so that nobody takes the run for that of a process that has ended. A
            # continued run stays below the flow run that started it.
            set_tags(client, run_id, {key: owned[key] for key in owned if key != PARENT})
            client.update_run(run_id, status=RunStatus.to_string(RunStatus.RUNNING))
        except refusals():
            heart.discard(run_id)
        else:
            return run_id
    heart.add(name)
    try:
        run = client.create_run(experiment_id, run_name=name, tags=owned)
        heart.add(run.info.run_id)
    finally:
        heart.discard(name)
    return str(run.info.run_id)


@unbroken()
def close_run(client: MlflowClient, run_id: str, status: str, error: str | None = None) -> None:
    """End a run as `FINISHED`, `FAILED` or `KILLED`, with the error if there is one."""
    if error:
        client.set_tag(run_id, ERROR, redacted(error)[:5000])
    client.set_terminated(run_id, status)
    claims.end(run_id)


@unbroken()
def set_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set several tags in one call."""
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


@unbroken()
def log_params(client: MlflowClient, run_id: str, params: Mapping[str, Any]) -> None:
    """Log parameters in one call; those of a continued run are the same by fingerprint."""
    from mlflow.entities import Param

    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])


@unbroken()
def log_metrics(
    client: MlflowClient,
    run_id: str,
    metrics: Mapping[str, float],
    step: int,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Log metrics of one step, and set tags, in one call."""
    from mlflow.entities import Metric, RunTag

    now = int(time.time() * 1000)
    client.log_batch(
        run_id,
        [Metric(key, value, now, step) for key, value in metrics.items()],
        tags=[RunTag(key, value) for key, value in (tags or {}).items()],
    )


def log_dataset(client: MlflowClient, run_id: str, card: DatasetCard, folder: Path) -> None:
    """Log a dataset as the run's input."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=card.name,
        digest=card.digest[:32],  # MLflow holds 36 characters
        source_type="local",
        source=json.dumps({"uri": f"data/{folder.name}", "origin": card.source}),
        profile=json.dumps({"shape": card.shape, **card.counts}),
    )
    inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
    insert(client.log_inputs, run_id, inputs)


def epoch_metrics(record: EpochRecord) -> dict[str, float]:
    """Return the metrics of an epoch, by the names that they have in the store."""
    metrics = {
        "train/loss": record.train_loss,
        "train/accuracy": record.train_accuracy,
        "validation/loss": record.validation_loss,
        "validation/accuracy": record.validation_accuracy,
        "train/learning_rate": record.learning_rate,
        "train/epoch_seconds": record.seconds,
    }
    return {name: value for name, value in metrics.items() if value is not None}


class Epoch(Strict):
    """The metrics of one epoch of a run, as they are kept until the store has them.

    Attributes:
        time: Milliseconds since 1970, UTC.
    """

    run_id: str
    epoch: int
    time: int
    metrics: dict[str, float]


class EpochLogger:
    """Logs each epoch once, from a thread of its own, so that training never waits for the store.

    Epochs that the store does not have yet are in a file. They are tried again while training
    continues, when it ends, and by the next command (`deliver_kept`). An epoch that a resumed
    training reports again is not logged again. A delivery waits for more epochs, the longer the
    longer the training takes: the number of deliveries grows with the logarithm of the duration.

    Args:
        resumed: Whether the run may have epochs already.

    Attributes:
        last: The last epoch that the run had at the start.
        failure: Why the last delivery failed; None if it succeeded.
    """

    def __init__(
        self, client: MlflowClient, run_id: str, folder: Path, *, resumed: bool = True
    ) -> None:
        self._client = client
        self._run_id = run_id
        self._file = folder / KEPT
        folder.mkdir(parents=True, exist_ok=True)
        # A resumed training reports them again.
        self._file.unlink(missing_ok=True)
        self.last = _last_epoch(client, run_id) if resumed else 0
        self.failure: Exception | None = None
        self._kept: list[Epoch] = []
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._deliver, name="epochs", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for the delivery; raise a `StoreUnavailable` if it takes too long or fails."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        # After Ctrl-C or a failure nobody waits for a store that does not answer.
        self._thread.join(DELIVERY_SECONDS if kind is None else CLOSING_SECONDS)
        if kind is None and self._kept:
            raise StoreUnavailable(
                str(self.failure or "")
                or f"The tracking store did not take {len(self._kept)} epochs within "
                f"{DELIVERY_SECONDS:g} s of the end of the training."
            )

    def __call__(self, record: EpochRecord) -> None:
        """Log a record unless the run has it."""
        if record.epoch <= self.last:
            return
        epoch = Epoch(
            run_id=self._run_id,
            epoch=record.epoch,
            time=int(time.time() * 1000),
            metrics=epoch_metrics(record),
        )
        with self._changed:
            self._kept.append(epoch)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(epoch.model_dump_json() + "\n")
            self._changed.notify()

    def note(self) -> str:
        """Return how many epochs the store does not take at present; empty if it takes them."""
        if self.failure is None:
            return ""
        return f"; {len(self._kept)} epochs kept on disk: the tracking store does not answer"

    def _deliver(self) -> None:
        started = time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._kept or self._closing)
                pause = max(PAUSE_SECONDS, PAUSE_SHARE * (time.monotonic() - started))
                self._changed.wait_for(lambda: self._closing, pause)
                epochs, last_try = self._kept[:EPOCHS_PER_REQUEST], self._closing
            if not epochs:
                return
            try:
                _log_epochs(self._client, epochs)
            except Exception as error:  # Whatever it is, training goes on.
                self.failure = error
                if last_try:
                    return
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, RETRY_SECONDS)
                continue
            self.failure = None
            with self._changed:
                del self._kept[: len(epochs)]
                if not self._kept:
                    self._file.unlink(missing_ok=True)


def _last_epoch(client: MlflowClient, run_id: str) -> int:
    """Return the last epoch that a run has."""
    logged = client.get_metric_history(run_id, "train/loss")
    return max((metric.step for metric in logged), default=0)


def _log_epochs(client: MlflowClient, epochs: Sequence[Epoch]) -> None:
    """Log epochs of one run in one call."""
    from mlflow.entities import Metric

    metrics = [
        Metric(name, value, epoch.time, epoch.epoch)
        for epoch in epochs
        for name, value in epoch.metrics.items()
    ]
    client.log_batch(epochs[0].run_id, metrics)


def deliver_kept(client: MlflowClient, project: Project) -> None:
    """Log the epochs that earlier trainings had to keep; those that fail again stay kept."""
    for file in project.scratch.glob(f"work/*/{KEPT}"):
        # A process that trains delivers its own.
        with suppress_refusals(_Busy, StoreError, OSError, ValidationError):
            with project_lock(project, f"run-{file.parent.name}", _Busy.refuse):
                lines = file.read_text(encoding="utf-8").splitlines()
                epochs = [Epoch.model_validate_json(line) for line in lines]
                last = _last_epoch(client, epochs[0].run_id)
                missing = [epoch for epoch in epochs if epoch.epoch > last]
                for start in range(0, len(missing), EPOCHS_PER_REQUEST):
                    _log_epochs(client, missing[start : start + EPOCHS_PER_REQUEST])
                file.unlink()
            _log.warning(
                "Epochs of run %s delivered to the tracking store: %d",
                epochs[0].run_id,
                len(missing),
            )


class _Busy(Exception):
    """Another process works on the run."""

    @classmethod
    def refuse(cls) -> NoReturn:
        raise cls


def runs_of_fingerprint(
    client: MlflowClient,
    experiment_id: str,
    fingerprint: str,
    run_types: Collection[str] = (MODEL_RUN,),
) -> list[Run]:
    """Return the newest runs of a fingerprint, finished or not, newest first."""
    same: list[Run] = client.search_runs(
        [experiment_id],
        f"tags.`{FINGERPRINT}` = '{fingerprint}'",
        order_by=["attributes.start_time DESC"],
        max_results=100,
    )
    return [run for run in same if run.data.tags.get(RUN_TYPE) in run_types]


def find_finished(client: MlflowClient, same: Iterable[Run]) -> Run | None:
    """Return the first finished run whose artifacts and model all exist.

    Args:
        client: MLflow client.
        same: Runs of one fingerprint.
    """
    finished = (run for run in same if run.info.status == "FINISHED")
    return next((run for run in finished if is_whole(client, run)), None)


def find_interrupted(same: Iterable[Run], machine: str, run_type: str = MODEL_RUN) -> str | None:
    """Return the first run that was left unfinished; call it within the claim of its fingerprint.

    Training it again on the same machine gives the model that it has logged, so that model and its
    version are used again. A run that has logged none continues on any machine. None if there is no
    such run.

    Args:
        same: Runs of one fingerprint.
        machine: What a run with a logged model must have been trained on (`environment.machine`).
        run_type: Type of the run.
    """
    for run in same:
        tags = run.data.tags
        if run.info.status == "FINISHED" or tags.get(RUN_TYPE) != run_type:
            continue
        if tags.get(MACHINE) == machine or LOGGED_MODEL not in tags:
            return str(run.info.run_id)
    return None


def of_type(client: MlflowClient, run_id: str, run_type: str) -> str | None:
    """Return the id of a run if the store has it and its type is this, else None."""
    try:
        tags = client.get_run(run_id).data.tags
    except refusals():
        return None
    return run_id if tags.get(RUN_TYPE) == run_type else None


def is_whole(client: MlflowClient, run: Run) -> bool:
    """Tell whether the artifacts and the model of a run exist."""
    try:
        artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
        version = client.get_model_version(run.data.tags[MODEL], run.data.tags[MODEL_VERSION])
        model_id = str(version.source).rpartition("/")[2]
        # Listed, not fetched: the store may be far away.
        files = {item.path for item in client.list_logged_model_artifacts(model_id, "data")}
    except refusals(OSError, KeyError):
        return False
    whole = any(name.endswith(".keras") for name in files)
    return whole and artifacts >= REQUIRED


def search_all(
    client: MlflowClient,
    experiment_ids: Sequence[str],
    condition: str = "",
    *,
    order: Literal["ASC", "DESC"],
    deleted: bool = False,
) -> list[Run]:
    """Return all runs that meet a condition, the oldest (`ASC`) or the newest (`DESC`) first."""
    matches: list[Run] = []
    more: dict[str, Any] = {}
    while True:
        page = client.search_runs(
            list(experiment_ids),
            condition,
            run_view_type=DELETED if deleted else ACTIVE,
            order_by=[f"attributes.start_time {order}"],
            **more,
        )
        matches += page
        if not page.token:
            return matches
        more = {"page_token": page.token}


def newest_by_test_set(
    client: MlflowClient,
    experiment_id: str,
    profile: str,
    model: str,
    digests: Sequence[str] = (),
) -> Iterator[Run]:
    """Yield the newest finished run of a model in a profile for each test set that it has seen.

    Args:
        digests: Digests of test sets to leave out.
    """
    seen = list(digests)
    while newest := client.search_runs(
        [experiment_id],
        " and ".join(
            [
                f"tags.`{MODEL}` = '{model}'",
                f"tags.`{RUN_TYPE}` = 'model'",
                f"tags.`{PROFILE}` = '{profile}'",
                "attributes.status = 'FINISHED'",
                *(f"tags.`{TEST_DIGEST}` != '{digest}'" for digest in seen),
            ]
        ),
        order_by=["attributes.start_time DESC"],
        max_results=1,
    ):
        yield newest[0]
        seen.append(newest[0].data.tags[TEST_DIGEST])


#: Most batches of predictions that are looked at together.
MOST_BATCHES = 200


def batches_since(client: MlflowClient, experiment_id: str, since: int) -> list[Run]:
    """Return the finished batches of predictions since a time, the newest first.

    Args:
        since: Milliseconds since 1970.
    """
    return list(
        client.search_runs(
            [experiment_id],
            f"tags.`{RUN_TYPE}` = 'batch' and attributes.status = 'FINISHED' "
            f"and attributes.start_time > {since}",
            order_by=["attributes.start_time DESC"],
            max_results=MOST_BATCHES,
        )
    )


def newest_on(
    client: MlflowClient, experiment_id: str, profile: str, model: str, dataset: str
) -> Run | None:
    """Return the newest finished run of a model in a profile on a dataset, whatever its version."""
    matches = client.search_runs(
        [experiment_id],
        f"tags.`{MODEL}` = '{model}' and tags.`{RUN_TYPE}` = 'model' "
        f"and tags.`{PROFILE}` = '{profile}' and tags.`{DATASET}` = '{dataset}' "
        "and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return matches[0] if matches else None


def runs_of(client: MlflowClient, experiment_id: str, run_ids: Sequence[str]) -> list[Run]:
    """Return runs by their ids, in that order; those that no longer exist are left out."""
    if not run_ids:
        return []
    listed = ", ".join(f"'{run_id}'" for run_id in run_ids)
    matches = client.search_runs(
        [experiment_id], f"attributes.run_id IN ({listed})", max_results=len(run_ids)
    )
    return sorted(matches, key=lambda run: run_ids.index(run.info.run_id))


def end_dead_runs(client: MlflowClient, experiment_ids: Iterable[str]) -> list[str]:
    """Mark RUNNING runs whose process has ended as KILLED; return their ids.

    Logged models that such a run does not name are deleted. Whoever resumes it sets it RUNNING
    again.
    """
    ended = []
    for run in client.search_runs(list(experiment_ids), "attributes.status = 'RUNNING'"):
        if is_abandoned(client, run):
            for model in models_of(client, run):
                if model.model_id != run.data.tags.get(LOGGED_MODEL):
                    client.delete_logged_model(model.model_id)
            close_run(client, run.info.run_id, "KILLED")
            ended.append(str(run.info.run_id))
    return ended


def is_abandoned(client: MlflowClient, run: Run) -> bool:
    """Tell whether a RUNNING run's process has ended, on this machine or another."""
    tags = client.get_experiment(run.info.experiment_id).tags
    if not claims.has_ended(tags, run.data.tags.get(PROCESS, "")):
        return False
    # The process may have closed the run in the meantime.
    return bool(client.get_run(run.info.run_id).info.status == "RUNNING")


def models_of(client: MlflowClient, run: Run) -> list[LoggedModel]:
    """Return the models that a run logged, newest first."""
    return list(
        client.search_logged_models(
            [run.info.experiment_id],
            filter_string=f"source_run_id = '{run.info.run_id}'",
            order_by=[{"field_name": "creation_timestamp", "ascending": False}],
        )
    )


def sweep(client: MlflowClient, project: Project, experiment_id: str) -> None:
    """Clear away what killed processes have left: open runs, unnamed models, finished work.

    The work of an unfinished run is kept, because the next run of its fingerprint continues it.
    """
    end_dead_runs(client, [experiment_id])
    claims.forget_dead(client, experiment_id)
    for marker in project.scratch.glob(f"work/*/{RUN_ID}"):
        with (
            suppress_refusals(_Busy, OSError),
            project_lock(project, f"run-{marker.parent.name}", _Busy.refuse),
        ):
            run = client.get_run(marker.read_text(encoding="utf-8"))
            if run.info.status == "FINISHED":
                shutil.rmtree(marker.parent)


#: Most runs that a message lists.
LISTED = 8


def find_runs(client: MlflowClient, experiment_id: str, prefixes: Sequence[str]) -> list[Run]:
    """Return the finished model runs whose ids begin with the prefixes, in that order, each once.

    Raises:
        ConfigError: If no run's id begins with a prefix, or several do.
    """
    runs: dict[str, Run] = {}
    for prefix in prefixes:
        # MLflow would take other characters for wildcards or quotes.
        valid = re.fullmatch(r"[0-9a-f]{1,32}", prefix)
        matches = _finished(client, experiment_id, prefix) if valid else []
        if len(matches) != 1:
            several = "the ids of several runs begin"
            number = several if matches else "no run's id begins"
            raise ConfigError(
                f"RUN must be the id of a finished model run, or its beginning: {number} with "
                f"this. Received: {prefix!r}. "
                f"{_listed(matches or _finished(client, experiment_id, ''))}"
            )
        runs[matches[0].info.run_id] = matches[0]
    return list(runs.values())


def _finished(client: MlflowClient, experiment_id: str, prefix: str) -> list[Run]:
    """Return the newest finished model runs whose ids begin with a prefix: one more than listed."""
    matches: list[Run] = client.search_runs(
        [experiment_id],
        f"tags.`{RUN_TYPE}` = 'model' and attributes.status = 'FINISHED'"
        + (f" and attributes.run_id LIKE '{prefix}%'" if prefix else ""),
        order_by=["attributes.start_time DESC"],
        max_results=LISTED + 1,
    )
    return matches


def _listed(runs: Sequence[Run]) -> str:
    if not runs:
        return "No run has finished yet; `chapterflow run` starts one."
    names = [f"{run.info.run_id[:8]} ({run.data.tags[MODEL]})" for run in runs[:LISTED]]
    return f"Runs: {', '.join(names)}{', and older ones' if len(runs) > LISTED else ''}."


def labels(chosen: Sequence[Run]) -> dict[str, str]:
    """Return a label for each run, by id: its model, and the run's id if two share the model."""
    models = [run.data.tags[MODEL] for run in chosen]
    return {
        run.info.run_id: model if models.count(model) == 1 else f"{model} {run.info.run_id[:8]}"
        for run, model in zip(chosen, models, strict=True)
    }


def read_run(
    client: MlflowClient, run: Run, label: str, into: Path, *, tell: Tell = silent
) -> RunFacts:
    """Copy a run's small artifacts into a folder of its own below `into`, and return its facts."""
    tell("read", f"run of {label}")
    run_id = str(run.info.run_id)
    folder = into / run_id
    folder.mkdir(parents=True, exist_ok=True)
    there = {item.path for item in client.list_artifacts(run_id)}
    for name in REPORTED:
        if name in there:
            client.download_artifacts(run_id, name, str(folder))
    _copy_pictures(client, run_id, folder)
    return RunFacts(
        label=label,
        run_id=run_id,
        model=run.data.tags[MODEL],
        dataset=run.data.tags[DATASET],
        tags=dict(run.data.tags),
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        started=int(run.info.start_time),
        folder=folder,
    )


def _copy_pictures(client: MlflowClient, run_id: str, folder: Path) -> None:
    """Copy the pictures that a run's copied explanation names."""
    try:
        text = (folder / EXPLANATION / DOCUMENT).read_text(encoding="utf-8")
        pictures = json.loads(text)["pictures"]
        named = [(str(p["key"]), int(p["step"]), Path(p["file"]).name) for p in pictures]
    except DAMAGED:
        return  # Whoever reads the explanation says so.
    for key, step, file in named:
        if not (folder / EXPLANATION / file).is_file():
            with suppress_refusals(OSError):  # as if it was not drawn
                client.download_artifacts(run_id, picture(run_id, key, step), str(folder))


def newest_flow_run(client: MlflowClient, experiment_id: str, profile: str) -> str | None:
    """Return the id of the newest run of a flow in a profile; None if there is none."""
    flows = client.search_runs(
        [experiment_id],
        f"tags.`{RUN_TYPE}` = 'flow' and tags.`{PROFILE}` = '{profile}'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return str(flows[0].info.run_id) if flows else None
