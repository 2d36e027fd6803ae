"""Batch prediction with one version: writes a Parquet file and logs an MLflow run."""

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

import numpy as np
from numpy.typing import NDArray

from chapterflow.config.settings import Settings
from chapterflow.data.build import recipe
from chapterflow.data.versioning import data_version
from chapterflow.environment import Project, load_tensorflow, machine, project_lock
from chapterflow.errors import ConfigError, DataError
from chapterflow.files import publish
from chapterflow.kinds.dataset import CARD, DatasetCard, open_dataset, read_card
from chapterflow.kinds.likeness import Likeness
from chapterflow.kinds.photos import EXTENSIONS, open_photo
from chapterflow.models.base import with_softmax
from chapterflow.predict import table
from chapterflow.predict.batch_inputs import (
    BLOCK_BYTES,
    BatchInputs,
    Chunk,
    DatasetPart,
    Pictures,
    Source,
    Unread,
    check_folder,
    open_inputs,
    path_text,
)
from chapterflow.predict.drift import (
    DOCUMENT,
    INPUTS,
    Drift,
    Reference,
    draw_drift,
    overall,
    read_reference,
)
from chapterflow.predict.inputs import (
    ARRAY,
    Input,
    check_files_possible,
    example_shape,
    fits,
    inverted,
    parse_inputs,
    photo_size,
    positions,
    read_version,
    settings_of,
)
from chapterflow.predict.table import RUN_KEY, Parts, Totals, remove_abandoned, rows, schema
from chapterflow.tracking import runs
from chapterflow.tracking.session import Session
from chapterflow.tracking.versions import (
    OnVersion,
    Version,
    card_of,
    find_version,
    ignore,
)
from chapterflow.types import Strict, Tell, silent

if TYPE_CHECKING:
    import keras
    from mlflow import MlflowClient

#: Most files that are opened before the batch starts.
FEW = 16
#: Most characters of all INPUTs: Prefect refuses parameters of half a megabyte.
MOST_CHARACTERS = 400_000
#: Most characters of INPUTs that the run has as a parameter.
PARAMETER_CHARACTERS = 500
#: Most unreadable inputs that an error lists.
LISTED = 10
#: Increased when parts of an older version of this code cannot be joined with new ones.
FORMAT = 3


