"""The trained model of a run: loaded once for the steps that read it."""

import os
from pathlib import Path

import pytest

from chapterflow.loop.run import Run


class OneFile(Run):
    """A run of which only the file of its model is there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def model_file(self) -> Path:
        return self.path

    @property
    def folder(self) -> Path:
        return self.path.parent


@pytest.mark.usefixtures("tensorflow")
def test_a_model_is_loaded_again_only_where_its_file_has_changed(tmp_path: Path) -> None:
    import keras

    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    run = OneFile(tmp_path / "work" / "model.keras")
    run.folder.mkdir()
    model.save(run.path)
    first = run.trained_model()
    assert run.trained_model() is first
    model.layers[-1].set_weights([weight + 1 for weight in model.layers[-1].get_weights()])
    model.save(run.path)
    os.utime(run.path, ns=(1, 1))
    again = run.trained_model()
    assert again is not first
    assert (again.get_weights()[0] == model.get_weights()[0]).all()
    run.discard()
    assert not run.folder.exists()
