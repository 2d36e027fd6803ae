"""Folders of photos, in every layout that is taken, and what is wrong with the others."""

import contextlib
import os
import shutil
import socket
import stat
import unicodedata
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from chapterflow.config.load import load_settings
from chapterflow.data import archive as archives
from chapterflow.data.build import ensure_dataset, recipe, verify_dataset
from chapterflow.data.sources import image_folder
from chapterflow.data.sources.image_folder import ImageFolder
from chapterflow.environment import Project
from chapterflow.errors import DataError
from chapterflow.kinds.dataset import SPLITS, Dataset, open_dataset
from chapterflow.kinds.photos import open_photo
from chapterflow.types import RemoteFile
from tests.photos import fill, photo_folder, picture


def params(root: Path, **options: Any) -> ImageFolder:
    return ImageFolder(kind="image-folder", seed=5, path=str(root), **options)


def read(root: Path, **options: Any) -> dict[str, dict[str, list[str]]]:
    """Return the names of the files by split and class."""
    actual = image_folder.read(params(root, **options), no_fetch)
    by: dict[str, dict[str, list[str]]] = {}
    arrays = actual.arrays
    for name, code, label in zip(*(arrays[a] for a in ("files", "split", "labels")), strict=True):
        folder, split, of_class, file = str(name).split("/")
        assert (folder, split, of_class) == ("photos", SPLITS[code], actual.classes[label])
        assert actual.files[str(name)].name == file
        by.setdefault(split, {}).setdefault(of_class, []).append(file)
    return by


def no_fetch(file: RemoteFile) -> Path:
    raise AssertionError(f"{file.name} must not be fetched")


def read_zip(archive: Path, **options: Any) -> Any:
    file = RemoteFile(name=archive.name)
    block = ImageFolder(
        kind="image-folder", seed=5, file=file, upstream=[str(archive.parent)], **options
    )
    return image_folder.read(block, lambda _: archive)


def sizes(by: dict[str, dict[str, list[str]]]) -> dict[str, dict[str, int]]:
    return {s: {c: len(files) for c, files in classes.items()} for s, classes in by.items()}


def built(project: Project, block: str, *overrides: str) -> Dataset:
    (project.root / "datasets.yaml").write_text(block)
    settings = load_settings(project.params, overrides=overrides)
    ensure_dataset(project, "mine", settings.datasets["mine"], on_progress=lambda *_: None)
    return open_dataset(project.data / "mine")


def test_without_splits_both_are_drawn_and_stratified(tmp_path: Path) -> None:
    by = read(photo_folder(tmp_path), validation=0.1, test=0.2)
    assert sizes(by) == {
        "train": {"cat": 14, "dog": 14},
        "validation": {"cat": 2, "dog": 2},
        "test": {"cat": 4, "dog": 4},
    }
    assert by == read(tmp_path, validation=0.1, test=0.2)
    other = image_folder.read(params(tmp_path).model_copy(update={"seed": 6}), no_fetch)
    assert set(other.files) != {f"photos/{s}/{c}/{f}" for s in by for c in by[s] for f in by[s][c]}


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "VALID", "Testing")])
def test_given_splits_stay_as_they_are(tmp_path: Path, names: tuple[str, str, str]) -> None:
    for name, each in zip(names, (5, 3, 2), strict=True):
        photo_folder(tmp_path / name, each)
    assert sizes(read(tmp_path)) == {
        split: {"cat": each, "dog": each} for split, each in zip(SPLITS, (5, 3, 2), strict=True)
    }


def test_a_split_that_is_missing_is_drawn_from_train(tmp_path: Path) -> None:
    photo_folder(tmp_path / "train", 20)
    photo_folder(tmp_path / "validation", 3)
    actual = sizes(read(tmp_path, test=0.2))
    assert actual["validation"] == {"cat": 3, "dog": 3}
    assert actual["test"] == {"cat": 4, "dog": 4}
    (tmp_path / "validation").rename(tmp_path / "test")
    actual = sizes(read(tmp_path, validation=0.1))
    assert actual["test"] == {"cat": 3, "dog": 3}
    assert actual["validation"] == {"cat": 2, "dog": 2}


