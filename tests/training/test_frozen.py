"""A head is trained on kept features, joined with what was frozen, and fine-tuned where asked."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from chapterflow.errors import ChapterflowError, ConfigError, DataError
from chapterflow.kinds.dataset import Dataset, open_dataset
from chapterflow.models.catalog import get_model
from chapterflow.training.history import EpochRecord
from tests.small_images import colours, digits

pytestmark = pytest.mark.usefixtures("tensorflow")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return colours(tmp_path / "data" / "photos", count=48)


@pytest.fixture
def weights(tmp_path: Path, tensorflow: None) -> str:
    """Weights of `small`, as if it had been trained elsewhere."""
    import keras

    from chapterflow.models.base import InputSpec
    from chapterflow.models.layers.backbones import BackboneParams, backbone

    keras.utils.set_random_seed(7)
    model = backbone(
        BackboneParams(backbone="small", weights="none"), InputSpec((8, 8, 3), 2, 255.0)
    )
    model.save_weights(tmp_path / "small.weights.h5")
    return str(tmp_path / "small.weights.h5")


def params_of(weights: str, **options: Any) -> Any:
    small = {"epochs": 3, "batch_size": 8, "learning_rate": 0.01, "backbone": "small"}
    return get_model("transfer").params(role="photos", **(small | {"weights": weights} | options))


def train(
    params: Any,
    dataset: Dataset,
    work: Path,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    name: str = "transfer",
    entry: Any = None,
) -> Any:
    from chapterflow.training.fit import fit

    return fit(entry or get_model(name), params, dataset, seed=5, work=work, on_epoch=on_epoch)


def loaded(work: Path) -> Any:
    import keras

    from chapterflow.models import layers as custom_layers

    custom_layers.register()
    return keras.saving.load_model(work / "model.keras", compile=False)


def weights_by_layer(model: Any) -> dict[str, list[Any]]:
    return {layer.name: layer.get_weights() for layer in model.layers if layer.weights}


def moved(first: Any, second: Any) -> set[str]:
    """Return the layers whose weights differ."""
    old, new = weights_by_layer(first), weights_by_layer(second)
    return {
        name
        for name in old
        if not all(np.array_equal(a, b) for a, b in zip(old[name], new[name], strict=True))
    }


def scratch_of(tmp_path: Path, run: str = "run") -> Path:
    return tmp_path / "scratch" / "work" / run


@pytest.mark.slow
def test_only_the_head_is_trained_and_features_are_made_once(
    dataset: Dataset, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chapterflow.training import frozen as features

    written: list[int] = []
    write = features._write
    monkeypatch.setattr(
        features, "_write", lambda *words: (written.append(len(words[3])), write(*words))
    )
    epochs: list[int] = []
    work = scratch_of(tmp_path)
    params = params_of(weights)
    training = train(params, dataset, work, lambda record: epochs.append(record.epoch))
    assert epochs == [1, 2, 3] == [record.epoch for record in training.history]
    assert written == [36]  # train and validation; the test split is not looked at
    fresh = get_model("transfer").build(params, dataset.card.input_spec)
    assert moved(fresh, loaded(work)) == {"logits"}
    # Another pooling, head and seed use the same features.
    other = {"pooling": "flatten", "dense": 16, "epochs": 30, "learning_rate": 0.003}
    train(params_of(weights, **other), dataset, scratch_of(tmp_path, "other"))
    assert written == [36]
    # The whole model answers to raw pixels: better than chance on what is easy.
    test = dataset.indices("test")
    logits = np.asarray(loaded(scratch_of(tmp_path, "other"))(dataset.inputs(test)))
    assert (logits.argmax(1) == dataset.labels[test]).mean() > 0.8


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_weights(
    dataset: Dataset, weights: str, tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    def kill(record: EpochRecord) -> None:
        if record.epoch == 5:  # the second epoch of the fine-tuning
            raise Killed

    params = params_of(weights, fine_tune=2, fine_tune_epochs=3, dropout=0.2)
    whole = train(params, dataset, scratch_of(tmp_path))
    work = scratch_of(tmp_path, "killed")
    with pytest.raises(Killed):
        train(params, dataset, work, kill)
    seen: list[int] = []
    resumed = train(params, dataset, work, lambda record: seen.append(record.epoch))
    assert resumed.resumed_from == 5
    assert seen == [1, 2, 3, 4, 5, 6]
    assert [r.train_loss for r in resumed.history] == [r.train_loss for r in whole.history]
    assert not moved(loaded(scratch_of(tmp_path)), loaded(work))


def test_fine_tuning_moves_the_top_layers_alone(
    dataset: Dataset, weights: str, tmp_path: Path
) -> None:
    params = params_of(weights, fine_tune=2, fine_tune_epochs=2, fine_tune_learning_rate=0.01)
    work = scratch_of(tmp_path)
    training = train(params, dataset, work)
    assert [record.epoch for record in training.history] == [1, 2, 3, 4, 5]
    assert training.chosen_epoch == 5
    fresh = get_model("transfer").build(params, dataset.card.input_spec)
    # Not the batch normalisation: neither its weights nor its running averages.
    assert moved(fresh, loaded(work)) == {"conv3", "conv4", "logits"}


@pytest.mark.slow
def test_fine_tuning_that_makes_it_worse_is_dropped(
    dataset: Dataset, weights: str, tmp_path: Path
) -> None:
    params = params_of(
        weights, fine_tune=4, fine_tune_epochs=1, fine_tune_learning_rate=1.0, patience=5
    )
    training = train(
        params.model_copy(update={"schedule": "constant"}), dataset, scratch_of(tmp_path)
    )
    assert len(training.history) == 4
    assert training.chosen_epoch <= 3
    fresh = get_model("transfer").build(params, dataset.card.input_spec)
    assert moved(fresh, loaded(scratch_of(tmp_path))) == {"logits"}


@pytest.mark.slow
def test_augmented_passes_are_kept_too(dataset: Dataset, weights: str, tmp_path: Path) -> None:
    augment = {"passes": 2, "rotation": 20.0, "shift": 0.1, "shear": 0.1, "zoom": 0.1}
    augment |= {"flip": True, "brightness": 0.2}
    params = params_of(weights, augment=augment)
    training = train(params, dataset, scratch_of(tmp_path))
    assert training.images == 3 * 24 * 3  # epochs, train examples, plain and two passes
    kept = [np.load(path) for path in (tmp_path / "scratch/features").glob("*/features.npy")]
    assert sorted(map(len, kept)) == [24, 24, 36]
    first, second = (one for one in kept if len(one) == 24)
    assert not np.allclose(first, second)
    # The same again, and computed anew, is the same.
    train(params, dataset, tmp_path / "elsewhere" / "work" / "run")
    again = [np.load(p) for p in (tmp_path / "elsewhere/features").glob("*/features.npy")]
    for one in again:
        assert any(np.array_equal(one, other) for other in kept)


@pytest.mark.slow
def test_from_scratch_everything_is_trained(dataset: Dataset, tmp_path: Path) -> None:
    params = params_of("none", trainable=True, augment={"passes": 1, "flip": True, "zoom": 0.1})
    work = scratch_of(tmp_path)
    train(params, dataset, work)
    assert not (tmp_path / "scratch" / "features").exists()
    fresh = get_model("transfer").build(params, dataset.card.input_spec)
    assert moved(fresh, loaded(work)) == set(weights_by_layer(fresh))


def test_wrong_scale_is_caught_before_training(
    weights: str, dataset: Dataset, tmp_path: Path
) -> None:
    class Divided(type(dataset)):  # type: ignore[misc]
        def inputs(self, chosen: Any) -> Any:
            return super().inputs(chosen) / 255

    twice = Divided(dataset.card, dataset.folder, dataset.arrays)
    with pytest.raises(DataError, match="check_backbone_input"):
        train(params_of(weights), twice, scratch_of(tmp_path))
    with pytest.raises(DataError, match="check_backbone_input"):
        train(params_of("none", trainable=True), twice, scratch_of(tmp_path, "scratch"))


def test_parts_that_do_not_fit_together_are_refused(
    weights: str, dataset: Dataset, tmp_path: Path
) -> None:
    entry = get_model("transfer")
    wrong = dataclasses.replace(
        entry,
        build=lambda params, data: entry.build(
            params.model_copy(update={"preprocessing": "none"}), data
        ),
    )
    with pytest.raises(ChapterflowError, match="must give the logits of its parts"):
        train(params_of(weights), dataset, scratch_of(tmp_path), entry=wrong)


@pytest.fixture
def roles(tmp_path: Path) -> Dataset:
    """The embedded profile's photos, with the pretext data beside them."""
    digits(tmp_path / "data" / "pretext", range(5), 20, 4, 2)
    return digits(tmp_path / "data" / "photos", range(5, 10), 10, 4, 12)


