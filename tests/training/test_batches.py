"""Batches: every train example once an epoch, in an order that seed and epoch alone decide."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from chapterflow.errors import DataError
from chapterflow.kinds import images
from chapterflow.kinds.dataset import Dataset
from chapterflow.training import batches
from chapterflow.training.batches import (
    InMemory,
    Source,
    Streamed,
    epoch_order,
    faults_of,
    source_of,
    steps_per_epoch,
)
from tests.digits import with_arrays

pytestmark = pytest.mark.usefixtures("tensorflow")

KEPT = (InMemory, Streamed)


@pytest.fixture(scope="module", autouse=True)
def small_blocks() -> Iterator[None]:
    """Read a stream in several blocks: one has about 30 images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "BLOCK", 2000)
        yield


def read(source: Source, order: NDArray[np.intp]) -> list[list[NDArray[Any]]]:
    """Return the batches of a source as a compiled function sees them."""
    import tensorflow as tf

    batch = tf.function(source.batch, autograph=False)
    state = source.start(order)
    with faults_of(source):
        return [
            [np.asarray(part) for part in batch(state, tf.constant(number, tf.int64))]
            for number in range(source.steps)
        ]


def numbered(dataset: Dataset) -> Dataset:
    """Return the dataset with each example's position as its label and its pixels."""
    positions = np.arange(len(dataset.labels))
    images = np.broadcast_to(positions[:, None, None, None], dataset.arrays["images"].shape)
    return with_arrays(dataset, labels=positions, images=images)


@given(st.integers(0, 500), st.integers(0, 2**32), st.integers(0, 1000))
def test_an_order_is_a_permutation_that_seed_and_epoch_decide(
    count: int, seed: int, epoch: int
) -> None:
    order = epoch_order(count, seed, epoch)
    assert sorted(order) == list(range(count))
    np.testing.assert_array_equal(order, epoch_order(count, seed, epoch))


def test_each_seed_and_each_epoch_has_an_order_of_its_own() -> None:
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100


@pytest.mark.parametrize("kept", KEPT)
@settings(max_examples=6, deadline=None)
@given(
    counts=st.tuples(st.integers(1, 40), st.integers(1, 10), st.integers(1, 10)),
    batch_size=st.integers(1, 50),
    seed=st.integers(0, 1000),
)
def test_an_epoch_is_every_train_example_once(
    counts: tuple[int, int, int],
    batch_size: int,
    seed: int,
    kept: type[InMemory | Streamed],
    dataset_of: Callable[..., Dataset],
) -> None:
    dataset = numbered(dataset_of(*counts))
    train = dataset.indices("train")
    source = kept(dataset, train, batch_size)
    assert source.count == len(train)
    assert source.steps == steps_per_epoch(dataset, batch_size)
    orders = []
    for epoch in (0, 1, 0):
        order = epoch_order(len(train), seed, epoch)
        seen = read(source, order)
        assert [len(labels) for _, labels in seen[:-1]] == [batch_size] * (len(seen) - 1)
        labels = np.concatenate([labels for _, labels in seen])
        images = np.concatenate([images for images, _ in seen])
        np.testing.assert_array_equal(labels, train[order])
        # An image stays with its label.
        np.testing.assert_array_equal(images[:, 0, 0, 0], labels)
        orders.append(labels)
    np.testing.assert_array_equal(orders[0], orders[2])
    if counts[0] > 10:
        assert not np.array_equal(orders[0], orders[1])


@pytest.mark.parametrize("kept", KEPT)
def test_values_are_raw_and_of_the_types_that_models_take(
    dataset: Dataset, kept: type[InMemory | Streamed]
) -> None:
    for split in ("train", "validation"):
        source = kept(dataset, dataset.indices(split), 16)  # type: ignore[arg-type]
        images, labels = read(source, np.arange(source.count))[0]
        assert (images.shape, images.dtype) == ((16, 8, 8, 1), np.float32)
        assert (labels.shape, labels.dtype) == ((16,), np.int32)
        assert images.max() == 16


def test_examples_are_streamed_if_they_do_not_fit_into_memory(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 70 images of 64 bytes, each with a label of four.
    monkeypatch.setattr(batches, "IN_MEMORY", 70 * 68)
    assert isinstance(source_of(dataset, "train", batch_size=16), InMemory)
    monkeypatch.setattr(batches, "IN_MEMORY", 70 * 68 - 1)
    assert isinstance(source_of(dataset, "train", batch_size=16), Streamed)


def test_examples_of_varying_shape_are_streamed(dataset: Dataset) -> None:
    card = dataset.card.model_copy(update={"shape": [None, None, 1]})
    assert isinstance(source_of(replace(dataset, card=card), "train", batch_size=16), Streamed)


class Damaged(images.Data):
    """Images of which the last cannot be read."""

    def stored(self, chosen: NDArray[np.intp]) -> Any:
        if self.count - 1 in chosen:
            raise DataError("the last is damaged")
        return super().stored(chosen)


def test_the_error_of_a_reader_is_raised_as_itself(dataset: Dataset) -> None:
    damaged = Damaged(dataset.card, dataset.folder, dataset.arrays)
    source = Streamed(damaged, np.arange(damaged.count), 16)
    with pytest.raises(DataError, match="the last is damaged"):
        read(source, np.arange(source.count))


@pytest.mark.parametrize(("batch_size", "steps"), [(1, 70), (16, 5), (69, 2), (70, 1), (71, 1)])
def test_steps_cover_the_train_split_once(dataset: Dataset, batch_size: int, steps: int) -> None:
    assert steps_per_epoch(dataset, batch_size) == steps
