"""Batches: every train example once an epoch, in an order that seed and epoch alone decide."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chapterflow.kinds.dataset import Dataset
from chapterflow.training.batches import TrainBatches, epoch_order, split_batches, steps_per_epoch
from tests.digits import with_arrays

pytestmark = pytest.mark.usefixtures("tensorflow")


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


@settings(max_examples=12, deadline=None)
@given(
    counts=st.tuples(st.integers(1, 40), st.integers(1, 10), st.integers(1, 10)),
    batch_size=st.integers(1, 50),
    seed=st.integers(0, 1000),
)
def test_an_epoch_is_every_train_example_once(
    counts: tuple[int, int, int],
    batch_size: int,
    seed: int,
    dataset_of: Callable[..., Dataset],
) -> None:
    dataset = numbered(dataset_of(*counts))
    batches = TrainBatches(dataset, batch_size=batch_size, seed=seed)
    stream = batches.as_tf()
    train = dataset.indices("train")
    orders = []
    for epoch in (0, 1, 0):
        batches.epoch = epoch
        seen = list(stream.as_numpy_iterator())
        assert len(seen) == steps_per_epoch(dataset, batch_size) == int(stream.cardinality())
        assert [len(labels) for _, labels in seen[:-1]] == [batch_size] * (len(seen) - 1)
        labels = np.concatenate([labels for _, labels in seen])
        images = np.concatenate([images for images, _ in seen])
        np.testing.assert_array_equal(np.sort(labels), train)
        np.testing.assert_array_equal(labels, train[epoch_order(len(train), seed, epoch)])
        # An image stays with its label.
        np.testing.assert_array_equal(images[:, 0, 0, 0], labels)
        orders.append(labels)
    np.testing.assert_array_equal(orders[0], orders[2])
    if counts[0] > 10:
        assert not np.array_equal(orders[0], orders[1])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("batch_size", [1, 7, 512])
def test_a_split_is_read_in_stored_order(dataset: Dataset, split: str, batch_size: int) -> None:
    stream = split_batches(numbered(dataset), split, batch_size=batch_size)  # type: ignore[arg-type]
    labels = np.concatenate([labels for _, labels in stream.as_numpy_iterator()])
    np.testing.assert_array_equal(labels, np.flatnonzero(dataset.split == _code(split)))


def _code(split: str) -> int:
    return ["train", "validation", "test"].index(split)


def test_values_are_raw_and_of_the_types_that_models_take(dataset: Dataset) -> None:
    for stream in (
        TrainBatches(dataset, batch_size=16, seed=5).as_tf(),
        split_batches(dataset, "validation", batch_size=16),
    ):
        images, labels = next(stream.as_numpy_iterator())
        assert (images.shape, images.dtype) == ((16, 8, 8, 1), np.float32)
        assert (labels.shape, labels.dtype) == ((16,), np.int32)
        assert images.max() == 16


@pytest.mark.parametrize(("batch_size", "steps"), [(1, 70), (16, 5), (69, 2), (70, 1), (71, 1)])
def test_steps_cover_the_train_split_once(dataset: Dataset, batch_size: int, steps: int) -> None:
    assert steps_per_epoch(dataset, batch_size) == steps
