"""Batch prediction from what people write to a file, and to a run in MLflow."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version as version_of_package
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chapterflow.config.settings import Settings
from chapterflow.data.build import recipe
from chapterflow.data.versioning import data_version
from chapterflow.environment import Project, load_tensorflow, machine, project_lock
from chapterflow.errors import ConfigError, DataError
from chapterflow.evaluation.cost import compiled_forward
from chapterflow.kinds.dataset import CARD, DatasetCard, open_dataset, read_card
from chapterflow.kinds.kind import get_kind
from chapterflow.kinds.photos import EXTENSIONS, open_photo
from chapterflow.models.base import with_softmax
from chapterflow.predict import table as kept
from chapterflow.predict.drift import Drift, Reference, draw_drift, overall, read_reference
from chapterflow.predict.inputs import (
    ARRAY,
    BLOCK_BYTES,
    Chunk,
    DatasetPart,
    Inputs,
    Named,
    Pictures,
    Source,
    Unread,
    add_files,
    answers,
    check_folder,
    example_shape,
    find_inputs,
    fits,
    named,
    photo_size,
    positions,
    refuse_files,
    settings_of,
    shown,
)
from chapterflow.predict.table import (
    RUN_KEY,
    Joined,
    Parts,
    put,
    remove_forgotten,
    row_bytes,
    rows,
    schema,
    write_result,
)
from chapterflow.tracking import runs
from chapterflow.tracking.runs import end_dead_runs
from chapterflow.tracking.session import Session
from chapterflow.tracking.versions import (
    OnVersion,
    Version,
    card_of,
    find_version,
    ignore,
    read_version,
)
from chapterflow.types import Strict, Tell, silent

if TYPE_CHECKING:
    import keras
    from mlflow import MlflowClient

#: More files than these are not looked into beforehand.
FEW = 16
#: Characters of all INPUTs: Prefect refuses parameters of half a megabyte.
MOST_CHARACTERS = 400_000


def check_batch(
    project: Project,
    settings: Settings,
    model: str,
    given: Sequence[str],
    out: Path,
    *,
    on_version: OnVersion = ignore,
) -> None:
    """Refuse a batch that cannot come to anything, in the words of the batch itself.

    What needs no tracking store is told first. Large arrays, and what lies in folders, are looked
    into only when the batch reads them.

    Raises:
        ConfigError: If the model, an input or the place of the result is not there.
        DataError: If none of a few files can be read.
    """
    words = named(settings, given)
    check_words(words)
    check_out(out)
    with Session(project, settings) as session:
        version = find_version(session.client, model)
        on_version(version)
        card = card_of(session.client, version)
        settings = settings_of(project, settings, session, version)
    check_inputs(project, settings, version, card, words)


def check_out(out: Path) -> None:
    """Refuse a place where no file can be written; nothing is left there.

    Raises:
        ConfigError: If it is no file, or the folder around it cannot be made or written.
    """
    if out.is_dir():
        raise ConfigError(f"--out must be a file, such as {out}/predictions.parquet. Received: the "
                          f"folder {out}")  # fmt: skip
    if out.is_file() and out.stat().st_size and not _is_table(out):
        raise ConfigError(
            "--out must be a new file or an older table of predictions, which is replaced. "
            f"Received: {out}, which is another file"
        )
    if out.exists() and not out.is_file():
        raise ConfigError(f"--out must be a file. Received: {out}, a device or pipe")
    if not _is_text(str(out)):
        raise ConfigError(f"--out must be a name in UTF-8. Received: {shown(out)}")
    folder = next(above for above in out.absolute().parents if os.path.lexists(above))
    try:
        # Permissions alone do not tell: a file system may be read-only, or take no files at all.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"--out must be in a folder that can be written. Received: {out} "
            f"({error.strerror or error})"
        ) from None


def check_words(words: Sequence[Named]) -> None:
    """Refuse what no model reads, whichever is asked for.

    Raises:
        ConfigError: If a folder holds neither a picture nor an array, or the words are too many.
        DataError: If all are files, few, and none is either.
    """
    length = sum(len(json.dumps(word.word)) + 2 for word in words)
    if length > MOST_CHARACTERS:
        raise ConfigError(
            f"INPUTs must be {MOST_CHARACTERS:,} characters at most; name folders in place of "
            f"their files. Received: {len(words):,} INPUTs of {length:,} characters"
        )
    for word in words:
        if not _is_text(word.word):
            raise ConfigError(
                "INPUT must be a name in UTF-8; name the folder of the file instead. "
                f"Received: {shown(word.word)}"
            )
        if word.sort == "folder":
            check_folder(word.place, None)
    unread = []
    for word in words:
        if len(words) > FEW or word.sort != "file" or word.place.suffix.lower() == ARRAY:
            return
        try:
            open_photo(word.place)
        except DataError as error:
            ending = word.place.suffix.lower()
            reason = (
                str(error).removeprefix(f"{word.place} ")
                if ending in EXTENSIONS
                else "must be a JPEG, PNG, BMP, GIF or WebP picture, or an .npy array. Received: "
                f"{ending or 'no extension'}"
            )
            unread.append(Unread(input=shown(word.place), reason=reason))
        else:
            return
    raise nothing_read(unread)


def check_inputs(
    project: Project,
    settings: Settings,
    version: Version,
    card: DatasetCard,
    words: Sequence[Named],
) -> None:
    """Refuse inputs of which one is sure not to be what the model reads, or none can be read.

    Args:
        settings: In the profile that the version was trained in.
        card: Of the data that it learnt.

    Raises:
        ConfigError: If one of them is nothing that the model reads.
        DataError: If all are files, few, and none can be read.
    """
    for word in words:
        if word.sort == "dataset":
            _check_dataset(project, settings, version, card, word)
            continue
        refuse_files(card, version, word.word)
        if word.sort == "folder":
            check_folder(word.place, card)
    if len(words) <= FEW and all(word.sort == "file" for word in words):
        _check_files([word.place for word in words], card, photo_size(settings, version))


def nothing_read(unread: Sequence[Unread]) -> DataError:
    """Return the error of a batch of which nothing could be read."""
    told = "\n".join(f"  {one.input}: {one.reason}" for one in unread[:10])
    more = f"\n  and {len(unread) - 10} more" if len(unread) > 10 else ""
    return DataError(f"None of the inputs could be read; nothing was written.\n{told}{more}")


def _check_dataset(
    project: Project, settings: Settings, version: Version, card: DatasetCard, word: Named
) -> None:
    """Check a dataset that is here; one that must be built or fetched first is told about later."""
    name, part = word.dataset
    folder = project.data / name
    if (folder / CARD).is_file() and read_card(folder).recipe == recipe(settings.datasets[name]):
        dataset = open_dataset(folder)
        fits(version, card, dataset.card)
        positions(dataset, part)


def _check_files(files: Sequence[Path], card: DatasetCard, size: tuple[int, int]) -> None:
    for path in files:
        if path.suffix.lower() == ARRAY and path.stat().st_size > BLOCK_BYTES:
            return
    found = Inputs()
    add_files(found, [str(path) for path in files], card, size)
    for source in found.sources:
        if not isinstance(source, Pictures):
            return
        chunk = source.read(0)
        found.unread.extend(chunk.unread)
        if chunk.names:
            return
    raise nothing_read(found.unread)


def _is_table(path: Path) -> bool:
    """Tell whether a file is a result of `chapterflow predict`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return RUN_KEY.encode() in (pq.read_metadata(path).metadata or {})
    except (pa.ArrowException, OSError):
        return False


