"""Each kind of data becomes the answers that evaluation gives, as files and as datasets."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from chapterflow.config.load import load_settings
from chapterflow.config.settings import Settings
from chapterflow.environment import Project
from chapterflow.errors import ConfigError, DataError
from chapterflow.kinds.dataset import Dataset, DatasetCard, open_dataset
from chapterflow.loop import steps
from chapterflow.models.base import with_softmax
from chapterflow.models.catalog import get_model
from chapterflow.predict.batch import predict_parts
from chapterflow.predict.batch_inputs import open_inputs
from chapterflow.predict.inputs import example_shape, fits, photo_size
from chapterflow.predict.table import Parts
from chapterflow.tracking.versions import Version
from chapterflow.training.batches import input_spec, predict, sized_for
from tests.conftest import REPOSITORY
from tests.photos import photo_folder

pytestmark = pytest.mark.usefixtures("tensorflow")

#: Model and dataset of each kind.
KINDS = {
    "images": ("dnn", "digits"),
    "photos": ("xcnn", "pets"),
    "volumes": ("conv3d", "solids"),
    "curves": ("conv1d", "curves"),
    "graphs": ("gcn", "graphs"),
    "citations": ("gcn-node", "citations"),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project in which each dataset is built, once; tests get copies."""
    root = tmp_path_factory.mktemp("built")
    shutil.copy(REPOSITORY / "params.yaml", root)
    return Project(root)


class Batch:
    """An untrained model, and what it predicts for inputs."""

    def __init__(self, project: Project, built: Project, kind: str) -> None:
        import keras

        model, self.name = KINDS[kind]
        self.project, self.settings = project, settings_with_pets(project)
        self.version = Version(model, "1", None, "run", model, "models:/m-1")
        if not (built.data / self.name).exists():
            steps.prepare(built, self.settings, self.name)
        shutil.copytree(built.data / self.name, project.data / self.name)
        entry, params = get_model(model), self.settings.params(model)
        self.dataset: Dataset = sized_for(entry, params, open_dataset(project.data / self.name))
        keras.utils.set_random_seed(1)
        self.network = entry.build(params, input_spec(entry, params, self.dataset))

    def table(self, *given: str) -> pa.Table:
        """Return the rows for INPUTs."""
        card = self.dataset.card
        inputs = open_inputs(self.project, self.settings, self.version, card, given)
        assert not inputs.unread
        size = photo_size(self.settings, self.version)
        parts = Parts(
            self.project.scratch / f"predict/{len(list(self.project.scratch.rglob('*')))}"
        )
        predict_parts(
            self.network,
            card,
            inputs.sources,
            parts,
            shape=example_shape(card, size),
            figures=[],
            on_chunk=lambda *_: None,
        )
        return pa.concat_tables(table.replace_schema_metadata(None) for table, _, _ in parts.read())

    def evaluated(self) -> Any:
        """Return what evaluation would score: answers to the test split."""
        classes = bool(self.dataset.card.classes)
        model = with_softmax(self.network) if classes else self.network
        return predict(model, self.dataset, "test")


def settings_with_pets(project: Project) -> Settings:
    """Return settings that know a folder of photos of 64x48 pixels, and fewer examples."""
    folder = project.root.parent / "photos"
    if not folder.exists():
        photo_folder(folder)
    (project.root / "datasets.yaml").write_text(
        f"datasets:\n  pets: {{kind: image-folder, seed: 5, path: '{folder}'}}\n"
    )
    small = (
        *("models.xcnn.filters=[2, 2, 2, 2]", "models.xcnn.dense=[4, 4, 4]"),
        *("models.conv3d.filters=2", "datasets.solids.each=40"),
        *("datasets.curves.count=240", "datasets.graphs.per_family=24"),
    )
    return load_settings(project.params, overrides=small)


