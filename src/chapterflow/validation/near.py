"""Near duplicates: photos that look alike, though no byte of theirs need be equal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

#: Photos of one split that are compared with all the others together: 8 MB for 10,000 photos.
_CHUNK = 100


def perceptual_hash(image: Image.Image) -> int:
    """Return 64 bits that change little where a photo is resized or compressed anew.

    They are the signs of the lowest frequencies of a cosine transform of the 32x32 grey image,
    against their median (`imagehash.phash`; Zauner 2010).
    """
    import imagehash

    return int(str(imagehash.phash(image)), 16)


def distance_to_other_splits(
    hashes: NDArray[np.uint64], split: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return for each photo how near the nearest photo of another split is, and which that is.

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
            found = bits.argmin(axis=1)
            nearest[part] = others[found]
            distance[part] = bits[np.arange(len(part)), found]
    return distance, nearest
