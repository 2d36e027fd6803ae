"""What is wrong with a batch is told before anything heavy starts."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from chapterflow.config.load import load_settings
from chapterflow.environment import Project
from chapterflow.errors import ChapterflowError, ConfigError, DataError
from chapterflow.kinds.dataset import DatasetCard
from chapterflow.predict.batch import check_inputs, check_inputs_of, check_out
from chapterflow.predict.batch_inputs import BLOCK_BYTES, open_inputs
from chapterflow.predict.inputs import Input, parse_inputs
from chapterflow.tracking.versions import Version
from tests.conftest import invoke
from tests.predict.cards import CARD, VERSION, card


def check(project: Project, of: DatasetCard, version: Version, *given: Path | str) -> None:
    settings = load_settings(project.params)
    words = parse_inputs(settings, [str(word) for word in given])
    check_inputs(words)
    check_inputs_of(project, settings, version, of, words)


def test_nothing_starts_for_words_that_name_nothing(checkout: Path) -> None:
    (checkout / "empty").mkdir()
    (checkout / "values.csv").write_text("1,2\n")
    for words, says in (
        (["digts"], "Did you mean 'digits'?"),
        (["nowhere.png"], "'nowhere.png'"),
        (["empty"], "The folder empty must hold pictures"),
        (["values.csv"], "Received: .csv"),
        (["digits", "--out", "values.csv/out.parquet"], "values.csv/out.parquet"),
        (["digits", "--out", "values.csv"], "values.csv, which is another file"),
        (["digits", "--out", "empty"], "empty/predictions.parquet"),
    ):
        result = invoke(checkout, "predict", "cnn", *words)
        assert (result.returncode, "Traceback" in result.stderr) == (2, False), result.stderr
        assert says in result.stderr
    # Neither the tracking store nor Prefect, which start before TensorFlow does.
    assert not (checkout / "mlruns/mlflow.db").exists()
    assert not (checkout / ".prefect").exists()
    assert not list((checkout / "empty").iterdir())


@pytest.mark.parametrize(
    ("of", "names", "error"),
    [
        ("images", ["text.txt"], DataError),
        ("images", ["broken.png", "no-ending"], DataError),
        ("images", ["wide.npy"], DataError),
        ("images", ["scaled.npy"], DataError),
        ("images", ["arrays"], ConfigError),
        ("curves", ["text.txt", "picture.png"], DataError),
        ("volumes", ["pictures"], ConfigError),
        ("graphs", ["picture.png"], ConfigError),
        ("graphs", ["pictures"], ConfigError),
        ("citations", ["arrays"], ConfigError),
    ],
)
def test_early_errors_equal_late_errors(
    project: Project, tmp_path: Path, of: str, names: list[str], error: type[ChapterflowError]
) -> None:
    places = files(tmp_path, *names)
    with pytest.raises(error) as early:
        check(project, card(of), VERSION, *places)
    # What the batch itself would come to.
    settings = load_settings(project.params)
    given = [str(place) for place in places]
    if error is ConfigError:
        with pytest.raises(ConfigError) as late:
            open_inputs(project, settings, VERSION, card(of), given)
        assert str(early.value) == str(late.value)
    else:
        inputs = open_inputs(project, settings, VERSION, card(of), given)
        lost = inputs.unread + [one for s in inputs.sources for one in s.read(0).unread]
        assert sorted(one.input for one in lost) == sorted(given)
        assert all(one.input in str(early.value) for one in lost)


@pytest.mark.parametrize(
    ("of", "names"),
    [
        ("images", ["picture.png", "text.txt"]),
        ("images", ["good.npy"]),
        ("images", ["pictures", "text.txt"]),
        ("images", ["large.npy"]),  # looked through once, by the batch
        ("volumes", ["arrays"]),
    ],
)
def test_what_may_come_to_something_goes_on(
    project: Project, tmp_path: Path, of: str, names: list[str]
) -> None:
    check(project, card(of), VERSION, *files(tmp_path, *names))


def files(folder: Path, *names: str) -> list[Path]:
    """Write files that do or do not fit, and return the paths of some."""
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "picture.png")
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "no-ending").write_text("text")
    (folder / "text.txt").write_text("text")
    np.save(folder / "good.npy", np.zeros((2, 8, 8), np.uint8))
    np.save(folder / "wide.npy", np.zeros((2, 8, 9), np.uint8))
    np.save(folder / "scaled.npy", np.full((2, 8, 8), 255.0))
    if "large.npy" in names:
        np.save(folder / "large.npy", np.full((BLOCK_BYTES // 64, 8, 8), 255, np.uint8))
    for name, one in (("pictures", "picture.png"), ("arrays", "good.npy")):
        (folder / name).mkdir()
        (folder / name / one).write_bytes((folder / one).read_bytes())
    return [folder / name for name in names]


def test_more_words_than_prefect_takes() -> None:
    words = [Input(f"{place}" * 30, "file", Path("a.npy")) for place in range(10_000)]
    check_inputs(words[:3000])
    with pytest.raises(ConfigError, match="name folders"):
        check_inputs(words)


def test_a_name_that_is_no_text_is_read_in_its_folder(project: Project, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    name = os.fsdecode(b"\xff.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / name)
    with pytest.raises(ConfigError, match="name the folder"):
        check(project, card("images"), VERSION, folder / name)
    with pytest.raises(ConfigError, match="--out must be"):
        check_out(folder / name.replace("png", "parquet"))
    check(project, card("images"), VERSION, folder)
    inputs = open_inputs(project, load_settings(project.params), VERSION, CARD, [str(folder)])
    assert inputs.sources[0].read(0).names == [f"{folder}/\\xff.png"]


def test_a_place_for_the_result_that_takes_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for out in (tmp_path, tmp_path / "file/out.parquet", tmp_path / "pipe", Path("/proc/out")):
        with pytest.raises(ConfigError, match="--out must be"):
            check_out(out)
    pq.write_table(pa.table({"mine": [1]}), tmp_path / "own.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    for out in ("own.parquet", "broken.parquet"):
        with pytest.raises(ConfigError, match="which is another file"):
            check_out(tmp_path / out)
    check_out(tmp_path / "file")
    check_out(tmp_path / "a/b/out.parquet")
    assert not (tmp_path / "a").exists()
