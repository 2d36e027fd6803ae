"""Variants of a model: same data, seed and code, other parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from chapterflow.errors import ConfigError
from chapterflow.evaluation.cost import flops
from chapterflow.evaluation.denoising import denoising_metrics
from chapterflow.evaluation.scores import Metrics, accuracy_interval, check_metrics
from chapterflow.kinds.dataset import Dataset
from chapterflow.models.base import ChapterModel, ModelParams
from chapterflow.training.batches import input_spec, load_model, predict, sized_for, sparse_inputs
from chapterflow.training.epochs import built
from chapterflow.training.fit import fit
from chapterflow.training.folds import cross_validate
from chapterflow.training.history import MODEL_FILE


def score_variants(
    entry: ChapterModel[Any],
    params: ModelParams,
    dataset: Dataset,
    *,
    seed: int,
    work: Path,
    scratch: Path | None = None,
    tell: Callable[[str], None] = lambda name: None,
) -> Metrics:
    """Train and score the variants in a model's parameters.

    Args:
        entry: The chapter model.
        params: Its parameters, with the variants in `beside`.
        dataset: Its dataset.
        seed: Seed of every training.
        work: Folder of the model's training; each variant has a subfolder and resumes there.
        scratch: Folder of cached features and backbones, as in `fit`.
        tell: Called with the name of each variant before it starts.

    Returns:
        `beside/<variant>/parameters` and `.../flops`; for trained variants also
        `.../train_seconds` and `.../accuracy` with its 95 % interval, or `.../rmse`.
    """
    import numpy as np

    metrics: Metrics = {}
    for name, variant in params.beside.items():
        tell(name)
        own, scores = params.variant(name), {}
        data = sized_for(entry, own, dataset)
        test = data.indices("test")
        if variant.train:
            folder = work / "beside" / name
            training = fit(entry, own, dataset, seed=seed, work=folder, scratch=scratch)
            model = load_model(folder / MODEL_FILE)
            predictions = predict(model, data, "test")
            scores["train_seconds"] = training.seconds
            if data.card.task.classes:
                correct = int((predictions.argmax(axis=-1) == data.labels[test]).sum())
                scores["accuracy"] = correct / len(test)
                scores["accuracy_low"], scores["accuracy_high"] = accuracy_interval(
                    correct, len(test)
                )
            else:
                targets, weights = data.targets(test), data.weights(test)
                mask = np.ones(targets.shape[:2], np.float32) if weights is None else weights
                errors = denoising_metrics(targets, predictions, mask, inputs=data.inputs(test))
                scores["rmse"] = errors["test/rmse"]
        else:
            from chapterflow.training.weights import with_files

            own = with_files(own, data, scratch or work.parent.parent)
            model = built(entry, own, input_spec(entry, own, data), seed=seed)
        scores["parameters"] = float(model.count_params())
        example = sparse_inputs(data) if data.kind.whole else data.inputs(test[:1])
        scores["flops"] = float(flops(model, example))
        metrics |= {f"beside/{name}/{key}": value for key, value in scores.items()}
    return check_metrics(metrics)


def cross_validated(
    entry: ChapterModel[Any],
    params: ModelParams,
    dataset: Dataset,
    *,
    seed: int,
    work: Path,
    tell: Callable[[str], None] = lambda fold: None,
) -> Metrics:
    """Cross-validate a model and its variants, and return their accuracies.

    Args:
        entry: The chapter model.
        params: Its parameters, with `folds` and the variants in `beside`.
        dataset: Its dataset.
        seed: Seed of the folds and of every training.
        work: Folder of the model's training; each cross-validation has a subfolder and resumes
            there.
        tell: Called with the name of the model and the fold before each fold starts.

    Returns:
        `cv/...` of the model (listed in `chapterflow.training.folds`), and
        `beside/<variant>/cv_...` of each trained variant.

    Raises:
        ConfigError: If the dataset is not a set of graphs.
    """
    if not dataset.kind.folds:
        raise ConfigError(
            f"folds must be 0 for {dataset.card.kind!r} data: only graph datasets support "
            f"cross-validation. Received: {params.folds}. Set folds: 0"
        )

    def validated(own: ModelParams, name: str) -> Metrics:
        return cross_validate(
            entry,
            own,
            dataset,
            folds=params.folds,
            seed=seed,
            work=work / "folds" / name,
            tell=lambda fold: tell(f"{name}, {fold}"),
        )

    metrics = validated(params, entry.name)
    for name, variant in params.beside.items():
        if variant.train:
            for key, value in validated(params.variant(name), name).items():
                label = key.removeprefix("cv/").replace("/", "_")
                metrics[f"beside/{name}/cv_{label}"] = value
    return check_metrics(metrics)
