"""params.yaml: what is refused, and how it is said."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from chapterflow.config import load
from chapterflow.config.load import apply_overrides, load_settings
from chapterflow.config.settings import Settings
from chapterflow.errors import ConfigError

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"


def test_the_committed_file_is_valid_in_both_profiles() -> None:
    embedded, book = load_settings(PARAMS), load_settings(PARAMS, profile="book")
    assert embedded.dataset_of("cnn") == "digits"
    assert book.dataset_of("cnn") == "mnist"
    assert embedded.params("cnn").epochs != book.params("cnn").epochs


def test_a_file_that_changes_or_is_overridden_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS.read_text())
    # Parsed texts are kept: changes of one call are not those of the next.
    changes = ["models.cnn.epochs=3", "evaluation.latency_batch=7"]
    assert load_settings(path, overrides=changes).params("cnn").epochs == 3
    kept = load_settings(path)
    assert kept.params("cnn").epochs != 3
    assert kept.evaluation.latency_batch != 7
    path.write_text(PARAMS.read_text().replace("latency_batch: 64", "latency_batch: 8"))
    assert load_settings(path).evaluation.latency_batch == 8


@pytest.mark.parametrize(
    ("override", "path", "received", "hint"),
    [
        ("models.cnn.epochs=-1", "models.cnn.epochs", "-1", "greater than 0"),
        ("models.cnn.batch_size=-32", "models.cnn.batch_size", "-32", "greater than 0"),
        ("models.cnn.batch_size=two", "models.cnn.batch_size", "'two'", "valid integer"),
        ("models.cnn.batch_size=2.5", "models.cnn.batch_size", "2.5", "valid integer"),
        ("models.cnn.epoch=3", "models.cnn.epoch", "", "'epochs'"),
        ("models.cnn.book.epoch=3", "models.cnn.book.epoch", "", "'epochs'"),
        ("promotion.floor.digits.book=high", "promotion.floor.digits.book", "'high'", "number"),
        ("promotion.margin.digits=2", "promotion.margin.digits", "2", "equal to 1"),
        ("promotion.ceiling=-1", "promotion.ceiling", "-1", "equal to 0"),
        ("promotion.floor.digts=0.9", "promotion.floor.digts: unknown role", "", "'digits'"),
        ("promotion.margin.photo=0.1", "promotion.margin.photo: unknown role", "", "'photos'"),
        ("promotion.floor.digits.bok=0.9", "promotion.floor.digits.bok", "'bok'", "'book'"),
        ("roles.digits.bok=mnist", "roles.digits.bok", "'bok'", "'book'"),
        ("models.dnn.dropout=1.5", "models.dnn.dropout", "1.5", "less than 1"),
        ("models.lenet5.activation=rely", "models.lenet5.activation", "'rely'", "'relu'"),
        ("models.cnn.role=digit", "models.cnn.role", "'digit'", "'digits'"),
        (
            "models.dnn.beside={a: {change: {hiden: 8}}}",
            "dnn.beside.a.change.hiden",
            "",
            "'hidden'",
        ),
        ("models.dnn.beside={a: {change: {hidden: 0}}}", "a.change.hidden", "0", "greater than 0"),
        ("models.cnnn={}", "models.cnnn", "chapterflow/models/cnnn.py", "'cnn'"),
        ("roles.digits.book=mnits", "roles.digits.book", "'mnits'", "'mnist'"),
        ("datasets.mnist.kind=idxs", "datasets.mnist.kind", "'idxs'", "'idx'"),
        ("datasets.mnist.files.test_images.sha=0", "test_images.sha", "", "'sha256'"),
        ("datasets.digits.test=0.95", "datasets.digits", "1.05", "nothing to train on"),
        ("datasets.digits.test=0.0", "datasets.digits.test", "0.0", "greater than 0"),
        ("datasets.digits.validation=0.0", "digits.validation", "0.0", "greater than 0"),
        ("validation.images.mean_value=[0.9,0.1]", "mean_value", "[0.9, 0.1]", "lowest"),
        ("profile=emebdded", "profile", "'emebdded'", "'embedded'"),
        ("seed=-1", "seed", "-1", "greater than or equal to 0"),
        ("sead=1", "sead", "", "'seed'"),
        ("models=[]", "models", "[]", "mapping"),
        ("questions.transfer.model=transfr", "transfer.model", "'transfr'", "'transfer'"),
        ("questions.transfer.against=hub", "questions.transfer", "hub", "not two of"),
    ],
)
def test_a_fault_is_one_line_with_path_value_and_hint(
    override: str, path: str, received: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(PARAMS, overrides=[override])
    message = str(caught.value)
    assert message.count("\n") == 0
    assert path in message
    assert received in message
    assert hint in message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        (
            "validation.images",
            "Add `images:` below `validation:` in params.yaml, with the keys class_divergence, "
            "duplicates, mean_value, value_use, or defaults to ImageExpectations.",
        ),
        (
            "validation.images.duplicates",
            "Add `duplicates:` below `validation: images:` in params.yaml, or defaults to "
            "ImageExpectations.",
        ),
        ("comparison", "Add `comparison:` to params.yaml, with the keys bootstrap_resamples."),
        ("models.dnn.role", "Add `role:` below `models: dnn:` in params.yaml."),
        ("datasets.digits.seed", "Add `seed:` below `datasets: digits:` in params.yaml."),
        ("datasets.digits.kind", "Add `kind:`, which names the source: csv-series, curves, idx,"),
    ],
)
def test_a_missing_key_says_where_to_add_it(tmp_path: Path, key: str, advice: str) -> None:
    path = tmp_path / "params.yaml"
    document = block = yaml.safe_load(PARAMS.read_text())
    *parents, last = key.split(".")
    for parent in parents:
        block = block[parent]
    del block[last]
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    assert str(caught.value).startswith(f"{key}: missing. {advice}")
    assert str(caught.value).count("\n") == 0


def test_a_missing_key_of_an_own_dataset_names_its_file() -> None:
    own: dict[str, dict[str, object]] = {
        "datasets": {"mine": {"kind": "sklearn-digits"}},
        "roles": {},
    }
    with pytest.raises(ConfigError, match=r"below `datasets: mine:` in datasets\.yaml"):
        load_settings(PARAMS, own=own)


def test_the_embedded_dataset_of_a_role_bears_its_name_in_the_files(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    document = yaml.safe_load(PARAMS.read_text())
    document["roles"]["digits"]["embedded"] = "photos"
    path.write_text(yaml.safe_dump(document))
    refused = r"^roles\.digits\.embedded: must be 'digits', .*dvc\.yaml.* Received: 'photos'\. Ren"
    with pytest.raises(ConfigError, match=refused):
        load_settings(path)
    own = {"datasets": {}, "roles": {"digits": {"embedded": "photos"}}}
    with pytest.raises(ConfigError, match=r"^roles\.digits\.embedded"):
        load_settings(PARAMS, own=own)
    settings = load_settings(PARAMS, overrides=["roles.digits.embedded=photos"])
    assert settings.dataset_of("cnn") == "photos"


def test_a_model_without_a_block_is_reported_what_it_lacks() -> None:
    settings = load_settings(PARAMS)
    with pytest.raises(ConfigError, match=r"^vgg: chapterflow/models has the file"):
        settings.check_names(["cnn", "vgg"], settings.models.keys() - {"vgg"}, "model")


def test_a_name_in_capitals_is_recognised() -> None:
    settings = load_settings(PARAMS)
    with pytest.raises(ConfigError, match="Did you mean 'cnn'"):
        settings.check_names(["CNN"], settings.models, "model")


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(PARAMS, overrides=["models.cnn.epochs=0", "models.dnn.hiden=3", "seed=x"])
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("- a\n- b\n", "must hold a mapping"),
        ("seed: [1\n", "line 2, column 1: not valid YAML"),
        ("seed: 1\nseed: 2\n", "line 2: duplicate key 'seed'"),
        ("seed: !!python/object/apply:os.system [true]\n", "not valid YAML"),
        (f"%YAML 1.{'1' * 5000}\n", "not valid YAML: Exceeds the limit"),
    ],
)
def test_a_file_that_holds_no_settings(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"params\.yaml") as caught:
        load_settings(path)
    assert says in str(caught.value)


def test_a_missing_or_binary_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path / "params.yaml")


def test_an_override_wins_over_the_profile_block() -> None:
    settings = load_settings(PARAMS, profile="book", overrides=["models.cnn.epochs=7"])
    assert settings.params("cnn").epochs == 7


def test_a_group_of_parameters_that_the_file_leaves_out_can_be_set() -> None:
    settings = load_settings(
        PARAMS,
        profile="book",
        overrides=[
            "models.transfer.augment.passes=2",
            "models.transfer.augment.zoom=0.1",
            "models.gcn.beside.gin.train=false",
        ],
    )
    augment = settings.params("transfer").augment  # type: ignore[attr-defined]
    assert (augment.passes, augment.zoom) == (2, 0.1)
    gin = settings.params("gcn").beside["gin"]  # only the block of the book profile has it
    assert (gin.train, gin.change["convolution"]) == (False, "gin")
    with pytest.raises(ConfigError, match=r"models\.transfer\.augment\.pases"):
        load_settings(PARAMS, overrides=["models.transfer.augment.pases=2"])
    with pytest.raises(ConfigError, match=r"models\.cnn\.augment"):
        load_settings(PARAMS, overrides=["models.cnn.augment.passes=2"])


@pytest.mark.parametrize("override", ["seed", "=3", "models..cnn=1", "seed.x=1", "modles.cnn.a=1"])
def test_an_override_that_leads_nowhere(override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        load_settings(PARAMS, overrides=[override])


@given(st.dictionaries(st.sampled_from(["a", "b"]), st.integers()), st.integers())
def test_an_override_changes_its_key_alone(document: dict[str, int], value: int) -> None:
    before = dict(document)
    apply_overrides(document, [f"c={value}"])
    assert document == before | {"c": value}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["seed", "models", "cnn", "roles", "kind", "x"]), inner, max_size=3
            )
        ),
        max_leaves=8,
    ),
    st.sampled_from(["seed", "roles", "datasets", "models", "validation", "tracking"]),
)
def test_nonsense_is_refused_and_never_crashes(value: object, key: str) -> None:
    override = f"{key}={yaml.safe_dump(value, default_flow_style=True)}"
    try:
        settings = load_settings(PARAMS, overrides=[override])
    except ConfigError:
        return
    assert isinstance(settings, Settings)


def test_a_copied_block_may_not_fetch_the_files_of_the_first() -> None:
    copied = yaml.safe_load(PARAMS.read_text())["datasets"]["mnist"]

    def override(block: dict[str, object]) -> str:
        return f"datasets.mine={yaml.safe_dump(block, default_flow_style=True, width=9999)}"

    with pytest.raises(
        ConfigError, match=r"datasets\.mine\.mirror: 'mnist' is the folder of 'mnist'"
    ):
        load_settings(PARAMS, overrides=[override(copied)])
    del copied["mirror"]
    assert "mine" in load_settings(PARAMS, overrides=[override(copied)]).datasets


def test_settings_are_frozen() -> None:
    settings = load_settings(PARAMS)
    with pytest.raises(ValueError, match="frozen"):
        settings.seed = 3  # type: ignore[misc]


@pytest.mark.fault("YAML that is damaged, endless or deep", "One line with the place; exit 2")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed: 2001-99-99", r"line 1, column [17]: .*'2001-99-99' is no valid timestamp"),
        ("seed: !!int x", "'x' is no valid int"),
        ("seed: !!bool x", "'x' is no valid bool"),
        ("seed: !!float x", "'x' is no valid float"),
        ("seed: " + "9" * 5000, "is no valid int"),
        ("seed: 0x" + "f" * 5000, "is no valid number of 128 bits"),
        # A line each: PyYAML looks at all open brackets of a line for each that follows.
        ("seed: " + "[\n" * 20_000, "nested too deeply"),
        ("a: &a [1, 1]\n" + "".join(f"{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 30))
         .replace("*a0", "*a"), "at most 100,000 values"),
        ("&a [*a]", "at most 100,000 values"),
        ("{[1]: 2}", "unhashable key"),
        ("a: 1\na: 2", "line 2: duplicate key 'a'"),
        ("a: \0", "not valid YAML"),
    ],
)  # fmt: skip
def test_damaged_yaml_is_one_line(
    text: str, says: str, tmp_path: Path, record_property: Any
) -> None:
    (tmp_path / "datasets.yaml").write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        load.read_own(tmp_path / "datasets.yaml")
    assert "\n" not in str(caught.value)
    if not text.startswith("a:"):
        with pytest.raises(ConfigError, match=says):
            load.apply_overrides({"seed": 1}, [f"seed={text.removeprefix('seed: ')}"])
    record_property("saw", "ConfigError in one line")


def test_a_file_that_is_too_large_or_no_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "datasets.yaml"
    path.write_text("#" * (load.MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="at most 1,048,576 characters"):
        load.read_own(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="must be a regular file"):
        load.read_own(path)
