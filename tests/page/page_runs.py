"""Runs as the tracking store returns them: real digits, real scores, made-up answers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chapterflow.config.load import load_settings
from chapterflow.evaluation.scores import classification_metrics
from chapterflow.evaluation.significance import Difference, differences
from chapterflow.kinds.dataset import Dataset
from chapterflow.page.material import Entry, Material
from chapterflow.tracking.records import RunFacts
from tests.conftest import REPOSITORY
from tests.small_images import digits

#: Share of answers that each model gets wrong.
MODELS = {"dnn": 0.5, "cnn": 0.05, "lenet5": 0.1}


def make_data(folder: Path) -> Dataset:
    """Write 200 digits, 80 of them for the test."""
    return digits(folder / "digits", range(10), train=10, validation=2, test=8)


def answers(dataset: Dataset, wrong: float, seed: int) -> dict[str, Any]:
    """Return what `predictions.npz` holds for a model that errs so often."""
    rng = np.random.default_rng(seed)
    index = dataset.indices("test")
    label = np.asarray(dataset.labels[index])
    logits = rng.normal(0, 1, (len(index), 10))
    logits[np.arange(len(index)), label] += np.where(rng.uniform(size=len(index)) < wrong, -1, 6)
    odds = np.exp(logits)
    probability = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    return {"index": index, "label": label, "probability": probability}


def make_run(
    dataset: Dataset, folder: Path, model: str, *, wrong: float = 0.1, more: Any = None
) -> RunFacts:
    """Write the artifacts of a run, and return its facts."""
    position = list(MODELS).index(model) if model in MODELS else len(model)
    run_id = f"{position:08d}{'abcdef12' * 3}"
    work = folder / run_id
    (work / "validation").mkdir(parents=True)
    kept = answers(dataset, wrong, position)
    np.savez_compressed(work / "predictions.npz", **kept)
    metrics, classes, confusion = classification_metrics(
        kept["label"], kept["probability"], dataset.card.classes, bins=10
    )
    metrics |= {
        "train/seconds": 5.0 + position,
        "cost/parameters": 9610.0 * (position + 1),
        "cost/flops": 19210.0 * (position + 1),
        "cost/latency_ms_median": 0.4 + 0.2 * position,
        **(more or {}),
    }
    evaluation = {
        "metrics": metrics,
        "classes": [score.model_dump() for score in classes],
        "confusion": confusion.tolist(),
    }
    history = [
        {
            "epoch": epoch, "train_loss": 2 / epoch, "train_accuracy": 1 - 0.5 / epoch,
            "validation_loss": 2.2 / epoch, "validation_accuracy": 1 - 0.6 / epoch,
            "learning_rate": 1e-3, "seconds": 0.1,
        }
        for epoch in range(1, 6)
    ]  # fmt: skip
    verdict = {
        "dataset": "digits", "dataset_digest": dataset.card.digest, "success": True,
        "examples": dataset.count,
        "results": [{
            "expectation": "label-set", "type": "expect_column_values_to_be_in_set",
            "column": "label", "description": "a wrong label", "success": True,
            "expected": "in 0 to 9", "observed": "0 to 9", "offending": [], "offending_count": 0,
        }],
    }  # fmt: skip
    training = {"history": history, "chosen_epoch": 4}
    for name, content in (
        ("evaluation.json", evaluation), ("training.json", training),
        ("dataset.json", dataset.card.model_dump()), ("validation/verdict.json", verdict),
    ):  # fmt: skip
        (work / name).write_text(json.dumps(content))
    return RunFacts(
        label=model,
        run_id=run_id,
        model=model,
        dataset=dataset.card.name,
        tags={
            "chapterflow.profile": "embedded",
            "chapterflow.role": "digits",
            "chapterflow.test_digest": dataset.card.test_digest,
            "chapterflow.dataset_digest": dataset.card.digest,
            "chapterflow.data_version": "3277d0195f7e1b58.dir",
            "chapterflow.fingerprint": f"{position}" * 64,
            "mlflow.source.git.commit": "6e5cca3bbe" * 4,
            "chapterflow.git_dirty": "true",
            "mlflow.note.content": f"**{model}**, trained on `digits`",
        },
        params={"seed": "5"},
        metrics=metrics,
        started=1_795_570_000_000 + position,
        folder=work,
    )


def explain(
    facts: RunFacts, keys: Sequence[str] = ("walk", "attributions"), side: int = 300
) -> None:
    """Add the artifacts of an explanation to a run."""
    import PIL.Image

    folder = facts.folder / "explain"
    folder.mkdir()
    rng = np.random.default_rng(1)
    pictures = []
    for step, key in enumerate(keys):
        PIL.Image.fromarray(rng.integers(0, 255, (side, side, 3), np.uint8)).save(
            folder / f"{key}.png"
        )
        caption = f"{key} of {facts.model}"
        pictures.append({"key": key, "step": step, "file": f"{key}.png", "caption": caption})
    document = {
        "metrics": {
            "explain/grad-cam/deletion_auc": 0.321,
            "explain/grad-cam/insertion_auc": 0.654,
            "explain/grad-cam/random_deletion_auc": 0.5,
            "explain/grad-cam/beats_random": 0.0,
            "explain/seconds": 1.5,
        },
        "pictures": pictures,
        "details": {
            "architecture": [
                {"name": name, "kind": kind, "output_shape": shape, "parameters": parameters}
                for name, kind, shape, parameters in (
                    ("pixels", "InputLayer", [8, 8, 1], 0), ("conv", "Conv2D", [8, 8, 32], 320),
                    ("drop", "Dropout", [8, 8, 32], 0), ("flat", "Flatten", [2048], 0),
                    ("logits", "Dense", [10], 20490),
                )
            ]
        },
    }  # fmt: skip
    (folder / "explain.json").write_text(json.dumps(document))


def compared(facts: Sequence[RunFacts]) -> list[Difference]:
    """Return the differences between runs, as `steps.compare` finds them."""
    predicted, labels = {}, np.empty(0)
    for fact in facts:
        with np.load(fact.folder / "predictions.npz") as kept:
            predicted[fact.label] = kept["probability"].argmax(axis=1)
            labels = kept["label"]
    seconds = {fact.label: fact.metrics["train/seconds"] for fact in facts}
    return differences("digits", labels, predicted, seconds, resamples=200, seed=5)


def make_material(root: Path) -> Material:
    """Return what a page of three models of digits is made from."""
    dataset = make_data(root / "data")
    facts = [
        make_run(dataset, root / "runs", model, wrong=wrong) for model, wrong in MODELS.items()
    ]
    return Material(
        profile="embedded",
        entries=[Entry(fact, root / "data") for fact in facts],
        differences=compared(facts),
        bins=10,
        questions=load_settings(REPOSITORY / "params.yaml", models=False).questions,
        facts={"Written (UTC)": "2026-11-25 02:00"},
    )
