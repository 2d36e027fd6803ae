"""Photos of any size, in their original files.

`labels` and `split` `(n,)`, `files` `(n,)`: the path of each photo in the dataset's folder,
`photos/<split>/<class>/<file>`. Only the photos of a batch are decoded, so that a dataset may be
larger than the memory.
"""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from chapterflow.errors import DataError
from chapterflow.files import sha256_file
from chapterflow.kinds.dataset import SPLITS, Dataset, DatasetCard, Kind, Split
from chapterflow.kinds.rows import (
    check,
    copy_checks,
    count_checks,
    example_rows,
    label_checks,
    value_facts,
)
from chapterflow.types import PositiveInt, Share, Strict

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.expectations.expectation import Expectation
    from PIL import Image


class PhotoExpectations(Strict):
    """Bounds of the suite for photos (see `chapterflow.kinds.photos`).

    Attributes:
        class_divergence: Largest Kullback-Leibler divergence, in nats, of a split's class shares
            from equal shares.
        duplicates: Largest share of photos that repeat another one of their split, pixel by pixel.
        min_side: Smallest height and width, in pixels.
        aspect_ratio: Largest ratio of the longer side to the shorter one.
        value_use: Smallest share of the value range that the brightest pixel of the dataset uses.
        near_distance: Two photos of different splits are near duplicates where their perceptual
            hashes, of 64 bits, differ in at most so many.
    """

    class_divergence: Annotated[float, Field(ge=0)]
    duplicates: Share
    min_side: PositiveInt
    aspect_ratio: Annotated[float, Field(ge=1)]
    value_use: Share
    near_distance: Annotated[int, Field(ge=0, le=63)]


#: Formats that are read, by Pillow's names. `JPEG` covers the MPO files that many cameras write.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
#: Extensions of their files.
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp"})
#: Pixels of the largest photo. Decoded they take 300 MB, which a file of a few kilobytes can claim.
MAX_PIXELS = 100_000_000
#: What Pillow raises for files that are damaged, cut short or made to harm.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    struct.error,
    zlib.error,
)


def decode(path: Path, *, facts: dict[str, Any] | None = None) -> NDArray[np.uint8]:
    """Return the pixels of a file, `(height, width, 3)`, in the order red, green, blue.

    The EXIF orientation is applied. Grey, palette and CMYK become RGB; transparent pixels are
    blended with white; 16-bit grey is divided by 257, so that white stays white; of an animation
    the first frame counts.

    Args:
        path: A JPEG, PNG, BMP, GIF or WebP file; its content decides, not its extension.
        facts: Filled with `mode` and `format`, in Pillow's words, where given.

    Raises:
        DataError: If the file cannot be read, is damaged, cut short, of another format, or larger
            than `MAX_PIXELS`. It names the file.
    """
    return np.asarray(open_photo(path, facts=facts))


