"""Photos of any size, as the files that they came in.

`labels` and `split` `(n,)`, `files` `(n,)`: the path of each photo in the dataset's folder,
`photos/<split>/<class>/<file>`. Only the photos of a batch are decoded, so that a dataset may be
larger than the memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from chapterflow.data.card import Dataset, Split, sha256_file
from chapterflow.data.photo_files import open_photo

#: Photos that are decoded at the same time; each holds its full size while it is resized.
THREADS = max(1, min(4, os.cpu_count() or 1))

Item = TypeVar("Item")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Data(Dataset):
    """Raw RGB from 0 to 255 in, at the size that the model takes; class numbers out.

    Attributes:
        height: Height in pixels to which `inputs` resizes.
        width: Width in pixels to which it resizes.
    """

    height: int = 224
    width: int = 224

    ARRAYS = ("labels", "split", "files")

    def sized(self, height: int, width: int) -> Self:
        """Return the same dataset with inputs of another size, in pixels."""
        return replace(self, height=height, width=width)

    def path(self, position: int | np.intp) -> Path:
        """Return where the file of a photo is."""
        return self.folder / str(self.arrays["files"][position])

    def inputs(self, chosen: NDArray[np.intp]) -> Any:
        """Return float32 `(batch, height, width, 3)`, raw RGB from 0 to 255.

        Each photo is resized as a whole, without regard to its aspect ratio, bilinearly with the
        filter widened where it shrinks (Pillow's, as in `keras.utils.load_img`).

        Raises:
            DataError: If a file is missing or damaged; it names the file.
        """
        batch = np.empty((len(chosen), self.height, self.width, 3), np.float32)
        resized = in_threads(self._resized, (self.path(position) for position in chosen))
        for position, pixels in enumerate(resized):
            batch[position] = pixels
        return batch

    def input_shapes(self) -> Any:
        """Return shape and dtype of the inputs."""
        return ((None, self.height, self.width, 3), "float32")

    def example(self) -> Any:
        """Return one photo: two of them are megabytes as text."""
        return self.inputs(self.indices("train")[:1])

    def content(self, split: Split) -> Iterator[bytes]:
        """Yield hash of the file's bytes and label of each photo, in order.

        Decoded pixels would depend on the version of the decoder.
        """
        for position in self.indices(split):
            yield bytes.fromhex(sha256_file(self.path(position)))
            yield np.int32(self.labels[position]).tobytes()

    def _resized(self, path: Path) -> NDArray[np.uint8]:
        from PIL import Image

        size = (self.width, self.height)
        return np.asarray(open_photo(path).resize(size, Image.Resampling.BILINEAR))


def in_threads(work: Callable[[Item], Found], items: Iterable[Item]) -> Iterator[Found]:
    """Yield the results of `work`, in order; decoders release the interpreter's lock."""
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(work, items)
