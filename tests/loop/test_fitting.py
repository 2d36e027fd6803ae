"""Which data a model can learn, and in which profile."""

from pathlib import Path
from typing import get_args

import pytest

from chapterflow.config.load import load_settings
from chapterflow.data.source import get_source, source_names
from chapterflow.errors import ConfigError
from chapterflow.kinds.dataset import kind_names
from chapterflow.loop.own_data import fitting_models, fitting_profile, role_overrides

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"


@pytest.mark.parametrize("name", source_names())
def test_a_source_has_the_name_of_its_blocks_and_gives_a_kind(name: str) -> None:
    source = get_source(name)
    assert get_args(source.params.model_fields["kind"].annotation) == (name,)
    assert source.kind.name in kind_names()


def test_models_learn_another_dataset_of_their_kind_for_a_call() -> None:
    settings = load_settings(PARAMS)
    overrides = role_overrides(settings, ["cnn", "lenet5"], "mnist")
    assert overrides == ["roles.digits.embedded=mnist"]
    assert load_settings(PARAMS, overrides=overrides).dataset_of("cnn") == "mnist"
    says = (
        r"'cnn' takes images\. Received: 'catanddog'.* photos\. Models that take it: xcnn, "
        "transfer, hub"
    )
    with pytest.raises(ConfigError, match=says):
        role_overrides(settings, ["cnn"], "catanddog")
    with pytest.raises(ConfigError, match=r"Unknown dataset: 'mnits'\. Did you mean 'mnist'"):
        role_overrides(settings, ["cnn"], "mnits")


@pytest.mark.parametrize("name", ["17", "2001-99-99", "yes"])
def test_a_name_that_yaml_reads_otherwise_stays_a_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS.read_text())
    (tmp_path / "datasets.yaml").write_text(
        f'datasets:\n  "{name}": {{kind: sklearn-digits, seed: 5, validation: 0.1, test: 0.1}}\n'
    )
    path = tmp_path / "params.yaml"
    overrides = role_overrides(load_settings(path), ["cnn"], name)
    assert load_settings(path, overrides=overrides).dataset_of("cnn") == name


@pytest.mark.parametrize(
    ("models", "dataset", "profile"),
    [
        (["transfer"], "catanddog", "book"),
        (["xcnn"], "catanddog", "book"),
        (["transfer"], "photos", "embedded"),
        (["cnn", "dnn"], "mnist", "book"),
        (["gcn"], "mutag", "book"),
        (["conv1d"], "stocks", "book"),
        (["conv3d"], "solids", "embedded"),
        # Of no kind of source that a profile has for both: what is active stays.
        (["cnn", "gcn"], "mutag", "embedded"),
    ],
)
def test_the_profile_is_the_one_that_is_made_for_the_kind_of_data(
    models: list[str], dataset: str, profile: str
) -> None:
    assert fitting_profile(load_settings(PARAMS), models, dataset) == profile


def test_the_active_profile_goes_first_where_several_fit() -> None:
    for profile in ("embedded", "book"):
        settings = load_settings(PARAMS, profile=profile)
        assert fitting_profile(settings, ["conv3d"], "solids") == profile


def test_models_that_can_learn_photos_only_in_the_book_profile_are_found() -> None:
    settings = load_settings(PARAMS)
    assert fitting_models(settings, "catanddog") == ["xcnn", "transfer", "hub"]
    assert fitting_models(settings, "cora") == ["gcn-node"]