def test_validation_can_be_what_is_held_out(tmp_path: Path) -> None:
    photo_folder(tmp_path / "train", 20)
    photo_folder(tmp_path / "val", 3)
    by = read(tmp_path, test_from="validation", validation=0.1)
    assert sizes(by) == {
        "train": {"cat": 18, "dog": 18},
        "validation": {"cat": 2, "dog": 2},
        "test": {"cat": 3, "dog": 3},
    }
    assert by["test"]["dog"] == ["1000.png", "1001.png", "1002.png"]
    photo_folder(tmp_path / "test", 2)
    with pytest.raises(DataError, match=r"test_from.*Received: train, validation, test"):
        read(tmp_path, test_from="validation")
    with pytest.raises(DataError, match=r"test_from.*Received: no folders of splits"):
        read(tmp_path / "train", test_from="validation")


def test_folders_around_and_litter_do_not_matter(tmp_path: Path) -> None:
    root = photo_folder(tmp_path / "outer" / "inner")
    for litter in (".DS_Store", "cat/Thumbs.db", "cat/.hidden.png", "dog/desktop.ini"):
        (root / litter).write_bytes(b"x")
    (root / "README.txt").write_text("about")
    (tmp_path / "__MACOSX").mkdir()
    assert sum(sizes(read(tmp_path))["train"].values()) == 28


def no_classes(root: Path) -> None:
    shutil.rmtree(root / "cat")
    shutil.rmtree(root / "dog")


def one_class(root: Path) -> None:
    shutil.rmtree(root / "cat")


def empty_class(root: Path) -> None:
    (root / "emu").mkdir()


def flat(root: Path) -> None:
    no_classes(root)
    fill(root, range(3))


def photo_beside_the_classes(root: Path) -> None:
    fill(root, [7])


def classes_that_differ_in_case(root: Path) -> None:
    fill(root / "Cat", [7])


def files_that_differ_in_case(root: Path) -> None:
    fill(root / "cat", [7], ".PNG")


def unknown_extension(root: Path) -> None:
    (root / "cat" / "a.tiff").write_bytes(b"x")
    (root / "cat" / "labels.csv").write_bytes(b"x")


def folder_in_a_class(root: Path) -> None:
    fill(root / "cat" / "more", [7])


def class_beside_splits(root: Path) -> None:
    photo_folder(root / "train")


def only_a_test_folder(root: Path) -> None:
    no_classes(root)
    photo_folder(root / "test")


def split_twice(root: Path) -> None:
    no_classes(root)
    for name in ("train", "val", "valid"):
        photo_folder(root / name)


def class_missing_in_a_split(root: Path) -> None:
    no_classes(root)
    photo_folder(root / "train")
    photo_folder(root / "test")
    fill(root / "train" / "emu", [7])


def class_in_another_case_in_a_split(root: Path) -> None:
    no_classes(root)
    photo_folder(root / "train")
    photo_folder(root / "test")
    (root / "test" / "cat").rename(root / "test" / "CAT")


def unprintable_name(root: Path) -> None:
    fill(root / "cat", [7])
    (root / "cat" / "7.png").rename(root / "cat" / "7\n.png")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (no_classes, "a folder for each class, two or more. Received: no folder"),
        (one_class, "a folder for each class, two or more. Received: dog"),
        (empty_class, "emu must hold photos of its class. Received: an empty folder"),
        (flat, "Received: no folder, and 3 photos in none"),
        (photo_beside_the_classes, r"folder of its class. Received: 7\.png"),
        (classes_that_differ_in_case, "letter case. Received: 'Cat' and 'cat'"),
        (files_that_differ_in_case, r"letter case. Received: '7\.PNG' and '7\.png'"),
        (unknown_extension, r"photos only .*Received: a\.tiff, labels\.csv\."),
        (folder_in_a_class, "photos only .*Received: more/"),
        (class_beside_splits, "not both. Received: train together with cat, dog"),
        (only_a_test_folder, "a folder train. Received: test only"),
        (split_twice, "Received two for validation"),
        (class_missing_in_a_split, "Received in one of them only: emu"),
        (class_in_another_case_in_a_split, "letter case. Received: 'CAT' and 'cat'"),
        (unprintable_name, r"printable text. Received: '7\\n\.png'"),
    ],
)
def test_a_wrong_layout_is_reported(tmp_path: Path, spoil: Any, says: str) -> None:
    photo_folder(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=says):
        read(tmp_path)


