"""Fit a chapter model: named weights become files, frozen parts run once, then the model trains."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chapterflow.files import staged
from chapterflow.kinds.dataset import Dataset
from chapterflow.models.base import ChapterModel, InputSpec, ModelParams
from chapterflow.training.batches import load_model, sized_for
from chapterflow.training.epochs import check_space_for, train
from chapterflow.training.frozen import check_joined, feature_dataset, frozen_part, joined
from chapterflow.training.history import MODEL_FILE, EpochRecord, Training

if TYPE_CHECKING:
    import keras


def fit(
    entry: ChapterModel[Any],
    params: ModelParams,
    dataset: Dataset,
    *,
    seed: int,
    work: Path,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    scratch: Path | None = None,
) -> Training:
    """Fit a model and save it as `work/model.keras`.

    A model without a frozen part is trained on batches or on the whole graph, depending on its
    dataset. Otherwise the frozen part runs once, the head is trained on the cached features (in
    `work/head`), both are joined, and the top layers are fine-tuned if the parameters ask for it
    (in `work/fine-tune`). Each phase resumes after an interruption; see
    `chapterflow.training.epochs.train`.

    Args:
        work: Folder that only this training uses.
        on_epoch: Called after each epoch is recorded; a resumed training first calls it for the
            earlier epochs.
        scratch: Folder of cached features and backbones; the grandparent of `work` by default.

    Returns:
        The training: epochs of the head or the whole model, then the epochs of fine-tuning.
    """
    scratch = scratch or work.parent.parent
    if entry.frozen is not None:
        # Imported here so that models without a frozen part do not load the download code.
        from chapterflow.training.weights import with_files

        dataset = sized_for(entry, params, dataset)
        params = with_files(params, dataset, scratch)
        frozen = frozen_part(entry, params, dataset, seed)
        if frozen is not None:
            return _fit_head(
                frozen,
                entry,
                params,
                dataset,
                seed=seed,
                work=work,
                scratch=scratch,
                on_epoch=on_epoch,
            )
    return train(entry, params, dataset, seed=seed, work=work, on_epoch=on_epoch)


def _fit_head(
    frozen: keras.Model,
    entry: ChapterModel[Any],
    params: ModelParams,
    dataset: Dataset,
    *,
    seed: int,
    work: Path,
    scratch: Path,
    on_epoch: Callable[[EpochRecord], None],
) -> Training:
    """Train the head on cached features, join both parts, save the model and fine-tune it."""
    if entry.head is None:
        raise TypeError(
            f"A model with a frozen part must have a head. Received: {entry.name} without one. "
            "Set head in its ChapterModel"
        )
    features = feature_dataset(frozen, dataset, params, scratch / "features", seed)
    tunable = [layer.name for layer in frozen.layers if _can_be_tuned(layer)]
    head = dataclasses.replace(entry, build=entry.head, frozen=None, head=None)
    training = train(head, params, features, seed=seed, work=work / "head", on_epoch=on_epoch)
    trained = load_model(work / "head" / MODEL_FILE)
    model = joined(entry, params, dataset.card.input_spec, trained, seed)
    check_joined(model, trained, dataset, features)
    check_space_for(model, work, f"the model {entry.name}")
    model.save(work / MODEL_FILE)
    if not getattr(params, "fine_tune", 0):
        return training
    return _fine_tune(
        entry, params, dataset, training, tunable, seed=seed, work=work, on_epoch=on_epoch
    )


def _can_be_tuned(layer: Any) -> bool:
    import keras

    return bool(layer.weights) and not isinstance(layer, keras.layers.BatchNormalization)


def _fine_tune(
    entry: ChapterModel[Any],
    params: Any,
    dataset: Dataset,
    training: Training,
    names: list[str],
    *,
    seed: int,
    work: Path,
    on_epoch: Callable[[EpochRecord], None],
) -> Training:
    """Train the head and the top layers of the frozen part at a low learning rate."""
    before = len(training.history)

    def unfrozen(params: Any, data: InputSpec) -> keras.Model:
        head = load_model(work / "head" / MODEL_FILE)
        trainable_layers = {*names[-params.fine_tune :], *(layer.name for layer in head.layers)}
        model = joined(entry, params.model_copy(update={"trainable": True}), data, head, seed)
        for layer in model.layers:
            layer.trainable = layer.name in trainable_layers
        return model

    def renumbered(record: EpochRecord) -> EpochRecord:
        return record.model_copy(update={"epoch": record.epoch + before})

    tuned = train(
        dataclasses.replace(entry, build=unfrozen, frozen=None, head=None),
        params.model_copy(
            update={
                "epochs": params.fine_tune_epochs,
                "learning_rate": params.fine_tune_learning_rate,
            }
        ),
        dataset,
        seed=seed,
        work=work / "fine-tune",
        on_epoch=lambda record: on_epoch(renumbered(record)),
    )
    history = [*training.history, *map(renumbered, tuned.history)]
    chosen = tuned.chosen_epoch + before
    losses = {record.epoch: record.validation_loss for record in history}
    if params.patience and losses[training.chosen_epoch] <= losses[chosen]:
        chosen = training.chosen_epoch  # fine-tuning did not improve the model
    else:
        with staged(work / MODEL_FILE) as new:
            shutil.copyfile(work / "fine-tune" / MODEL_FILE, new)
    return training.model_copy(
        update={
            "history": history,
            "chosen_epoch": chosen,
            "resumed_from": training.resumed_from + tuned.resumed_from,
            "seconds": training.seconds + tuned.seconds,
            "images": training.images + tuned.images,
        }
    )
