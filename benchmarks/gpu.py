"""Features and fits on a GPU: the six ImageNet backbones, and the book's small networks.

python -m benchmarks gpu [--images FILE] [--out FILE]     measure on the GPU of Keras' backend
python -m benchmarks gpu --results FILE [FILE ...]        write what `--out` kept to RESULTS.md

Needs Keras and one of its backends (`KERAS_BACKEND`: tensorflow, jax or torch), nothing of ours, so
it can be copied to a machine with a GPU. The backbones have random weights: speed does not
depend on them. FILE of `--images` is an `.npz` of MNIST: `images`
(n, 28, 28, 1), `labels` and `split` (n,), codes as in `benchmarks.peers.common`.
"""

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import results

#: Backbones of the chapter, and the side of the images that they were trained on.
BACKBONES = {
    "Xception": 299,
    "InceptionV3": 299,
    "ResNet50": 224,
    "VGG16": 224,
    "VGG19": 224,
    "MobileNet": 224,
}
PRECISIONS = ("float32", "mixed_bfloat16")
NETWORKS = ("dnn", "cnn", "lenet5")
BATCH = 256
#: Images in a step of a fit: the book's, and one that keeps a GPU busy.
FIT_BATCHES = (32, 1024)
EPOCHS = 5
SECONDS = 2.0
SIDE = 8192


def main(words: list[str] | None = None) -> None:
    """Measure and print, or write earlier measurements to RESULTS.md."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", type=Path, help="train the small networks on these, too")
    parser.add_argument("--out", type=Path, help="keep the measurements here, after each row")
    parser.add_argument("--results", type=Path, nargs="+", help="what --out kept")
    parser.add_argument("--batch", type=int, default=BATCH, help="images of a backbone at a time")
    options = parser.parse_args(words)
    if options.results:
        kept = [json.loads(path.read_text(encoding="utf-8")) for path in options.results]
        results.write("gpu", {"devices": kept})
        return
    measured = describe()
    print(json.dumps(measured), flush=True)
    for part, row in measure(options.batch, options.images):
        measured.setdefault(part, []).append(row)
        print(json.dumps({part: row}), flush=True)
        if options.out:
            options.out.write_text(json.dumps(measured, indent=1), encoding="utf-8")


def describe() -> dict[str, Any]:
    """Return date, device, backend and versions."""
    import keras

    backend = keras.backend.backend()
    module = __import__(backend)
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "device": device(),
        "host": f"{os.cpu_count()} cores",
        "backend": backend,
        "versions": {
            "Python": platform.python_version(),
            "keras": keras.__version__,
            backend: module.__version__,
        },
    }


def device() -> str:
    """Return the name of the accelerator, or of the processor if there is none."""
    import keras

    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return str(jax.devices()[0].device_kind)
    if backend == "torch":
        import torch

        return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    if not found:
        return "cpu"
    return str(tf.config.experimental.get_device_details(found[0])["device_name"])


def measure(batch: int, images: Path | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield rows: `products`, `features` and `fits`."""
    for precision in PRECISIONS:
        yield "products", {"precision": precision, "flops": products(precision)}
    for precision in PRECISIONS:
        for name, side in BACKBONES.items():
            for xla in (False, True):
                if row := features(name, side, precision, batch, xla=xla):
                    yield "features", row
    if images:
        for name in NETWORKS:
            for precision in PRECISIONS:
                for size in FIT_BATCHES:
                    yield "fits", fit(name, precision, size, images)


def products(precision: str) -> float:
    """Return FLOP/s of a large product of matrices."""
    import keras

    dtype = "float32" if precision == "float32" else "bfloat16"
    matrix = keras.ops.cast(keras.random.uniform((SIDE, SIDE)), dtype)
    multiply = _compile(keras.ops.matmul, xla=True) or keras.ops.matmul
    return 2 * SIDE**3 / _seconds(lambda: multiply(matrix, matrix))