def test_a_name_typed_on_two_systems_is_one_class(tmp_path: Path) -> None:
    # macOS writes 강아지 in jamo, others in syllables.
    for name, form, numbers in (
        ("강아지", "NFC", range(10)),
        ("강아지", "NFD", range(10, 20)),
        ("고양이", "NFD", range(1000, 1020)),
    ):
        fill(tmp_path / unicodedata.normalize(form, name), numbers)
    by = read(tmp_path)
    assert {name: len(files) for name, files in by["train"].items()} == {"강아지": 14, "고양이": 14}
    fill(tmp_path / unicodedata.normalize("NFD", "강아지"), [3])
    with pytest.raises(DataError, match=r"강아지: photos must have different names. .*3\.png"):
        read(tmp_path)


@pytest.mark.fault("Named pipe, socket or device among photos", "Refused at once; it is named")
@pytest.mark.parametrize("special", ["pipe", "socket", "device"])
def test_special_files_are_refused_and_not_read(
    special: str, tmp_path: Path, record_property: Any
) -> None:
    path = photo_folder(tmp_path / "pets") / "cat" / "x.png"
    with contextlib.ExitStack() as stack:
        if special == "pipe":
            os.mkfifo(path)
        elif special == "socket":
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind(os.path.relpath(path))
        else:
            path.symlink_to("/dev/zero")
        with pytest.raises(DataError, match=r"regular files only. Received: x\.png"):
            read(tmp_path / "pets")
        with pytest.raises(DataError, match=r"x\.png (must be a regular file|.*No such device)"):
            open_photo(path)
    record_property("saw", "refused, exit 2")


def test_damaged_photos_are_all_named_and_none_is_left_out(tmp_path: Path) -> None:
    photo_folder(tmp_path)
    path = tmp_path / "cat" / "3.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"cat/3\.png must .*\n1 of 40 photos"):
        read(tmp_path)
    for number in range(7):
        (tmp_path / "dog" / f"{1000 + number}.png").write_bytes(b"no photo")
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    result = str(caught.value)
    assert result.count("must be an intact") == 5
    assert "and 3 more\n8 of 40 photos" in result


def test_photos_of_12_bits_in_16_are_refused(tmp_path: Path) -> None:
    photo_folder(tmp_path)
    for number in range(5):
        values = np.asarray(picture(number).convert("L")).astype(np.uint16) << 4
        Image.fromarray(values).save(tmp_path / "cat" / f"{number}.png")
    with pytest.raises(DataError, match=r"nearly black.*no value above 4,080.*5 photos.*by 16,"):
        read(tmp_path)
    for number in range(5):
        with Image.open(tmp_path / "cat" / f"{number}.png") as image:
            values = np.asarray(image) << 4
        Image.fromarray(values).save(tmp_path / "cat" / f"{number}.png")
    assert read(tmp_path)


@pytest.mark.parametrize("path", ["gone", "file"])
def test_the_path_must_be_a_folder(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=f"folder of photos. Received: .*{path}"):
        read(tmp_path / path)


@pytest.mark.parametrize("given", [{}, {"path": "a", "file": {"name": "a.zip"}}])
def test_there_is_one_place(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="give one of path and file"):
        ImageFolder.model_validate({"kind": "image-folder", "seed": 5} | given)


def test_too_few_photos_for_the_splits_are_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Every split needs an example of each of the 2 classes"):
        read(photo_folder(tmp_path, 4))


def test_a_class_with_one_photo_is_named(tmp_path: Path) -> None:
    fill(photo_folder(tmp_path) / "emu", [7])
    with pytest.raises(DataError, match="class 'emu' has 1 of the 3 examples that it needs"):
        read(tmp_path)
    fill(tmp_path / "emu", range(7, 9))
    with pytest.raises(DataError, match=r"(class 'emu' has|of each of the 3 classes)"):
        read(tmp_path, test=0.6)


def test_where_it_lies_is_no_part_of_what_it_is(tmp_path: Path) -> None:
    one, other = (recipe(params(tmp_path / name, title=name)) for name in ("a", "b"))
    assert one == other


