"""IDX files: what was written is read back, and what is damaged is told."""

import gzip
import math
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from chapterflow.data.build import ensure_dataset
from chapterflow.data.source import UserData
from chapterflow.data.sources import idx
from chapterflow.data.sources.idx import Idx, read_idx, read_pair
from chapterflow.environment import Project
from chapterflow.errors import DataError

# The file is written anew for every example, so sharing the folder is safe.
SHARED_FOLDER = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write(path: Path, content: bytes, *, compress: bool = False) -> Path:
    path.write_bytes(gzip.compress(content, 1) if compress else content)
    return path


arrays = st.integers(1, 3).flatmap(
    lambda dims: hnp.arrays(np.uint8, hnp.array_shapes(min_dims=dims, max_dims=dims, max_side=6))
)


@SHARED_FOLDER
@given(array=arrays, compress=st.booleans())
def test_what_was_written_is_read_back(tmp_path: Path, array: np.ndarray, compress: bool) -> None:
    path = write(tmp_path / "x", idx_bytes(array), compress=compress)
    read = read_idx(path, dims=array.ndim)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, array)


@SHARED_FOLDER
@given(array=arrays, compress=st.booleans(), data=st.data())
def test_any_truncation_is_reported(
    tmp_path: Path, array: np.ndarray, compress: bool, data: st.DataObject
) -> None:
    whole = idx_bytes(array)
    content = gzip.compress(whole, 1) if compress else whole
    length = data.draw(st.integers(0, len(content) - 1))
    path = write(tmp_path / "x", content[:length])
    with pytest.raises(DataError, match="x"):
        read_idx(path, dims=array.ndim)


@SHARED_FOLDER
@given(array=arrays, flips=st.sets(st.integers(0, 127), min_size=1, max_size=4))
def test_flipped_bits_of_the_header_give_an_error_or_an_array_of_that_header(
    tmp_path: Path, array: np.ndarray, flips: set[int]
) -> None:
    content = bytearray(idx_bytes(array))
    header = 4 + 4 * array.ndim
    for bit in flips:
        content[bit // 8 % header] ^= 1 << bit % 8
    path = write(tmp_path / "x", bytes(content))
    try:
        read = read_idx(path, dims=array.ndim)
    except DataError:
        return
    assert read.shape == struct.unpack(f">{array.ndim}I", content[4:header])
    assert read.tobytes() == array.tobytes()


@SHARED_FOLDER
@given(content=st.binary(max_size=200), dims=st.integers(1, 4))
def test_arbitrary_bytes_never_give_another_error(
    tmp_path: Path, content: bytes, dims: int
) -> None:
    path = write(tmp_path / "x", content)
    try:
        read = read_idx(path, dims=dims)
    except DataError:
        return
    assert read.ndim == dims
    assert len(content) == 4 + 4 * dims + read.size


@SHARED_FOLDER
@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_of_a_gzip_file_gives_an_error_or_the_same_array(
    tmp_path: Path, position: int, bit: int
) -> None:
    content = bytearray(gzip.compress(idx_bytes(IMAGES), 1))
    content[position % len(content)] ^= 1 << bit
    path = write(tmp_path / "x", bytes(content))
    try:
        read = read_idx(path, dims=3)
    except DataError:
        return
    # Some bits of a gzip header (time, operating system) mean nothing for the content.
    np.testing.assert_array_equal(read, IMAGES)


def test_wrong_magic_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "labels", idx_bytes(np.zeros(5)))
    with pytest.raises(DataError, match=r"labels: .*0x00000803\. Received: 0x00000801"):
        read_idx(path, dims=3)


def test_other_types_than_unsigned_bytes_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "floats", bytes((0, 0, 0x0D, 1)) + struct.pack(">If", 1, 1.0))
    with pytest.raises(DataError, match=r"unsigned bytes.*Received: 0x00000d01"):
        read_idx(path, dims=1)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    ("change", "received"), [(-1, "39"), (-24, "16"), (+1, "more"), (+100, "more")]
)
def test_a_wrong_length_is_reported(
    tmp_path: Path, change: int, received: str, compress: bool
) -> None:
    content = idx_bytes(IMAGES)
    content = content[:change] if change < 0 else content + bytes(change)
    path = write(tmp_path / "images", content, compress=compress)
    with pytest.raises(DataError, match=f"2 x 3 x 4 .*40 bytes. Received: {received}$"):
        read_idx(path, dims=3)


