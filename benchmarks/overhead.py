"""Cost of resumable, reproducible training compared with a plain `keras.Model.fit`.

The peer trains as in a notebook: the same model, optimizer, schedule and epochs, with arrays in
memory, without checkpoints or seeds by epoch. Both run in turn in the same process; each ratio is
taken over a pair.

With names of models: where the seconds of the loop around each of them go, in a new project and one
process, without Prefect. A first model, which is not shown, pays for the imports.

python -m benchmarks overhead [MODEL ...] [--profile book]
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np

from chapterflow.config.load import load_settings
from chapterflow.config.settings import Settings
from chapterflow.data.build import ensure_dataset
from chapterflow.environment import Project, configure, find_project, load_tensorflow
from chapterflow.kinds.dataset import Dataset, open_dataset
from chapterflow.models.base import ModelParams
from chapterflow.models.catalog import get_model

PAIRS = 3
#: The loop around a model, in order.
PARTS = ("look-up", "validation", "training", "evaluation", "explanation", "logging", "register")


def main(words: list[str] | None = None) -> None:
    """Print the ratio of both ways to train, or the parts of the loop around models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--profile", default="embedded")
    options = parser.parse_args(words)
    if options.models:
        loop(options.models, options.profile)
    else:
        compare()


def loop(models: Sequence[str], profile: str) -> None:
    """Take models through all steps, and print the seconds of each part."""
    source = find_project().params
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder))
        shutil.copy(source, project.params)
        os.environ["CHAPTERFLOW_PROJECT"] = folder
        configure(project)
        load_tensorflow()
        settings = load_settings(project.params, profile=profile)
        _parts(project, load_settings(project.params, overrides=["models.dnn.epochs=1"]), "dnn")
        print("wall / processor seconds")
        print(f"{'model':<10}" + "".join(f"{part:>15}" for part in (*PARTS, "all but fit")))
        for model in models:
            seconds = _parts(project, settings, model)
            outside = np.sum([seconds[part] for part in PARTS if part != "training"], axis=0)
            cells = [*(seconds[part] for part in PARTS), outside]
            print(
                f"{model:<10}"
                + "".join(f"{f'{wall:.2f} / {cpu:.2f}':>15}" for wall, cpu in cells)
                + f"   {outside[0] / seconds['training'][0]:.1%} of the fit",
                flush=True,
            )


def _parts(project: Project, settings: Settings, model: str) -> dict[str, Any]:
    """Take a model through all steps; return wall and processor seconds `(2,)` of each part."""
    from chapterflow.loop import steps
    from chapterflow.loop.run import Run
    from chapterflow.tracking.session import Session
    from chapterflow.training import fit

    seconds = {part: np.zeros(2) for part in PARTS}
    running: list[str] = []

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        begun = np.array([time.perf_counter(), time.process_time()])
        running.append(part)
        try:
            yield
        finally:
            running.pop()
            spent = np.array([time.perf_counter(), time.process_time()]) - begun
            seconds[part] += spent
            if running:  # a part within another one counts once
                seconds[running[-1]] -= spent

    def timing(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            with timed(part):
                return function(*arguments, **options)

        return call

    session = Session(project, settings)
    prepared = [steps.prepare(project, settings, name) for name in settings.datasets_of(model)]
    with ExitStack() as patches:
        for owner, name, part in (
            (steps, "validate", "validation"),
            (steps, "begin", "look-up"),
            (steps, "train", "logging"),
            (fit, "fit", "training"),
            (steps, "evaluate", "evaluation"),
            (steps, "explain", "explanation"),
            (steps, "log", "logging"),
            (steps, "register", "register"),
        ):
            patches.enter_context(patch.object(owner, name, timing(getattr(owner, name), part)))
        verdicts = [steps.validate(project, settings, each) for each in prepared]
        with timed("look-up"):
            run = Run(project, settings, model, session)
        steps.run_model(run, verdicts)
    return seconds


def compare() -> None:
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