def open_photo(path: Path, *, facts: dict[str, Any] | None = None) -> Image.Image:
    """Return what `decode` returns, as a Pillow image.

    Raises:
        DataError: As `decode`.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    # The size is checked below, and an error says more than Pillow's warning.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise _fault(path, f"{width:,} x {height:,} pixels", f"at most {MAX_PIXELS:,}")
            if facts is not None:
                facts.update(mode=image.mode, format=image.format)
            image.load()
            return _as_rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError:
        raise _fault(path, "far more", f"at most {MAX_PIXELS:,}") from None
    except UnidentifiedImageError:
        raise _fault(path, "another format or damage at its start") from None
    except _DAMAGE as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise _fault(path, reason) from None


def _fault(path: Path, received: str, pixels: str = "") -> DataError:
    expected = f"have {pixels} pixels" if pixels else "be an intact JPEG, PNG, BMP, GIF or WebP"
    return DataError(f"{path} must {expected}. Received: {received}")


def _as_rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits a pixel; Pillow's own conversion clips them at 255.
        values = np.asarray(image).astype(np.float64)
        grey = np.clip(np.rint(values / 257), 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


#: Photos decoded at the same time; each takes its full size in memory while it is resized.
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


#: Photos of one split that are compared with all the others together: 8 MB for 10,000 photos.
_CHUNK = 100


def perceptual_hash(image: Image.Image) -> int:
    """Return 64 bits that change little when a photo is resized or compressed again.

    They are the signs of the lowest frequencies of a cosine transform of the 32x32 grey image,
    against their median (`imagehash.phash`; Zauner 2010).
    """
    import imagehash

    return int(str(imagehash.phash(image)), 16)


def distance_to_other_splits(
    hashes: NDArray[np.uint64], split: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return distance and position of the nearest photo of another split, for each photo.

    Args:
        hashes: `(n,)` perceptual hashes.
        split: `(n,)` split codes.

    Returns:
        `(n,)` numbers of differing bits, NaN where there is no other split, and `(n,)` positions.
    """
    distance = np.full(len(hashes), np.nan)
    nearest = np.zeros(len(hashes), np.intp)
    for code in np.unique(split):
        mine, others = np.flatnonzero(split == code), np.flatnonzero(split != code)
        if not others.size:
            continue
        for start in range(0, len(mine), _CHUNK):
            part = mine[start : start + _CHUNK]
            bits = np.bitwise_count(hashes[part, None] ^ hashes[None, others])
            place = bits.argmin(axis=1)
            nearest[part] = others[place]
            distance[part] = bits[np.arange(len(part)), place]
    return distance, nearest


def expectations(card: DatasetCard, bounds: PhotoExpectations) -> list[Expectation]:
    """Return the expectations that `rows` of a dataset must meet.

    Args:
        card: What the dataset says about itself: counts, classes, value range.
        bounds: Tolerances from `params.yaml`.
    """
    return [
        *count_checks(card),
        *file_checks(card, bounds),
        *label_checks(card, bounds.class_divergence),
        *copy_checks(bounds.duplicates),
        check(
            "ExpectColumnValuesToBeBetween",
            "near-duplicates",
            f"more than {bounds.near_distance} of 64 bits to any photo of another split",
            "No photo of one split is nearly a photo of another, resized, cut or compressed again: "
            "the test score would reward memory.",
            column="near_distance",
            values_named=True,
            min_value=bounds.near_distance + 1,
        ),
    ]


def rows(dataset: Dataset) -> pd.DataFrame:
    """Describe every photo, decoded from its file as training decodes it, but in its own size.

    Args:
        dataset: Photos; only a few are in memory at a time.

    Returns:
        A frame of n rows, in the order of the arrays, with the columns
        `id` (split, class and file, `train/cat/cat.1.jpg`), `file`, `split`, `label`,
        `height`, `width` and `min_side` (pixels), `aspect_ratio` (longer over shorter side),
        `mode` (of the file, in Pillow's words: RGB, L, CMYK), `format`, `bytes`,
        `min`, `max`, `mean`, `std` (of the RGB values), `blank` (all pixels are equal),
        `content_hash` (of the pixels), `perceptual_hash`, `near_distance` (bits that differ from
        the hash of the nearest photo of another split) and `nearest` (that photo's file),
        `folder` (as expected of split and label, or the one that differs),
        `in_other_split` and `repeats` (the same pixels elsewhere).

    Raises:
        DataError: If a file is missing or damaged, or the arrays are not of this kind.
    """
    photos = _checked(dataset)
    facts = list(in_threads(lambda at: _facts(photos, at), range(photos.count)))
    columns: dict[str, Any] = {
        "file": [str(name) for name in photos.arrays["files"]],
        "label": np.asarray(photos.labels),
        "folder": [_folder_fault(photos, at) for at in range(photos.count)],
        **{name: [row[name] for row in facts] for name in facts[0]},
    }
    hashes = np.array(columns["perceptual_hash"], np.uint64)
    distance, nearest = distance_to_other_splits(hashes, np.asarray(photos.split))
    columns["perceptual_hash"] = [f"{value:016x}" for value in columns["perceptual_hash"]]
    columns["near_distance"] = distance
    columns["nearest"] = [columns["file"][at] for at in nearest]
    frame = example_rows(photos.split, columns)
    # People know their photos by name.
    frame["id"] = [name.removeprefix("photos/") for name in columns["file"]]
    return frame


