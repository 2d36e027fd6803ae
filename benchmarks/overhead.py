"""Cost of resumable, reproducible training compared with a plain `keras.Model.fit`.

The peer trains as in a notebook: the same model, optimizer, schedule and epochs, with arrays in
memory, without checkpoints or seeds by epoch. Both run in turn in the same process; each ratio is
taken over a pair.

python -m benchmarks overhead
"""

import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from chapterflow.config.load import load_settings
from chapterflow.data.build import ensure_dataset
from chapterflow.environment import Project, configure, find_project, load_tensorflow
from chapterflow.kinds.dataset import Dataset, open_dataset
from chapterflow.models.base import ModelParams
from chapterflow.models.catalog import get_model

PAIRS = 3


def main(_words: list[str] | None = None) -> None:
    """Train the CNN both ways in `PAIRS` pairs, and print the ratio and the accuracies."""
    project = find_project()
    configure(project)
    load_tensorflow()
    settings = load_settings(project.params)
    with tempfile.TemporaryDirectory() as folder:
        ensure_dataset(
            Project(Path(folder)),
            "digits",
            settings.datasets["digits"],
            on_progress=lambda *_: None,
        )
        dataset = open_dataset(Path(folder) / "data" / "digits")
        params = settings.params("cnn").model_copy(update={"patience": None})
        ratios, accuracies = [], []
        for pair in range(PAIRS + 1):
            ours = _ours(dataset, params, Path(folder) / f"work-{pair}")
            plain = _plain(dataset, params)
            if pair:  # the first pair warms up
                ratios.append(ours[0] / plain[0])
                accuracies.append((ours[1], plain[1]))
    mean_ours, mean_plain = np.mean(accuracies, axis=0)
    print(
        f"cnn on digits, {params.epochs} epochs: chapterflow takes {median(ratios):.2f} times a "
        f"plain fit (pairs: {', '.join(f'{ratio:.2f}' for ratio in ratios)}); test accuracy "
        f"{mean_ours:.4f} and {mean_plain:.4f}"
    )


def _ours(dataset: Dataset, params: ModelParams, work: Path) -> tuple[float, float]:
    import keras

    from chapterflow.training.fit import fit

    started = time.perf_counter()
    fit(get_model("cnn"), params, dataset, seed=5, work=work, on_epoch=lambda _: None)
    seconds = time.perf_counter() - started
    return seconds, _accuracy(keras.saving.load_model(work / "model.keras"), dataset)


def _plain(dataset: Dataset, params: ModelParams) -> tuple[float, float]:
    import keras

    from chapterflow.training.batches import steps_per_epoch
    from chapterflow.training.epochs import Learner, checked

    arrays = {
        split: (
            np.asarray(dataset.arrays["images"][dataset.indices(split)], np.float32),
            np.asarray(dataset.labels[dataset.indices(split)], np.int32),
        )
        for split in ("train", "validation")
    }
    started = time.perf_counter()
    model = checked(get_model("cnn"), params, dataset, seed=5)
    learner = Learner(
        model, params, steps=steps_per_epoch(dataset, params.batch_size), classes=True
    )
    metrics = [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
    model.compile(learner.optimizer, learner.loss, metrics=metrics, jit_compile=False)
    model.fit(
        *arrays["train"],
        batch_size=params.batch_size,
        epochs=params.epochs,
        validation_data=arrays["validation"],
        verbose=0,
    )
    return time.perf_counter() - started, _accuracy(model, dataset)


def _accuracy(model: object, dataset: Dataset) -> float:
    test = dataset.indices("test")
    logits = model.predict(  # type: ignore[attr-defined]
        np.asarray(dataset.arrays["images"][test], np.float32), batch_size=512, verbose=0
    )
    return float((logits.argmax(axis=1) == dataset.labels[test]).mean())


if __name__ == "__main__":
    main()