@pytest.mark.slow
def test_pretext_weights_are_trained_once_and_hub_uses_the_same(
    roles: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chapterflow.training import weights as pretext

    monkeypatch.setattr(pretext, "RECIPE", pretext.RECIPE.model_copy(update={"epochs": 1}))
    options = {"pooling": "avg", "epochs": 8}
    works = {name: scratch_of(tmp_path, name) for name in ("transfer", "hub")}
    train(params_of("pretext", **options), roles, works["transfer"])
    (trained,) = (tmp_path / "scratch/backbones").glob("*/small.weights.h5")
    stamp = trained.stat().st_mtime_ns
    hub = get_model("hub").params(
        role="photos", handle="pretext", batch_size=8, learning_rate=0.01, **options
    )
    train(hub, roles, works["hub"], name="hub")
    assert trained.stat().st_mtime_ns == stamp
    assert list((tmp_path / "scratch/backbones").glob("*.weights.h5")) == []
    test = roles.indices("test")
    answers = {
        name: np.asarray(loaded(work)(roles.inputs(test))).argmax(1) for name, work in works.items()
    }
    # The same features up to rounding: at most one image in another class.
    assert np.sum(answers["transfer"] != answers["hub"]) <= 1
    # Deterministic: trained anew elsewhere, the weights are the same.
    again = pretext.ensure_backbone(open_dataset(tmp_path / "data/pretext"), tmp_path / "elsewhere")
    with h5py.File(trained) as one, h5py.File(again) as other:
        names: list[str] = []
        one.visit(names.append)
        actual = [name for name in names if isinstance(one[name], h5py.Dataset)]
        assert len(actual) == 20
        assert all(np.array_equal(one[name][()], other[name][()]) for name in actual)
    # Other code may train other weights.
    monkeypatch.setattr(pretext, "code_digest", lambda kind: "edited")
    pretext.ensure_backbone(open_dataset(tmp_path / "data/pretext"), tmp_path / "elsewhere")
    assert len(list((tmp_path / "elsewhere/backbones").glob("*/small.weights.h5"))) == 2


def test_pretext_weights_are_those_of_small(roles: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exist only for the backbone small"):
        train(params_of("pretext", backbone="MobileNet"), roles, scratch_of(tmp_path))


@pytest.mark.parametrize(("gone", "left"), [("transfer", "hub"), ("hub", "transfer")])
def test_either_model_can_be_deleted(gone: str, left: str) -> None:
    """Nothing that the other one or the training imports is the deleted file."""
    from chapterflow.loop.logged_model import module_hashes

    training = ("fit", "frozen", "weights", "pretext", "hub_export", "features")
    needed = module_hashes(
        [f"chapterflow.models.{left}", *(f"chapterflow.training.{name}" for name in training)]
    )
    assert f"src/chapterflow/models/{left}.py" in needed
    assert f"src/chapterflow/models/{gone}.py" not in needed


def test_an_edit_of_code_that_models_share_changes_the_keys_of_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chapterflow.training import frozen

    source = tmp_path / "layers.py"
    monkeypatch.setattr(frozen, "shared_sources", lambda: [source])
    digests = set()
    for text, kinds in (("a = 1", ()), ("a = 2", ()), ("a = 2", ("images",))):
        source.write_text(text)
        frozen.code_digest.cache_clear()
        digests.add(frozen.code_digest(*kinds))
    frozen.code_digest.cache_clear()
    assert len(digests) == 3
