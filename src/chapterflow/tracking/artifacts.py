"""What a run leaves behind, by name and type: the one place that spells an artifact's name."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from chapterflow.errors import StoreError
from chapterflow.files import staged
from chapterflow.tracking.reader import refusals
from chapterflow.training.history import CHECKPOINTS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from numpy.typing import NDArray

    from chapterflow.evaluation.evaluate import Evaluation
    from chapterflow.explain.explanation import Explanation
    from chapterflow.kinds.dataset import DatasetCard
    from chapterflow.training.history import Training
    from chapterflow.validation.verdict import Verdict

#: Of a model's run.
FINGERPRINT = "fingerprint.json"
CARD = "dataset.json"
VERDICT = "validation/verdict.json"
TRAINING = "training.json"
EVALUATION = "evaluation.json"
PREDICTIONS = "predictions.npz"
EXPLANATION = "explain"  # a folder: `explain.json`, and of older runs its pictures (`picture`)
#: Tag of a run with images, for the UI (`mlflow.utils.mlflow_tags.MLFLOW_LOGGED_IMAGES`).
LOGGED_IMAGES = {"mlflow.loggedImages": "True"}
WORK = "work"  # a folder: what an interrupted training needs to continue, a zip file
SEEDS = "seeds.json"  # of a run over several seeds
#: Of a flow's run.
RESULTS, RESULTS_TABLE = "results.json", "results.md"
VALIDATION = "validation"  # a folder: one folder a dataset
REPORT = "report"  # a folder: the page
#: Of a promotion's run, and of the run of the version that was judged.
PROMOTION = "promotion/verdict.json"
#: Of a reproduction's run.
REPRODUCTION_DOCUMENT = "verdict.json"

#: Seconds between two copies of the work of a training, at least, and as a multiple of the seconds
#: that a copy takes; seconds to wait for the last copy.
KEEP_SECONDS, KEEP_SHARE, CLOSING_SECONDS = 10.0, 4.0, 2.0

#: What reading a damaged JSON document, zip archive, array or picture raises.
DAMAGED = (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)

#: What a finished run must hold to be reused and compared.
REQUIRED = frozenset({EVALUATION, PREDICTIONS, EXPLANATION})
#: What a report reads.
REPORTED = (TRAINING, EVALUATION, PREDICTIONS, CARD, VALIDATION, EXPLANATION)

T = TypeVar("T")

#: Longest side of the copies of pictures that MLflow's UI shows in its grid, in pixels.
SMALLER = 256


class Artifacts:
    """The artifacts of one run: a local folder is a cache, the tracking store is the truth.

    Args:
        run_id: The run, in the opened tracking store.
        folder: Where local copies lie or go; without one, where MLflow puts them.
    """

    def __init__(self, run_id: str, folder: Path | None = None) -> None:
        self.run_id = run_id
        self.folder = folder

    @cached_property
    def _client(self) -> MlflowClient:
        from chapterflow.tracking.store import open_client

        return open_client()

    def path(self, name: str) -> Path:
        """Return an artifact's file or folder on this machine, downloaded where it is missing.

        Raises:
            StoreError: If the run has no such artifact.
        """
        if self.folder is not None and (self.folder / name).exists():
            return self.folder / name
        into = None
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            into = str(self.folder)
        try:
            return Path(self._client.download_artifacts(self.run_id, name, into))
        except refusals(OSError) as error:
            raise lost(self.run_id, name, error) from None

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Log a file under its own name, into a folder of the run where one is named."""
        self._client.log_artifact(self.run_id, str(path), folder)

    def log_folder(self, path: Path, name: str) -> None:
        """Log what a local folder holds as the run's folder `name`."""
        self._client.log_artifacts(self.run_id, str(path), name)

    def log_document(self, document: Mapping[str, Any], name: str) -> None:
        """Log a JSON document, with a copy in the local folder where there is one."""
        text = json.dumps(document, indent=2)
        if self.folder is None:
            self._client.log_text(self.run_id, text, name)
            return
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        self.log_file(path, name.rpartition("/")[0] or None)

    def log_pictures(self, pictures: Iterable[tuple[Path, str, int]]) -> None:
        """Log PNGs as images with a step, which the UI compares over runs; once, if repeated.

        The run needs the tag `LOGGED_IMAGES`.

        Args:
            pictures: File, key and step of each.
        """
        import PIL.Image

        with tempfile.TemporaryDirectory() as folder:
            for path, key, step in pictures:
                name = Path(folder, picture(self.run_id, key, step))
                name.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, name)
                with PIL.Image.open(path) as image:
                    image.thumbnail((SMALLER, SMALLER), reducing_gap=2.0)
                    image.save(name.with_name(f"{name.stem}+compressed.webp"), method=1)
            self._client.log_artifacts(self.run_id, folder)

    def keep_work(self, folder: Path, epoch: int) -> None:
        """Log the files of a training so far, then delete those of earlier epochs."""
        with tempfile.TemporaryDirectory() as place:
            # A new name each time: an upload that is cut off must not cost the earlier one.
            archive = Path(place) / f"epoch-{epoch:06d}.zip"
            with zipfile.ZipFile(archive, "w") as file:
                # The training goes on. Weights and records of later epochs do no harm, so
                # checkpoints go first.
                for path in sorted(
                    folder.rglob("*"), key=lambda path: path.parent.name != CHECKPOINTS
                ):
                    if path.is_file() and not path.name.startswith("staging-"):
                        file.write(path, path.relative_to(folder))
            self.log_file(archive, WORK)
        for name in self._work():
            if name != f"{WORK}/{archive.name}":
                self._client.delete_artifacts(self.run_id, name)

    def restore_work(self, folder: Path) -> bool:
        """Write the files of the newest whole `keep_work` into a folder that is not there yet.

        Returns:
            Whether there are any.
        """
        for name in reversed(self._work()):
            with tempfile.TemporaryDirectory() as place, suppress(*DAMAGED):
                archive = self._client.download_artifacts(self.run_id, name, place)
                folder.parent.mkdir(parents=True, exist_ok=True)
                with staged(folder) as new, zipfile.ZipFile(archive) as file:
                    file.extractall(new)
                return True
        return False

    def delete_work(self) -> None:
        """Delete what `keep_work` logged, and its folder."""
        if self._work():
            self._client.delete_artifacts(self.run_id, WORK)

    def _work(self) -> list[str]:
        return sorted(str(item.path) for item in self._client.list_artifacts(self.run_id, WORK))

    def fingerprint(self) -> dict[str, Any]:
        """Return the parts of the run's fingerprint."""
        return self._read(FINGERPRINT, _object)

    def card(self) -> DatasetCard:
        """Return the card of the dataset that the run learnt."""
        from chapterflow.kinds.dataset import DatasetCard

        return self._read(CARD, DatasetCard.model_validate_json)

    def verdict(self) -> Verdict:
        """Return the verdict of the validation before the training."""
        from chapterflow.validation.verdict import Verdict

        return self._read(VERDICT, Verdict.model_validate_json)

    def training(self) -> Training:
        """Return how the model was trained."""
        from chapterflow.training.history import Training

        return self._read(TRAINING, Training.model_validate_json)

    def evaluation(self) -> Evaluation:
        """Return the scores on the test split."""
        from chapterflow.evaluation.evaluate import Evaluation

        return self._read(EVALUATION, Evaluation.model_validate_json)

    def predictions(self) -> dict[str, NDArray[Any]]:
        """Return the answers on the test split.

        `index` `(n,)`, and `label` `(n,)` with `probability` `(n, classes)`, or `prediction`
        `(n, length, 1)`.
        """
        import numpy as np

        path = self.path(PREDICTIONS)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except DAMAGED as error:
            raise lost(self.run_id, PREDICTIONS, error) from None

    def explanation(self) -> Explanation:
        """Return the explanation, with the pictures that are on this machine."""
        from chapterflow.explain.explanation import Explanation

        folder = self.path(EXPLANATION)
        try:
            return Explanation.load(
                folder, lambda key, step: folder.parent / picture(self.run_id, key, step)
            )
        except DAMAGED as error:
            raise lost(self.run_id, EXPLANATION, error) from None

    def document(self, name: str) -> dict[str, Any]:
        """Return any JSON document of the run."""
        return self._read(name, _object)

    def _read(self, name: str, parse: Callable[[str], T]) -> T:
        path = self.path(name)
        try:
            return parse(path.read_text(encoding="utf-8"))
        except DAMAGED as error:
            raise lost(self.run_id, name, error) from None


