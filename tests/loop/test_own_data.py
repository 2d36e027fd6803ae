"""A user's own data: checked aside, then part of the project; nothing where a check fails."""

import io
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from chapterflow.cli.run import print_accepted
from chapterflow.config.load import load_settings
from chapterflow.data.build import verify_dataset
from chapterflow.data.source import UserData
from chapterflow.environment import Project
from chapterflow.errors import ChapterflowError, ConfigError, DataError, ValidationFailed
from chapterflow.kinds.dataset import read_card
from chapterflow.loop import steps
from chapterflow.loop.own_data import add_dataset, build_block, check_name
from chapterflow.tracking.fingerprint import validation_folder
from tests.photos import fill, photo_folder, picture
from tests.validation.conftest import without_data_docs  # noqa: F401


def add(project: Project, folder: Path, name: str = "pets", **options: Any) -> Any:
    block = build_block("images", UserData(folder, 5))
    return add_dataset(project, name, block, **options)


def state(project: Project) -> dict[str, bytes]:
    """Return what must not change where nothing is added: all but verdicts and locks."""
    aside = (project.scratch / "locks", project.scratch / "validation")
    return {
        str(path.relative_to(project.root)): path.read_bytes()
        for path in sorted(project.root.rglob("*"))
        if path.is_file() and not any(place in path.parents for place in aside)
    }


def test_added_data_are_a_dataset_like_any_other(project: Project, tmp_path: Path) -> None:
    added = add(project, photo_folder(tmp_path / "pets"), role="photos")
    assert added.card.counts == {"train": 28, "validation": 4, "test": 8}
    assert added.checks == 20
    settings = load_settings(project.params)
    assert settings.roles["photos"] == {"embedded": "photos", "book": "pets"}
    prepared = steps.prepare(project, settings, "pets", build=False)
    assert not prepared.built
    assert verify_dataset(project.data / "pets") == []
    out = validation_folder(project, settings, prepared.dataset, prepared.digest)
    assert (out / "verdict.json").is_file()
    assert steps.validate(project, settings, prepared).success
    assert not (project.scratch / "adding" / "pets").exists()


def blank(folder: Path) -> None:
    picture(1).point(lambda _: 9).save(folder / "cat" / "1.png")


def copied(folder: Path) -> None:
    for number in range(10):
        picture(number).save(folder / "dog" / f"copy{number}.png")


def damaged(folder: Path) -> None:
    (folder / "cat" / "1.png").write_bytes(b"no photo")


@pytest.mark.usefixtures("without_data_docs")
@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (blank, ValidationFailed, "not-blank"),
        (copied, ValidationFailed, "one-split"),
        (damaged, DataError, r"cat/1\.png must be"),
    ],
)
def test_where_a_check_fails_nothing_is_written(
    project: Project, tmp_path: Path, spoil: Any, error: type[ChapterflowError], says: str
) -> None:
    before = state(project)
    folder = photo_folder(tmp_path / "pets")
    spoil(folder)
    with pytest.raises(error, match=says) as caught:
        add(project, folder)
    assert state(project) == before
    if error is ValidationFailed:
        (page,) = [line for line in str(caught.value).splitlines() if "Details: " in line]
        assert Path(page.rpartition(": ")[2]).is_file()


def rare_cats(folder: Path) -> Path:
    """Write 15 cats and 60 dogs: 0.19 nats from equal shares."""
    fill(folder / "cat", range(15))
    fill(folder / "dog", range(1000, 1060))
    return folder


@pytest.mark.usefixtures("without_data_docs")
@pytest.mark.fault(
    "Dataset with a rare class", "Refused with setting, value and command; accepted by --accept"
)
def test_bounds_are_accepted_for_one_dataset_and_recorded_on_its_card(
    project: Project, tmp_path: Path, record_property: Any
) -> None:
    folder = rare_cats(tmp_path / "pets")
    with pytest.raises(ValidationFailed) as refused:
        add(project, folder)
    way_on = "--accept class_divergence=0.21"
    assert way_on in str(refused.value)
    added = add(project, folder, accept=["class-balance"])
    assert added.card.accepted == {"class_divergence": 0.21}
    assert read_card(project.data / "pets") == added.card
    (own,) = yaml.safe_load((project.root / "datasets.yaml").read_text())["datasets"].values()
    assert own["accept"] == {"class_divergence": 0.21}
    # What was added is what settings describe: it is neither built nor validated again.
    settings = load_settings(project.params)
    prepared = steps.prepare(project, settings, "pets", build=False)
    verdict = steps.validate(project, settings, prepared)
    assert "accepted for pets: class_divergence 0.21, not 0.05" in verdict.summary
    console = Console(record=True, file=io.StringIO(), width=100)
    print_accepted(console, project, ["digits", "pets", "pets"])
    line = "pets: validated with bounds of its own: class_divergence 0.21."
    assert console.export_text().splitlines() == [line]
    # Another bound is another card, of the same bytes: nothing is read again.
    shutil.rmtree(folder)
    (project.root / "datasets.yaml").write_text(
        (project.root / "datasets.yaml").read_text().replace("0.21", "0.3")
    )
    prepared = steps.prepare(project, load_settings(project.params), "pets")
    assert prepared.digest != added.card.digest
    card = read_card(project.data / "pets")
    assert (card.accepted, card.files) == ({"class_divergence": 0.3}, added.card.files)
    record_property("saw", f"exit {refused.value.exit_code}: {way_on}; then 0.21 on the card")


