"""Evaluate a trained model on the test split, once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chapterflow.data.card import Dataset
from chapterflow.evaluation.cost import cost_metrics
from chapterflow.evaluation.metrics import (
    ClassScore,
    Metrics,
    check_metrics,
    classification_metrics,
)
from chapterflow.models.parts.base import Strict, with_softmax
from chapterflow.training.fit import FORWARD_BATCH, Training
from chapterflow.training.pipeline import split_batches

if TYPE_CHECKING:
    from chapterflow.settings import EvaluationParams


class Evaluation(Strict):
    """Scores of a model.

    Attributes:
        metrics: All final metrics by name.
        classes: Scores by class.
        confusion: Counts, rows true classes, columns predicted ones.
    """

    metrics: Metrics
    classes: list[ClassScore]
    confusion: list[list[int]]


def evaluate(
    model_file: Path,
    training: Training,
    dataset: Dataset,
    params: EvaluationParams,
    *,
    predictions: Path,
) -> Evaluation:
    """Score `model_file` on the test split of `dataset`.

    Args:
        model_file: A saved Keras model that answers logits.
        training: How it was trained.
        dataset: Its dataset.
        params: Bins, batch and repeats.
        predictions: Written: an `.npz` with `index` (positions in the dataset), `label` and
            `probability` `(n, classes)`, for comparisons example by example.

    Raises:
        ImplausibleMetric: If a figure cannot be true.
    """
    import keras

    model = keras.saving.load_model(model_file, compile=False)
    test = dataset.indices("test")
    probabilities = with_softmax(model).predict(
        split_batches(dataset, "test", batch_size=FORWARD_BATCH), verbose=0
    )
    labels = np.asarray(dataset.labels[test])
    metrics, classes, confusion = classification_metrics(
        labels, probabilities, dataset.card.classes, bins=params.calibration_bins
    )
    metrics |= cost_metrics(
        model,
        file_bytes=model_file.stat().st_size,
        batch=params.latency_batch,
        repeats=params.latency_repeats,
    )
    metrics |= {
        "train/seconds": training.seconds,
        "train/epochs": float(len(training.history)),
        "train/chosen_epoch": float(training.chosen_epoch),
        "train/images_per_second": training.images / training.seconds,
    }
    check_metrics(metrics)
    np.savez_compressed(
        predictions, index=test, label=labels, probability=probabilities.astype(np.float32)
    )
    return Evaluation(metrics=metrics, classes=classes, confusion=confusion.tolist())
