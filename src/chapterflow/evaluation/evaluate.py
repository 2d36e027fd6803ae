"""Evaluate a trained model on the test split, once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from chapterflow.errors import DataError
from chapterflow.evaluation.cost import cost_metrics
from chapterflow.evaluation.denoising import denoising_metrics, filter_baselines
from chapterflow.evaluation.scores import (
    ClassScore,
    Metrics,
    check_metrics,
    classification_metrics,
    majority_accuracy,
)
from chapterflow.kinds.dataset import Dataset, Split
from chapterflow.models.base import ChapterModel, ModelParams, with_softmax
from chapterflow.training.batches import load_model, predict, sized_for
from chapterflow.training.history import Training
from chapterflow.types import Strict

if TYPE_CHECKING:
    import keras

    from chapterflow.config.settings import EvaluationParams


class Evaluation(Strict):
    """Scores of a model.

    Attributes:
        metrics: All final metrics by name.
        classes: Scores by class; none where the target is not a class.
        confusion: Counts, rows true classes, columns predicted ones.
        predictions: By name, for comparisons by example: `index` `(n,)`, the positions of the test
            examples in the dataset, and `label` `(n,)` with `probability` `(n, classes)`, float32,
            or else `prediction` `(n, length, 1)`. Not part of the JSON document.
    """

    metrics: Metrics
    classes: list[ClassScore]
    confusion: list[list[int]]
    predictions: dict[str, Any] = Field(default_factory=dict, exclude=True, repr=False)


def evaluate(
    entry: ChapterModel[Any],
    chosen: ModelParams,
    model_file: Path,
    training: Training,
    dataset: Dataset,
    params: EvaluationParams,
) -> Evaluation:
    """Score `model_file` on the test split of `dataset`.

    Args:
        entry: The chapter model.
        chosen: Its parameters.
        model_file: The saved Keras model; it answers logits where the target is a class.
        training: How it was trained.
        dataset: Its dataset.
        params: Bins, batch and repeats.

    Raises:
        DataError: If the dataset has no test split.
        ImplausibleMetric: If a figure cannot be true.
    """
    check_held_out(dataset)
    dataset = sized_for(entry, chosen, dataset)
    scored = score(load_model(model_file), dataset, params, file_bytes=model_file.stat().st_size)
    metrics = scored.metrics | {
        "train/seconds": training.seconds,
        "train/epochs": float(len(training.history)),
        "train/chosen_epoch": float(training.chosen_epoch),
        "train/images_per_second": training.images / training.seconds,
    }
    metrics = check_metrics(metrics)
    return scored.model_copy(update={"metrics": metrics})


def score(
    model: keras.Model, dataset: Dataset, params: EvaluationParams, *, file_bytes: int
) -> Evaluation:
    """Score a model on the test split of `dataset`, and measure what its answers cost.

    Args:
        model: It answers logits where the target is a class.
        dataset: Photos in the size that the model takes.
        params: Bins, batch and repeats.
        file_bytes: Size of the model's file.

    Raises:
        ImplausibleMetric: If a figure cannot be true.
    """
    test = dataset.indices("test")
    classes: list[ClassScore] = []
    confusion: list[list[int]] = []
    kept: dict[str, Any]
    if dataset.card.task.classes:
        answers = predict(with_softmax(model), dataset, "test")
        labels = np.asarray(dataset.labels[test])
        metrics, classes, counts = classification_metrics(
            labels, answers, dataset.card.classes, bins=params.calibration_bins
        )
        metrics["baseline/majority_accuracy"] = majority_accuracy(
            np.asarray(dataset.labels[dataset.indices("train")]), labels
        )
        confusion = counts.tolist()
        kept = {"label": labels, "probability": answers.astype(np.float32)}
    else:
        answers = predict(model, dataset, "test")
        metrics = _curve_scores(dataset, answers)
        kept = {"prediction": answers.astype(np.float32)}
    metrics |= cost_metrics(
        model,
        dataset,
        file_bytes=file_bytes,
        batch=params.latency_batch,
        repeats=params.latency_repeats,
    )
    metrics = check_metrics(metrics)
    return Evaluation(
        metrics=metrics,
        classes=classes,
        confusion=confusion,
        predictions={"index": test, **kept},
    )


def check_held_out(dataset: Dataset) -> None:
    """Refuse a dataset that keeps no examples back to score models on.

    Raises:
        DataError: If its test split is empty.
    """
    if not len(dataset.indices("test")):
        raise DataError(
            f"check_held_out: {dataset.card.name} must have test examples, which no training or "
            "choice has seen. Received: none. A score on train or validation would flatter the "
            "model: build the dataset with a test split"
        )


def _curve_scores(dataset: Dataset, answers: NDArray[Any]) -> Metrics:
    """Return the errors on the test curves, and the errors of the classical filters."""
    parts: dict[Split, Any] = {}
    for split in ("train", "test"):
        chosen = dataset.indices(split)
        parts[split] = (dataset.inputs(chosen), dataset.targets(chosen), dataset.weights(chosen))
    inputs, targets, weights = parts["test"]
    metrics: Metrics = denoising_metrics(targets, answers, weights, inputs=inputs)
    filters: Metrics = filter_baselines(*parts["train"], *parts["test"], rmse=metrics["test/rmse"])
    return metrics | filters
