"""Batch prediction from what people write to a file, and to a run in MLflow."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version as version_of_package
from pathlib import Path
from typing import Any

from chapterflow.batch.drift import Drift, Reference, overall
from chapterflow.batch.early import check_out, nothing_read
from chapterflow.batch.inputs import Inputs, find_inputs
from chapterflow.batch.joined import Joined
from chapterflow.batch.parts import RUN_KEY, Parts, put, remove_forgotten, write_result
from chapterflow.batch.predict import is_labelled, predict_parts
from chapterflow.batch.reference import read_reference
from chapterflow.batch.sources import Unread
from chapterflow.batch.table import row_bytes, schema
from chapterflow.batch.tracked import finish_run, log_unread, start_run
from chapterflow.data.card import DatasetCard
from chapterflow.environment import Project, held, load_tensorflow
from chapterflow.fitted import GRAPHS, example_shape, photo_size, settings_of
from chapterflow.models.parts.base import Strict
from chapterflow.records import Tell, silent
from chapterflow.settings import Settings
from chapterflow.tracking.registry import CHAMPION, Version, find_version, read_version
from chapterflow.tracking.runs import end_dead_runs
from chapterflow.tracking.session import Session

#: Raised when parts of an older version of this code could not be joined with new ones.
FORMAT = 2


class Predicted(Strict):
    """A batch that is done.

    Attributes:
        model: Name and number of the version.
        run_id: The batch's run in MLflow.
        sha256: Of the file `out`.
        inputs_sha256: Over names and hashes of all examples.
        classes: How often each was predicted.
        resumed: Examples that an earlier, interrupted call had predicted.
        labelled: Examples that came with their class.
        correct: Those of them whose class was predicted.
        skipped: Files of folders that are of another sort.
        notes: What was done to inputs, and what is odd about them.
        drift: Worst reading of all figures.
        seconds: What this call took, without starting TensorFlow and loading the model.
    """

    model: str
    alias: str | None
    run_id: str
    out: str
    sha256: str
    inputs_sha256: str
    examples: int
    resumed: int
    classes: dict[str, int]
    labelled: int
    correct: int
    unreadable: list[Unread]
    skipped: list[str]
    notes: list[str]
    reference: str
    drift: str
    figures: list[Drift]
    seconds: float
    examples_per_second: float


def batch_predict(
    project: Project,
    settings: Settings,
    model: str,
    given: Sequence[str],
    out: Path,
    *,
    tags: Mapping[str, str] | None = None,
    tell: Tell = silent,
) -> Predicted:
    """Predict inputs with a registered model, write one Parquet file, and log a run.

    What cannot be read is named; the rest goes on. After a kill the same call goes on from the last
    whole part. `out` is replaced when all is done, and not before.

    Args:
        model: `NAME`, `NAME/VERSION` or `NAME@ALIAS` in the registry; the champion of a name alone.
        given: Files, folders, `DATASET`, `DATASET:SPLIT` or `DATASET:INDEX`.
        out: File to write.
        tags: More tags for the run.

    Raises:
        ConfigError: If the model, an input or the place of the result is not there.
        DataError: If nothing could be read.
    """
    check_out(out)
    with Session(project, settings) as session:
        end_dead_runs(session.client, [session.experiment_id])
        version = find_version(session.client, model, default=CHAMPION)
        settings = settings_of(project, settings, session, version)
        tell("load", version.told())
        load_tensorflow()
        network, card = read_version(session.client, version)
        size = photo_size(settings, version)
        started = time.monotonic()
        inputs = find_inputs(project, settings, version, card, given, tell=tell)
        if not any(source.count for source in inputs.sources):
            raise nothing_read(inputs.unread)
        out.parent.mkdir(parents=True, exist_ok=True)
        identity = [source.identity() for source in inputs.sources]
        key = _key([FORMAT, version_of_package("chapterflow"), version.source, size, identity])
        above = project.scratch / "predict"
        # Two processes that want the same batch must not mix their parts.
        with held(
            project,
            f"predict-{key}",
            lambda: tell("waiting", "another process predicts the same"),
        ):
            remove_forgotten(above)
            parts = Parts(above / key)
            resumed = parts.rows() if parts.chunks() else 0
            run_id = start_run(project, session, version, inputs, given, out, parts.folder, tags)
            with session.ending_on_error(run_id):
                reference = read_reference(session.client, project, version, card, size)
                total = sum(source.count for source in inputs.sources)

                def on_chunk(read: int, lost: int) -> None:
                    unread = f", {lost:,} not readable" if lost else ""
                    tell("predict", f"{resumed + read:,} of {total:,} examples{unread}")

                if resumed:
                    tell("resume", f"{resumed:,} of {total:,} examples were predicted before")
                predict_parts(
                    network,
                    card,
                    inputs.sources,
                    parts,
                    shape=() if card.kind in GRAPHS else example_shape(card, size),
                    figures=sorted(reference.figures),
                    on_chunk=on_chunk,
                )
                tell("write", str(out))
                return _finish(
                    session, version, card, inputs, parts, reference, run_id, out, resumed, started
                )


def _finish(
    session: Session,
    version: Version,
    card: DatasetCard,
    inputs: Inputs,
    parts: Parts,
    reference: Reference,
    run_id: str,
    out: Path,
    resumed: int,
    started: float,
) -> Predicted:
    """Join the parts, put the result in its place, and end the run."""
    joined = Joined(card, inputs, reference)
    wanted = schema(card, labelled=is_labelled(inputs.sources))
    temporary = out.with_name(f".{out.name}.{parts.folder.name[:8]}.tmp")
    try:
        sha256 = write_result(
            temporary,
            joined.tables(parts),
            wanted,
            row_bytes(card),
            lambda: {
                "chapterflow.model_uri": f"models:/{version.uri()}",
                "chapterflow.model_run": version.run_id,
                RUN_KEY: run_id,
                "chapterflow.inputs_sha256": joined.hash.hexdigest(),
                "chapterflow.datasets": json.dumps(joined.datasets),
                "chapterflow.version": version_of_package("chapterflow"),
            },
        )
        if not joined.examples:
            log_unread(session.client, run_id, joined.unread)
            parts.remove()
            raise nothing_read(joined.unread)
        put(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    figures = [tally.result() for tally in joined.tallies.values()]
    seconds = time.monotonic() - started
    done = Predicted(
        model=version.uri(),
        alias=version.alias,
        run_id=run_id,
        out=str(out),
        sha256=sha256,
        inputs_sha256=joined.hash.hexdigest(),
        examples=joined.examples,
        resumed=resumed,
        classes={label: joined.classes[place] for place, label in enumerate(card.classes)},
        labelled=joined.labelled,
        correct=joined.correct,
        unreadable=joined.unread,
        skipped=inputs.skipped,
        notes=[*inputs.notes, *(f"{count:,} {what}" for what, count in joined.notes.items())],
        reference=reference.what,
        drift=overall(figures),
        figures=figures,
        seconds=seconds,
        examples_per_second=(joined.examples - resumed) / seconds,
    )
    finish_run(session.client, run_id, done)
    parts.remove()
    return done


def _key(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
