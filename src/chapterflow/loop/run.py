"""The run: one training of one model, from its look-up to its registration."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chapterflow.data.build import ensure_dataset
from chapterflow.data.versioning import data_version
from chapterflow.environment import (
    Project,
    configure,
    experiment,
    find_project,
    machine,
    project_lock,
)
from chapterflow.errors import DataError, StoreError, StoreUnavailable, disk_full
from chapterflow.kinds.dataset import Dataset, DatasetCard, open_dataset, read_card
from chapterflow.models.base import ChapterModel, ModelParams
from chapterflow.models.catalog import get_model
from chapterflow.tracking import runs
from chapterflow.tracking.artifacts import CARD, FINGERPRINT, LOGGED_IMAGES, Artifacts
from chapterflow.tracking.claims import Claim
from chapterflow.tracking.fingerprint import fingerprint, fingerprint_parts
from chapterflow.tracking.session import Session
from chapterflow.tracking.store import is_local
from chapterflow.tracking.versions import model_file, model_folder, unregistered, version_of_run
from chapterflow.training.history import MODEL_FILE
from chapterflow.types import Tell, silent

if TYPE_CHECKING:
    import keras
    from mlflow.entities import Run as MlflowRun

    from chapterflow.config.settings import Settings


class Run:
    """One training of a model: its inputs, its id in the tracking store, and its artifacts.

    The local folder is a cache; each step logs its results to the tracking store before it ends. A
    pickled run carries settings, fingerprint and id, but no path: a process in another checkout
    that shares the tracking store can take the next step.

    Attributes:
        project: The checkout that this process works in.
        settings: Checked settings, profile chosen.
        model: Name of the chapter model.
        run_type: `tracking.runs.MODEL_RUN`, or `SEED_RUN` for a repetition with another seed.
        dataset: Name of the dataset that it learns.
        parts: All that decides the run (`tracking.fingerprint.fingerprint_parts`).
        id: Id of the MLflow run; empty before `start`.
        finished: Whether the store has a finished run of this fingerprint.
        resumed: Whether an interrupted training continues.
        continued: Whether the MLflow run is older than the training: it may have logged a model.
        has_work: Whether the store may have copies of the work of its training.
        logged_model: Id of the logged model; empty before it was trained.
    """

    def __init__(
        self,
        project: Project,
        settings: Settings,
        model: str,
        session: Session | None = None,
        run_type: str = runs.MODEL_RUN,
    ) -> None:
        self.project = project
        self.settings = settings
        self.model = model
        self.run_type = run_type
        self.dataset = settings.dataset_of(model)
        cards = [read_card(project.data / name) for name in settings.datasets_of(model)]
        self.parts = fingerprint_parts(settings, model, cards)
        self.id = ""
        self.finished = False
        self.resumed = False
        self.continued = False
        self.has_work = True
        self.logged_model = ""
        self._session = session
        self._same: list[MlflowRun] | None = None

    def __getstate__(self) -> dict[str, Any]:
        left_here = {"project", "_session", "_same", "artifacts"}
        return {name: value for name, value in vars(self).items() if name not in left_here}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, project=find_project(), _session=None, _same=None)
        configure(self.project)

    @property
    def session(self) -> Session:
        """The tracking store, opened once in a process."""
        if self._session is None:
            self._session = Session(self.project, self.settings)
        return self._session

    @cached_property
    def artifacts(self) -> Artifacts:
        """The artifacts of the run, by name and type."""
        return Artifacts(self.id, self.folder)

    @property
    def is_shared(self) -> bool:
        """Whether other machines may use the tracking store, and continue the run."""
        return not is_local(self.project)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all that decides the run."""
        return fingerprint(self.parts)

    @property
    def folder(self) -> Path:
        """The run's folder on this machine: checkpoints, and copies of artifacts."""
        return self.project.scratch / "work" / self.fingerprint[:16]

    @property
    def entry(self) -> ChapterModel[Any]:
        """The chapter model."""
        return get_model(self.model)

    @property
    def params(self) -> ModelParams:
        """The model's parameters."""
        return self.settings.params(self.model)

    @property
    def title(self) -> str:
        """Model and dataset, for headings."""
        return f"{self.model} on {self.dataset}{'' if self.becomes_version else f', {self.seed}'}"

    @property
    def becomes_version(self) -> bool:
        """Whether the model is explained and registered; repetitions are only scored."""
        return self.run_type == runs.MODEL_RUN

    @property
    def seed(self) -> str:
        """The seed, for names."""
        return f"seed {self.settings.seed}"

    @property
    def label(self) -> str:
        """What tells the run from the others of a flow."""
        return self.model if self.becomes_version else f"{self.model}, {self.seed}"

    def open_dataset(self) -> Dataset:
        """Open the dataset, building it if this checkout does not have it.

        Raises:
            DataError: If the bytes here are not those of the fingerprint.
        """
        card: DatasetCard | None = None
        for name in self.settings.datasets_of(self.model):
            params = self.settings.datasets[name]
            built, _ = ensure_dataset(self.project, name, params, on_progress=lambda *_: None)
            card = card or built
        wanted = self.parts["dataset"]["digest"]
        if card is None or card.digest != wanted:
            raise DataError(
                f"data/{self.dataset} is not the data of this run. Received: "
                f"{card.digest[:12] if card else 'none'}, the run's is {wanted[:12]}. "
                "Check out the commit of the run, or start a new run"
            )
        return open_dataset(self.project.data / self.dataset)

    def model_file(self) -> Path:
        """Return the trained model's `.keras` file, fetched if this machine does not have it."""
        path = self.folder / MODEL_FILE
        if not path.is_file():
            client = self.session.client
            trained = unregistered(self.model, self.id, self.find_logged_model())
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(model_file(client, trained), path)
        return path

    def trained_model(self) -> keras.Model:
        """Return the trained model; steps that follow each other in a process load it once.

        A step that changes its weights restores them.
        """
        path = self.model_file()
        return _loaded(path, path.stat().st_mtime_ns)

    def discard(self) -> None:
        """Remove the run's folder and forget the trained model: the store has all of it."""
        _loaded.cache_clear()
        shutil.rmtree(self.folder)

    def find_logged_model(self) -> str:
        """Return the id of the run's logged model, also where another process logged it."""
        if not self.logged_model:
            self.logged_model = self.session.client.get_run(self.id).data.tags[runs.LOGGED_MODEL]
        return self.logged_model

    @contextmanager
    def claim(self, tell: Tell = silent) -> Iterator[Claim]:
        """Hold the fingerprint from look-up to registration, and the run's folder.

        Two processes that want the same run do it once, on whatever machines that share the
        tracking store: the second waits, then reuses it. Check the claim before registration.
        """

        def on_wait() -> None:
            tell("waiting", "another process trains this model")

        name = f"run-{self.fingerprint[:16]}"
        # The lock is for the folder, which processes of this checkout share.
        with project_lock(self.project, name, on_wait):
            # Within seconds: with a store that does not answer, each model would wait for longer.
            self.session.check_reachable()
            claim = Claim(self.session.client, self.session.experiment_id, name, on_wait)
            with claim.held():
                yield claim

    @contextmanager
    def ending_on_error(self) -> Iterator[None]:
        """Mark the MLflow run FAILED or KILLED when the block does not succeed.

        Raises:
            StoreUnavailable: If the store does not answer; it says what is kept, and where.
        """
        try:
            with self.session.ending_on_error(self.id):
                yield
        except StoreUnavailable as error:
            place = self.folder.relative_to(self.project.root)
            raise StoreUnavailable(
                f"{error} What {self.model} has done so far is kept in {place}; the next "
                f"`chapterflow run {self.model}` continues from there."
            ) from error
        except Exception as error:
            if (full := disk_full(error)) and full is not error:
                raise full from error
            raise

    def reuse(self, tell: Tell = silent) -> bool:
        """Adopt the finished run of this fingerprint; return whether there is one.

        One whose model is no longer as it was logged is not reused, except for its scores.
        """
        client = self.session.client
        same = self._look_up()
        if not self.becomes_version:
            done = next((run for run in same if run.info.status == "FINISHED"), None)
            if done is not None:
                self.id, self.finished = str(done.info.run_id), True
            return self.finished
        done = runs.find_finished(client, same)
        if done is None:
            return False
        try:
            model_folder(client, version_of_run(client, done))
        except StoreUnavailable:
            raise
        except StoreError as error:
            tell("damaged", f"run {done.info.run_id} is not reused. {error}")
            return False
        self.id, self.finished = str(done.info.run_id), True
        return True

    def _look_up(self) -> list[MlflowRun]:
        """Return the runs of this fingerprint, as the store has them now."""
        session = self.session
        self._same = runs.runs_of_fingerprint(
            session.client,
            session.experiment_id,
            self.fingerprint,
            {runs.MODEL_RUN, self.run_type},
        )
        return self._same

    def start(
        self, *, flow_run_id: str | None = None, restart: bool = False, tags: dict[str, str]
    ) -> None:
        """Open the MLflow run, or continue the one that was interrupted.

        If its folder is not here, its work is fetched from a store that machines share. Where there
        is none, the training starts over, but in the same run: the store keeps one run, one logged
        model and one version of a fingerprint.

        Args:
            flow_run_id: Run to nest this one in.
            restart: Discard an interrupted training.
            tags: More tags for the run.
        """
        if restart:
            shutil.rmtree(self.folder, ignore_errors=True)
        marker = self.folder / runs.RUN_ID
        card = read_card(self.project.data / self.dataset)
        client, experiment_id = self.session.client, self.session.experiment_id
        if marker.is_file():
            earlier = runs.of_type(client, marker.read_text(encoding="utf-8"), self.run_type)
        elif restart:
            earlier = None
        else:
            # `reuse` has looked them up.
            same = self._look_up() if self._same is None else self._same
            earlier = runs.find_interrupted(same, machine(), self.run_type)
            if earlier and self.is_shared and not self.folder.is_dir():
                Artifacts(earlier).restore_work(self.folder)
        self.resumed = self.folder.is_dir()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.id = runs.open_run(
            client,
            experiment_id,
            name=self.title,
            run_id=earlier,
            tags={
                runs.RUN_TYPE: self.run_type,
                runs.MODEL: self.model,
                runs.DATASET: self.dataset,
                runs.PROFILE: self.settings.profile,
                runs.FINGERPRINT: self.fingerprint,
                runs.TEST_DIGEST: card.test_digest,
                runs.DIGEST: card.digest,
                runs.DATA_VERSION: data_version(self.project) or "none",
                runs.MACHINE: machine(),
                runs.COLOUR: runs.colour_of(self.model, self.settings.models),
                runs.PYTHON: platform.python_version(),
                **({runs.EXPERIMENT: name} if (name := experiment()) else {}),
                # Charts of a role show its models, not their repetitions.
                **(self.about_tags if self.becomes_version else {}),
                "mlflow.note.content": f"{self.introduction} Trained on `{self.dataset}`: "
                f"{card.title}.",
                **({runs.PARENT: flow_run_id} if flow_run_id else {}),
                **runs.git_tags(self.project),
                **LOGGED_IMAGES,
                **tags,
            },
        )
        self.continued = self.id == earlier
        marker.write_text(self.id, encoding="utf-8")
        runs.log_params(client, self.id, self.logged_params)
        runs.log_dataset(client, self.id, card, self.project.data / self.dataset)
        self.artifacts.log_document(self.parts, FINGERPRINT)
        self.artifacts.log_document(card.model_dump(), CARD)

    @property
    def logged_params(self) -> dict[str, Any]:
        """Parameters of the MLflow run."""
        return {
            "model": self.model,
            "dataset": self.dataset,
            "seed": self.parts["seed"],
            **self.parts["params"],
        }

    @property
    def about_tags(self) -> dict[str, str]:
        """Tags of the run and of the registered model: role, and place in the book."""
        section = self.entry.section
        return {
            runs.ROLE: self.params.role,
            **({runs.BOOK_SECTION: section} if section else {}),
        }

    @property
    def introduction(self) -> str:
        """What the model is and its section of the book, in markdown."""
        entry = self.entry
        summary = f": {entry.summary}" if entry.summary else ""
        section = f" Book chapter 5, “{entry.section}”." if entry.section else ""
        return f"**{entry.name}**{summary}.{section}"


@lru_cache(maxsize=1)
def _loaded(path: Path, modified: int) -> keras.Model:
    """Return a saved model, by the path of its file and the time of its last change."""
    from chapterflow.training.batches import load_model

    return load_model(path)
