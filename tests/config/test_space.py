"""What a sweep varies: ranges and choices on the command line, and their way into params.yaml."""

import difflib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chapterflow.config.load import load_settings, parse_yaml
from chapterflow.config.space import (
    Range,
    read_space,
    with_parameters,
    with_values,
    yaml_text,
)
from chapterflow.environment import Project
from chapterflow.errors import ConfigError
from tests.conftest import REPOSITORY

PARAMS = REPOSITORY / "params.yaml"


def dimension(model: str, override: str) -> Any:
    space, _ = read_space(PARAMS, model, [f"models.{model}.{override}"])
    (only,) = space.dimensions
    return only


def test_a_range_takes_the_type_of_its_parameter() -> None:
    rate = dimension("cnn", "learning_rate=log:1e-4..1e-2")
    assert rate == Range("learning_rate", "log:1e-4..1e-2", 1e-4, 1e-2, log=True)
    assert dimension("cnn", "dense=16..256") == Range("dense", "16..256", 16, 256, False, True)
    assert not dimension("dnn", "learning_rate=1..2").whole
    assert dimension("cnn", "patience=3..20").whole  # or null


def test_choices_have_any_type() -> None:
    assert dimension("cnn", "dense=64,128,256").values == (64, 128, 256)
    assert list(dimension("cnn", "learning_rate=1e-4, 0.01").values) == [1e-4, 0.01]
    assert list(dimension("lenet5", "activation=relu,tanh").values) == ["relu", "tanh"]
    assert list(dimension("cnn", "patience=null,5").values) == [None, 5]
    lists = dimension("xcnn", "dense=[128, 64],[64]")
    assert lists.values == ([128, 64], [64])
    assert [lists.value(label) for label in lists.labels()] == [[128, 64], [64]]


def test_what_is_no_dimension_is_kept_for_all_trials() -> None:
    given_ = ["seed=7", "models.xcnn.dense=[8, 4]", "models.xcnn.epochs=1..3"]
    space, settings = read_space(PARAMS, "xcnn", given_)
    assert space.fixed == ("seed=7", "models.xcnn.dense=[8, 4]")
    assert settings.seed == 7
    assert space.size() == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("models.cnn.learning_rte=log:1e-4..1e-2", "Did you mean 'learning_rate'"),
        ("models.cnn.learning_rate=log:1e-4..20", "less than or equal to 10. Received: 20"),
        ("models.cnn.learning_rate=0..0.1", "greater than 0. Received: 0"),
        ("models.cnn.dense=16,0", "greater than 0. Received: 0"),
        ("models.cnn.dense=1.5..9", "integer"),
        ("models.cnn.dense=16,big", "Received: 'big'"),
        ("models.lenet5.activation=relu,tan", "Received: 'tan'"),
        ("models.cnn.learning_rate=log:0..1", "above 0. Received: log:0..1"),
        ("models.cnn.learning_rate=log:fast", "Received: log:fast"),
        ("models.cnn.dense=9..9", "LOW below HIGH"),
        ("models.cnn.dense=64,64", "two different choices. Received: 64,64"),
        ("models.cnn.dense=64", "at least one --set with a range"),
        ("models.dnn.hidden=1..9", "varies parameters below models.cnn"),
        ("seed=1..9", "varies parameters below models.cnn"),
        ("models.cnn.role=digits,photos", "cannot vary role"),
        ("models.cnn.book.epochs=1..3", "--profile chooses"),
    ],
)
def test_what_is_refused(override: str, message: str) -> None:
    model = "lenet5" if "lenet5" in override else "cnn"
    with pytest.raises(ConfigError, match=r"Received|Did you mean") as refused:
        read_space(PARAMS, model, [override])
    assert message in str(refused.value)


def test_a_parameter_that_another_decides_cannot_vary() -> None:
    with pytest.raises(ConfigError, match="another parameter decides it"):
        read_space(PARAMS, "cnn", ["models.cnn.recipe=book", "models.cnn.learning_rate=0.1,0.2"])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False)
    | st.text("abc: #,-[]{}'\"1e", max_size=8),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@given(VALUES)
def test_a_value_survives_the_command_line(value: Any) -> None:
    assert parse_yaml(yaml_text(value), "value") == value


@given(st.floats(1e-8, 1.0), st.floats(1e-8, 1.0), st.floats(0.0, 1.0))
def test_rounding_stays_within_the_bounds(one: float, other: float, share: float) -> None:
    low, high = min(one, other), max(one, other)
    value = Range("rate", "", low, high, log=False).rounded(low + share * (high - low))
    assert low <= value <= high


def changes(before: str, after: str) -> list[str]:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return [line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---")]


@pytest.mark.parametrize(
    ("model", "profile", "values", "expected"),
    [
        (
            "cnn",
            "embedded",
            {"learning_rate": 0.00123, "dense": 64},
            [
                "-    learning_rate: 0.003", "+    learning_rate: 0.00123",
                "-    dense: 128", "+    dense: 64",
            ],
        ),
        ("cnn", "embedded", {"beta_2": 0.9}, ["+    beta_2: 0.9"]),
        ("cnn", "book", {"learning_rate": 1e-05}, ["-      learning_rate: 0.004",
                                                   "+      learning_rate: 1.0e-05"]),
        ("conv1d", "book", {"kernel": 7}, [
            "-    book: {epochs: 8, own_scale: true, filters: 16}",
            "+    book: {epochs: 8, own_scale: true, filters: 16, kernel: 7}",
        ]),
        ("conv3d", "book", {"blocks": 2}, ["+    book: {blocks: 2}"]),
        ("xcnn", "book", {"augment.rotation": 3.0}, ["-        rotation: 9",
                                                     "+        rotation: 3.0"]),
        ("xcnn", "embedded", {"dense": [8], "augment.passes": 2}, [
            "-    dense: [128, 64, 32]", "+    dense: [8]", "+    augment: {passes: 2}",
        ]),
        ("gcn-node", "embedded", {"hidden": 8}, ["-    hidden: 16", "+    hidden: 8"]),
    ],
)  # fmt: skip
def test_only_the_lines_of_the_values_change(
    model: str, profile: str, values: dict[str, Any], expected: list[str], project: Project
) -> None:
    before = PARAMS.read_text()
    after = with_parameters(before, model, profile, values)
    assert sorted(changes(before, after)) == sorted(expected)
    project.params.write_text(after)
    actual = load_settings(project.params, profile=profile).params(model)
    assert actual == with_values(load_settings(PARAMS, profile=profile).params(model), values)


@pytest.mark.parametrize(("model", "profile"), [("gcn", "book"), ("transfer", "embedded")])
def test_every_parameter_of_a_model_can_be_set(model: str, profile: str, project: Project) -> None:
    before = load_settings(PARAMS, profile=profile)
    values = before.params(model).model_dump(exclude={"role", "beside", "folds"})
    project.params.write_text(with_parameters(PARAMS.read_text(), model, profile, values))
    assert load_settings(project.params, profile=profile).params(model) == before.params(model)
