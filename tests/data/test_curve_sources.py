"""Generated curves and windows of measured series."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chapterflow.config.load import load_settings
from chapterflow.data.build import read_source
from chapterflow.data.source import SourceData
from chapterflow.data.sources import csv_series, curves
from chapterflow.data.sources.csv_series import CsvSeries
from chapterflow.data.sources.curves import Curves
from chapterflow.errors import ConfigError, DataError
from chapterflow.kinds.curves import Data

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = {"kind": "curves", "seed": 5, "count": 60, "length": 64, "noise": [0.1, 0.4]}


def generated(**changes: Any) -> SourceData:
    return curves.read(
        Curves(**SMALL | {"validation": 0.2, "test": 0.2} | changes), lambda f: Path()
    )


def digest(source: SourceData) -> str:
    parts = [name.encode() + array.tobytes() for name, array in sorted(source.arrays.items())]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_the_same_seed_gives_the_bytes_that_it_always_gave() -> None:
    # Where it changes, `data.dvc` and every figure in the documents change with it.
    assert digest(generated()) == DIGEST
    assert digest(generated(seed=6)) != DIGEST


def test_noise_levels_are_what_they_say_and_stratified() -> None:
    source = generated(count=600)
    difference = (source.arrays["inputs"] - source.arrays["targets"])[..., 0]
    for level in (0.1, 0.4):
        chosen = source.arrays["noise"] == np.float32(level)
        assert np.bincount(source.arrays["split"][chosen]).tolist() == [180, 60, 60]
        assert difference[chosen].std() == pytest.approx(level, rel=0.02)
    assert set(np.unique(source.arrays["weights"])) == {1}
    assert np.abs(source.arrays["inputs"]).max() <= source.value_max


def test_every_value_is_on_the_grid() -> None:
    for name in ("inputs", "targets"):
        steps = generated().arrays[name].astype(np.float64) / curves.QUANTUM
        assert (steps == np.rint(steps)).all()


def series(tmp_path: Path, text: str | bytes, **changes: Any) -> SourceData:
    path = tmp_path / "series.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    params = {
        "kind": "csv-series",
        "seed": 5,
        "upstream": [str(tmp_path)],
        "file": {"name": "series.csv"},
        "time": "t",
        "values": ["a", "b"],
        "window": 8,
        "parts": 4,
        "validation": 0.2,
        "test": 0.2,
    }
    return csv_series.read(CsvSeries(**params | changes), lambda file: path)


def table(count: int = 60, **lines: str) -> str:
    """Return a CSV of two series; `line7="..."` replaces line 7 of the file."""
    rows = ["# comment", "t,a,b", *(f"{n},{n + 0.5},{100 - n}" for n in range(count))]
    for where, text in lines.items():
        rows[int(where.removeprefix("line")) - 1] = text
    return "\n".join(rows) + "\n"


def test_columns_of_different_units_are_scaled_by_their_train_span(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        f"{n},{20 + a:.3f},{1e6 + 1e5 * b:.0f}" for n, (a, b) in enumerate(rng.normal(size=(60, 2)))
    ]
    source = series(tmp_path, "\n".join(["t,a,b", *rows]), scale="spread")
    values = np.array([row.split(",")[1:] for row in rows], float)[:36]
    scales = source.facts["mean_and_deviation_of_columns"]
    assert scales["a"] == pytest.approx([values[:, 0].mean(), values[:, 0].std()])
    assert scales["b"] == pytest.approx([values[:, 1].mean(), values[:, 1].std()])
    targets = source.arrays["targets"]
    # Windows of the columns in turn, each as often as it has parts.
    expected = (values[:8, 1] - scales["b"][0]) / scales["b"][1]
    assert targets[4, :, 0] == pytest.approx(expected, rel=1e-4)
    assert source.value_max < 5
    constant = "\n".join(["t,a,b", *(f"{n},{n},7" for n in range(60))])
    with pytest.raises(DataError, match="column 'b': `scale: spread` needs values that vary"):
        series(tmp_path, constant, scale="spread")


def test_windows_of_different_splits_share_no_sample(tmp_path: Path) -> None:
    source = series(tmp_path, table())
    times, split = source.arrays["times"], source.arrays["split"]
    spans = [set(times[split == code].ravel()) for code in range(3)]
    assert max(spans[0]) < min(spans[1])
    assert max(spans[1]) < min(spans[2])
    assert source.facts["spans"] == {"train": [0, 35], "validation": [36, 47], "test": [48, 59]}
    # 29 overlapping windows, of two series, in four parts; one window in each of the others.
    assert np.bincount(split).tolist() == [29 * 2 * 4, 2 * 4, 2 * 4]
    assert source.facts["time_unit"] == "units"


def test_every_sample_is_hidden_once_and_hidden_samples_leave_no_trace(tmp_path: Path) -> None:
    source = series(tmp_path, table())
    inputs, targets = source.arrays["inputs"][..., 0], source.arrays["targets"][..., 0]
    hidden = source.arrays["weights"] == 1
    assert (hidden.reshape(-1, 4, 8).sum(axis=1) == 1).all()
    assert (inputs[~hidden] == targets[~hidden]).all()

    # Another value where it is hidden: the same input there.
    changed = series(tmp_path, table(line57="54,1000,46"))
    column = changed.arrays["targets"][..., 0] == 1000
    assert column.any()
    row = (column & (changed.arrays["weights"] == 1)).any(axis=1)
    assert (row.sum(), column.any(axis=1).sum()) == (1, 4)
    np.testing.assert_array_equal(changed.arrays["inputs"][row], source.arrays["inputs"][row])


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=8, max_size=40),
    parts=st.integers(2, 6),
    seed=st.integers(0, 99),
)
def test_concealed_samples_depend_on_the_visible_alone(
    values: list[float], parts: int, seed: int
) -> None:
    window = np.array(values)
    for hidden in csv_series.divided(len(window), parts, np.random.default_rng(seed)):
        once = csv_series.concealed(window, hidden)
        np.testing.assert_array_equal(
            csv_series.concealed(np.where(hidden, np.nan, window), hidden), once
        )
        np.testing.assert_array_equal(once[~hidden], window[~hidden])


def test_a_hidden_sample_becomes_the_mean_of_its_neighbours() -> None:
    hidden = np.array([True, False, True, False, True, True, False])
    actual = csv_series.concealed(np.array([9.0, 1, 9, 5, 9, 9, 8]), hidden)
    assert actual.tolist() == [1, 1, 3, 5, 6, 7, 8]


def test_noise_makes_the_measured_values_the_clean_curve(tmp_path: Path) -> None:
    rows = "".join(f"{n},{n},{-n}\n" for n in range(400))
    source = series(tmp_path, f"t,a,b\n{rows}", noise=[0.1, 0.4])
    arrays = source.arrays
    assert arrays["targets"][:4, 0, 0].tolist() == [0, 0, 0, 0]
    assert arrays["noise"][:4] == pytest.approx([0.1, 0.4, 0.1, 0.4])
    assert (arrays["weights"] == 1).all()
    difference = (arrays["inputs"] - arrays["targets"])[..., 0]
    for level in (0.1, 0.4):
        assert difference[arrays["noise"] == np.float32(level)].std() == pytest.approx(
            level, rel=0.05
        )
    # Each window has its own noise, also where windows overlap.
    assert difference[0, 1] != difference[4, 0]
    assert np.abs(arrays["inputs"]).max() <= source.value_max
    assert source.facts["noise_levels"] == [0.1, 0.4]
    assert source.facts["truth"] == "measured values, before noise was added"


BAD: list[tuple[str, str | bytes, dict[str, Any], str]] = [
    ("column missing", table(), {"values": ["c"]}, r"name the column 'c' once.*Received: t, a, b"),
    ("column twice", "t,a,a\n", {"values": ["a"]}, r"column 'a' once"),
    ("empty file", "", {}, r"Received: an empty file"),
    ("no number", table(line5="2,x,1"), {}, r"line 5, column 'a'.*must be a number.*'x'"),
    ("NaN", table(line5="2,nan,1"), {}, r"line 5, column 'a'.*must be finite.*'nan'"),
    ("infinity", table(line5="2,1,inf"), {}, r"line 5, column 'b'.*must be finite"),
    ("value missing", table(line6="3,1,"), {}, r"line 6, column 'b': a value is missing"),
    ("blank row", table(line6="3,,"), {}, r"line 6, column 'a': a value is missing"),
    ("half blank", table(line6="3,,1"), {"blank_rows": "skip"}, r"line 6, column 'a'.*missing"),
    ("time goes back", table(line9="2,1,1"), {}, r"line 9: times must increase.*'2' after '5'"),
    ("time repeats", table(line9="5,1,1"), {"step": "irregular"}, r"line 9: times must increase"),
    ("time NaN", table(line9="nan,1,1"), {"step": "irregular"}, r"line 9: times must increase"),
    ("time no number", table(line9="noon,1,1"), {}, r"line 9: the time must be a number.*'noon'"),
    ("gap", table(line6="", line7=""), {}, r"line 8: all steps must be equal.*'5' after '2', 3"),
    ("fields", table(line6="3,1"), {}, r"line 6: every row must have the 3 fields.*Received: 2"),
    ("quote", table(line6='3,"1'), {}, r"must be a CSV file"),
    ("binary", b"\x89PNG\r\n\x1a\n\x00\xff\xfe", {}, r"must be a CSV file: UTF-8"),
    ("too short", table(30), {}, r"too short: every split needs a window of 8.*Received: 6 of 30"),
    ("one row", table(1), {}, r"too short. Received: 1 rows"),
    ("no last", table(), {"last": "99"}, r"Received: no '99' in column 't'"),
    (
        "log of 0",
        table(line3="0,0,1"),
        {"log": True},
        r"line 3, column 'a': `log: true`.*Received: '0'",
    ),
    ("months of numbers", table(), {"step": "month"}, r"steps of a month need dates"),
]


@pytest.mark.parametrize(
    ("text", "changes", "message"), [pytest.param(*case[1:], id=case[0]) for case in BAD]
)
def test_bad_input_is_named(
    tmp_path: Path, text: str | bytes, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        series(tmp_path, text, **changes)


def test_dates_blank_rows_months_logarithms_and_an_end(tmp_path: Path) -> None:
    rows = [f"{1990 + n // 12}-{n % 12 + 1:02d}-01,{n + 1}" for n in range(60)]
    rows.insert(3, "1990-03-15,")
    text = "\ufefft,a\n" + "\n".join([*rows, "1995-01-20,61"]) + "\n"
    options = {"values": ["a"], "step": "month", "blank_rows": "skip", "log": True}
    with pytest.raises(DataError, match=r"line 63: all steps must be equal"):
        series(tmp_path, text.replace("1995-01-20", "1995-02-20"), **options)
    actual = series(tmp_path, text, last="1994-12-01", **options)
    assert actual.arrays["times"][0].tolist() == [12 * 1990 + n for n in range(8)]
    np.testing.assert_allclose(
        actual.arrays["targets"][0, :, 0], np.log(np.arange(1, 9)), rtol=1e-6
    )
    assert actual.facts["time_unit"] == "months"


def test_the_series_of_the_book_profile_is_the_one_that_matplotlib_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAPTERFLOW_MIRROR", str(tmp_path))
    params = load_settings(REPOSITORY / "params.yaml").datasets["stocks"]
    source = read_source(params, cache=tmp_path / "cache", on_progress=lambda *output: None)
    assert source.facts["spans"]["train"][0] == 12 * 1990
    assert source.facts["spans"]["test"][1] == 12 * 2022 + 5
    # IBM on the first day, from the file.
    assert source.arrays["targets"][0, 0, 0] == pytest.approx(np.log(10.970438))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("package://no_such_package_here/x/", "must name an installed package"),
        ("package://matplotlib/../numpy/", "without '.', '..'"),
        ("package://matplotlib/a/../../x", "without '.', '..'"),
        ("package://../x", "package://name/path"),
        ("package://matplotlib.cbook/x", "package://name/path"),
        ("package://csv/x", "must name an installed package"),
    ],
)
def test_addresses_in_packages_lead_nowhere_else(
    tmp_path: Path, address: str, message: str
) -> None:
    params = load_settings(REPOSITORY / "params.yaml").datasets["stocks"]
    changed = params.model_copy(update={"upstream": [address]})
    with pytest.raises(ConfigError, match=message):
        read_source(changed, cache=tmp_path / "cache", on_progress=lambda *output: None)


def test_weights_decide_the_digest_of_the_test_split() -> None:
    arrays = dict(generated().arrays)
    first = list(Data(None, Path(), arrays).content("test"))  # type: ignore[arg-type]
    arrays["weights"] = arrays["weights"] * 0
    assert list(Data(None, Path(), arrays).content("test")) != first  # type: ignore[arg-type]


DIGEST = "bd1181dd40247a55452a668c275c4f4621fef5e97dc4eadd51aaaf7b2145ae0b"
