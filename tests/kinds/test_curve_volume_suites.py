"""Every mistake in curves and volumes is caught by the expectations that are meant for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chapterflow.data.source import SourceData
from chapterflow.data.sources import csv_series, curves, solids
from chapterflow.data.sources.csv_series import CsvSeries
from chapterflow.data.sources.curves import Curves
from chapterflow.data.sources.solids import Solids
from chapterflow.errors import DataError
from chapterflow.kinds import curves as curve_suite
from chapterflow.kinds.curves import CurveExpectations
from chapterflow.kinds.dataset import SPLITS, Dataset, DatasetCard, get_kind
from chapterflow.kinds.pixels import ImageExpectations
from tests.kinds.suites import broken_checks

CURVE_BOUNDS = CurveExpectations(
    duplicates=0.01, step_tolerance=0.01, value_use=0.5, noise_tolerance=0.1
)
VOLUME_BOUNDS = ImageExpectations(
    class_divergence=0.05, duplicates=0.01, value_use=0.9, mean_value=[0.02, 0.7]
)
Change = Callable[[Any], None]


def dataset(source: SourceData, change: Change = lambda arrays: None) -> Dataset:
    """Return what a source gives, its arrays changed and its card not."""
    split = source.arrays["split"]
    kind = "curves" if "targets" in source.arrays else "volumes"
    card = DatasetCard(
        name="made",
        kind=kind,
        title=source.title,
        source=source.source,
        licence=source.licence,
        shape=list(source.shape),
        classes=source.classes,
        value_max=source.value_max,
        counts={name: int(np.sum(split == code)) for code, name in enumerate(SPLITS)},
        files={},
        test_digest="0" * 64,
        facts=dict(source.facts),
        recipe={},
    )
    arrays = SimpleNamespace(**{name: np.array(array) for name, array in source.arrays.items()})
    change(arrays)
    return get_kind(kind).data(card, Path("in memory"), vars(arrays))


@pytest.fixture(scope="module")
def known() -> SourceData:
    params = {"seed": 5, "count": 120, "length": 64, "noise": [0.1, 0.3]}
    return curves.read(
        Curves(kind="curves", validation=0.2, test=0.2, **params), lambda file: Path()
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> SourceData:
    path = tmp_path_factory.mktemp("series") / "s.csv"
    values = np.cumsum(np.random.default_rng(5).standard_normal(200))
    path.write_text("t,a\n" + "\n".join(f"{n},{value}" for n, value in enumerate(values)))
    params = {"time": "t", "values": ["a"], "window": 16, "stride": 4, "parts": 4}
    return csv_series.read(
        CsvSeries(
            kind="csv-series",
            seed=5,
            upstream=[str(path.parent)],
            file={"name": "s.csv"},
            validation=0.2,
            test=0.2,
            **params,
        ),
        lambda file: path,
    )


def nan(a: Any) -> None:
    a.targets[3, 5] = np.nan


def infinite_time(a: Any) -> None:
    a.times[3, 5] = np.inf


def too_large(a: Any) -> None:
    a.inputs[3, 5] = 1000


def scaled(a: Any) -> None:
    a.inputs /= 100
    a.targets /= 100


def rounded(a: Any) -> None:
    a.inputs = np.rint(a.inputs * 100).astype(np.int32)


def blank(a: Any) -> None:
    a.inputs[3] = 0.5


def shorter(a: Any) -> None:
    for name in ("inputs", "targets", "weights", "times"):
        setattr(a, name, getattr(a, name)[:, :-1])


def half_weights(a: Any) -> None:
    a.weights[3, 5] = 0.5


def nothing_scored(a: Any) -> None:
    a.weights[3] = 0


def clean_as_input(a: Any) -> None:
    a.inputs = a.targets


def targets_of_others(a: Any) -> None:
    a.targets = np.roll(a.targets, 1, axis=0)


def unknown_level(a: Any) -> None:
    a.noise[3] = 0.2


def levels_mixed_up(a: Any) -> None:
    low, high = np.unique(a.noise)
    a.noise = np.where(a.noise == low, high, low)


def copy_in_the_test_split(a: Any) -> None:
    train, test = np.flatnonzero(a.split == 0)[0], np.flatnonzero(a.split == 2)[0]
    a.targets[test] = a.targets[train]  # with noise of its own


def repeats(a: Any) -> None:
    first, second = np.flatnonzero((a.split == 0) & (a.noise == a.noise[0]))[:2]
    a.inputs[[first, second]], a.targets[[first, second]] = a.inputs[first], a.targets[first]
    third = np.flatnonzero((a.split == 0) & (a.noise == a.noise[0]))[2]
    a.inputs[third], a.targets[third] = a.inputs[first], a.targets[first]


def gap(a: Any) -> None:
    a.times[3, 30:] += 1


def time_backwards(a: Any) -> None:
    a.times[3] = a.times[3, ::-1]


def example_moved(a: Any) -> None:
    a.split[np.flatnonzero(a.split == 0)[0]] = 1


KNOWN: list[tuple[Change, set[str]]] = [
    (nan, {"finite"}),
    (infinite_time, {"finite", "time-order"}),
    (too_large, {"amplitude", "noise"}),
    (scaled, {"value-use", "noise"}),
    (rounded, {"dtype", "amplitude", "noise"}),
    (blank, {"not-blank"}),
    (shorter, {"shape"}),
    (half_weights, {"weight-set"}),
    (nothing_scored, {"scored"}),
    (clean_as_input, {"not-shown", "noise"}),
    (targets_of_others, {"noise"}),
    (unknown_level, {"noise-level"}),
    (levels_mixed_up, {"noise"}),
    (copy_in_the_test_split, {"one-split", "noise"}),
    (repeats, {"repeats"}),
    (gap, {"step"}),
    (time_backwards, {"time-order"}),
    (example_moved, {"count-train", "count-validation"}),
]


@pytest.mark.usefixtures("without_data_docs")
@pytest.mark.parametrize(
    ("mistake", "expected"), [pytest.param(*case, id=case[0].__name__) for case in KNOWN]
)
def test_mistakes_in_curves_are_caught(
    mistake: Change, expected: set[str], known: SourceData
) -> None:
    actual = broken_checks(dataset(known, mistake), CURVE_BOUNDS)
    # Which levels show that inputs and targets do not belong together is of no matter.
    assert {"noise" if name in ("noise-0.1", "noise-0.3") else name for name in actual} == expected


def test_curves_from_the_sources_pass(known: SourceData, measured: SourceData) -> None:
    for source in (known, measured):
        assert broken_checks(dataset(source), CURVE_BOUNDS) == set()


def hidden_samples_shown(a: Any) -> None:
    a.inputs = a.targets


def window_of_the_future(a: Any) -> None:
    first = np.flatnonzero(a.split == 2)[0]
    train = np.flatnonzero(a.split == 0)
    for name in ("inputs", "targets", "weights", "times"):
        getattr(a, name)[train[-1]] = getattr(a, name)[first]


@pytest.mark.parametrize(
    ("mistake", "expected"),
    [
        (hidden_samples_shown, {"not-shown"}),
        (window_of_the_future, {"one-split", "span-train-last"}),
    ],
)
def test_mistakes_in_measured_series_are_caught(
    mistake: Change, expected: set[str], measured: SourceData
) -> None:
    assert broken_checks(dataset(measured, mistake), CURVE_BOUNDS) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: setattr(a, "weights", a.weights[:, :-1]), "weights must be numbers of shape"),
        (lambda a: setattr(a, "noise", a.noise[:, None]), "noise must be numbers of shape"),
        (lambda a: setattr(a, "inputs", a.inputs.astype(str)), "inputs must be numbers of shape"),
        (lambda a: setattr(a, "targets", a.targets[..., 0]), "targets must be numbers of shape"),
    ],
)
def test_arrays_of_wrong_form_are_refused(change: Change, message: str, known: SourceData) -> None:
    with pytest.raises(DataError, match=message):
        curve_suite.rows(dataset(known, change))


@pytest.fixture(scope="module")
def bodies() -> SourceData:
    params = {"seed": 5, "each": 20, "side": 12, "validation": 0.2, "test": 0.2}
    return solids.read(Solids(kind="solids", **params), lambda file: Path())


def divided_by_255(a: Any) -> None:
    a.volumes = (a.volumes / 255).astype(np.float32)


def divided_and_cast_back(a: Any) -> None:
    a.volumes = (a.volumes // 2).astype(np.uint8)


def flat(a: Any) -> None:
    a.volumes = a.volumes[:, 0]


def empty_volume(a: Any) -> None:
    a.volumes[3] = 30


def label_of_no_class(a: Any) -> None:
    a.labels[3] = 7


def class_missing(a: Any) -> None:
    a.labels[a.labels == 3] = 4


def copy_in_test(a: Any) -> None:
    a.volumes[np.flatnonzero(a.split == 2)[0]] = a.volumes[np.flatnonzero(a.split == 0)[0]]


VOLUMES: list[tuple[Change, set[str]]] = [
    (divided_by_255, {"dtype", "value-use", "mean-value"}),
    (divided_and_cast_back, {"value-use"}),
    (flat, {"shape", "value-use"}),
    (empty_volume, {"not-blank"}),
    (label_of_no_class, {"label-set"}),
    (class_missing, {f"class-balance-{split}" for split in SPLITS}),
    (copy_in_test, {"one-split"}),
    (example_moved, {"count-train", "count-validation"}),
]


@pytest.mark.usefixtures("without_data_docs")
@pytest.mark.parametrize(
    ("mistake", "expected"), [pytest.param(*case, id=case[0].__name__) for case in VOLUMES]
)
def test_mistakes_in_volumes_are_caught(
    mistake: Change, expected: set[str], bodies: SourceData
) -> None:
    assert broken_checks(dataset(bodies, mistake), VOLUME_BOUNDS) == expected


def test_generated_volumes_pass(bodies: SourceData) -> None:
    assert broken_checks(dataset(bodies), VOLUME_BOUNDS) == set()
