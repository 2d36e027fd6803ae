"""The functions of `import chapterflow`, for notebooks and scripts: the commands as Python.

They call what the commands call. A failure is an exception of `chapterflow.errors`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.checks import text
from chapterflow.cli.common import start
from chapterflow.display import Displayed, Html, read_pictures
from chapterflow.environment import Project, leave_project
from chapterflow.errors import DataError

if TYPE_CHECKING:
    import keras
    import pandas as pd
    from PIL.Image import Image
    from rich.console import Console

    from chapterflow.cli.layers import LayerRow
    from chapterflow.config.settings import Settings
    from chapterflow.evaluation.significance import Difference
    from chapterflow.explain.explanation import Explanation, Picture
    from chapterflow.kinds.dataset import Dataset, DatasetCard, Split
    from chapterflow.tracking.records import Comparison, Outcome
    from chapterflow.tracking.versions import Version

# tqdm, which libraries use and chapterflow silences, asks for widgets that nothing here needs.
warnings.filterwarnings("ignore", "IProgress not found")

#: A path of a file or folder.
Pathlike = str | os.PathLike[str]
#: Most examples of a dataset that are drawn.
DRAWN = 20


@dataclass(frozen=True, repr=False)
class Results(Displayed):
    """What became of the models of a run.

    Attributes:
        models: Status, metrics and ids of each model.
        seconds: Duration of the run.
    """

    models: list[Outcome]
    seconds: float
    _project: Project

    def frame(self) -> pd.DataFrame:
        """Return one row for each model, with a column for each metric."""
        return _frame(self.models)

    def _print(self, console: Console) -> None:
        from chapterflow.cli.run import print_accepted
        from chapterflow.loop.tables import print_results

        print_results(console, self.models)
        print_accepted(console, self._project, [outcome.dataset for outcome in self.models])


@dataclass(frozen=True, repr=False)
class Compared(Displayed):
    """Models next to each other, and which differences between them are real.

    Attributes:
        models: Metrics and ids of each model.
        differences: Each pair of models that share a test set.
    """

    models: list[Outcome]
    differences: list[Difference]
    _project: Project
    _comparison: Comparison
    _among: list[Difference]

    def frame(self) -> pd.DataFrame:
        """Return one row for each model, with a column for each metric."""
        return _frame(self.models)

    def _print(self, console: Console) -> None:
        from chapterflow.cli.run import print_comparison

        print_comparison(console, self._project, self._comparison, self._among)


@dataclass(frozen=True, repr=False)
class Explained(Displayed):
    """What a model looks at in an input.

    Attributes:
        version: The registered version.
        metrics: Measures that say whether to believe the maps.
        details: Answers, layers and channels, as in `explain.json`.
        pictures: PNGs with captions, in reading order.
        unlike: What makes the input unlike the training data; empty if nothing does.
    """

    version: Version
    metrics: dict[str, float]
    details: dict[str, Any]
    pictures: list[Picture]
    unlike: str
    _document: dict[str, Any]
    # The folder is deleted with the object.
    _folder: tempfile.TemporaryDirectory[str] | None

    def picture(self, key: str) -> Explained:
        """Return the explanation with the pictures of one sort alone: `walk`, `kernels`, ...

        Raises:
            DataError: If it has none.
        """
        chosen = [picture for picture in self.pictures if picture.key == key]
        if not chosen:
            keys = ", ".join(dict.fromkeys(picture.key for picture in self.pictures))
            raise DataError(
                f"The explanation of {self.version} has pictures of these sorts: {keys}. "
                f"Received: {key!r}"
            )
        return _OnlyPictures(
            self.version, self.metrics, self.details, chosen, self.unlike, self._document,
            self._folder,
        )  # fmt: skip

    def _print(self, console: Console) -> None:
        from rich.text import Text

        from chapterflow.cli.explain import print_explained

        console.print(Text(self.version.notice(), "dim"))
        print_explained(console, self._document)

    def _pictures(self) -> Iterable[tuple[str, bytes]]:
        return read_pictures((picture.caption, picture.path) for picture in self.pictures)


class _OnlyPictures(Explained):
    def _print(self, console: Console) -> None:
        if not isinstance(console, Html):
            for picture in self.pictures:
                console.print(f"{picture.key}: {picture.path}", markup=False, soft_wrap=True)


@dataclass(frozen=True, repr=False)
class Layers(Displayed):
    """The layers of a model: shapes, kernels, parameters, FLOPs.

    Attributes:
        title: Names of the model and of its dataset.
        network: The Keras model, untrained.
    """

    title: str
    network: keras.Model

    @cached_property
    def rows(self) -> list[LayerRow]:
        """One for each layer; counting the FLOPs of a deep network takes seconds."""
        from chapterflow.cli.layers import layer_table

        return layer_table(self.network)

    def frame(self) -> pd.DataFrame:
        """Return one row for each layer."""
        import pandas as pd

        return pd.DataFrame(self.rows).set_index("name")

    def _print(self, console: Console) -> None:
        from chapterflow.cli.layers import print_layers

        print_layers(console, self.rows, self.title)


@dataclass(frozen=True, repr=False)
class Model(Displayed):
    """A registered version of a model.

    Attributes:
        version: Which one it is.
        network: The trained Keras model: raw values in, logits or curves out.
        card: Description of the data that it learnt.
    """

    version: Version
    network: keras.Model
    card: DatasetCard

    def predict(self, inputs: Any) -> NDArray[np.float32]:
        """Return probabilities `(n, classes)`, or curves `(n, length)`.

        Args:
            inputs: Raw values `(n, ...)` as `dataset(...).inputs` returns them, or one example.
        """
        from scipy.special import softmax

        from chapterflow.explain.outputs import outputs

        if isinstance(inputs, dict):
            values = np.asarray(self.network(inputs, training=False))
        else:
            values = np.asarray(inputs, np.float32)
            shape = tuple(self.network.input_shape)
            if values.ndim == len(shape) - 1:
                values = values[np.newaxis]
            if len(shape) != values.ndim or any(
                side not in (None, given) for side, given in zip(shape, values.shape, strict=True)
            ):
                expected = ", ".join("n" if side is None else str(side) for side in shape)
                raise DataError(
                    f"{self.version} reads raw values of the shape ({expected}). "
                    f"Received: {values.shape}"
                )
            values = outputs(self.network, values)
        if self.card.task.classes:
            values = softmax(values, axis=-1)
        return np.asarray(values, np.float32)

    def _print(self, console: Console) -> None:
        from rich.text import Text

        from chapterflow.cli.layers import layer_table, print_layers

        console.print(Text(self.version.notice(), "dim"))
        print_layers(console, layer_table(self.network), f"{self.version} for {self.card.name}")


@dataclass(frozen=True, repr=False)
class Examples(Displayed):
    """A dataset on this machine.

    `len` is the number of its examples; `examples[3]` is the raw value of one, as models read it.

    Attributes:
        card: Its description.
        data: Its arrays and splits.
    """

    card: DatasetCard
    data: Dataset = field(repr=False)

    def __len__(self) -> int:
        return self.data.count

    def __getitem__(self, position: int) -> NDArray[np.float32]:
        if not -len(self) <= position < len(self):
            raise IndexError(
                f"{self.card.name} has {len(self)} examples. Received: position {position}"
            )
        if self.data.kind.joined or self.data.kind.whole:
            raise TypeError(f"{self.card.name}: {self.card.kind} have no single arrays; use `data`")
        return np.asarray(self.data.inputs(np.array([position % len(self)]))[0], np.float32)

    def inputs(self, split: Split = "train") -> Any:
        """Return the raw inputs of a split `(n, ...)`.

        Graphs are a dict of arrays; one large graph is whole, whatever the split.
        """
        return self.data.inputs(self._positions(split))

    def labels(self, split: Split = "train") -> NDArray[np.int32]:
        """Return the class numbers of a split `(n,)`; without classes the target values."""
        return np.asarray(self.data.targets(self._positions(split)))

    def _positions(self, split: Split) -> NDArray[np.intp]:
        from chapterflow.predict.inputs import positions

        return positions(self.data, split)

    def _print(self, console: Console) -> None:
        from rich.table import Table
        from rich.text import Text

        from chapterflow.kinds.dataset import SPLITS, shape_text

        card = self.card
        table = Table(title=card.title, show_header=False, title_justify="left")
        facts = {
            "dataset": card.name,
            "kind": card.kind,
            "source": card.source,
            "licence": card.licence,
            "examples": ", ".join(f"{card.counts.get(split, 0):,} {split}" for split in SPLITS),
            "shape": shape_text(card.shape),
            "values": f"up to {text(card.value_max)}",
            "classes": f"{len(card.classes)}: {', '.join(card.classes)}"
            if card.classes
            else "none",
        }
        for name, fact in facts.items():
            table.add_row(name, Text(fact))
        console.print(table)

    def _pictures(self) -> Iterable[tuple[str, bytes]]:
        if self.data.kind.look == "graph":
            return []
        from chapterflow.explain.explain import probes
        from chapterflow.explain.pictures import draw_examples

        shown = [int(position) for position in probes(self.data)[:DRAWN]]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "examples.png"
            draw_examples(self.data, shown, path)
            return [(f"Test examples of {self.card.name}", path.read_bytes())]


def _open(
    project: Pathlike | None, profile: str | None, overrides: Sequence[str] = ()
) -> tuple[Project, Settings]:
    """Prepare a project as a command does; the call before may have been for another one."""
    leave_project()
    return start(profile, [*overrides], project=project)


def run(
    *models: str,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    data: str | None = None,
    force: bool = False,
    workers: int | None = None,
    project: Pathlike | None = None,
) -> Results:
    """Run models, from their data to the registry, as `chapterflow run` does.

    Finished work is reused; an interrupted training resumes.

    Args:
        models: Names; all of `params.yaml` by default.
        profile: `embedded` or `book`; by default the one in `params.yaml`.
        overrides: `path=value` changes of `params.yaml` for this call.
        data: Dataset to train on for this call, in the profile that fits its kind.
        force: Whether to train again, even if nothing has changed.
        workers: Models to run side by side; by default as many as cores and memory allow.
        project: Folder with `params.yaml`; by default the current one or the nearest above it.

    Raises:
        ConfigError: If a name or value is wrong; nothing was started.
        ChapterflowError: If a model failed; the others are done. Its notes are the errors, its
            attribute `results` the document of `chapterflow run --json`.
    """
    opened, settings = _open(project, profile, overrides)
    from chapterflow.cli.run import choose, run_models
    from chapterflow.loop.progress import console
    from chapterflow.loop.tables import failures
    from chapterflow.tracking.records import Outcome
    from pipelines.prefect_server import kept_server

    settings, names, changes = choose(opened, settings, models, data, profile, overrides)
    with _hidden_loop():
        document = run_models(
            opened,
            settings,
            names,
            changes,
            force=force,
            workers=workers,
            console=console(stderr=True),
            server=kept_server,
        )
    if isinstance(document, BaseException):
        results = getattr(document, "results", {"models": []})
        failed = [Outcome.model_validate(model) for model in results["models"]]
        for subjects, error in failures(failed):
            document.add_note(f"{subjects} failed: {error}")
        raise document
    outcomes = [Outcome.model_validate(model) for model in document["models"]]
    return Results(outcomes, document["seconds"], opened)


@contextlib.contextmanager
def _hidden_loop() -> Iterator[None]:
    """Hide the event loop in which a notebook runs its cells.

    Where there is one, Prefect returns coroutines instead of results. In another thread, a flow
    could not be interrupted.
    """
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)


def compare(
    *models: str,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    project: Pathlike | None = None,
) -> Compared:
    """Compare models pair by pair, as `chapterflow compare` does.

    Args:
        models: Names; all that have finished runs by default.
        profile: `embedded` or `book`; by default the one in `params.yaml`.
        overrides: `path=value` changes of `params.yaml` for this call.
        project: Folder with `params.yaml`; by default the current one or the nearest above it.

    Raises:
        ConfigError: If a name or value is wrong.
    """
    opened, settings = _open(project, profile, overrides)
    from chapterflow.loop import steps

    settings.check_names(models, settings.models, "model")
    comparison = steps.compare(opened, settings)
    among = comparison.differences
    if models:
        comparison = comparison.only(models)
    return Compared(comparison.models, comparison.differences, opened, comparison, among)


def explain(
    model: str,
    given: Pathlike | NDArray[Any] | Image,
    *,
    methods: Sequence[str] | None = None,
    layer: str | None = None,
    target: str | None = None,
    invert: bool = False,
    out: Pathlike | None = None,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    project: Pathlike | None = None,
) -> Explained:
    """Show what a registered model looks at in an input, as `chapterflow explain` does.

    Args:
        model: `NAME`, `NAME/VERSION` or `NAME@ALIAS`.
        given: A picture or `.npy` file, `DATASET:INDEX`, `DATASET` (its probes), an array of raw
            values of one example, or a Pillow image.
        methods: Attribution methods; by default all that the model allows.
        layer: Layer for `grad-cam`.
        target: Class to explain; by default the predicted one.
        invert: Whether to exchange light and dark in the input.
        out: Folder of the pictures; by default they exist as long as the result.
        profile: `embedded` or `book`; by default the one in `params.yaml`.
        overrides: `path=value` changes of `params.yaml` for this call.
        project: Folder with `params.yaml`; by default the current one or the nearest above it.

    Raises:
        ConfigError: If the model, the input or an option does not exist.
        DataError: If the input cannot be read, or does not fit the model.
        Untrained: If the model has initial weights.
    """
    opened, settings = _open(project, profile, overrides)
    from chapterflow.loop import progress as live
    from chapterflow.predict.explain_input import explain_with

    kept = tempfile.TemporaryDirectory(prefix="chapterflow-") if out is None else None
    folder = Path(kept.name) if kept else Path(os.fspath(out or ""))
    with (
        tempfile.TemporaryDirectory() as scratch,
        live.shown(live.console(stderr=True), [model]) as progress,
    ):
        word = _word(given, Path(scratch))
        try:
            done = explain_with(
                opened,
                settings,
                model,
                word,
                folder,
                methods=methods,
                layer=layer,
                target=target,
                invert=invert,
                tell=live.tell_about(model),
            )
        except DataError as error:
            if isinstance(given, str | os.PathLike):
                raise
            # The caller has given no file.
            raise DataError(str(error).replace(word, f"The {Path(word).stem}")) from None
        progress.update(model, "explained", done.what)
    explanation: Explanation = done.explanation
    document = explanation.save(
        folder,
        model=done.version.uri(),
        input=done.what,
        notes=done.notes,
        unlike=done.unlike or None,
    )
    return Explained(
        done.version,
        explanation.metrics,
        explanation.details,
        explanation.pictures,
        done.unlike,
        document,
        kept,
    )


def _word(given: Pathlike | NDArray[Any] | Image, folder: Path) -> str:
    """Return an input as a word of the command line; arrays and images become files."""
    if isinstance(given, str | os.PathLike):
        return os.fspath(given)
    from PIL.Image import Image

    if isinstance(given, Image):
        path = folder / "image.png"
        try:
            given.save(path)
        except OSError as error:
            raise DataError(
                "An image must have a mode that PNG has: 1, L, LA, P, RGB, RGBA, I or I;16. "
                f"Received: {given.mode} ({error})"
            ) from None
        return str(path)
    values = np.asarray(given)
    if values.dtype.kind not in "uif":
        raise DataError(
            "An input must be a path, DATASET:INDEX, an array of numbers or a Pillow image. "
            f"Received: {type(given).__name__}"
        )
    path = folder / "array.npy"
    np.save(path, values)
    return str(path)


def load(
    model: str,
    *,
    profile: str | None = None,
    project: Pathlike | None = None,
) -> Model:
    """Load a registered model.

    Args:
        model: `NAME`, `NAME/VERSION` or `NAME@ALIAS`. `NAME` is its champion; before the first
            promotion its challenger, or else its newest version.
        profile: `embedded` or `book`; by default the one in `params.yaml`.
        project: Folder with `params.yaml`; by default the current one or the nearest above it.

    Raises:
        ConfigError: If there is no such version.
        StoreError: If its files are not those that were logged.
    """
    opened, settings = _open(project, profile)
    from chapterflow.environment import load_tensorflow
    from chapterflow.predict.inputs import read_version
    from chapterflow.tracking.session import Session
    from chapterflow.tracking.versions import find_version

    with Session(opened, settings) as session:
        version = find_version(session.client, model)
        load_tensorflow()
        network, card, _ = read_version(session.client, version)
    return Model(version, network, card)


def layers(
    model: str,
    *,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    project: Pathlike | None = None,
) -> Layers:
    """Return the layers of a model of `params.yaml`, as `chapterflow layers` does.

    Args:
        model: Its name. It needs no training.
        profile: `embedded` or `book`; by default the one in `params.yaml`.
        overrides: `path=value` changes of `params.yaml` for this call.
        project: Folder with `params.yaml`; by default the current one or the nearest above it.

    Raises:
        ConfigError: If there is no such model.
    """
    opened, settings = _open(project, profile, overrides)
    from chapterflow.cli.layers import untrained

    network = untrained(opened, settings, model)
    return Layers(f"{model} for {settings.dataset_of(model)}", network)


def dataset(
    name: str,
    *,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    project: Pathlike | None = None,
) -> Examples:
    """Return a dataset; fetch or build it first if necessary.

    Args:
        name: Name below `datasets:` of `params.yaml` or `datasets.yaml`.
        profile: `embedded` or `book`; by default the one in `params.yaml`.
        overrides: `path=value` changes of `params.yaml` for this call.
        project: Folder with `params.yaml`; by default the current one or the nearest above it.

    Raises:
        ConfigError: If there is no such dataset.
        FetchError: If a download failed.
    """
    opened, settings = _open(project, profile, overrides)
    from chapterflow.kinds.dataset import CARD, open_dataset
    from chapterflow.loop import progress as live
    from chapterflow.loop import steps

    settings.check_names([name], settings.datasets, "dataset")
    here = (opened.data / name / CARD).is_file()
    shown = contextlib.nullcontext() if here else live.shown(live.console(stderr=True), [name])
    with shown as progress:
        ready = steps.prepare(opened, settings, name, tell=live.tell_about(name))
        if progress:
            progress.update(name, "built", f"digest {ready.digest[:12]}")
    data = open_dataset(opened.data / name)
    return Examples(data.card, data)


def _frame(models: Sequence[Outcome]) -> pd.DataFrame:
    import pandas as pd

    rows = [
        {"dataset": outcome.dataset, "version": outcome.model_version, **outcome.metrics}
        for outcome in models
    ]
    return pd.DataFrame(rows, index=pd.Index([outcome.model for outcome in models], name="model"))