def features(
    name: str, side: int, precision: str, batch: int, *, xla: bool
) -> dict[str, Any] | None:
    """Return images/s of a backbone with global average pooling; None if there is no such way.

    The images are in the device's memory: reading and decoding them is not measured.

    Args:
        xla: Compile with XLA. JAX has no other way; Keras on PyTorch does not use it.
    """
    import keras

    first = keras.backend.backend() == "torch"  # Its convolutions want channels first.
    keras.config.set_image_data_format("channels_first" if first else "channels_last")
    keras.config.set_dtype_policy(precision)
    shape = (3, side, side) if first else (side, side, 3)
    model = getattr(keras.applications, name)(
        include_top=False, weights=None, pooling="avg", input_shape=shape
    )
    call = _forward(model, xla=xla)
    if call is None:
        return None
    x = keras.random.uniform((batch, *shape), -1, 1)
    seconds = _seconds(lambda: call(x))
    speed = batch / seconds
    return {
        "name": name,
        "side": side,
        "precision": precision,
        "xla": xla,
        "batch": batch,
        "images": speed,
        "flops": speed * operations(model),
    }


def operations(model: Any) -> int:
    """Return the floating-point operations of the convolutions for one image."""
    count = 0
    for layer in model.layers:
        kernels = [weight for weight in layer.weights if "kernel" in weight.name]
        if kernels:
            _, *sizes = layer.output.shape
            positions = math.prod(
                sizes[1:] if layer.data_format == "channels_first" else sizes[:-1]
            )
            count += 2 * positions * sum(math.prod(kernel.shape) for kernel in kernels)
    return count


def fit(name: str, precision: str, batch: int, images: Path) -> dict[str, Any]:
    """Return seconds (compilation included) and test accuracy of a plain `Model.fit` on MNIST."""
    import keras
    import numpy as np

    from benchmarks.peers.common import TEST, TRAIN
    from benchmarks.peers.keras_images import network

    keras.config.set_image_data_format("channels_last")
    keras.config.set_dtype_policy(precision)
    keras.utils.set_random_seed(1)
    with np.load(images) as arrays:
        pixels = arrays["images"].astype(np.float32) / arrays["images"].max()
        labels, split = arrays["labels"], arrays["split"]
    model = network(name, pixels.shape[1:])
    model.compile(
        optimizer=keras.optimizers.Adam(0.001 * (batch / 32) ** 0.5),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    train, test = split == TRAIN, split == TEST
    started = time.perf_counter()
    model.fit(pixels[train], labels[train], batch_size=batch, epochs=EPOCHS, verbose=0)
    seconds = time.perf_counter() - started
    _, accuracy = model.evaluate(pixels[test], labels[test], batch_size=1000, verbose=0)
    return {
        "name": name,
        "precision": precision,
        "batch": batch,
        "epochs": EPOCHS,
        "seconds": seconds,
        "accuracy": float(accuracy),
    }


def _forward(model: Any, *, xla: bool) -> Callable[[Any], Any] | None:
    """Return the model as a function of its inputs; None if there is no such way."""
    import keras

    if keras.backend.backend() != "jax":
        return _compile(lambda x: model(x, training=False), xla=xla)
    # Weights are arguments: XLA would fold closed-over ones as constants, for minutes.
    weights = [
        [variable.value for variable in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    ]
    call = _compile(lambda w, x: model.stateless_call(*w, x, training=False)[0], xla=xla)
    return call and (lambda x: call(weights, x))


def _compile(function: Callable[..., Any], *, xla: bool) -> Callable[..., Any] | None:
    """Return a function as the backend runs it, by XLA or not; None if it has no such way."""
    import keras

    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.jit(function) if xla else None
    if backend == "torch":
        import torch

        return None if xla else torch.no_grad()(function)
    import tensorflow as tf

    graph: Callable[..., Any] = tf.function(function, jit_compile=xla)
    return graph


def _seconds(call: Callable[[], Any]) -> float:
    """Return the mean seconds of a call, over some seconds of calls that follow each other."""
    _wait(call())
    once = time.perf_counter()
    _wait(call())
    count = max(1, int(SECONDS / (time.perf_counter() - once)))
    started = time.perf_counter()
    for _ in range(count):
        result = call()
    _wait(result)
    return (time.perf_counter() - started) / count


def _wait(result: Any) -> None:
    """Wait for the device; the last result is computed after all others."""
    import keras

    keras.ops.convert_to_numpy(keras.ops.ravel(result)[:1])


if __name__ == "__main__":
    main()
