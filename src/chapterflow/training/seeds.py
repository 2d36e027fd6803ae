"""Seeds of all random operations in a training, independent of global generators."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import keras


class _SeedSource:
    """Source of Keras's default seeds: the stream of `seeded`, or `random` outside of it."""

    def __init__(self) -> None:
        self._thread = threading.local()

    @property
    def stream(self) -> np.random.Generator | None:
        """Stream of the current thread; None outside of `seeded`."""
        return getattr(self._thread, "stream", None)

    @stream.setter
    def stream(self, stream: np.random.Generator | None) -> None:
        self._thread.stream = stream

    def randint(self, low: int, high: int) -> int:
        """Return a number from `low` to `high`, both inclusive."""
        if self.stream is None:
            return random.randint(low, high)
        return int(self.stream.integers(low, high, endpoint=True))


_SOURCE = _SeedSource()


@contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Make initial weights and random layers that this thread creates a function of the arguments.

    An initializer or a random layer without its own seed takes it from Keras's `make_default_seed`,
    which draws from the global generator of `random`. Any other thread may draw from that generator
    between two layers, so seeding it (`keras.utils.set_random_seed`) has no reliable effect. All
    default seeds come from that function, also for layers in users' model files, so we permanently
    replace its generator with one that has a stream per thread. The position in the stream
    identifies layer and weight, because a build creates them in a fixed order. The replacement is
    never undone, so trainings in several threads do not interfere.

    Args:
        seed: Seed of the run.
        purpose: Purpose of the numbers; each purpose has its own stream.
    """
    import tensorflow as tf
    from keras.src.random import seed_generator

    if not hasattr(seed_generator, "python_random"):
        raise RuntimeError(
            "Keras must draw default seeds from keras.src.random.seed_generator.python_random. "
            "Received: a version of Keras that does not. Adapt chapterflow.training.seeds"
        )
    seed_generator.python_random = _SOURCE
    # Layers that use TensorFlow's random operations take the graph's seed; Keras operations do not.
    tf.random.set_seed(seed)
    outer = _SOURCE.stream
    _SOURCE.stream = np.random.default_rng([seed, *purpose.encode()])
    try:
        yield
    finally:
        _SOURCE.stream = outer


def seed_epoch(model: keras.Model, seed: int, epoch: int) -> None:
    """Make the random layers of a model (dropout, augmentation) a function of seed and epoch.

    Keras does not save the state of random layers. Deriving it per epoch makes a resumed training
    draw the same numbers as an uninterrupted one.
    """
    for variable, states in epoch_seeds(model, seed, range(epoch, epoch + 1)):
        variable.assign(states[0])


def epoch_seeds(
    model: keras.Model, seed: int, epochs: Sequence[int]
) -> list[tuple[Any, NDArray[Any]]]:
    """Return the states of a model's random layers, as variables, and their values in each epoch.

    Values are `(epochs, 2)`, for compiled loops over several epochs.
    """
    from keras.src.random.seed_generator import global_seed_generator

    layers = [layer._seed_generators for layer in model._flatten_layers()]
    # The global generator serves layers that call `keras.random` without a seed. Each thread has
    # its own.
    return [
        (
            generator.state,
            np.array(
                [
                    np.random.SeedSequence([seed, layer, position, epoch]).generate_state(2)
                    for epoch in epochs
                ]
            ).astype(generator.state.dtype),
        )
        for layer, generators in enumerate([*layers, [global_seed_generator()]])
        for position, generator in enumerate(generators)
    ]