class Predicted(Strict):
    """The result of a batch.

    Attributes:
        model: Name and number of the version.
        run_id: The batch's run in MLflow.
        sha256: Of the file `out`.
        inputs_sha256: Over names and hashes of all examples.
        classes: Number of predictions of each class.
        resumed: Examples that an earlier, interrupted call had predicted.
        labelled: Number of examples with a known true class.
        correct: Number of labelled examples that were classified correctly.
        unlike: Number of examples that are unlike the training data; the column `note` says how.
        skipped: Files of other formats in the folders.
        notes: Changes made to inputs, and warnings about them.
        drift: Worst reading of all figures.
        seconds: Time of this call without the start of TensorFlow and the loading of the model.
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
    unlike: int
    unreadable: list[Unread]
    skipped: list[str]
    notes: list[str]
    reference: str
    drift: str
    figures: list[Drift]
    seconds: float
    examples_per_second: float


def check_batch(
    project: Project,
    settings: Settings,
    model: str,
    given: Sequence[str],
    out: Path,
    *,
    invert: bool = False,
    on_version: OnVersion = ignore,
) -> str:
    """Refuse a batch that is bound to fail, with the errors that the batch itself would raise.

    The checks that need no tracking store come first. Large arrays and the content of folders are
    read only by the batch.

    Returns:
        Name and number of the version, for the batch: an alias could move before it starts.

    Raises:
        ConfigError: If the model or an input does not exist, or `out` cannot be written.
        DataError: If there are few files, and none can be read.
    """
    inputs = parse_inputs(settings, given)
    check_inputs(inputs)
    check_out(out)
    with Session(project, settings) as session:
        version = find_version(session.client, model)
        on_version(version)
        card = card_of(session.client, version)
        settings = settings_of(project, settings, session.client, version)
    if invert:
        inverted(0.0, card)
    check_inputs_of(project, settings, version, card, inputs)
    return version.uri()


def check_inputs(inputs: Sequence[Input]) -> None:
    """Refuse inputs that no model reads.

    Raises:
        ConfigError: If a folder holds neither a picture nor an array, or the INPUTs are too long.
        DataError: If there are few inputs, all of them files, and none is a picture or an array.
    """
    length = sum(len(json.dumps(given.word)) + 2 for given in inputs)
    if length > MOST_CHARACTERS:
        raise ConfigError(
            f"INPUTs must have {MOST_CHARACTERS:,} characters at most; name folders instead of "
            f"their files. Received: {len(inputs):,} INPUTs of {length:,} characters"
        )
    for given in inputs:
        if not _is_text(given.word):
            raise ConfigError(
                "INPUT must be a name in UTF-8; name the folder of the file instead. "
                f"Received: {path_text(given.word)}"
            )
        if given.sort == "folder":
            check_folder(given.path, None)
    if len(inputs) > FEW or any(given.sort != "file" for given in inputs):
        return
    unread = []
    for path in (given.path for given in inputs):
        extension = path.suffix.lower()
        if extension == ARRAY:
            return
        try:
            open_photo(path, size=(1, 1))
        except DataError as error:
            reason = str(error).removeprefix(f"{path} ")
            if extension not in EXTENSIONS:
                reason = (
                    "must be a JPEG, PNG, BMP, GIF or WebP picture, or an .npy array. Received: "
                    f"{extension or 'no extension'}"
                )
            unread.append(Unread(input=path_text(path), reason=reason))
        else:
            return
    raise nothing_read(unread)


def check_inputs_of(
    project: Project,
    settings: Settings,
    version: Version,
    card: DatasetCard,
    inputs: Sequence[Input],
) -> None:
    """Refuse inputs that a version does not read, or a few files of which none is readable.

    A dataset that must be built or fetched first, and large arrays, are left to the batch.

    Args:
        settings: In the profile that the version was trained in.
        card: Of the data that the version was trained on.

    Raises:
        ConfigError: If the version does not read one of the inputs.
        DataError: If there are few inputs, all of them files, and none can be read.
    """
    for given in inputs:
        if given.sort == "dataset":
            folder = project.data / given.dataset
            current = recipe(settings.datasets[given.dataset])
            if (folder / CARD).is_file() and read_card(folder).recipe == current:
                dataset = open_dataset(folder)
                fits(version, card, dataset.card)
                positions(dataset, given.part)
            continue
        check_files_possible(card, version, given.word)
        if given.sort == "folder":
            check_folder(given.path, card)
    files = [given.path for given in inputs if given.sort == "file"]
    if len(files) < len(inputs) or len(inputs) > FEW or any(_is_large(path) for path in files):
        return
    opened = BatchInputs()
    opened.add_files(list(map(str, files)), card, photo_size(settings, version))
    for source in opened.sources:
        if not isinstance(source, Pictures):
            return
        chunk = source.read(0)
        opened.unread.extend(chunk.unread)
        if chunk.names:
            return
    raise nothing_read(opened.unread)


def _is_large(path: Path) -> bool:
    return path.suffix.lower() == ARRAY and path.stat().st_size > BLOCK_BYTES


def check_out(out: Path) -> None:
    """Refuse a path at which the table cannot be written; leave nothing there.

    Raises:
        ConfigError: If it is not a file, or its folder cannot be created or written.
    """
    if out.is_dir():
        raise ConfigError(
            f"--out must be a file, such as {out}/predictions.parquet. Received: the folder {out}"
        )
    if out.is_file() and out.stat().st_size and not _is_table(out):
        raise ConfigError(
            "--out must be a new file, or an older table of predictions, which is replaced. "
            f"Received: {out}, which is another file"
        )
    if out.exists() and not out.is_file():
        raise ConfigError(f"--out must be a file. Received: {out}, a device or pipe")
    if not _is_text(str(out)):
        raise ConfigError(f"--out must be a name in UTF-8. Received: {path_text(out)}")
    folder = next(above for above in out.absolute().parents if os.path.lexists(above))
    try:
        # Permissions are not enough: a file system may be read-only, or take no files at all.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"--out must be in a folder that can be written. Received: {out} "
            f"({error.strerror or error})"
        ) from None


def _is_table(path: Path) -> bool:
    """Return whether a file is a result of `chapterflow predict`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return RUN_KEY.encode() in (pq.read_metadata(path).metadata or {})
    except (pa.ArrowException, OSError):
        return False


def _is_text(name: str) -> bool:
    """Return whether a name is text: stores refuse bytes that are not UTF-8."""
    return path_text(name) == name


