"""Photos of any size, in their original files.

`labels` and `split` `(n,)`; `files` `(n,)`, the path of each photo in the dataset's folder,
`photos/<split>/<class>/<file>`. Photos are decoded batch by batch, so a dataset may be larger than
memory.
"""

from __future__ import annotations

import hashlib
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from chapterflow.errors import DataError
from chapterflow.files import open_regular, sha256_file
from chapterflow.kinds.dataset import SPLITS, Dataset, DatasetCard, Kind, Split
from chapterflow.kinds.rows import (
    check,
    copy_checks,
    count_checks,
    example_rows,
    label_checks,
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
        duplicates: Largest share of photos that are copies within their split, pixel by pixel.
        min_side: Smallest height and width, in pixels.
        aspect_ratio: Largest ratio of the longer side to the shorter one.
        value_use: Smallest brightest pixel of the dataset, as a share of the value range.
        near_distance: Largest number of differing bits between the perceptual hashes (64 bits) of
            near duplicates in different splits.
    """

    class_divergence: Annotated[float, Field(ge=0)]
    duplicates: Share
    min_side: PositiveInt
    aspect_ratio: Annotated[float, Field(ge=1)]
    value_use: Share
    near_distance: Annotated[int, Field(ge=0, le=63)]


#: Supported formats, by Pillow's names. `JPEG` covers the MPO files that many cameras write.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
#: Extensions of their files.
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp"})
#: Largest number of pixels of a photo, which take 300 MB: without the limit, a file of a few
#: kilobytes could exhaust the memory.
MAX_PIXELS = 100_000_000
#: Number of pixels above which photos are decoded one at a time, and reduced.
LARGE = 16_000_000
_ONE_LARGE = threading.Lock()
#: Pixels of a large photo that are converted at once.
STRIP = 1_000_000
#: Width and height to which large photos are reduced for validation.
CHECKED = (512, 512)
#: Exceptions that Pillow raises for damaged, truncated or malicious files.
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

    The EXIF orientation is applied. Grey, palette and CMYK images are converted to RGB,
    transparent pixels are blended with white, and 16-bit grey values are divided by 257, so that
    white stays white. Only the first frame of an animation is read.

    Args:
        path: A JPEG, PNG, BMP, GIF or WebP file; the content decides, not the extension.
        facts: As of `open_photo`.

    Raises:
        DataError: If the file cannot be read, is damaged, truncated, of another format, or larger
            than `MAX_PIXELS`. The message names the file.
    """
    return np.asarray(open_photo(path, facts=facts))


def open_photo(
    path: Path, *, size: tuple[int, int] | None = None, facts: dict[str, Any] | None = None
) -> Image.Image:
    """Return the same as `decode`, as a Pillow image.

    Args:
        path: The file.
        size: Width and height that are needed: a photo of more than `LARGE` pixels is decoded to
            about twice as many, one such photo at a time, so that its memory stays bounded. Other
            photos, and all without a size, keep theirs.
        facts: Dict to fill with Pillow's `mode` and `format`, the photo's `height` and `width`,
            and `largest`, the largest of values of 16 bits (None for 8 bits).

    Raises:
        DataError: As `decode`.
    """
    from PIL import Image, UnidentifiedImageError

    # The size is checked below; Pillow's warning would add nothing.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    facts = {} if facts is None else facts
    try:
        with open_regular(path) as file:
            width, height = Image.open(file, formats=FORMATS).size  # of the header alone
            if width * height > MAX_PIXELS:
                raise _fault(path, f"{width:,} x {height:,} pixels", f"at most {MAX_PIXELS:,}")
            if width * height <= LARGE:
                return _decoded(file, None, facts)
            needed = 2 * max(size) if size else None
            with _ONE_LARGE:
                return _decoded(file, needed, facts)
    except Image.DecompressionBombError:
        raise _fault(path, "many more", f"at most {MAX_PIXELS:,}") from None
    except UnidentifiedImageError:
        raise _fault(path, "another format, or a damaged header") from None
    except _DAMAGE as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise _fault(path, reason) from None


def _decoded(file: BinaryIO, needed: int | None, facts: dict[str, Any]) -> Image.Image:
    """Return a photo upright and in RGB, its shorter side reduced to `needed` pixels or more."""
    from PIL import ExifTags, Image

    file.seek(0)
    image: Image.Image = Image.open(file, formats=FORMATS)
    facts.update(mode=image.mode, format=image.format, largest=None)
    width, height = image.size
    if image.format == "PNG" and any(";16" in str(tile[-1]) for tile in getattr(image, "tile", ())):
        facts["largest"] = 0  # Whatever Pillow makes of them.
    if needed:
        image.draft(None, (needed, needed))  # JPEG decodes to 1/2, 1/4 or 1/8 of the size.
    image.load()
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    factor = max(1, min(image.size) // needed) if needed else 1
    upright = _as_rgb(image, facts) if factor == 1 else _reduced(image, factor, facts)
    if orientation in _TURNS:
        upright = upright.transpose(Image.Transpose[_TURNS[orientation]])
    turned = orientation in (5, 6, 7, 8)
    facts["height"], facts["width"] = (width, height) if turned else (height, width)
    return upright


#: What brings a stored image upright, by its EXIF orientation (EXIF 2.32, section 4.6.5).
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def _reduced(image: Image.Image, factor: int, facts: dict[str, Any]) -> Image.Image:
    """Return the mean of each square of `factor` pixels, converting a strip at a time to RGB."""
    from PIL import Image

    width, height = image.size
    reduced = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    rows = factor * max(1, STRIP // (factor * width))
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(height, top + rows)))
        reduced.paste(_as_rgb(strip, facts).reduce(factor), (0, top // factor))
    return reduced


def _fault(path: Path, received: str, pixels: str = "") -> DataError:
    expected = f"have {pixels} pixels" if pixels else "be an intact JPEG, PNG, BMP, GIF or WebP"
    return DataError(f"{path} must {expected}. Received: {received}")


def _as_rgb(image: Image.Image, facts: dict[str, Any]) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits per pixel; Pillow's own conversion clips at 255.
        values = np.asarray(image)
        facts["largest"] = max(facts["largest"] or 0, int(values.max()))
        grey = np.clip(np.rint(values / np.float32(257)), 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if facts["largest"] is not None:  # Of 16-bit colours Pillow keeps the upper eight bits.
        bands = image.getextrema()
        highest = max(high for _, high in (bands if isinstance(bands[0], tuple) else (bands,)))
        facts["largest"] = max(facts["largest"], 257 * int(highest))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def few_bits(largest: int | None) -> bool:
    """Tell whether 16-bit values use fewer bits, as cameras and microscopes write them.

    Divided by 257 they are nearly black.

    Args:
        largest: Largest of the values; None if they are of 8 bits.
    """
    return largest is not None and largest.bit_length() <= 14


#: Photos decoded in parallel; each takes its full size in memory until it is resized, unless it
#: has more than `LARGE` pixels.
THREADS = max(1, min(4, os.cpu_count() or 1))
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Data(Dataset):
    """Raw RGB from 0 to 255 in, at the size that the model reads; class numbers out.

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
        """Return the path of a photo."""
        return self.folder / str(self.arrays["files"][position])

    def inputs(self, chosen: NDArray[np.intp]) -> Any:
        """Return float32 `(batch, height, width, 3)`, raw RGB from 0 to 255.

        The whole photo is resized, ignoring its aspect ratio, by Pillow's bilinear filter, which
        averages over a larger area when it shrinks (as in `keras.utils.load_img`).

        Raises:
            DataError: If a file is missing or damaged; the message names the file.
        """
        return np.asarray(self.stored(chosen), np.float32)

    def stored(self, chosen: NDArray[np.intp]) -> Any:
        """Return the same as uint8."""
        batch = np.empty((len(chosen), self.height, self.width, 3), np.uint8)
        resized = in_threads(self._resized, (self.path(position) for position in chosen))
        for position, pixels in enumerate(resized):
            batch[position] = pixels
        return batch

    def input_shapes(self) -> Any:
        """Return shape and dtype of the inputs."""
        return ((None, self.height, self.width, 3), "float32")

    def example(self) -> Any:
        """Return one photo; two take megabytes as text."""
        return self.inputs(self.indices("train")[:1])

    def content(self, split: Split) -> Iterator[bytes]:
        """Yield the hash of the file and the label of each photo, in order.

        Decoded pixels would depend on the version of the decoder.
        """
        for position in self.indices(split):
            yield bytes.fromhex(sha256_file(self.path(position)))
            yield np.int32(self.labels[position]).tobytes()

    def _resized(self, path: Path) -> NDArray[np.uint8]:
        from PIL import Image

        size = (self.width, self.height)
        return np.asarray(open_photo(path, size=size).resize(size, Image.Resampling.BILINEAR))


def in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield the results of `work` in order; decoders release the GIL."""
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(work, items)


#: Photos of a split compared with all others at once: 8 MB for 10,000 photos.
_CHUNK = 100


def perceptual_hash(image: Image.Image) -> int:
    """Return 64 bits that change little when a photo is resized or compressed again.

    They compare the lowest frequencies of a cosine transform of the 32x32 grey image with their
    median (`imagehash.phash`; Zauner 2010).
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
        `(n,)` numbers of differing bits, NaN if there is no other split, and `(n,)` positions.
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
        card: Card of the dataset.
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
            "No photo is a resized, cropped or recompressed copy of a photo in another split: the "
            "test score would reward memorization.",
            setting="near_distance",
            unit=None,
            column="near_distance",
            values_named=True,
            min_value=bounds.near_distance + 1,
        ),
    ]


def rows(dataset: Dataset) -> pd.DataFrame:
    """Describe every photo, decoded as in training but at its original size.

    Photos of more than `LARGE` pixels are described by their reduced pixels.

    Args:
        dataset: Photos; only a few are in memory at a time.

    Returns:
        A frame of n rows, in the order of the arrays, with the columns
        `id` (split, class and file, `train/cat/cat.1.jpg`), `file`, `split`, `label`,
        `height`, `width` and `min_side` (pixels), `aspect_ratio` (longer over shorter side),
        `mode` (Pillow's mode of the file: RGB, L, CMYK), `format`, `bytes`,
        `min`, `max`, `mean`, `std` (of the RGB values), `blank` (all pixels are equal),
        `content_hash` (of the pixels), `perceptual_hash`, `near_distance` (bits that differ from
        the hash of the nearest photo in another split), `nearest` (file of that photo),
        `folder` (`as expected`, or the actual folder if it contradicts split or label),
        `in_other_split` and `repeats` (see `example_rows`).

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
    # Users know their photos by name.
    frame["id"] = [name.removeprefix("photos/") for name in columns["file"]]
    return frame


def _checked(dataset: Dataset) -> Data:
    if not isinstance(dataset, Data) or not dataset.count:
        raise DataError(f"{dataset.folder} must contain photos. Received: {dataset.count} examples")
    files = dataset.arrays["files"]
    if files.dtype.kind != "U" or files.shape != dataset.split.shape:
        raise DataError(
            f"{dataset.folder}: files must be {dataset.count} names, one for each photo. "
            f"Received: {files.dtype} {files.shape}"
        )
    return dataset


def _facts(photos: Data, position: int) -> dict[str, Any]:
    """Return the columns of one photo."""
    path = photos.path(position)
    facts: dict[str, Any] = {}
    image = open_photo(path, size=CHECKED, facts=facts)
    height, width, _ = (facts.pop(name) for name in ("height", "width", "largest"))
    return {
        "height": height,
        "width": width,
        "min_side": min(height, width),
        "aspect_ratio": max(height, width) / min(height, width),
        **facts,
        "bytes": path.stat().st_size,
        **_pixel_facts(image),
        "perceptual_hash": perceptual_hash(image),
    }


def _pixel_facts(image: Image.Image) -> dict[str, Any]:
    """Return figures of the pixels without another array as large as the photo."""
    counts = np.array(image.histogram()).reshape(3, 256)
    values, total = np.arange(256), counts.sum(axis=0)
    (occurring,) = np.nonzero(total)
    mean = float((total * values).sum() / total.sum())
    digest = hashlib.blake2b(digest_size=16)
    for top in range(0, image.height, rows := max(1, STRIP // image.width)):
        box = (0, top, image.width, min(image.height, top + rows))
        digest.update(image.crop(box).tobytes())
    return {
        "min": float(occurring[0]),
        "max": float(occurring[-1]),
        "mean": mean,
        "std": float(np.sqrt((total * (values - mean) ** 2).sum() / total.sum())),
        # A photo of a single colour is blank, even if the three values of its pixels differ.
        "blank": bool(((counts > 0).sum(axis=1) == 1).all()),
        "content_hash": digest.hexdigest(),
    }


def _folder_fault(photos: Data, position: int) -> str:
    """Return `as expected`, or the folder of a photo if it contradicts split or label."""
    path = PurePosixPath(str(photos.arrays["files"][position]))
    code, label, classes = photos.split[position], photos.labels[position], photos.card.classes
    known = code in range(len(SPLITS)) and label in range(len(classes))
    # split-names and label-set report unknown splits and classes.
    if not known or path.parts[1:-1] == (SPLITS[int(code)], classes[int(label)]):
        return "as expected"
    return path.parent.as_posix()


def file_checks(card: DatasetCard, bounds: PhotoExpectations) -> list[Expectation]:
    """Return the checks of files: format, folder, size, aspect ratio and values."""
    return [
        check(
            "ExpectColumnValuesToBeInSet",
            "format",
            ", ".join(FORMATS),
            "Every file has a format that is decoded identically on all machines.",
            column="format",
            values_named=True,
            value_set=[*FORMATS, "MPO"],
        ),
        check(
            "ExpectColumnValuesToBeInSet",
            "folder",
            "the folder of its split and class",
            "Every photo is in the folder of its split and label: otherwise labels and files are "
            "misaligned.",
            column="folder",
            values_named=True,
            value_set=["as expected"],
        ),
        check(
            "ExpectColumnValuesToBeBetween",
            "min-side",
            f"at least {bounds.min_side} pixels",
            "No photo is a thumbnail or an icon that would be enlarged to the models' input size.",
            setting="min_side",
            column="min_side",
            values_named=True,
            min_value=bounds.min_side,
        ),
        check(
            "ExpectColumnValuesToBeBetween",
            "aspect-ratio",
            f"at most {bounds.aspect_ratio:g} to 1",
            "No photo is a banner or a strip, which would be distorted into a square.",
            setting="aspect_ratio",
            column="aspect_ratio",
            values_named=True,
            max_value=bounds.aspect_ratio,
        ),
        check(
            "ExpectColumnMaxToBeBetween",
            "value-use",
            f"at least {bounds.value_use * card.value_max:.4g}",
            f"The brightest pixel is close to {card.value_max:g}: photos divided by their maximum "
            "before they were saved are much darker.",
            setting="value_use",
            unit=card.value_max,
            column="max",
            min_value=bounds.value_use * card.value_max,
        ),
        check(
            "ExpectColumnValuesToBeInSet",
            "not-blank",
            "no photo of one colour only",
            "Every photo has different pixels: equal pixels come from a placeholder or a "
            "conversion error.",
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
