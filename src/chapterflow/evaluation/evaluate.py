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
from chapterflow.models.base import ChapterModel, ModelParams
from chapterflow.training.batches import compiled, load_model, predict, sized_for
from chapterflow.training.history import Training
from chapterflow.types import Strict

if TYPE_CHECKING:
    import keras

    from chapterflow.config.settings import EvaluationParams


class Evaluation(Strict):
    """Scores of a model.

    Attributes:
        metrics: All final metrics by name.
        classes: Scores by class; empty if the target is not a class.
        confusion: Counts: rows are true classes, columns predicted classes.
        predictions: Arrays for comparisons by example: `index` `(n,)`, the positions of the test
            examples in the dataset, and `label` `(n,)` with `probability` `(n, classes)`, float32,
            or `prediction` `(n, length, 1)`. Not part of the JSON document.
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
    *,
    model: keras.Model | None = None,
) -> Evaluation:
    """Score `model_file` on the test split of `dataset`.

    Args:
        entry: The chapter model.
        chosen: Its parameters.
        model_file: The saved Keras model; it outputs logits if the target is a class.
        training: Record of its training.
        dataset: Its dataset.
        params: Calibration bins, latency batch and repeats.
        model: The model of the file, if it is loaded already.

    Raises:
        DataError: If the dataset has no test split.
        ImplausibleMetric: If a metric is impossible.
    """
    check_held_out(dataset)
    dataset = sized_for(entry, chosen, dataset)
    model = load_model(model_file) if model is None else model
    evaluation = score(model, dataset, params, file_bytes=model_file.stat().st_size)
    metrics = evaluation.metrics | {
        "train/seconds": training.seconds,
        "train/epochs": float(len(training.history)),
        "train/chosen_epoch": float(training.chosen_epoch),
        "train/images_per_second": training.images / training.seconds,
    }
    metrics = check_metrics(metrics)
    return evaluation.model_copy(update={"metrics": metrics})


def score(
    model: keras.Model, dataset: Dataset, params: EvaluationParams, *, file_bytes: int
) -> Evaluation:
    """Score a model on the test split of `dataset`, and measure the cost of its predictions.

    Args:
        model: A model that outputs logits if the target is a class.
        dataset: Dataset with photos at the size that the model takes.
        params: Calibration bins, latency batch and repeats.
        file_bytes: Size of the model's file.

    Raises:
        ImplausibleMetric: If a metric is impossible.
    """
    import keras

    test = dataset.indices("test")
    classes: list[ClassScore] = []
    confusion: list[list[int]] = []
    arrays: dict[str, Any]
    forward = compiled(model, dataset)
    predictions = predict(forward, dataset, "test")
    if dataset.card.task.classes:
        predictions = np.asarray(keras.ops.softmax(predictions))
        labels = np.asarray(dataset.labels[test])
        metrics, classes, counts = classification_metrics(
            labels, predictions, dataset.card.classes, bins=params.calibration_bins
        )
        metrics["baseline/majority_accuracy"] = majority_accuracy(
            np.asarray(dataset.labels[dataset.indices("train")]), labels
        )
        confusion = counts.tolist()
        arrays = {"label": labels, "probability": predictions.astype(np.float32)}
    else:
        metrics = _curve_scores(dataset, predictions)
        arrays = {"prediction": predictions.astype(np.float32)}
    metrics |= cost_metrics(
        model,
        dataset,
        forward,
        file_bytes=file_bytes,
        batch=params.latency_batch,
        repeats=params.latency_repeats,
    )
    metrics = check_metrics(metrics)
    return Evaluation(
        metrics=metrics,
        classes=classes,
        confusion=confusion,
        predictions={"index": test, **arrays},
    )


def check_held_out(dataset: Dataset) -> None:
    """Refuse a dataset without test examples.

    Raises:
        DataError: If its test split is empty.
    """
    if not len(dataset.indices("test")):
        raise DataError(
            f"check_held_out: {dataset.card.name} must have test examples, used neither for "
            "training nor for model selection. Received: none. Build the dataset with a test split"
        )


def _curve_scores(dataset: Dataset, predictions: NDArray[Any]) -> Metrics:
    """Return the errors of the model and of the classical filters on the test curves."""
    parts: dict[Split, Any] = {}
    for split in ("train", "test"):
        indices = dataset.indices(split)
        parts[split] = (
            dataset.inputs(indices),
            dataset.targets(indices),
            dataset.weights(indices),
        )
    inputs, targets, weights = parts["test"]
    metrics: Metrics = denoising_metrics(targets, predictions, weights, inputs=inputs)
    filters: Metrics = filter_baselines(*parts["train"], *parts["test"], rmse=metrics["test/rmse"])
    return metrics | filters
