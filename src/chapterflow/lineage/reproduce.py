"""Make a recorded model again, from its run alone, and hold it against the one that was kept."""

from __future__ import annotations

import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

from chapterflow.data.card import open_dataset
from chapterflow.environment import Project, load_tensorflow
from chapterflow.errors import StoreError
from chapterflow.lineage.agreement import Agreement, Verdict, compare_models
from chapterflow.lineage.artifacts import read_json
from chapterflow.lineage.environment import Fact, changed_sources, facts
from chapterflow.lineage.ledger import log_reproduction
from chapterflow.lineage.recorded import Recorded, data_of, recorded_model
from chapterflow.lineage.reference import find_run
from chapterflow.models.parts.base import Strict
from chapterflow.records import Tell, silent
from chapterflow.settings import Settings
from chapterflow.tracking.registry import model_file
from chapterflow.tracking.session import Session
from chapterflow.training.history import EpochRecord


class Reproduction(Strict):
    """What became of making a model again.

    Attributes:
        asked: What was asked for.
        note: Which version was taken, where the name alone did not say.
        version: Version that was compared with, `cnn/3`.
        reproduces: Run that made it.
        run_id: Run that holds this record.
        environment: Facts then and now.
        data: Where the data came from.
        changed_sources: Source files of the training that are others now.
        get_sources: Command that brings the recorded ones, where some changed.
        seconds: Of the training.
    """

    asked: str
    note: str | None
    version: str
    model: str
    reproduces: str
    run_id: str
    verdict: Verdict
    told: str
    environment: list[Fact]
    data: str
    changed_sources: list[str]
    get_sources: str | None
    comparison: Agreement
    seconds: float


def reproduce(
    project: Project, settings: Settings, reference: str, *, tell: Tell = silent
) -> Reproduction:
    """Train a recorded model again, with its parameters, seed and data, and compare both.

    All work is done in a temporary folder: `data/`, `.dvc`, what is kept between runs and the
    sources stay as they are, and nothing made for earlier runs is used. The outcome is logged as a
    run of kind `reproduction`.

    Args:
        project: The project.
        settings: Its settings; of them, only the comparison's.
        reference: A run's id or how it begins, or `NAME`, `NAME/VERSION` or `NAME@ALIAS`.
        tell: Hears how it goes on.

    Raises:
        ConfigError: If there is no such model or run, or today's code does not know the model.
        StoreError: If the store has lost what the run kept.
        ChapterflowError: If the data cannot be had.
    """
    with Session(project, settings) as session, tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder)
        run, asked = find_run(session.client, session.experiment_id, reference)
        version = asked.version
        tell("look up", f"{version.told()}, run {run.info.run_id}")
        parts = read_json(run.info.run_id, "fingerprint.json")
        recorded = recorded_model(version, run, parts)
        kept = model_file(session.client, version)
        found = facts(project, run.data.tags, parts)
        data, origin = data_of(project, recorded, temporary / "dvc", tell)
        made, seconds = _retrain(recorded, data, temporary, tell)
        tell("compare", "weights and answers")
        comparison = _compare(settings, recorded, kept, made, data)
        same = all(fact.same for fact in found if fact.decides)
        verdict = comparison.verdict(same_environment=same)
        done = Reproduction(
            asked=reference,
            note=asked.note,
            version=version.uri(),
            model=recorded.model,
            reproduces=run.info.run_id,
            run_id="",
            verdict=verdict,
            told=_told(verdict, comparison, found),
            environment=found,
            data=origin,
            changed_sources=changed_sources(parts),
            get_sources=_get_sources(recorded, found),
            comparison=comparison,
            seconds=seconds,
        )
        tell("log", "the outcome")
        run_id = log_reproduction(project, session, run, done.model_dump(exclude={"run_id"}))
    return done.model_copy(update={"run_id": run_id})


def _retrain(recorded: Recorded, data: Path, temporary: Path, tell: Tell) -> tuple[Path, float]:
    tell("train", "starting TensorFlow")
    load_tensorflow()
    from chapterflow.training.fit import fit

    def on_epoch(record: EpochRecord) -> None:
        tell(
            "train",
            f"epoch {record.epoch}/{recorded.params.all_epochs()}, validation {record.told}",
        )

    started = time.monotonic()
    work = temporary / "work" / "reproduction"
    fit(
        recorded.entry,
        recorded.params,
        open_dataset(data / recorded.dataset),
        seed=recorded.seed,
        work=work,
        on_epoch=on_epoch,
        # Kept features or backbones would be reused, where they should be made again.
        scratch=temporary / "scratch",
    )
    return work / "model.keras", round(time.monotonic() - started, 3)


def _compare(
    settings: Settings, recorded: Recorded, kept: Path, made: Path, data: Path
) -> Agreement:
    from chapterflow.training.pipeline import load_model, sized_for

    dataset = sized_for(recorded.entry, recorded.params, open_dataset(data / recorded.dataset))
    try:
        model = load_model(kept)
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StoreError(
            f"The model that was kept must be one to load. Received: {kept.name}: {reason}"
        ) from None
    return compare_models(
        model,
        load_model(made),
        dataset,
        resamples=settings.comparison.bootstrap_resamples,
        seed=settings.seed,
    )


def _told(verdict: Verdict, comparison: Agreement, found: Sequence[Fact]) -> str:
    """Return the verdict in one line: what came out, and what is not as it was."""
    told = f"{verdict}: {comparison.told()}."
    if verdict == "differs" and all(fact.same for fact in found if fact.decides):
        told += " Machine, libraries and source files are the same, so the weights should be."
    other = [fact.told() for fact in found if fact.known and not fact.same]
    unknown = [fact.name for fact in found if not fact.known]
    told += f" Changed: {'; '.join(other)}." if other else ""
    return told + (f" Not on record: {', '.join(unknown)}." if unknown else "")


def _get_sources(recorded: Recorded, found: Sequence[Fact]) -> str | None:
    """Return the command that brings the recorded sources, where they are others now."""
    if recorded.commit is None or all(fact.same for fact in found if fact.name == "source files"):
        return None
    return f"git worktree add ../{recorded.model}-{recorded.commit[:10]} {recorded.commit}"