def test_a_short_header_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "images", idx_bytes(IMAGES)[:10])
    with pytest.raises(DataError, match=r"header must have 16 bytes. Received: 10"):
        read_idx(path, dims=3)


@pytest.mark.parametrize("shape", [(0, 28, 28), (10, 0, 28), (2**32 - 1, 2**32 - 1, 2**32 - 1)])
def test_implausible_dimensions_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = write(tmp_path / "images", bytes((0, 0, 8, 3)) + struct.pack(">3I", *shape))
    with pytest.raises(DataError, match="dimensions must be positive"):
        read_idx(path, dims=3)


@pytest.mark.parametrize("compress", [False, True])
def test_memory_follows_the_bytes_and_not_the_header(tmp_path: Path, compress: bool) -> None:
    import tracemalloc

    shape = (2**20, 60, 60)  # 3.5 GiB
    assert math.prod(shape) < 4 << 30
    content = bytes((0, 0, 8, 3)) + struct.pack(">3I", *shape) + bytes(1000)
    path = write(tmp_path / "images", content, compress=compress)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="Received: 1,016"):
            read_idx(path, dims=3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing-here cannot be read: No such file"):
        read_idx(tmp_path / "nothing-here", dims=1)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_idx(tmp_path, dims=1)


def test_a_pair_is_read(tmp_path: Path) -> None:
    images = write(tmp_path / "images", idx_bytes(IMAGES), compress=True)
    labels = write(tmp_path / "labels", idx_bytes(np.array([9, 0])))
    pixels, numbers = read_pair(images, labels, known=range(10))
    np.testing.assert_array_equal(pixels, IMAGES)
    np.testing.assert_array_equal(numbers, [9, 0])


def test_counts_that_differ_are_reported(tmp_path: Path) -> None:
    images = write(tmp_path / "images", idx_bytes(IMAGES))
    labels = write(tmp_path / "labels", idx_bytes(np.zeros(3)))
    with pytest.raises(DataError, match=r"images and labels .*2 images and 3 labels"):
        read_pair(images, labels, known=range(10))


def test_the_first_label_out_of_range_is_reported(tmp_path: Path) -> None:
    images = write(tmp_path / "images", idx_bytes(np.zeros((4, 1, 1))))
    labels = write(tmp_path / "labels", idx_bytes(np.array([9, 3, 10, 255])))
    with pytest.raises(DataError, match=r"labels: .* 0 to 9\. Received: 10 at position 2 \(2 of 4"):
        read_pair(images, labels, known=range(10))


def emnist(folder: Path, *, train: np.ndarray, test: np.ndarray) -> Path:
    """Write images with the given labels, as EMNIST names its files."""
    folder.mkdir()
    for part, numbers in (("train", train), ("test", test)):
        images = np.random.default_rng(5).integers(0, 256, (len(numbers), 8, 8))
        write(folder / f"{part}-images-idx3-ubyte", idx_bytes(images))
        write(folder / f"{part}-labels-idx1-ubyte", idx_bytes(numbers))
    return folder


def test_labels_are_the_classes_that_occur(tmp_path: Path) -> None:
    numbers = np.tile(np.arange(1, 27), 10)
    folder = emnist(tmp_path / "letters", train=numbers, test=numbers[:52])
    block = idx.own(UserData(folder, 5))
    assert (block["classes"], block["labels"]) == (26, list(range(1, 27)))
    data = idx.read(Idx.model_validate(block), lambda file: folder / file.name)
    assert data.classes == [str(number) for number in range(1, 27)]
    assert data.arrays["labels"][:3].tolist() == [0, 1, 2]
    assert set(data.arrays["labels"].tolist()) == set(range(26))
    # MNIST's own labels need no list.
    digits = np.tile(np.arange(10), 10)
    block = idx.own(UserData(emnist(tmp_path / "digits", train=digits, test=digits[:10]), 5))
    assert (block["classes"], "labels" in block) == (10, False)


def test_a_class_that_a_split_lacks_is_named(tmp_path: Path, project: Project) -> None:
    numbers = np.tile([3, 5, 8], 30)
    folder = emnist(tmp_path / "gap", train=numbers, test=np.array([3, 5] * 5))
    block = Idx.model_validate(idx.own(UserData(folder, 5)))
    with pytest.raises(DataError, match=r"Every split needs .*3 classes.*test has none of '8'\."):
        ensure_dataset(project, "gap", block, on_progress=lambda *_: None)
