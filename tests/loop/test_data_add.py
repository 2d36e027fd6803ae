"""`chapterflow data add` as a user calls it, and what can then be done with the data."""

import gzip
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Run, invoke
from tests.loop.test_bad_input import write_idx
from tests.photos import photo_folder, picture

pytestmark = pytest.mark.slow


def test_a_folder_is_added_verified_and_listed(checkout: Path, tmp_path: Path) -> None:
    folder = photo_folder(tmp_path / "pets")
    add = ("data", "add", "pets", "--kind", "images")
    picture(1).point(lambda _: 9).save(folder / "cat" / "1.png")
    result = invoke(checkout, *add, str(folder))
    assert result.returncode == 3, result.stderr
    assert "not-blank" in result.stderr
    assert not (checkout / "datasets.yaml").exists()
    assert not (checkout / "data" / "pets").exists()

    picture(1).save(folder / "cat" / "1.png")
    # A relative path, from where the user is.
    result = invoke(checkout, *add, os.path.relpath(folder, checkout), "--title", "Pets of mine")
    assert result.returncode == 0, result.stderr
    assert "28 train, 4 validation, 8 test" in result.stdout
    assert invoke(checkout, "data", "verify").stdout.strip() == "pets: ok"
    listed = json.loads(invoke(checkout, "data", "list", "--json").stdout)["datasets"]
    (pets,) = [record for record in listed if record["dataset"] == "pets"]
    assert pets["here"]
    assert pets["examples"] == {"train": 28, "validation": 4, "test": 8}

    result = invoke(checkout, *add, str(folder))
    assert (result.returncode, "--force replaces it" in result.stderr) == (2, True)
    result = invoke(checkout, "run", "cnn", "--data", "pets")
    assert result.returncode == 2
    assert "The model 'cnn' takes images. Received: 'pets'" in result.stderr
    result = invoke(checkout, "run", "--data", "pets")
    assert (result.returncode, "needs the names of models" in result.stderr) == (2, True)


def test_own_idx_files_are_added_and_learnt(
    run_flow: Run, checkout: Path, mirror: Path, tmp_path: Path
) -> None:
    for file in (mirror / "mnist").glob("*.gz"):
        content = gzip.decompress(file.read_bytes())
        sides = 3 if "images" in file.name else 1
        shape = np.frombuffer(content, ">u4", sides, offset=4)
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * sides)
        write_idx(tmp_path / file.name, values.reshape(shape)[::10])
    result = invoke(checkout, "data", "add", "own", str(tmp_path), "--kind", "idx")
    assert result.returncode == 0, result.stderr
    assert "5,400 train, 600 validation, 1,000 test" in result.stdout
    result = run_flow(
        checkout,
        *("run", "dnn", "--data", "own", "--json"),
        *("--set", "models.dnn.epochs=8", "--set", "models.dnn.batch_size=128"),
    )
    assert result.returncode == 0, result.stderr
    (model,) = json.loads(result.stdout)["models"]
    assert (model["dataset"], model["status"]) == ("own", "trained")
    assert model["metrics"]["test/accuracy"] > 0.9


def test_own_graphs_are_added_and_learnt(run_flow: Run, checkout: Path, mirror: Path) -> None:
    path = mirror / "tudataset" / "MUTAG.zip"
    result = invoke(checkout, "data", "add", "own", str(path), "--kind", "tu")
    assert result.returncode == 0, result.stderr
    assert "133 train, 19 validation, 36 test" in result.stdout
    assert f"after a change of {path}: `chapterflow data fetch --force own`" in result.stdout
    chapter = checkout / "report" / "index.html"
    chapter.parent.mkdir(exist_ok=True)
    chapter.write_text("the chapter's page")
    result = run_flow(
        checkout,
        *("run", "gcn", "--data", "own", "--json"),
        *("--set", "models.gcn.folds=0", "--set", "models.gcn.epochs=5"),
        *("--set", "models.gcn.schedule=cosine"),  # A constant rate needs more epochs.
        *("--set", "models.gcn.beside={}"),
        report=True,
    )
    assert result.returncode == 0, result.stderr
    assert "The profile 'book' fits data like 'own'" in result.stderr
    actual = json.loads(result.stdout)
    (model,) = actual["models"]
    assert (actual["profile"], model["dataset"], model["status"]) == ("book", "own", "trained")
    # So few epochs do not lift the accuracy on 36 molecules above that of the larger class. The
    # probabilities must know more than how frequent the classes are: two thirds are mutagenic.
    assert model["metrics"]["test/log_loss"] < 0.6365
    # The page of one's own data leaves the chapter's as it is.
    assert chapter.read_text() == "the chapter's page"
    assert model["run_id"] in (checkout / "report" / "own" / "index.html").read_text()


