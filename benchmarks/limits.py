"""What this machine can do at most: products of matrices, and bytes from memory.

python -m benchmarks.limits

A fit cannot be faster than its floating-point operations at the speed of large products of
matrices, nor than its bytes at the bandwidth of memory: the larger of both times is its limit.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

#: A step computes the outputs, the gradients of the inputs, and the gradients of the weights, with
#: as many operations each.
PASSES = 3
#: Adam reads and writes a weight, its gradient and two moments, in float32.
BYTES_PER_PARAMETER = 8 * 4
#: Side of the matrices, and megabytes of the copied array.
SIDE, MEGABYTES = 2048, 256
REPEATS = 8


def limit(work: Mapping[str, Any], speeds: Mapping[str, float], epochs: int) -> float:
    """Return the least seconds of a fit.

    Args:
        work: `flops` and `bytes` of an epoch, and `precision` of the products.
        speeds: As `measure` returns them.
    """
    products = speeds[work.get("precision", "float32")]
    return epochs * max(work["flops"] / products, work["bytes"] / speeds["memory"])


def measure() -> dict[str, float]:
    """Return FLOP/s of products in float32 and bfloat16, and bytes/s that pass through memory."""
    from chapterflow.environment import load_tensorflow

    load_tensorflow()
    import tensorflow as tf

    speeds = {}
    for precision in ("float32", "bfloat16"):
        matrix = tf.cast(tf.random.uniform((SIDE, SIDE)), precision)
        product = tf.function(tf.linalg.matmul)
        speeds[precision] = 2 * SIDE**3 / _best(lambda: product(matrix, matrix).numpy())  # noqa: B023
    return {**speeds, "memory": _bandwidth()}


def _bandwidth() -> float:
    import numpy as np

    count = os.cpu_count() or 1
    parts = [np.ones((2, MEGABYTES * 125_000 // count)) for _ in range(count)]
    with ThreadPoolExecutor(count) as pool:
        seconds = _best(lambda: list(pool.map(lambda part: np.copyto(part[0], part[1]), parts)))
    # Each byte is read once and written once.
    return sum(part.nbytes for part in parts) / seconds


def _best(function: Callable[[], Any]) -> float:
    """Return the seconds of the fastest call: a limit is what the machine does undisturbed."""
    function()
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def main(_words: list[str] | None = None) -> None:
    """Measure and print."""
    print(json.dumps(measure()), flush=True)


if __name__ == "__main__":
    main()
