"""Datasets: their kind, their card, and the canonical arrays that the card describes.

`data/<name>/` contains `dataset.json` (the card) and the arrays of the kind, including `split.npy`.
No content depends on the machine or the date, so the same source yields the same bytes everywhere.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, field_validator

from chapterflow import plugins
from chapterflow.errors import DataError, nearest
from chapterflow.types import Bound, InputSpec, Strict

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.expectations.expectation import Expectation


@dataclass(frozen=True)
class Task:
    """Classification or regression.

    Attributes:
        classes: Whether the answer is one of several classes.
        score: Metric below `test/` that models are compared by.
        higher_is_better: Whether a higher score is better.
        answer: Array of `predictions.npz` with the answers.
    """

    name: Literal["classification", "regression"]
    classes: bool
    score: Literal["accuracy", "rmse"]
    higher_is_better: bool
    answer: Literal["probability", "prediction"]

    @property
    def metric(self) -> str:
        """Full name of the score: `test/accuracy`."""
        return f"test/{self.score}"


#: Logits `(batch, classes)` in, class numbers as targets, cross-entropy as loss.
CLASSIFICATION = Task("classification", True, "accuracy", True, "probability")
#: Curves `(batch, length, 1)` as targets, mean squared error as loss.
REGRESSION = Task("regression", False, "rmse", False, "prediction")
TASKS = (CLASSIFICATION, REGRESSION)


def task_of(metrics: Mapping[str, Any]) -> Task:
    """Return the task that logged metrics belong to; classification if there is no score."""
    return REGRESSION if REGRESSION.metric in metrics else CLASSIFICATION


Split = Literal["train", "validation", "test"]
#: Position in this tuple is the code in `split.npy`.
SPLITS: tuple[Split, ...] = get_args(Split)
CARD = "dataset.json"


class FileRecord(Strict):
    """Size and content hash of one file of a dataset."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: str