def _is_text(name: str) -> bool:
    """Tell whether a name is text: stores refuse bytes that are no UTF-8."""
    return shown(name) == name


def predict_parts(
    network: keras.Model,
    card: DatasetCard,
    sources: Sequence[Source],
    parts: Parts,
    *,
    shape: tuple[int, ...],
    figures: Sequence[str],
    on_chunk: Callable[[int, int], None],
) -> None:
    """Predict what no part holds yet.

    The borders of chunks do not depend on where a killed process stopped, so neither does a bit of
    what comes out.

    Args:
        network: Model that answers logits, or smoothed curves.
        card: Of the data that it learnt.
        shape: Of one example, where inputs are files.
        figures: Names of the hidden columns.
        on_chunk: Told how many examples were read and how many could not be, since the call.
    """
    import pyarrow as pa

    forward = _forward(network, card, sources, shape)
    labelled = is_labelled(sources)
    wanted = schema(card, labelled=labelled, figures=figures)
    start = position = parts.chunks()
    tables: list[Any] = []
    unread: list[Unread] = []
    notes: Counter[str] = Counter()
    since = time.monotonic()
    read = lost = 0

    def write() -> None:
        nonlocal start, since
        if tables:
            parts.write(start, position, pa.concat_tables(tables), unread, notes)
        tables.clear()
        unread.clear()
        notes.clear()
        start, since = position, time.monotonic()

    for source, number in _chunks(sources, position):
        chunk = source.read(number)
        tables.append(
            rows(chunk, answers(forward, chunk), card, wanted)
            if chunk.names
            else wanted.empty_table()
        )
        unread.extend(chunk.unread)
        notes.update(chunk.notes)
        position += 1
        read += len(chunk.names)
        lost += sum(one.count for one in chunk.unread)
        on_chunk(read, lost)
        size = sum(table.nbytes for table in tables)
        if size > kept.PART_BYTES or time.monotonic() - since > kept.PART_SECONDS:
            write()
    write()


def is_labelled(sources: Sequence[Source]) -> bool:
    """Tell whether some examples come with their class."""
    return any(isinstance(one, DatasetPart) and one.dataset.card.task.classes for one in sources)


def _chunks(sources: Sequence[Source], done: int) -> Iterator[tuple[Source, int]]:
    """Yield every chunk behind the first `done` ones."""
    for source in sources:
        yield from ((source, number) for number in range(min(done, source.chunks), source.chunks))
        done = max(0, done - source.chunks)


