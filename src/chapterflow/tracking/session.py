"""One opened tracking store, and what the steps do with it."""

from __future__ import annotations

import json
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from chapterflow.config.settings import Settings
from chapterflow.data.versioning import data_version
from chapterflow.environment import Project, machine
from chapterflow.errors import ConfigError
from chapterflow.kinds.dataset import Dataset, DatasetCard
from chapterflow.models.catalog import get_model
from chapterflow.tracking import runs
from chapterflow.tracking.fingerprint import fingerprint
from chapterflow.tracking.records import SCORES, Outcome
from chapterflow.tracking.store import ensure_experiment, open_store
from chapterflow.tracking.versions import CHALLENGER, CHAMPION, holder

if TYPE_CHECKING:
    from mlflow.entities import Run

    from chapterflow.models.base import ChapterModel
    from chapterflow.validation.verdict import Verdict

EXPERIMENT_NOTE = (
    "Models of a textbook chapter on convolution. A run of kind `flow` is one pass over several "
    "models; the runs nested in it are the models. To compare: tick the models and press Compare. "
    "`test/...` was measured once on the held-out split, `train/...` and `validation/...` have one "
    "value an epoch, `cost/...` is what a prediction costs."
)


class Session:
    """The project's tracking store, opened.

    Use it as a context manager: MLflow's warnings about itself are kept away within.

    Attributes:
        client: MLflow client.
        experiment_id: The project's experiment.
    """

    def __init__(self, project: Project, settings: Settings) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        self._project = project
        self._settings = settings
        try:
            self.client = MlflowClient(open_store(project))
        except MlflowException as error:
            raise ConfigError(f"MLflow cannot use this tracking store: {error.message}") from None
        self.experiment_id = ensure_experiment(
            project, settings.tracking.experiment, EXPERIMENT_NOTE
        )
        self._warnings = warnings.catch_warnings()

    def __enter__(self) -> Self:
        self._warnings.__enter__()
        warnings.simplefilter("ignore", FutureWarning)
        return self

    def __exit__(self, *exception: object) -> None:
        self._warnings.__exit__(None, None, None)

    @contextmanager
    def ending_on_error(self, run_id: str) -> Iterator[None]:
        """Mark the run FAILED or KILLED when the block does not succeed."""
        try:
            yield
        except KeyboardInterrupt:
            runs.close_run(self.client, run_id, "KILLED")
            raise
        except Exception as error:
            runs.close_run(self.client, run_id, "FAILED", f"{type(error).__name__}: {error}")
            raise

    def start_flow_run(self, name: str, tags: dict[str, str]) -> str:
        """Start the run that a flow's model runs are nested in, and return its id."""
        return runs.open_run(
            self.client,
            self.experiment_id,
            name=name,
            tags={
                runs.KIND: "flow",
                runs.PROFILE: self._settings.profile,
                "mlflow.note.content": "One pass over several models; `results.md` has the table.",
                **runs.git_tags(self._project),
                **tags,
            },
        )

    def start_model_run(
        self,
        model: str,
        parts: dict[str, Any],
        card: DatasetCard,
        work: Path,
        *,
        flow_run_id: str | None,
        tags: dict[str, str],
    ) -> str:
        """Start a model's run, or continue the one that `work` belongs to, and return its id."""
        entry = get_model(model)
        marker = work / "run_id"
        earlier = marker.read_text(encoding="utf-8") if marker.is_file() else None
        run_id = runs.open_run(
            self.client,
            self.experiment_id,
            name=f"{model} on {card.name}",
            run_id=earlier,
            tags={
                runs.KIND: "model",
                runs.MODEL: model,
                runs.DATASET: card.name,
                runs.PROFILE: self._settings.profile,
                runs.FINGERPRINT: fingerprint(parts),
                runs.TEST_DIGEST: card.test_digest,
                "chapterflow.role": self._settings.params(model).role,
                runs.DIGEST: card.digest,
                runs.DATA_VERSION: data_version(self._project) or "none",
                runs.MACHINE: machine(),
                runs.PYTHON: platform.python_version(),
                **_section(entry),
                "mlflow.note.content": f"{_introduced(entry)} Trained on `{card.name}`: "
                f"{card.title}.",
                **({runs.PARENT: flow_run_id} if flow_run_id else {}),
                **runs.git_tags(self._project),
                **tags,
            },
        )
        marker.write_text(run_id, encoding="utf-8")
        runs.log_params(
            self.client,
            run_id,
            {"model": model, "dataset": card.name, "seed": parts["seed"], **parts["params"]},
        )
        runs.log_dataset(self.client, run_id, card, self._project.data / card.name)
        return run_id

    def finish_model_run(
        self, model: str, run_id: str, work: Path, dataset: Dataset, verdict: Verdict
    ) -> None:
        """Log what training and evaluation left in `work`, register the model, end the run."""
        import numpy as np
        import PIL.Image

        from chapterflow.evaluation import figures
        from chapterflow.evaluation.evaluate import Evaluation
        from chapterflow.evaluation.scores import check_metrics
        from chapterflow.explain.explanation import read_explanation
        from chapterflow.tracking.logged_models import log_keras_model, register
        from chapterflow.training.batches import load_model, sized_for
        from chapterflow.training.fit import Training

        training = Training.model_validate_json((work / "training.json").read_text("utf-8"))
        evaluation = Evaluation.model_validate_json((work / runs.EVALUATION).read_text("utf-8"))
        entry = get_model(model)
        trained = load_model(work / "model.keras")
        dataset = sized_for(entry, self._settings.params(model), dataset)
        card = dataset.card
        title = f"{model} on {card.name}"
        pictures = ["learning_curve", "confusion_matrix" if card.classes else "curves"]
        figures.learning_curve(
            training.history,
            f"{title}: learning curve",
            work / "learning_curve.png",
            chosen_epoch=training.chosen_epoch,
        )
        test = dataset.indices("test")
        if card.classes:
            figures.confusion_matrix(
                np.array(evaluation.confusion),
                card.classes,
                f"{title}: {len(test)} test examples",
                work / "confusion_matrix.png",
            )
        else:
            with np.load(work / runs.PREDICTIONS, allow_pickle=False) as kept:
                figures.smoothed_curves(
                    dataset.inputs(test[:4]),
                    dataset.targets(test[:4]),
                    kept["prediction"][:4],
                    f"{title}: the first test curves",
                    work / "curves.png",
                )
        for name in (
            runs.EVALUATION,
            runs.PREDICTIONS,
            "training.json",
            "fingerprint.json",
            *(f"{picture}.png" for picture in pictures),
        ):
            self.client.log_artifact(run_id, str(work / name))
        for name in pictures:
            # Once more as images with a step, which the UI lays side by side for several runs.
            with PIL.Image.open(work / f"{name}.png") as image:
                self.client.log_image(run_id, image, key=name, step=len(training.history))
        explanation = read_explanation(work / runs.EXPLAIN)
        self.client.log_artifacts(run_id, str(work / runs.EXPLAIN), runs.EXPLAIN)
        for picture in explanation["pictures"]:
            # The step of a feature map is its layer.
            with PIL.Image.open(work / runs.EXPLAIN / picture["file"]) as image:
                self.client.log_image(run_id, image, key=picture["key"], step=picture["step"])
        if refused := explanation.get("refused"):
            runs.set_tags(self.client, run_id, {"chapterflow.explain": refused})
        self.client.log_dict(run_id, card.model_dump(), "dataset.json")
        self.client.log_dict(run_id, verdict.model_dump(), "validation/verdict.json")
        metrics = check_metrics(evaluation.metrics | explanation["metrics"])
        # At step 0 the UI draws bars, one for each run, instead of single points over epochs.
        runs.log_metrics(self.client, run_id, metrics, 0)

        logged = log_keras_model(
            trained,
            run_id=run_id,
            name=model,
            input_example=dataset.example(),
            card=card,
            params=self._settings.params(model).model_dump(mode="json"),
        )
        version = register(
            logged.model_uri,
            model,
            tags={
                runs.DATASET: card.name,
                runs.PROFILE: self._settings.profile,
                **{
                    f"chapterflow.test_{score}": f"{evaluation.metrics[f'test/{score}']:.4f}"
                    for score in SCORES
                    if f"test/{score}" in evaluation.metrics
                },
            },
            description=f"{entry.summary or model}. Raw {card.kind} in, values up to "
            f"{card.value_max:g}; "
            + (
                f"class, label and {len(card.classes)} probabilities out; the Keras flavour gives "
                "logits."
                if card.classes
                else "the smoothed curves out."
            ),
            about=f"{_introduced(entry)} Each version is one training: its tags say on which data "
            "and how well it did there, its run has the curves, pictures and figures.",
            about_tags={
                "chapterflow.role": self._settings.params(model).role,
                **_section(entry),
            },
        )
        runs.set_tags(self.client, run_id, {runs.MODEL_VERSION: version})
        runs.close_run(self.client, run_id, "FINISHED")
        self.challenge(model, version)

    def challenge(self, model: str, version: str) -> None:
        """Make a version its model's challenger, unless it is the champion already."""
        champion = holder(self.client, model, CHAMPION)
        if champion is None or champion.number != version:
            self.client.set_registered_model_alias(model, CHALLENGER, version)

    def confirm(self, run_id: str) -> None:
        """Take note that today's checkout does the work of a finished run.

        Its fingerprint is that of today's sources, parameters and data. Where they are committed
        now, a run that was made with uncommitted changes is known by this commit.
        """
        tags = self.client.get_run(run_id).data.tags
        if tags.get(runs.DIRTY) != "false":
            now = runs.git_tags(self._project)
            if now.get(runs.DIRTY) == "false":
                runs.set_tags(self.client, run_id, now)
        if version := tags.get(runs.MODEL_VERSION):
            self.challenge(tags[runs.MODEL], version)

    def outcome(self, run_id: str, status: Literal["trained", "reused"]) -> Outcome:
        """Return what a finished run holds."""
        return outcome_of(self.client.get_run(run_id), status)

    def close_flow_run(self, run_id: str, results: dict[str, Any], table: str) -> None:
        """Log the flow's table and end its run; FAILED where a model failed."""
        models = results["models"]
        self.client.log_text(run_id, table, "results.md")
        self.client.log_text(run_id, json.dumps(results, indent=2), "results.json")
        # What became of each model is a tag, not a metric: charts of models stay free of flows.
        runs.set_tags(
            self.client, run_id, {f"chapterflow.status.{m['model']}": m["status"] for m in models}
        )
        failed = any(model["status"] == "failed" for model in models)
        runs.close_run(self.client, run_id, "FAILED" if failed else "FINISHED")


def outcome_of(run: Run, status: Literal["trained", "reused"] = "reused") -> Outcome:
    """Return a finished model run as an outcome."""
    tags = run.data.tags
    return Outcome(
        model=tags[runs.MODEL],
        dataset=tags[runs.DATASET],
        status=status,
        run_id=run.info.run_id,
        model_version=tags.get(runs.MODEL_VERSION),
        metrics=dict(run.data.metrics),
    )


def _section(entry: ChapterModel[Any]) -> dict[str, str]:
    """Return the tag of a model's place in the book; none for models that it has not."""
    return {"chapterflow.book_section": entry.section} if entry.section else {}


def _introduced(entry: ChapterModel[Any]) -> str:
    """Return what a model is and where in the book it stands, in markdown."""
    summary = f": {entry.summary}" if entry.summary else ""
    section = f" Book chapter 5, “{entry.section}”." if entry.section else ""
    return f"**{entry.name}**{summary}.{section}"