class WorkKeeper:
    """Keeps the work of a training where other machines find it, from a thread of its own.

    Args:
        folder: The work: checkpoints and records of epochs.

    Attributes:
        has_begun: Whether the store may have a copy.
    """

    def __init__(self, artifacts: Artifacts, folder: Path) -> None:
        self._artifacts = artifacts
        self._folder = folder
        self._next = time.monotonic() + KEEP_SECONDS
        self._thread: threading.Thread | None = None
        self.has_begun = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread:
            self._thread.join(CLOSING_SECONDS)

    def __call__(self, epoch: int) -> None:
        """Copy the work after an epoch, unless the last copy was made a moment ago."""
        busy = self._thread and self._thread.is_alive()
        if not busy and time.monotonic() >= self._next:
            self._thread = threading.Thread(
                target=self._keep, args=[epoch], name="work", daemon=True
            )
            self.has_begun = True
            self._thread.start()

    def _keep(self, epoch: int) -> None:
        started = time.monotonic()
        with suppress(Exception):  # A later epoch tries again; meanwhile the training goes on.
            self._artifacts.keep_work(self._folder, epoch)
        now = time.monotonic()
        self._next = now + max(KEEP_SECONDS, KEEP_SHARE * (now - started))


def picture(run_id: str, key: str, step: int) -> str:
    """Return the name of a PNG that was logged as an image with a step.

    As `MlflowClient.log_image` names it, with a time and an id that repeat.
    """
    unique = uuid.uuid5(uuid.NAMESPACE_OID, f"{run_id} {key} {step}")
    return f"images/{key.replace('/', '~')}+step+{step}+timestamp+{step}+{unique}.png"


def lost(run_id: str, name: str, error: Exception) -> StoreError:
    """Return the error for an artifact of a run that is missing or cannot be read."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return StoreError(
        f"The artifact {name} of run {run_id} is missing or damaged. Received: {reason}. Restore "
        "it from a copy, or make a new run with `chapterflow run MODEL --force`."
    )


def _object(text: str) -> dict[str, Any]:
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError(f"a JSON object is needed, not {type(document).__name__}")
    return document
