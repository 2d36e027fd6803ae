"""Photos for tests: pictures that differ from one another, and folders of them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int, width: int = 64, height: int = 48) -> Image.Image:
    """Return a smooth RGB picture that is like no other number's, from black to white."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    coarse[0, 0], coarse[-1, -1] = 0, 255
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def fill(folder: Path, numbers: Iterable[int], suffix: str = ".png") -> Path:
    """Write the pictures of these numbers into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        picture(number).save(folder / f"{number}{suffix}")
    return folder


def photo_folder(root: Path, each: int = 20) -> Path:
    """Write two classes, `cat` and `dog`, of so many pictures each."""
    fill(root / "cat", range(each))
    fill(root / "dog", range(1000, 1000 + each))
    return root