def nothing_read(unread: Sequence[Unread]) -> DataError:
    """Return the error of a batch of which nothing could be read."""
    lines = [f"  {item.input}: {item.reason}" for item in unread[:LISTED]]
    if len(unread) > LISTED:
        lines.append(f"  and {len(unread) - LISTED} more")
    return DataError("\n".join(["No input could be read; nothing was written.", *lines]))


def batch_predict(
    project: Project,
    settings: Settings,
    model: str,
    given: Sequence[str],
    out: Path,
    *,
    invert: bool = False,
    tags: Mapping[str, str] | None = None,
    tell: Tell = silent,
) -> Predicted:
    """Predict inputs with a registered model, write one Parquet file, and log a run.

    Inputs that cannot be read are listed; the others are predicted. After an interruption the same
    call resumes at the last finished part. `out` is replaced at the end, atomically.

    Args:
        model: `NAME`, `NAME/VERSION` or `NAME@ALIAS` in the registry.
        given: Files, folders, `DATASET`, `DATASET:SPLIT` or `DATASET:INDEX`.
        out: File to write.
        invert: Whether to exchange light and dark in the inputs.
        tags: More tags for the run.

    Raises:
        ConfigError: If the model or an input does not exist, or `out` cannot be written.
        DataError: If nothing could be read.
    """
    check_out(out)
    with Session(project, settings) as session:
        client = session.client
        runs.end_dead_runs(client, [session.experiment_id])
        version = find_version(client, model)
        settings = settings_of(project, settings, client, version)
        tell("load", str(version))
        load_tensorflow()
        network, card, likeness = read_version(client, version)
        size = photo_size(settings, version)
        started = time.monotonic()
        inputs = open_inputs(project, settings, version, card, given, tell=tell)
        total = sum(source.count for source in inputs.sources)
        if not total:
            raise nothing_read(inputs.unread)
        out.parent.mkdir(parents=True, exist_ok=True)
        identity = [source.identity() for source in inputs.sources]
        recipe_of_parts = [version_of_package("chapterflow"), version.source, size, invert]
        key = _key([FORMAT, *recipe_of_parts, identity])
        # Two processes that predict the same batch must not mix their parts.
        with project_lock(
            project,
            f"predict-{key}",
            lambda: tell("waiting", "another process predicts the same"),
        ):
            remove_abandoned(project.scratch / "predict")
            parts = Parts(project.scratch / "predict" / key)
            resumed = parts.rows() if parts.chunks() else 0
            run_id = start_run(project, session, version, inputs, given, out, parts.folder, tags)
            with session.ending_on_error(run_id):
                reference = read_reference(project, version, card, size)

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
                    shape=example_shape(card, size),
                    figures=sorted(reference.figures),
                    likeness=likeness,
                    invert=invert,
                    on_chunk=on_chunk,
                )
                tell("write", str(out))
                predicted = _join(
                    client, version, card, inputs, parts, reference, run_id, out, resumed, started
                )
                finish_run(client, run_id, predicted)
                parts.remove()
                return predicted


