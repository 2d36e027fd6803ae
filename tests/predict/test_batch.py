"""Batch prediction: what inputs become, and what counts as a shift."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chapterflow.config.load import load_settings
from chapterflow.environment import Project
from chapterflow.errors import ConfigError
from chapterflow.predict.batch_inputs import open_inputs
from chapterflow.predict.drift import PREDICTED, Reference, Tally, input_figures, overall
from tests.digits import digits_dataset
from tests.predict.cards import CARD, VERSION


def pixels() -> Any:
    """All digits, `(1797, 8, 8, 1)`."""
    return digits_dataset(np.zeros(1797)).arrays["images"]


def actual(project: Project, *given: Path) -> Any:
    settings = load_settings(project.params)
    return open_inputs(project, settings, VERSION, CARD, [str(path) for path in given])


def test_pictures_arrays_and_files_that_are_neither(project: Project, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "b").mkdir(parents=True)
    for name, value in (("b/2.png", 255), ("a.png", 0)):
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "readme.txt").write_text("text")
    good = np.concatenate([pixels()[:3].astype(np.float32), np.full((1, 8, 8, 1), np.nan)])
    np.save(tmp_path / "good.npy", good)
    np.save(tmp_path / "scaled.npy", pixels()[:3] * 16.0)
    inputs = actual(project, folder, tmp_path / "good.npy", tmp_path / "scaled.npy")
    assert inputs.skipped == [str(folder / "readme.txt")]
    assert [Path(one.input).name for one in inputs.unread] == ["scaled.npy"]
    assert "from 0 to 16" in inputs.unread[0].reason
    pictures, array = (source.read(0) for source in inputs.sources)
    assert pictures.names == [str(folder / "a.png"), str(folder / "b/2.png")]
    assert pictures.inputs[:, 0, 0, 0].tolist() == [0, 16]
    assert [Path(one.input).name for one in pictures.unread] == ["broken.png"]
    np.testing.assert_array_equal(array.inputs, good[:3])
    assert array.names == [f"{tmp_path / 'good.npy'}[{place}]" for place in range(3)]
    assert [one.input for one in array.unread] == [f"{tmp_path / 'good.npy'}[3]"]


def test_a_file_that_changes_is_another_batch(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, pixels()[:3])
    before = actual(project, path).sources[0].identity()
    assert actual(project, path).sources[0].identity() == before
    np.save(path, pixels()[3:6])
    assert actual(project, path).sources[0].identity() != before


def test_duplicate_inputs_are_predicted_once_with_a_notice(
    project: Project, tmp_path: Path
) -> None:
    place = tmp_path / "one.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(place)
    (tmp_path / "two.png").symlink_to(place)
    settings = load_settings(project.params)
    inputs = open_inputs(project, settings, VERSION, CARD, [str(tmp_path), str(place)])
    assert sum(source.count for source in inputs.sources) == 1
    (note,) = inputs.notes
    assert note.startswith(f"{tmp_path / 'two.png'} and 1 more: the same file")


def test_what_names_nothing_is_reported(project: Project, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Did you mean 'digits'"):
        actual(project, Path("digts"))
    with pytest.raises(ConfigError, match=r"must hold pictures"):
        actual(project, tmp_path / "project")


def drift_of(images: Any, predicted: Any) -> dict[str, str]:
    """Return the reading of each figure against the last 449 digits, of class 0 to 9 in turn."""
    figures = input_figures("images", pixels()[-449:]) | {PREDICTED: np.arange(449.0) % 10}
    reference = Reference("the test digits", figures, {})
    tallies = [Tally(name, reference, CARD.classes) for name in figures]
    here = input_figures("images", images) | {PREDICTED: predicted}
    for tally, name in zip(tallies, figures, strict=True):
        for block in np.array_split(here[name], 3):
            tally.add(block)
    results = [tally.result() for tally in tallies]
    return {one.name: one.reading for one in results} | {"overall": overall(results)}


def test_the_test_data_are_no_shift_and_inverted_digits_are() -> None:
    test = pixels()[-449:]
    same = drift_of(test, np.arange(449.0) % 10)
    assert set(same.values()) == {"like the test data"}
    inverted = drift_of(16 - test, np.full(449, 8.0))
    assert inverted["input mean"] == inverted[PREDICTED] == "strongly shifted"
    assert inverted["overall"] == "strongly shifted"
    few = drift_of(16 - test[:49], np.full(49, 8.0))
    assert few["overall"] == "too few examples to tell"
