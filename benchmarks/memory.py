"""Memory of `chapterflow predict`, which should not depend on the number of examples.

The benchmark trains a model in a temporary project, then predicts arrays and folders of 8x8 images
of growing size, each in a new process. It compares the peak memory (of the largest process) with
the peak for a single image.

python -m benchmarks memory [--arrays 20000 80000 320000] [--pictures 2000 8000 32000]
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.growth import CLI, call
from chapterflow.environment import find_project

MODEL = "dnn@challenger"


def main(words: list[str] | None = None) -> None:
    """Print a table of peak memory against size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arrays", nargs="*", type=int, default=[20_000, 80_000, 320_000])
    parser.add_argument("--pictures", nargs="*", type=int, default=[2_000, 8_000, 32_000])
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shutil.copy(find_project().params, root)
        _call(root, ["run", "dnn", "--set", "models.dnn.epochs=1"])
        digits = np.load(root / "data/digits/images.npy")
        print(
            f"{'input':<20} {'on disk':>10} {'as float32':>10} {'peak':>8} {'more':>8} {'took':>7}"
        )
        _growth(root, "array", [1, *options.arrays], lambda count: _array(root, digits, count))
        _growth(
            root, "pictures", [1, *options.pictures], lambda count: _folder(root, digits, count)
        )


def _growth(root: Path, what: str, counts: Sequence[int], make: Callable[[int], Path]) -> None:
    """Predict inputs of each size and print a line per size."""
    least = 0.0
    for count in counts:
        place = make(count)
        out = root / "out.parquet"
        peak, seconds = _call(root, ["predict", MODEL, str(place), "--out", str(out)])
        least = least or peak
        files = [place] if place.is_file() else place.iterdir()
        disk = sum(file.stat().st_size for file in files) / 1e6
        print(
            f"{f'{what}, {count:,}':<20} {disk:>7.1f} MB {count * 64 * 4 / 1e6:>7.1f} MB "
            f"{peak:>5.0f} MB {peak - least:>+5.0f} MB {seconds:>5.1f} s",
            flush=True,
        )


def _array(root: Path, digits: np.ndarray, count: int) -> Path:
    np.save(root / "images.npy", np.resize(digits, (count, *digits.shape[1:])))
    return root / "images.npy"


def _folder(root: Path, digits: np.ndarray, count: int) -> Path:
    folder = root / "pictures"
    folder.mkdir(exist_ok=True)
    for place in range(len(list(folder.iterdir())), count):
        pixels = digits[place % len(digits)].reshape(8, 8) * 15
        Image.fromarray(pixels).save(folder / f"{place:07}.png")
    return folder


def _call(root: Path, words: Sequence[str]) -> tuple[float, float]:
    """Run a command and return its peak memory in MB and its time in seconds."""
    _, point = call(root, [*CLI, *words], more={"CHAPTERFLOW_PROJECT": str(root)}, patience=3600)
    return point["peak"] / 1e6, point["wall"]


if __name__ == "__main__":
    main()