def _key(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def predict_parts(
    network: keras.Model,
    card: DatasetCard,
    sources: Sequence[Source],
    parts: Parts,
    *,
    shape: tuple[int, ...],
    figures: Sequence[str],
    on_chunk: Callable[[int, int], None],
    likeness: Likeness | None = None,
    invert: bool = False,
) -> None:
    """Predict the chunks that no part holds yet.

    The borders of chunks do not depend on where an interrupted process stopped, so neither do the
    last bits of the answers.

    Args:
        network: Model that answers logits, or smoothed curves.
        card: Of the data that it was trained on.
        shape: Of one example in a file.
        figures: Names of the hidden columns.
        on_chunk: Called with the numbers of examples read and unreadable since the start.
        likeness: Bounds of the inputs that the model learnt.
        invert: Whether to exchange light and dark in the inputs.
    """
    import pyarrow as pa

    forward = _forward(network, card, sources, shape)
    columns = schema(card, labelled=_is_labelled(sources), figures=figures)
    start = position = parts.chunks()
    # Joined at once, into Arrow's own memory: rows in small blocks between the large ones of the
    # inputs would keep malloc from using those again, until the part is written.
    waiting = columns.empty_table()
    unread: list[Unread] = []
    notes: Counter[str] = Counter()
    since = time.monotonic()
    read = lost = 0

    def write() -> None:
        nonlocal start, since, waiting
        if position > start:
            parts.write(start, position, waiting, unread, notes)
        waiting = columns.empty_table()
        unread.clear()
        notes.clear()
        start, since = position, time.monotonic()

    for source, number in _chunks(sources, position):
        chunk = source.read(number)
        if invert:
            chunk.inputs = inverted(chunk.inputs, card)
            chunk.notes["inverted"] += len(chunk.names)
        if chunk.names:
            new = rows(chunk, _answers(forward, chunk), card, columns, likeness)
            waiting = pa.concat_tables([waiting, new]).combine_chunks()
        unread.extend(chunk.unread)
        notes.update(chunk.notes)
        position += 1
        read += len(chunk.names)
        lost += sum(item.count for item in chunk.unread)
        on_chunk(read, lost)
        if waiting.nbytes > table.PART_BYTES or time.monotonic() - since > table.PART_SECONDS:
            write()
    write()


def _is_labelled(sources: Sequence[Source]) -> bool:
    """Return whether the true class of some examples is known."""
    return any(
        isinstance(source, DatasetPart) and source.dataset.card.task.classes for source in sources
    )


def _chunks(sources: Sequence[Source], finished: int) -> Iterator[tuple[Source, int]]:
    """Yield the chunks after the first `finished` ones."""
    for source in sources:
        yield from (
            (source, number) for number in range(min(finished, source.chunks), source.chunks)
        )
        finished = max(0, finished - source.chunks)


def _forward(
    network: keras.Model, card: DatasetCard, sources: Sequence[Source], shape: tuple[int, ...]
) -> Callable[[Any], Any]:
    """Return the model as a function of batches; the model itself if it reads a whole dataset."""
    from chapterflow.training.batches import compiled_forward

    model: Any = with_softmax(network) if card.task.classes else network
    shapes: Any = ((None, *shape), "float32")
    for source in sources:
        if isinstance(source, DatasetPart):
            if source.dataset.kind.whole:
                whole: Callable[[Any], Any] = model
                return whole
            shapes = source.dataset.input_shapes()
    return compiled_forward(model, shapes)


def _answers(forward: Callable[[Any], Any], chunk: Chunk) -> NDArray[np.float32]:
    """Return a model's answers to a chunk, `(n, classes)` or `(n, ...)`."""
    if chunk.whole is None:
        return np.asarray(forward(chunk.inputs), np.float32)
    from chapterflow.training.batches import predict_full

    dataset, chosen = chunk.whole
    answers: NDArray[np.float32] = predict_full(forward, dataset)[chosen]
    return answers


def _join(
    client: MlflowClient,
    version: Version,
    card: DatasetCard,
    inputs: BatchInputs,
    parts: Parts,
    reference: Reference,
    run_id: str,
    out: Path,
    resumed: int,
    started: float,
) -> Predicted:
    """Join the parts into the table at `out`, and return the result.

    Raises:
        DataError: If no example could be read; that is logged.
    """
    totals = Totals(card, inputs, reference)
    temporary = out.with_name(f".{out.name}.{parts.folder.name[:8]}.tmp")
    try:
        sha256 = table.write_result(
            temporary,
            totals.tables(parts),
            schema(card, labelled=_is_labelled(inputs.sources)),
            table.row_bytes(card),
            lambda: {
                runs.MODEL_URI: f"models:/{version.uri()}",
                "chapterflow.model_run": version.run_id,
                RUN_KEY: run_id,
                "chapterflow.inputs_sha256": totals.hash.hexdigest(),
                "chapterflow.datasets": json.dumps(totals.datasets),
                "chapterflow.version": version_of_package("chapterflow"),
            },
        )
        if not totals.examples:
            _log_unread(client, run_id, totals.unread)
            parts.remove()
            raise nothing_read(totals.unread)
        publish(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    figures = [tally.result() for tally in totals.tallies.values()]
    seconds = time.monotonic() - started
    return Predicted(
        model=version.uri(),
        alias=version.alias,
        run_id=run_id,
        out=str(out),
        sha256=sha256,
        inputs_sha256=totals.hash.hexdigest(),
        examples=totals.examples,
        resumed=resumed,
        classes={label: totals.classes[place] for place, label in enumerate(card.classes)},
        labelled=totals.labelled,
        correct=totals.correct,
        unlike=totals.unlike,
        unreadable=totals.unread,
        skipped=inputs.skipped,
        notes=[
            *inputs.notes,
            *(f"{count:,} {what}" for what, count in totals.notes.items()),
            *totals.unlike_notes(),
        ],
        reference=reference.what,
        drift=overall(figures),
        figures=figures,
        seconds=seconds,
        examples_per_second=(totals.examples - resumed) / seconds,
    )


def start_run(
    project: Project,
    session: Session,
    version: Version,
    inputs: BatchInputs,
    given: Sequence[str],
    out: Path,
    folder: Path,
    tags: Mapping[str, str] | None,
) -> str:
    """Start the run of a batch, or continue the one whose parts are in `folder`; return its id."""
    from mlflow.entities import LoggedModelInput

    marker = folder / "run_id"
    datasets = inputs.datasets()
    # The hashes of files are in the table.
    data = {"chapterflow.datasets": json.dumps(datasets)} if datasets else {}
    if datasets and (data_digest := data_version(project)):
        data[runs.DATA_VERSION] = data_digest
    earlier = marker.read_text(encoding="utf-8") if marker.is_file() else None
    run_id = runs.open_run(
        session.client,
        session.experiment_id,
        name=f"predict {version.uri()}",
        run_id=earlier,
        tags={
            runs.RUN_TYPE: "batch",
            runs.MODEL_URI: f"models:/{version.uri()}",
            "chapterflow.model_alias": version.alias or "none",
            "chapterflow.model_run": version.run_id,
            "chapterflow.output": str(out.resolve()),
            runs.MACHINE: machine(),
            runs.PYTHON: platform.python_version(),
            "mlflow.note.content": f"Predictions of **{version}** for "
            f"{sum(source.count for source in inputs.sources)} examples; `drift.json` says whether "
            "they resemble the data that it was tested on.",
            **data,
            **runs.git_tags(project),
            **(tags or {}),
        },
    )
    marker.write_text(run_id, encoding="utf-8")
    if run_id != earlier:
        words = " ".join(given)
        if len(words) > PARAMETER_CHARACTERS:
            words = f"{words[:PARAMETER_CHARACTERS]}..."
        runs.log_params(session.client, run_id, {"model": version.uri(), "inputs": words})
        model_id = version.source.rpartition("/")[2]
        if model_id.startswith("m-"):
            session.client.log_inputs(run_id, models=[LoggedModelInput(model_id)])
    return run_id


def finish_run(client: MlflowClient, run_id: str, predicted: Predicted) -> None:
    """Log counts, hashes and the comparison with the test data, and end the run."""
    import PIL.Image

    _log_unread(client, run_id, predicted.unreadable)
    figures = [figure.model_dump() for figure in predicted.figures]
    drift = {"reference": predicted.reference, "reading": predicted.drift, "figures": figures}
    client.log_dict(run_id, drift, DOCUMENT)
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "drift.png"
        title = f"{predicted.model}: these data and the test data"
        if draw_drift(predicted.figures, title, picture):
            client.log_artifact(run_id, str(picture))
            with PIL.Image.open(picture) as image:
                client.log_image(run_id, image, key="drift", step=0)
    metrics = {
        "batch/examples": predicted.examples,
        "batch/unreadable": sum(item.count for item in predicted.unreadable),
        "batch/skipped_files": len(predicted.skipped),
        "batch/resumed_examples": predicted.resumed,
        "batch/seconds": predicted.seconds,
        "batch/examples_per_second": predicted.examples_per_second,
    }
    metrics["batch/unlike"] = predicted.unlike
    if predicted.labelled:
        metrics |= {"batch/labelled": predicted.labelled, "batch/correct": predicted.correct}
    for figure in predicted.figures:
        if figure.psi is not None:
            metrics[f"drift/psi_{figure.name.replace(' ', '_')}"] = figure.psi
    runs.log_metrics(client, run_id, {name: float(value) for name, value in metrics.items()}, 0)
    runs.set_tags(
        client,
        run_id,
        {
            INPUTS: predicted.inputs_sha256,
            "chapterflow.output_sha256": predicted.sha256,
            "chapterflow.drift": predicted.drift,
        },
    )
    runs.close_run(client, run_id, "FINISHED")


def _log_unread(client: MlflowClient, run_id: str, unread: Sequence[Unread]) -> None:
    client.log_dict(run_id, [item.model_dump() for item in unread], "unreadable.json")
