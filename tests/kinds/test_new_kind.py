"""A kind, a source and a model from another package take part in every step of the loop."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.conftest import call_several, command_environment, copy_checkout
from tests.loop import stores

#: The one file of a package that adds one-dimensional signals, each of one class.
FILE = '''
"""Spectra: signals of one length with a peak at the place of their class."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from chapterflow.data.source import Fetch, Source, SourceData
from chapterflow.data.splits import stratified_split
from chapterflow.kinds.dataset import Dataset
from chapterflow.kinds.dataset import Kind
from chapterflow.kinds import rows as facts
from chapterflow.models.base import ChapterModel, ModelParams
from chapterflow.types import DatasetBlock, Seed, Share, Strict


class Spectra(Dataset):
    ARRAYS = ("spectra", "labels", "split")

    def inputs(self, chosen):
        return np.asarray(self.arrays["spectra"][chosen], np.float32)


class SpectrumBounds(Strict):
    duplicates: Share = 0.01
    class_divergence: Annotated[float, Field(ge=0)] = 0.05


def rows(dataset):
    columns = {"label": np.asarray(dataset.labels), **facts.value_facts(dataset.arrays["spectra"])}
    return facts.example_rows(dataset.split, columns)


def expectations(card, bounds):
    return [
        *facts.count_checks(card),
        *facts.label_checks(card, bounds.class_divergence),
        *facts.copy_checks(bounds.duplicates),
    ]


KIND = Kind("spectra", Spectra, SpectrumBounds, rows, expectations, look="curve")


class PeakParams(DatasetBlock):
    kind: Literal["peaks"]
    seed: Seed
    count: int


def read(params: PeakParams, fetch: Fetch) -> SourceData:
    rng = np.random.default_rng(params.seed)
    labels = (np.arange(params.count) % 3).astype(np.uint8)
    spectra = rng.normal(0, 0.1, (params.count, 24, 1)).astype(np.float32)
    spectra[np.arange(params.count), 4 + 8 * labels] += 2
    split = stratified_split(labels, validation=0.2, test=0.2, seed=params.seed)
    return SourceData(
        arrays={"spectra": spectra, "labels": labels, "split": split},
        shape=(24, 1),
        classes=["left", "middle", "right"],
        value_max=3.0,
        title="Peaks at three places",
        source="generated",
        licence="CC0 1.0",
    )


SOURCE = Source("peaks", PeakParams, "spectra", read)


def build(params, data):
    import keras

    inputs = keras.Input(data.shape)
    x = keras.layers.Conv1D(4, 3, activation="relu", padding="same", name="conv")(inputs)
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(data.classes, name="logits")(x), name="finder")


MODEL = ChapterModel("finder", ModelParams, build, summary="Finds the peak")
'''
ENTRY_POINTS = """
[chapterflow.kinds]
spectra = weather_spectra
[chapterflow.sources]
peaks = weather_spectra
[chapterflow.models]
finder = weather_spectra
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, as pip would leave it in `site-packages`."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "weather_spectra.py").write_text(FILE, encoding="utf-8")
    about = folder / "weather_spectra-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: weather-spectra\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


@pytest.mark.slow
def test_a_kind_from_another_package_runs_through_every_step(
    installed: Path, tmp_path: Path, prefect_api: dict[str, str]
) -> None:
    root = tmp_path / "checkout"
    root.mkdir()
    copy_checkout(root)
    stores.keep_models(root, "dnn")
    stores.set_param(root, "datasets.spectra", {"kind": "peaks", "seed": 5, "count": 300})
    stores.set_param(root, "roles.spectra", {"embedded": "spectra", "book": "spectra"})
    stores.set_param(root, "models.finder", {"role": "spectra", "epochs": 5, "learning_rate": 0.02})
    paths = os.pathsep.join([command_environment(root)["PYTHONPATH"], str(installed)])

    two = np.zeros((2, 24, 1), np.float32)
    two[[0, 1], [4, 12]] = 2
    np.save(tmp_path / "two.npy", two)
    done = call_several(
        root,
        # Data, validation, training, evaluation, explanation, tracking, registry and report.
        "run finder",
        # A file, then an explanation, the report, and drift against the test split.
        f"predict finder/1 {tmp_path}/two.npy --out {tmp_path}/two.parquet",
        "explain finder/1 spectra:0",
        f"report --out {tmp_path}/page",
        f"predict finder/1 spectra:test --out {tmp_path}/test.parquet --json",
        PYTHONPATH=paths,
        **prefect_api,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    card = json.loads((root / "data" / "spectra" / "dataset.json").read_text())
    assert (card["kind"], card["counts"]["test"]) == ("spectra", 60)
    (run,) = stores.model_runs(root)
    database = root / "mlruns" / "mlflow.db"
    logged = f"FROM latest_metrics WHERE run_uuid = '{run['id']}'"
    metrics = dict(stores.query(database, f"SELECT key, value {logged}"))
    assert metrics["test/accuracy"] > 0.9
    assert [name for name in metrics if name.startswith("explain/")]
    (parts,) = (root / "mlruns").rglob(f"{run['id']}/artifacts/fingerprint.json")
    assert "weather_spectra.py" in json.loads(parts.read_text())["sources"]

    table = pq.read_table(tmp_path / "two.parquet")
    assert table["label"].to_pylist() == ["left", "middle"]
    document = json.loads(done.stdout[done.stdout.rindex("\n{\n") :])
    drift = {figure["name"]: figure["reading"] for figure in document["figures"]}
    assert drift["input mean"] == "like the test data"
    (file,) = (tmp_path / "page").glob("*.html")
    page = file.read_text(encoding="utf-8")
    assert "Peaks at three places" in page
    assert "finder" in page