def _forward(
    network: keras.Model, card: DatasetCard, sources: Sequence[Source], shape: tuple[int, ...]
) -> Callable[[Chunk], Any]:
    """Return the model as a function of batches; of one whole graph, the model itself."""
    model: Any = with_softmax(network) if card.task.classes else network
    shapes: Any = ((None, *shape), "float32")
    for source in sources:
        if isinstance(source, DatasetPart):
            if source.dataset.kind.whole:
                found: Callable[[Chunk], Any] = model
                return found
            shapes = source.dataset.input_shapes()
    return compiled_forward(model, shapes)


#: Characters of a parameter that name inputs; the whole list may be long.
TOLD = 500


def start_run(
    project: Project,
    session: Session,
    version: Version,
    inputs: Inputs,
    given: Sequence[str],
    out: Path,
    folder: Path,
    tags: Mapping[str, str] | None,
) -> str:
    """Start the run of a batch, or continue the one whose parts are in `folder`; return its id."""
    from mlflow.entities import LoggedModelInput

    marker = folder / "run_id"
    datasets = inputs.datasets()
    # Which data these were; of files the table has the hashes.
    data = {"chapterflow.datasets": json.dumps(datasets)} if datasets else {}
    if datasets and (named := data_version(project)):
        data[runs.DATA_VERSION] = named
    earlier = marker.read_text(encoding="utf-8") if marker.is_file() else None
    run_id = runs.open_run(
        session.client,
        session.experiment_id,
        name=f"predict {version.uri()}",
        run_id=earlier,
        tags={
            runs.RUN_TYPE: "batch",
            "chapterflow.model_uri": f"models:/{version.uri()}",
            "chapterflow.model_alias": version.alias or "none",
            "chapterflow.model_run": version.run_id,
            "chapterflow.output": str(out.resolve()),
            runs.MACHINE: machine(),
            runs.PYTHON: platform.python_version(),
            "mlflow.note.content": f"Predictions of **{version}** for "
            f"{sum(source.count for source in inputs.sources)} examples; `drift.json` says whether "
            "they are like the data that it was tested on.",
            **data,
            **runs.git_tags(project),
            **(tags or {}),
        },
    )
    marker.write_text(run_id, encoding="utf-8")
    if run_id != earlier:
        told = " ".join(given)
        told = told if len(told) <= TOLD else f"{told[:TOLD]}..."
        runs.log_params(session.client, run_id, {"model": version.uri(), "inputs": told})
        model_id = version.source.rpartition("/")[2]
        if model_id.startswith("m-"):
            session.client.log_inputs(run_id, models=[LoggedModelInput(model_id)])
    return run_id


def log_unread(client: MlflowClient, run_id: str, unread: Sequence[Unread]) -> None:
    """Log what could not be read, and why."""
    client.log_dict(run_id, [one.model_dump() for one in unread], "unreadable.json")


def finish_run(client: MlflowClient, run_id: str, done: Predicted) -> None:
    """Log counts, hashes and the comparison with the test data, and end the run."""
    import PIL.Image

    log_unread(client, run_id, done.unreadable)
    drift: dict[str, Any] = {"reference": done.reference, "reading": done.drift}
    client.log_dict(
        run_id, drift | {"figures": [one.model_dump() for one in done.figures]}, "drift.json"
    )
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "drift.png"
        if draw_drift(done.figures, f"{done.model}: these data and the test data", picture):
            client.log_artifact(run_id, str(picture))
            with PIL.Image.open(picture) as image:
                client.log_image(run_id, image, key="drift", step=0)
    metrics = {
        "batch/examples": done.examples,
        "batch/unreadable": sum(one.count for one in done.unreadable),
        "batch/skipped_files": len(done.skipped),
        "batch/resumed_examples": done.resumed,
        "batch/seconds": done.seconds,
        "batch/examples_per_second": done.examples_per_second,
    }
    if done.labelled:
        metrics |= {"batch/labelled": done.labelled, "batch/correct": done.correct}
    for one in done.figures:
        if one.psi is not None:
            metrics[f"drift/psi_{one.name.replace(' ', '_')}"] = one.psi
    runs.log_metrics(client, run_id, {name: float(value) for name, value in metrics.items()}, 0)
    runs.set_tags(
        client,
        run_id,
        {
            "chapterflow.inputs_sha256": done.inputs_sha256,
            "chapterflow.output_sha256": done.sha256,
            "chapterflow.drift": done.drift,
        },
    )
    runs.close_run(client, run_id, "FINISHED")


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
        model: `NAME`, `NAME/VERSION` or `NAME@ALIAS` in the registry.
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
        version = find_version(session.client, model)
        settings = settings_of(project, settings, session, version)
        tell("load", str(version))
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
        with project_lock(
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
                    shape=() if get_kind(card.kind).file is None else example_shape(card, size),
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