def zipped(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as out:
        for path in sorted(folder.rglob("*")):
            out.write(path, path.relative_to(folder.parent))
    return archive


def test_an_archive_is_the_same_dataset_as_its_folder(tmp_path: Path) -> None:
    folder = photo_folder(tmp_path / "pets")
    actual = read_zip(zipped(folder, tmp_path / "pets.zip"))
    same = image_folder.read(params(folder), no_fetch)
    assert list(actual.files) == list(same.files)
    for name, path in actual.files.items():
        assert path.read_bytes() == same.files[name].read_bytes()
    # What an interrupted reading has left does not stand in the way.
    assert list(read_zip(tmp_path / "pets.zip").files) == list(same.files)


def outside(archive: zipfile.ZipFile) -> None:
    archive.writestr("../outside.png", b"x")


def absolute(archive: zipfile.ZipFile) -> None:
    archive.writestr("/outside.png", b"x")


def backslash(archive: zipfile.ZipFile) -> None:
    member = zipfile.ZipInfo("x")
    member.filename = member.orig_filename = "..\\outside.png"
    archive.writestr(member, b"x")


def link(archive: zipfile.ZipFile) -> None:
    member = zipfile.ZipInfo("pets/cat/link.png")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(member, "/etc/passwd")


def twice(archive: zipfile.ZipFile) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("pets/cat/0.png", b"x")


def bomb(archive: zipfile.ZipFile) -> None:
    archive.writestr("pets/cat/b.bmp", bytes(5_000_000), zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize("attack", [outside, absolute, backslash, link, twice, bomb])
def test_an_archive_that_attacks_leaves_nothing_behind(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: Any
) -> None:
    monkeypatch.setattr(archives, "MAX_BYTES", 2_000_000)
    archive = zipped(photo_folder(tmp_path / "pets"), tmp_path / "pets.zip")
    with zipfile.ZipFile(archive, "a") as out:
        attack(out)
    shutil.rmtree(tmp_path / "pets")
    before = {path for path in tmp_path.rglob("*") if project.root not in path.parents}
    block = (
        "datasets:\n  mine:\n    kind: image-folder\n    seed: 5\n"
        f"    upstream: [{tmp_path}]\n    file: {{name: pets.zip}}\n"
    )
    with pytest.raises(DataError, match=r"pets\.zip"):
        built(project, block)
    assert {path for path in tmp_path.rglob("*") if project.root not in path.parents} == before
    assert not (project.data / "mine").exists()
    assert not list(project.scratch.rglob("*.png"))


def test_a_damaged_photo_in_an_archive_is_named_as_the_archive_names_it(tmp_path: Path) -> None:
    folder = photo_folder(tmp_path / "pets")
    (folder / "dog" / "1003.png").write_bytes(b"no photo")
    with pytest.raises(DataError, match=r"^pets\.zip/pets/dog/1003\.png must be") as caught:
        read_zip(zipped(folder, tmp_path / "pets.zip"))
    assert str(tmp_path) not in str(caught.value)


def test_without_address_and_mirror_it_says_what_to_do(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CHAPTERFLOW_MIRROR", raising=False)
    settings = load_settings(project.params)
    with pytest.raises(DataError, match=r"put it at images/catanddog\.zip .*data add NAME"):
        ensure_dataset(
            project, "catanddog", settings.datasets["catanddog"], on_progress=lambda *_: None
        )


def test_the_files_are_published_as_they_were_and_verified(
    project: Project, tmp_path: Path
) -> None:
    folder = photo_folder(tmp_path / "pets")
    picture(1).save(folder / "cat" / "1.jpg", quality=50)
    block = f"datasets:\n  mine: {{kind: image-folder, seed: 5, path: '{folder}'}}\n"
    dataset = built(project, block)
    assert verify_dataset(dataset.folder) == []
    (jpeg,) = dataset.folder.glob("photos/*/cat/1.jpg")
    assert jpeg.read_bytes() == (folder / "cat" / "1.jpg").read_bytes()
    assert str(tmp_path) not in (dataset.folder / "dataset.json").read_text()
    jpeg.write_bytes(jpeg.read_bytes()[:-1] + b"x")
    (fault,) = verify_dataset(dataset.folder)
    assert "cat/1.jpg: content changed" in fault


@pytest.mark.slow
def test_the_books_cats_and_dogs(
    project: Project, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAPTERFLOW_MIRROR", str(mirror))
    settings = load_settings(project.params, profile="book")
    card, _ = ensure_dataset(
        project, "catanddog", settings.datasets["catanddog"], on_progress=lambda *_: None
    )
    dataset = open_dataset(project.data / "catanddog")
    assert card.counts == {"train": 347, "validation": 38, "test": 98}
    assert card.classes == ["Cat", "Dog"]
    assert np.bincount(dataset.labels[dataset.indices("test")]).tolist() == [49, 49]
    batch = dataset.inputs(dataset.indices("test")[:8])
    assert batch.shape == (8, 224, 224, 3)
    assert verify_dataset(dataset.folder) == []