def test_own_photos_are_transferred_to_without_another_word(
    run_flow: Run, checkout: Path, mirror: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(mirror / "images" / "catanddog.zip") as archive:
        for name in archive.namelist():
            pet = Path(name)
            if "train" in pet.parts and pet.suffix == ".jpg" and int(pet.stem) < 40:
                place = tmp_path / "pets" / pet.parent.name / pet.name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(archive.read(name))
    result = invoke(checkout, "data", "add", "pets", str(tmp_path / "pets"), "--kind", "images")
    assert result.returncode == 0, result.stderr
    result = run_flow(
        checkout,
        *("run", "transfer", "--data", "pets", "--json"),
        *("--set", "models.transfer.epochs=10", "--set", "models.transfer.batch_size=8"),
        *("--set", "models.transfer.beside={}"),
        *("--set", "evaluation.latency_batch=4", "--set", "evaluation.latency_repeats=10"),
    )
    assert result.returncode == 0, result.stderr
    (model,) = json.loads(result.stdout)["models"]
    assert (model["dataset"], model["status"]) == ("pets", "trained")
    assert model["metrics"]["test/accuracy"] > 0.7


def test_data_that_are_not_what_they_are_said_to_be_are_reported_in_a_line(
    checkout: Path, tmp_path: Path
) -> None:
    folder = photo_folder(tmp_path / "pets", each=10)
    (folder / "cat" / "3.png").write_bytes((folder / "cat" / "3.png").read_bytes()[:200])
    (tmp_path / "empty").mkdir()
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as archive:
        archive.writestr("G/G_A.txt", "1, 2\n" * 1000)
    whole = (tmp_path / "whole.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    for end in ("allx", "ally", "y"):
        (hostile / f"ind.x.{end}").write_bytes(b"cos\nsystem\n(S'touch run'\ntR.")
    (tmp_path / "a.csv").write_text("Datum;Wert\n2020-01-01;1,5\n")
    for kind, path, says in (
        ("images", "pets", "cat/3.png must be an intact JPEG, PNG"),
        ("images", "empty", "must hold a folder for each class"),
        ("images", "cut.zip", "cut.zip must be an intact zip archive"),
        ("tu", "cut.zip", "cut.zip must be an intact zip archive"),
        ("tu", "pets", "no NAME_graph_indicator.txt"),
        ("planetoid", "hostile", "os.system, which could run code"),
        ("csv", "a.csv", "separated by semicolons"),
        ("voxels", "pets", "must name a .npz file"),
    ):
        result = invoke(checkout, "data", "add", "own", str(tmp_path / path), "--kind", kind)
        assert (result.returncode, says in result.stderr) == (2, True), result.stderr
        assert "Traceback" not in result.stderr
    assert not (checkout / "run").exists()
    assert not (checkout / "datasets.yaml").exists()


@pytest.mark.fault(
    "Byte of a dataset flipped before `data fetch` or `data add`",
    "Refused with exit code 1; data.dvc is unchanged",
)
def test_no_version_is_recorded_of_damaged_data(
    fetched: Path, tmp_path: Path, record_property: Any
) -> None:
    root = fetched
    before = (root / "data.dvc").read_bytes()
    images = root / "data" / "digits" / "images.npy"
    content = bytearray(images.read_bytes())
    content[-1] ^= 1
    images.write_bytes(content)
    folder = photo_folder(tmp_path / "pets")
    for words in (("fetch",), ("add", "pets", str(folder), "--kind", "images")):
        refused = invoke(root, "data", *words)
        assert refused.returncode == 1, refused.stderr
        assert "images.npy: content changed" in refused.stderr
        assert "data fetch --force digits` builds it" in " ".join(refused.stderr.split())
        assert (root / "data.dvc").read_bytes() == before
    assert not (root / "data" / "pets").exists()
    assert not (root / "datasets.yaml").exists()
    restored = invoke(root, "data", "fetch", "--force", "digits")
    assert restored.returncode == 0, restored.stderr
    assert (root / "data.dvc").read_bytes() == before
    record_property("saw", "exit 1 twice; data.dvc unchanged; --force restored the version")
