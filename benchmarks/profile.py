"""Where the seconds of an epoch go: input, forward, backward, optimizer, validation, Python.

Each part is a compiled loop over the batches of the train split that does more than the one before
it, so that differences are parts. The loops run in turn, and each figure is the median of the
turns. Wall times of a busy machine say little; processor times stay comparable.

python -m benchmarks profile cnn [--profile book] [--set batch_size=64] [--turns 3]
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from chapterflow.config.load import load_settings
from chapterflow.data.build import ensure_dataset
from chapterflow.environment import Project, configure, find_project, load_tensorflow
from chapterflow.kinds.dataset import Dataset, open_dataset
from chapterflow.models.base import ChapterModel, ModelParams
from chapterflow.models.catalog import get_model


def main(words: list[str] | None = None) -> None:
    """Print a table of the parts of an epoch, for one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--profile", default="embedded")
    parser.add_argument("--set", action="append", default=[], metavar="PARAMETER=VALUE")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args(words)
    project = find_project()
    configure(project)
    load_tensorflow()
    changes = [f"models.{options.model}.{change}" for change in options.set]
    settings = load_settings(project.params, profile=options.profile, overrides=changes)
    params, name = settings.params(options.model), settings.dataset_of(options.model)
    with tempfile.TemporaryDirectory() as folder:
        ensure_dataset(
            Project(Path(folder)), name, settings.datasets[name], on_progress=lambda *_: None
        )
        dataset = open_dataset(Path(folder) / "data" / name)
        print(f"{options.model} on {name}, batches of {params.batch_size}, {params.precision}")
        _profile(get_model(options.model), params, dataset, options.turns)


def _profile(entry: ChapterModel[Any], params: ModelParams, dataset: Dataset, turns: int) -> None:
    import tensorflow as tf

    from chapterflow.training.batches import sized_for, source_of
    from chapterflow.training.epochs import Batches, Pass, checked, reset_keras

    dataset = sized_for(entry, params, dataset)
    reset_keras()
    way = Batches(checked(entry, params, dataset, 5), params, dataset, 5)
    learner = way.learner
    source = source_of(dataset, "train", batch_size=params.batch_size)

    def read(*batch: Any) -> Any:
        # A sum over an example keeps TensorFlow from skipping the batch.
        return tf.zeros(3) + sum(
            tf.reduce_sum(tf.cast(part[0], tf.float32)) for part in tf.nest.flatten(batch)
        )

    def backward(*batch: Any) -> Any:
        gradients, sums = learner.gradients(*batch)
        # TensorFlow would skip gradients that nothing depends on.
        return sums + 1e-30 * sum(tf.reduce_sum(gradient) for gradient in gradients)

    order = np.random.default_rng(5).permutation(source.count)
    loops: dict[str, Callable[[], Any]] = {}
    for name, function in (
        ("input", read),
        ("forward", learner.validate),
        ("backward", backward),
        ("optimizer", learner.step),
    ):
        loops[name] = _loop(Pass(source, function), order)
    epochs = iter(range(10**6))
    loops["epoch"] = lambda: way.run_several(next(epochs), 1, 5)
    validated = source_of(dataset, "validation", batch_size=128)
    loops["validation"] = _loop(Pass(validated, learner.validate), np.arange(validated.count))
    for loop in loops.values():
        loop()  # compiles
    seconds = {
        name: np.median([_timed(loop) for _ in range(turns)], axis=0)
        for name, loop in loops.items()
    }
    parts, before = {}, np.zeros(2)
    for name in ("input", "forward", "backward", "optimizer"):
        parts[name], before = seconds[name] - before, seconds[name]
    parts["validation"] = seconds["validation"]
    parts["Python"] = seconds["epoch"] - before - seconds["validation"]
    print(f"{'part':<12} {'wall':>9} {'processor':>11} {'share':>7}")
    total = seconds["epoch"]
    for name, values in [*parts.items(), ("epoch", total)]:
        wall, processor = np.maximum(values, 0)
        print(f"{name:<12} {wall:>7.3f} s {processor:>9.3f} s {processor / total[1]:>7.1%}")


def _loop(steps: Any, order: Any) -> Callable[[], Any]:
    return lambda: steps(order)


def _timed(loop: Callable[[], Any]) -> tuple[float, float]:
    """Return wall and processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    loop()
    return time.perf_counter() - wall, time.process_time() - processor


if __name__ == "__main__":
    main()
