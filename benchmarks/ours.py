"""A fit of chapterflow in a fresh process, by the steps that a run takes: train, then evaluate.

python -m benchmarks.ours MODEL [--seed N] [--set KEY=VALUE ...]

Prints a JSON document: seconds of fitting as in MLflow, test accuracy, epochs, and the least work
of an epoch (see `benchmarks.limits`). With `folds`, the seconds and accuracies are those of the
cross-validation. Works in the project of `CHAPTERFLOW_PROJECT`, in the book profile.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.limits import BYTES_PER_PARAMETER, PASSES
from chapterflow.config.load import load_settings
from chapterflow.config.settings import Settings
from chapterflow.environment import Project, configure, find_project, load_tensorflow


def main(words: list[str] | None = None) -> None:
    """Fit, score and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args(words)
    project = find_project()
    configure(project)
    changes = [f"seed={options.seed}", f"models.{options.model}.beside={{}}", *options.set]
    settings = load_settings(project.params, profile="book", overrides=changes)
    validated = settings.params(options.model).folds > 0
    result = (_cross_validate if validated else _train)(project, settings, options.model)
    print(json.dumps({**result, "seed": options.seed}), flush=True)


def _train(project: Project, settings: Settings, model: str) -> dict[str, Any]:
    from chapterflow.loop import steps
    from chapterflow.loop.run import Run
    from chapterflow.tracking import runs
    from chapterflow.tracking.session import Session
    from chapterflow.training.batches import load_model

    with Session(project, settings) as session:
        verdicts = [
            steps.validate(project, settings, steps.prepare(project, settings, name))
            for name in settings.datasets_of(model)
        ]
        run = Run(project, settings, model, session)
        with run.claim():
            run = steps.begin(run, verdicts, force=True)
            training = steps.train(run)
            evaluation = steps.evaluate(run, training)
            least = _least_work(load_model(run.model_file()), run.open_dataset(), settings, model)
            runs.close_run(session.client, run.id, "FINISHED")
            shutil.rmtree(run.folder)
    return {
        "seconds": training.seconds,
        "accuracy": evaluation.metrics["test/accuracy"],
        "epochs": len(training.history),
        **least,
    }


def _cross_validate(project: Project, settings: Settings, model: str) -> dict[str, Any]:
    load_tensorflow()
    from chapterflow.kinds.dataset import open_dataset
    from chapterflow.loop import steps
    from chapterflow.models.catalog import get_model
    from chapterflow.training.epochs import built
    from chapterflow.training.folds import INNER, cross_validate

    name = settings.dataset_of(model)
    steps.prepare(project, settings, name)
    dataset, params, entry = (
        open_dataset(project.data / name), settings.params(model), get_model(model)
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as work:
        started = time.perf_counter()
        scores = cross_validate(
            entry, params, dataset, folds=params.folds, seed=settings.seed, work=Path(work)
        )
        seconds = time.perf_counter() - started
    network = built(entry, params, dataset.card.input_spec)
    # An epoch of each training of each fold, under both protocols.
    share = params.folds * (1 - 1 / params.folds) * (2 - INNER)
    least = _least_work(network, dataset, settings, model, share=share)
    return {
        "seconds": seconds,
        "accuracy": scores["cv/inner/accuracy_mean"],
        "accuracy_gin": scores["cv/gin/accuracy_mean"],
        "epochs": params.epochs,
        **least,
    }


def _least_work(
    network: Any, dataset: Any, settings: Settings, model: str, share: float | None = None
) -> dict[str, float]:
    """Return the operations and the bytes that an epoch cannot do without.

    Args:
        share: Examples of an epoch as a share of all examples; None for the train split.
    """
    import numpy as np

    from chapterflow.evaluation.cost import flops
    from chapterflow.training.batches import sparse_inputs

    params = settings.params(model)
    chosen = dataset.indices("train") if share is None else np.arange(dataset.count)
    share = share or 1.0
    if dataset.kind.whole:
        inputs = sparse_inputs(dataset)
        forward, steps = flops(network, inputs), 1
        read = inputs["features"].values.numpy().nbytes + inputs["edges"].numpy().nbytes
    else:
        steps = -(-len(chosen) // params.batch_size)
        if dataset.kind.joined:
            inputs = dataset.inputs(chosen)
            forward, read = flops(network, inputs), sum(part.nbytes for part in inputs.values())
        else:
            forward = flops(network, dataset.inputs(chosen[:1])) * len(chosen)
            read = dataset.stored(chosen[:1]).nbytes * len(chosen)
    return {
        "flops": PASSES * forward * share,
        "bytes": (read + steps * network.count_params() * BYTES_PER_PARAMETER) * share,
        "precision": params.precision,
    }


if __name__ == "__main__":
    main()
