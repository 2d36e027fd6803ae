"""Weights are a function of the seed, whatever other threads draw from global generators."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chapterflow.models.catalog import get_model
from tests.conftest import FORKS
from tests.digits import digits_dataset
from tests.graphs import rings_and_stars, two_circles

pytestmark = pytest.mark.usefixtures("tensorflow")


@contextmanager
def draws_elsewhere() -> Iterator[None]:
    """Draw from the global generators in another thread, thousands of times a second.

    It sleeps between draws: a thread that never does keeps the interpreter for 5 ms at a time.
    """
    over = threading.Event()

    def draw() -> None:
        while not over.is_set():
            random.getrandbits(32)
            np.random.random()
            time.sleep(1e-5)

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def hashed(arrays: list[Any]) -> str:
    return sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def trained(name: str, folder: Path) -> str:
    """Return a hash over the weights of a short training, or of a training in a fold."""
    import keras

    from chapterflow.training.fit import fit
    from chapterflow.training.folds import GraphsInMemory

    entry = get_model(name)
    options: dict[str, Any] = {"epochs": 2, "learning_rate": 0.01, "batch_size": 16}
    if name == "gcn":
        dataset: Any = rings_and_stars(folder / "data")
        small = entry.params(role="graphs", width=8, depth=2, dense=8, dropout=0.3, **options)
        memory = GraphsInMemory(entry, small, dataset)
        splits = [dataset.indices(split) for split in ("train", "validation", "test")]
        memory.fit(*splits, seed=5, work=folder / "work")
        assert memory.learner is not None
        return hashed(memory.learner.model.get_weights())
    if name == "gcn-node":
        dataset = two_circles(folder / "data")
        params = entry.params(role="citations", dropout=0.5, **options)
    else:
        dataset = digits_dataset(np.repeat(np.arange(3, dtype=np.uint8), (40, 10, 10)))
        params = entry.params(role="digits", **options)
    fit(entry, params, dataset, seed=5, work=folder / "work")
    return hashed(keras.saving.load_model(folder / "work" / "model.keras").get_weights())


MODELS = ("dnn", "gcn-node", "gcn", "lenet5")

CHILD = """
import sys
from pathlib import Path
from chapterflow.environment import load_tensorflow
load_tensorflow()
from tests.training.test_seeds import MODELS, draws_elsewhere, trained
with draws_elsewhere():
    for name in MODELS:
        print(name, trained(name, Path(sys.argv[1], name)))
"""


@pytest.fixture(scope="module")
def of_child(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hashes of the models that a child process trains."""
    done = subprocess.run(
        [FORKS.python, "-c", CHILD, str(tmp_path_factory.mktemp("child"))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split() for line in done.stdout.splitlines()[-len(MODELS) :])


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_seed_decides_the_weights_in_any_thread_and_process(
    name: str, tmp_path: Path, of_child: dict[str, str]
) -> None:
    quiet = trained(name, tmp_path / "quiet")
    answers: dict[str, str] = {}
    with draws_elsewhere():
        answers["main thread"] = trained(name, tmp_path / "main")
        thread = threading.Thread(
            target=lambda: answers.update({"thread": trained(name, tmp_path / "thread")})
        )
        thread.start()
        thread.join()
    answers["child process"] = of_child[name]
    assert answers == dict.fromkeys(("main thread", "thread", "child process"), quiet)


def layers() -> list[Any]:
    """Return layers that draw at random, two of each."""
    from keras import layers

    made: list[Callable[[], Any]] = [
        lambda: layers.Dense(4),
        lambda: layers.Dense(4, kernel_initializer="he_normal"),
        lambda: layers.Dropout(0.5),
        lambda: layers.GaussianNoise(1.0),
        lambda: layers.RandomRotation(0.2),
        lambda: layers.RandomCrop(2, 2),
    ]
    return [make() for make in made for _ in range(2)]


def seeds(seed: int, purpose: str = "weights") -> list[int]:
    """Return the seeds of all initializers and random layers."""
    from chapterflow.training.seeds import seeded

    with seeded(seed, purpose):
        drawn = layers()
    initializers = [layer.kernel_initializer.seed for layer in drawn[:4]]
    states = [
        int(np.asarray(generator.state)[0])
        for layer in drawn[4:]
        for generator in layer._seed_generators
    ]
    assert len(states) == 8
    return initializers + states


def test_each_seed_purpose_and_layer_has_numbers_of_its_own() -> None:
    every = [*seeds(5), *seeds(6), *seeds(5, "augmented pass 0")]
    assert len(set(every)) == len(every) == 3 * 12
    assert seeds(5) == every[:12]


def test_the_global_generators_are_left_alone() -> None:
    from chapterflow.training.seeds import seeded

    random.seed(3)
    np.random.seed(3)
    expected = random.random(), np.random.random()
    random.seed(3)
    np.random.seed(3)
    with seeded(5, "weights"):
        layers()
    assert (random.random(), np.random.random()) == expected


def test_outside_of_seeded_keras_draws_as_ever() -> None:
    import keras

    seeds(5)
    random.seed(3)
    first = keras.initializers.GlorotUniform().seed
    random.seed(3)
    assert first == random.randint(1, int(1e9))


def test_a_seed_inside_another_leaves_the_outer_stream_alone() -> None:
    from keras.src.random.seed_generator import make_default_seed

    from chapterflow.training.seeds import seeded

    with seeded(5, "weights"):
        alone = [make_default_seed() for _ in range(2)]
    with seeded(5, "weights"):
        first = make_default_seed()
        with seeded(6, "weights"):
            make_default_seed()
        assert [first, make_default_seed()] == alone