class DatasetCard(Strict):
    """Description of a dataset: content, origin and hashes of its files.

    Attributes:
        kind: Name of the kind of data.
        shape: Shape of one example; null for axes that vary.
        classes: Names of the classes; empty for regression.
        value_max: Largest possible raw value (16 for 17 grey levels).
        counts: Number of examples by split.
        files: All files of the dataset except the card.
        test_digest: Hash over the test examples and labels, in order: two models with the same
            digest were scored on the same test set.
        probes: Positions of the test examples used in explanations, the same for all models (see
            `Dataset.choose_probes`).
        facts: Further facts, specific to the kind.
        recipe: The parameters and the seed that it was built from
            (`chapterflow.data.build.recipe`).
    """

    name: str
    kind: str
    title: str
    source: str
    licence: str
    shape: list[int | None]
    classes: list[str]
    value_max: float
    counts: dict[str, int]
    files: dict[str, FileRecord]
    test_digest: str
    probes: list[int] = Field(default_factory=list)
    facts: dict[str, Any] = Field(default_factory=dict)
    recipe: dict[str, Any]

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, name: str) -> str:
        if name not in kind_names():
            raise ValueError(f"must be one of {', '.join(kind_names())}")
        return name

    @field_validator("counts")
    @classmethod
    def _in_order(cls, counts: dict[str, int]) -> dict[str, int]:
        """Order the splits for messages: the keys of the file are sorted."""
        return {split: counts[split] for split in SPLITS if split in counts} | counts

    @property
    def accepted(self) -> dict[str, Bound]:
        """Bounds of the validation that were set for this dataset, by name."""
        return dict(self.recipe.get("accept") or {})

    @property
    def accepted_text(self) -> str:
        """The accepted bounds in a line: `class_divergence 0.2, isolated 0.5`; empty for none."""
        return ", ".join(f"{name} {bound}" for name, bound in sorted(self.accepted.items()))

    @property
    def task(self) -> Task:
        """The task of models for the data."""
        return get_kind(self.kind).task

    def to_json(self) -> str:
        """Return the text of `dataset.json`, with sorted keys: equal cards yield equal bytes."""
        return json.dumps(self.model_dump(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @property
    def digest(self) -> str:
        """Hash over the card; it covers all data, because the card contains the file hashes."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def input_spec(self) -> InputSpec:
        """Specification of the inputs for model builders."""
        return InputSpec(
            tuple(self.shape),
            len(self.classes),
            self.value_max,
            self.kind,
            centre=tuple(self.facts.get("centre", ())),
            spread=tuple(self.facts.get("spread", ())),
            directed=bool(self.facts.get("directed", True)),
        )


@dataclass(frozen=True)
class Dataset(ABC):
    """A card and its arrays, memory-mapped and read-only; each kind has its own subclass.

    Attributes:
        arrays: Arrays by name.
    """

    card: DatasetCard
    folder: Path
    arrays: Mapping[str, NDArray[Any]]

    #: Names of the arrays of the kind with one entry per example.
    ARRAYS: ClassVar[tuple[str, ...]]
    #: Names of the other arrays.
    MORE_ARRAYS: ClassVar[tuple[str, ...]] = ()

    @property
    def kind(self) -> Kind:
        """The kind of data."""
        return get_kind(self.card.kind)

    @property
    def labels(self) -> NDArray[Any]:
        """Class numbers `(n,)`."""
        return self.arrays["labels"]

    @property
    def split(self) -> NDArray[Any]:
        """Positions in `SPLITS`, `(n,)`."""
        return self.arrays["split"]

    @property
    def count(self) -> int:
        """Number of examples, over all splits."""
        return len(self.split)

    @classmethod
    def expected_count(cls, card: DatasetCard) -> int:
        """Return the number of examples according to the card: the sum over splits by default."""
        return sum(card.counts.values())

    def indices(self, split: Split) -> NDArray[np.intp]:
        """Return the positions of a split's examples, ascending."""
        return np.flatnonzero(self.split == SPLITS.index(split))

    def choose_probes(self) -> list[int]:
        """Return the positions of the first test example of each class, at most ten.

        Without classes, the first four test examples.
        """
        test = self.indices("test")
        if not self.card.task.classes:
            return [int(position) for position in test[:4]]
        _, first = np.unique(np.asarray(self.labels[test]), return_index=True)
        return [int(position) for position in test[first[:10]]]

    @abstractmethod
    def inputs(self, chosen: NDArray[np.intp]) -> Any:
        """Return the raw inputs of the chosen examples: an array, or a dict of arrays by name.

        The first axis is the batch, except for joined graphs and whole graphs.
        """

    def stored(self, chosen: NDArray[np.intp]) -> Any:
        """Return `inputs` in a smaller type that casts to the same values; training reads these."""
        return self.inputs(chosen)

    def targets(self, chosen: NDArray[np.intp]) -> NDArray[Any]:
        """Return the targets of the chosen examples: int32 class numbers by default."""
        return np.asarray(self.labels[chosen], np.int32)

    def weights(self, chosen: NDArray[np.intp]) -> NDArray[np.float32] | None:
        """Return the weight of each target, in the shape of the loss; None for equal weights."""
        return None

    def input_shapes(self) -> Any:
        """Return shape and dtype of each input, structured like `inputs`; None for varying axes."""
        return ((None, *self.card.shape), "float32")

    def target_shapes(self) -> list[tuple[tuple[int | None, ...], str]]:
        """Return shape and dtype of the targets, and of the weights if there are any."""
        return [((None,), "int32")]

    def example(self) -> Any:
        """Return the inputs of a few examples, small enough to store with a model."""
        return self.inputs(self.indices("train")[:2])

    @classmethod
    def served_shapes(cls, card: DatasetCard) -> dict[str, tuple[int | None, ...]] | None:
        """Return the shape of each input of a served model; None if it takes `inputs` themselves.

        `shipped.answers` converts one to the other.
        """
        return None

    def sized(self, height: int, width: int) -> Self:
        """Return the dataset with photos resized to the given size; other data are unchanged."""
        return self

    def content(self, split: Split) -> Iterator[bytes]:
        """Yield the bytes of a split's examples in order: all that scores on it depend on."""
        chosen = self.indices(split)
        for start in range(0, len(chosen), 1024):
            part = chosen[start : start + 1024]
            inputs = self.inputs(part)
            for array in inputs.values() if isinstance(inputs, dict) else (inputs,):
                yield np.ascontiguousarray(array).tobytes()
            yield np.ascontiguousarray(self.targets(part)).tobytes()


#: Modules of this package that do not define a kind.
NOT_KINDS = ("dataset", "edges", "likeness", "pixels", "rows")


def value_figures() -> dict[str, Callable[[Any], NDArray[np.float64]]]:
    """Return the figures of raw values `(n, ...)`: mean and standard deviation per example."""

    def flat(values: NDArray[Any]) -> NDArray[Any]:
        return values.reshape(len(values), -1)

    return {
        "input mean": lambda values: flat(values).mean(1, dtype=np.float64),
        "input spread": lambda values: flat(values).std(1, dtype=np.float64),
    }


@dataclass(frozen=True)
class Kind:
    """A kind of data: its arrays, inputs, targets and expectations.

    Attributes:
        name: Name of its module, with dashes; `kind` on the dataset card.
        data: Class of its datasets: arrays, inputs and targets.
        bounds: Class of its block below `validation:` in `params.yaml`.
        rows: Returns a table with one row per example.
        expectations: Returns the expectations for the rows, given the card and the bounds. It
            imports Great Expectations itself.
        look: Representation of an example on pages: picture, curve, or graph with nodes.
        task: The task of models for it.
        file: Files with examples for `predict` and `explain`: pictures, `.npy` arrays, or none.
        bounded: Whether raw values lie between 0 and the card's `value_max`.
        resized: Whether examples of any size are resized to the input size of the model.
        joined: Whether the examples of a batch are joined to one graph, `features`, `edges` and
            `sizes`, instead of stacked along a first axis.
        whole: Whether models read all examples in one step (the nodes of one graph) instead of
            in batches.
        folds: Whether cross-validation is possible.
        figures: Functions that return a figure `(n,)` of a batch of inputs, by name, for drift.
        columns: Functions that return a number about the example at a position, by name, for
            tables of examples.
    """

    name: str
    data: type[Dataset]
    bounds: type[Strict]
    rows: Callable[[Dataset], pd.DataFrame]
    expectations: Callable[[DatasetCard, Any], list[Expectation]]
    look: Literal["picture", "curve", "graph"]
    task: Task = CLASSIFICATION
    file: Literal["picture", "array"] | None = "array"
    bounded: bool = False
    resized: bool = False
    joined: bool = False
    whole: bool = False
    folds: bool = False
    figures: Mapping[str, Callable[[Any], NDArray[np.float64]]] = field(
        default_factory=value_figures
    )
    columns: Mapping[str, Callable[[Dataset, int], int]] = field(default_factory=dict)


def kind_modules() -> dict[str, str]:
    """Return the module of each kind, by name."""
    return plugins.modules("chapterflow.kinds", skip=NOT_KINDS)


def kind_names() -> list[str]:
    """Return the names of all kinds, sorted."""
    return list(kind_modules())


def get_kind(name: str) -> Kind:
    """Return the kind called `name`.

    Raises:
        DataError: If there is none.
        ConfigError: If its file does not register a `Kind` of its own name as `KIND`.
    """
    modules = kind_modules()
    if name not in modules:
        raise DataError(
            f"Unknown kind of data. Received: {name!r}.{nearest(name, modules)} "
            "Install the package that defines it if it comes from another one."
        )
    return plugins.load(modules[name], "KIND", Kind, name)


def shape_text(shape: Sequence[int | None]) -> str:
    """Return a shape as text: `28 x 28 x 1`, with `any` for axes that vary."""
    return " x ".join("any" if side is None else str(side) for side in shape)


def read_card(folder: Path) -> DatasetCard:
    """Return the card of `data/<name>/`.

    Raises:
        DataError: If it is missing or cannot be read.
    """
    path = folder / CARD
    try:
        return DatasetCard.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"No dataset at {folder}. `chapterflow data fetch` fetches the data of a profile."
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path} is not a dataset card: {where}: {first['msg']}") from None


def open_dataset(folder: Path) -> Dataset:
    """Open the dataset in `folder`.

    Raises:
        DataError: If the card or an array is missing or unreadable, or their lengths differ.
    """
    card = read_card(folder)
    data = get_kind(card.kind).data
    names = (*data.ARRAYS, *data.MORE_ARRAYS)
    arrays = {name: read_array(folder, name) for name in names}
    counts = {name: len(arrays[name]) for name in data.ARRAYS}
    expected = data.expected_count(card)
    if {*counts.values()} != {expected}:
        raise DataError(
            f"{folder}: the arrays must be as long as the card's counts ({expected}). "
            f"Received: {counts}"
        )
    return data(card, folder, arrays)


#: Bytes of a mapped array that may stay in the memory of the process. Pages that were read count as
#: its memory until the system needs them, and each access may map 2 MB.
RESIDENT = 128 << 20


def release(array: NDArray[Any]) -> None:
    """Give back the memory of a mapped array of more than `RESIDENT` bytes, which is read again."""
    mapped = getattr(array, "_mmap", None)
    # Windows has no such advice.
    if mapped is not None and array.nbytes > RESIDENT and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def examples_of(array: NDArray[Any], chosen: NDArray[np.intp]) -> NDArray[Any]:
    """Return `array[chosen]`; a whole mapped array of more than `RESIDENT` bytes is not mapped.

    Args:
        array: `(n, ...)`, as `read_array` returns it.
        chosen: Positions `(m,)`.

    Raises:
        DataError: If the file has become shorter.
    """
    if not isinstance(array, np.memmap) or array.nbytes <= RESIDENT or not hasattr(os, "preadv"):
        return array[chosen]
    values = np.empty((len(chosen), *array.shape[1:]), array.dtype)
    if not values.size:
        return values
    size, data = array.strides[0], values.data.cast("B")
    with open(str(array.filename), "rb", buffering=0) as file:
        begin = 0
        # Neighbours are read at once.
        for end in (*np.flatnonzero(np.diff(chosen) != 1) + 1, len(chosen)):
            place = array.offset + int(chosen[begin]) * size
            part = data[begin * size : end * size]
            if os.preadv(file.fileno(), [part], place) != len(part):
                raise DataError(f"{array.filename} has become shorter. Build the dataset again.")
            begin = end
    return values


def read_array(folder: Path, name: str) -> NDArray[Any]:
    """Return one array of a dataset, memory-mapped.

    Raises:
        DataError: If it is missing or unreadable.
    """
    path = folder / f"{name}.npy"
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # A damaged header may raise nearly anything.
        raise DataError(
            f"{path} cannot be read ({error}). Delete {folder} and run "
            "`chapterflow data fetch` to build it again."
        ) from None
    return array