def answers(table: pa.Table) -> Any:
    """Return the answers of a table, `(n, ...)`."""
    if "smoothed" in table.column_names:
        return np.array(table["smoothed"].to_pylist())
    names = [name for name in table.column_names if name.startswith("probability_")]
    return np.stack([table[name].to_numpy() for name in names], axis=1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_split_of_a_dataset_is_answered_as_in_evaluation(
    project: Project, built: Project, kind: str
) -> None:
    batch = Batch(project, built, kind)
    table = batch.table(f"{batch.name}:test")
    expected = batch.evaluated()
    np.testing.assert_allclose(
        answers(table), expected.reshape(len(expected), -1), rtol=1e-4, atol=1e-5
    )
    test = batch.dataset.indices("test")
    assert table["input"].to_pylist() == [f"{batch.name}:{position}" for position in test]
    if batch.dataset.card.classes:
        truth = [batch.dataset.card.classes[place] for place in batch.dataset.targets(test)]
        assert table["true_label"].to_pylist() == truth
    # All of it, and one: the same answers.
    whole = batch.table(batch.name)
    assert whole.num_rows == batch.dataset.count
    np.testing.assert_allclose(answers(whole)[test], answers(table), rtol=1e-4, atol=1e-5)
    one = batch.table(f"{batch.name}:{test[3]}")
    np.testing.assert_allclose(answers(one), answers(table)[3:4], rtol=1e-4, atol=1e-5)


def test_examples_that_the_model_learnt_are_reported(project: Project, built: Project) -> None:
    batch = Batch(project, built, "volumes")
    learnt, other = batch.dataset.card, batch.dataset.card.model_copy(update={"title": "another"})

    def notes(card: DatasetCard, given: str) -> list[str]:
        return open_inputs(project, batch.settings, batch.version, card, [given]).notes

    counts = learnt.counts
    (note,) = notes(learnt, batch.name)
    assert f"{counts['train']:,} of {sum(counts.values()):,} examples are in the train" in note
    assert notes(learnt, f"{batch.name}:test") == []
    (note,) = notes(other, f"{batch.name}:test")
    assert "differs from the data that the model was trained on" in note


def test_a_damaged_dataset_is_refused(project: Project, built: Project) -> None:
    batch = Batch(project, built, "volumes")
    file = project.data / batch.name / "labels.npy"
    content = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match=r"labels\.npy: content changed"):
        batch.table(f"{batch.name}:test")


def files_of(batch: Batch, kind: str, folder: Path) -> Sequence[Path]:
    """Write the test split as files of a user's, and return them in its order."""
    test = batch.dataset.indices("test")
    if kind == "photos":
        # The files of the dataset, in folders that say nothing of their order.
        return [batch.dataset.path(position) for position in test]  # type: ignore[attr-defined]
    np.save(folder / "several.npy", batch.dataset.inputs(test[1:]))
    # One example, without the batch and without the last axis.
    np.save(folder / "one.npy", batch.dataset.inputs(test[:1])[0, ..., 0])
    return [folder / "one.npy", folder / "several.npy"]


@pytest.mark.parametrize("kind", ["images", "photos", "volumes", "curves"])
def test_files_are_answered_as_the_dataset_made_of_them(
    project: Project, built: Project, tmp_path: Path, kind: str
) -> None:
    batch = Batch(project, built, kind)
    table = batch.table(*map(str, files_of(batch, kind, tmp_path)))
    expected = batch.evaluated()
    np.testing.assert_allclose(
        answers(table), expected.reshape(len(expected), -1), rtol=1e-4, atol=1e-5
    )
    assert None not in table["input_sha256"].to_pylist()
    assert "true_label" not in table.column_names


@pytest.mark.parametrize("kind", ["graphs", "citations"])
def test_graphs_come_as_datasets_alone(
    project: Project, built: Project, tmp_path: Path, kind: str
) -> None:
    batch = Batch(project, built, kind)
    np.save(tmp_path / "nodes.npy", np.zeros((3, 3)))
    for place in (tmp_path / "nodes.npy", tmp_path):
        with pytest.raises(ConfigError, match=f"{batch.name}:test. Received: {place}"):
            batch.table(str(place))


def test_data_of_another_kind_are_refused(project: Project, built: Project) -> None:
    batch = Batch(project, built, "curves")
    with pytest.raises(ConfigError, match=r"curves of 0 classes \(curves\). Received: images of"):
        batch.table("digits")


def test_data_of_another_range_are_refused(project: Project, built: Project) -> None:
    batch = Batch(project, built, "images")
    fits(batch.version, batch.dataset.card, batch.dataset.card)
    bright = batch.dataset.card.model_copy(update={"name": "bright", "value_max": 255.0})
    with pytest.raises(ConfigError, match=r"0 to 16 \(digits\). Received: 0 to 255 \(bright\)"):
        fits(batch.version, batch.dataset.card, bright)