@pytest.mark.parametrize(
    ("accept", "says"),
    [
        ("not-blank", "takes a check with a bound, or its setting. Received: 'not-blank'"),
        ("class-balanc", "Did you mean 'class_divergence'"),
        ("class-balance=much", "takes a number, or two .*Received: 'much'"),
        ("duplicates=2", "datasets.pets.accept.duplicates: input should be less than or equal"),
        ("min_side=0.5", "datasets.pets.accept.min_side: input should be a valid integer"),
    ],
)
def test_what_cannot_be_accepted(project: Project, tmp_path: Path, accept: str, says: str) -> None:
    (tmp_path / "pets").mkdir()
    with pytest.raises(ConfigError, match=says):
        add(project, tmp_path / "pets", accept=[accept])


@pytest.mark.slow
def test_a_replacement_that_fails_leaves_what_was_there(project: Project, tmp_path: Path) -> None:
    folder = photo_folder(tmp_path / "pets")
    add(project, folder)
    before = state(project)
    blank(folder)
    with pytest.raises(ConfigError, match="--force replaces it"):
        add(project, folder)
    with pytest.raises(ValidationFailed, match="not-blank"):
        add(project, folder, force=True)
    assert state(project) == before
    (folder / "cat" / "1.png").unlink()
    (folder / "cat" / "2.png").unlink()
    assert sum(add(project, folder, force=True).card.counts.values()) == 38
    assert sum(read_card(project.data / "pets").counts.values()) == 38


@pytest.mark.parametrize("name", ["Pets", "a b", "", "../x", "-x", "a/b"])
def test_names_that_are_none(project: Project, name: str) -> None:
    with pytest.raises(ConfigError, match="lower-case letters"):
        check_name(project, name, force=True)


def test_names_of_params_yaml_are_taken_even_by_force(project: Project) -> None:
    with pytest.raises(ConfigError, match=r"'mnist' is a dataset of params\.yaml"):
        check_name(project, "mnist", force=True)


@pytest.mark.parametrize(
    ("role", "says"),
    [
        ("photo", "Unknown role: 'photo'. Did you mean 'photos'"),
        (
            "digits",
            "The role 'digits' takes images. Received: 'pets', which is of the kind photos. "
            "Roles that take it: photos",
        ),
    ],
)
def test_a_role_must_exist_and_fit(project: Project, tmp_path: Path, role: str, says: str) -> None:
    before = state(project)
    with pytest.raises(ConfigError, match=says):
        add(project, photo_folder(tmp_path / "pets"), role=role)
    assert state(project) == before


@pytest.mark.parametrize("kind", ["images", "csv", "photos"])
@pytest.mark.parametrize(
    ("shares", "says"),
    [
        ({"test": 1.5}, r"--test must be between 0 and 1\. Received: 1\.5"),
        ({"validation": 0.0}, r"--validation must be between 0 and 1\. Received: 0"),
        ({"test": 0.6, "validation": 0.5}, r"together less than 1\. Received: 1\.1"),
    ],
)
def test_shares_that_cannot_be_are_refused(
    tmp_path: Path, kind: str, shares: dict[str, float], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        build_block(kind, UserData(tmp_path, 5, **shares))


@pytest.mark.slow
def test_what_was_added_before_stays(project: Project, tmp_path: Path) -> None:
    add(project, photo_folder(tmp_path / "a"), "a")
    add(project, photo_folder(tmp_path / "b"), "b", role="photos")
    own = yaml.safe_load((project.root / "datasets.yaml").read_text())
    assert list(own["datasets"]) == ["a", "b"]
    assert own["roles"] == {"photos": {"book": "b"}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dataset: {}", "datasets.yaml: unknown key 'dataset'. Did you mean 'datasets'"),
        ("datasets: [1]", "datasets.yaml: datasets must be a mapping"),
        ("datasets: {mnist: {kind: idx}}", "'mnist' is in params.yaml too"),
        ("datasets: {a: {kind: idxx}}", "datasets.a.kind: unknown source 'idxx'"),
        ("datasets: {a: {}, a: {}}", "datasets.yaml, line 1: duplicate key 'a'"),
        ("roles: {photo: {book: mnist}}", "roles.photo must be a role of params.yaml"),
        ("roles: {photos: {book: nist}}", "roles.photos.book: unknown dataset 'nist'"),
        ("datasets: {", "datasets.yaml, line"),
        ("", "datasets.yaml is empty"),
    ],
)
def test_faults_of_datasets_yaml_are_reported(project: Project, text: str, says: str) -> None:
    (project.root / "datasets.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(project.params)
    assert says in str(caught.value)


def test_set_reaches_own_datasets(project: Project) -> None:
    (project.root / "datasets.yaml").write_text(
        "datasets: {mine: {kind: sklearn-digits, seed: 5, validation: 0.1, test: 0.1}}"
    )
    settings = load_settings(project.params, overrides=["datasets.mine.seed=7"])
    assert settings.datasets["mine"].model_dump()["seed"] == 7