def _checked(dataset: Dataset) -> Data:
    if not isinstance(dataset, Data) or not dataset.count:
        raise DataError(f"{dataset.folder}: must hold photos. Received: {dataset.count} examples")
    files = dataset.arrays["files"]
    if files.dtype.kind != "U" or files.shape != dataset.split.shape:
        raise DataError(
            f"{dataset.folder}: files must be {dataset.count} names, one for each photo. "
            f"Received: {files.dtype} {files.shape}"
        )
    return dataset


def _facts(photos: Data, position: int) -> dict[str, Any]:
    """Return what there is to say about one file."""
    path = photos.path(position)
    facts: dict[str, Any] = {}
    image = open_photo(path, facts=facts)
    values = value_facts(np.asarray(image)[np.newaxis])
    del values["nan"]  # 8-bit values are finite.
    # One colour is blank too, though its three values differ.
    pixels = np.asarray(image).reshape(-1, 3)
    values["blank"] = [bool((pixels == pixels[0]).all())]
    return {
        "height": image.height,
        "width": image.width,
        "min_side": min(image.size),
        "aspect_ratio": max(image.size) / min(image.size),
        **facts,
        "bytes": path.stat().st_size,
        **{name: value[0] for name, value in values.items()},
        "perceptual_hash": perceptual_hash(image),
    }


def _folder_fault(photos: Data, position: int) -> str:
    """Return `as expected`, or the folder where a photo lies that split or label deny."""
    path = PurePosixPath(str(photos.arrays["files"][position]))
    code, label, classes = photos.split[position], photos.labels[position], photos.card.classes
    known = code in range(len(SPLITS)) and label in range(len(classes))
    # split-names and label-set report unknown splits and classes.
    if not known or path.parts[1:-1] == (SPLITS[int(code)], classes[int(label)]):
        return "as expected"
    return path.parent.as_posix()


def file_checks(card: DatasetCard, bounds: PhotoExpectations) -> list[Expectation]:
    """Return what must hold for files: format, size, shape, values, and the folder they lie in."""
    return [
        check(
            "ExpectColumnValuesToBeInSet",
            "format",
            ", ".join(FORMATS),
            "Every file is of a format that is decoded in the same way everywhere.",
            column="format",
            values_named=True,
            value_set=[*FORMATS, "MPO"],
        ),
        check(
            "ExpectColumnValuesToBeInSet",
            "folder",
            "the folder of its split and class",
            "Every photo lies in the folder that its split and its label name: labels were not "
            "shifted against the files.",
            column="folder",
            values_named=True,
            value_set=["as expected"],
        ),
        check(
            "ExpectColumnValuesToBeBetween",
            "min-side",
            f"at least {bounds.min_side} pixels",
            "No photo is a thumbnail or an icon, which would be blown up to the models' size.",
            column="min_side",
            values_named=True,
            min_value=bounds.min_side,
        ),
        check(
            "ExpectColumnValuesToBeBetween",
            "aspect-ratio",
            f"at most {bounds.aspect_ratio:g} to 1",
            "No photo is a banner or a strip: models see it squeezed into a square.",
            column="aspect_ratio",
            values_named=True,
            max_value=bounds.aspect_ratio,
        ),
        check(
            "ExpectColumnMaxToBeBetween",
            "value-use",
            f"at least {bounds.value_use * card.value_max:.4g}",
            f"The brightest pixel comes near {card.value_max:g}: photos that were divided by their "
            "largest value before they were saved stay far below.",
            column="max",
            min_value=bounds.value_use * card.value_max,
        ),
        check(
            "ExpectColumnValuesToBeInSet",
            "not-blank",
            "no photo of one colour only",
            "Every photo shows something: pixels that are all equal are a placeholder or a failed "
            "conversion.",
            column="blank",
            value_set=[False],
        ),
    ]


KIND = Kind(
    "photos",
    Data,
    PhotoExpectations,
    rows,
    expectations,
    look="picture",
    file="picture",
    bounded=True,
    resized=True,
)
