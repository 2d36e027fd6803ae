"""Dense network, the book's CNN and LeNet-5 in plain Keras, on images in memory.

After the quickstart of TensorFlow and the book: Adam at 0.001, batches of 32, `Model.fit`. No
validation.
"""

import os
from collections.abc import Sequence

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

from benchmarks.peers.common import TEST, TRAIN, arrays, options, report, timed

BATCH = 32


def network(model: str, shape: tuple[int, ...]) -> keras.Model:
    """Return a model for grey images: `(b, *shape)` -> `(b, 10)`."""
    if model == "dnn":
        parts = [
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.2),
        ]
    elif model == "cnn":
        parts = [
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
        ]
    else:
        parts = [
            layers.ZeroPadding2D((32 - shape[0]) // 2),
            layers.Conv2D(6, 5, activation="relu"),
            layers.AveragePooling2D(2),
            layers.Conv2D(16, 5, activation="relu"),
            layers.AveragePooling2D(2),
            layers.Conv2D(120, 5, activation="relu"),
            layers.Flatten(),
            layers.Dense(84, activation="relu"),
        ]
    return keras.Sequential([keras.Input(shape), *parts, layers.Dense(10)])


def main(words: Sequence[str] | None = None) -> None:
    """Fit and score a model."""
    chosen = options(__doc__, words, model={"choices": ("dnn", "cnn", "lenet5"), "required": True})
    keras.utils.set_random_seed(chosen.seed)
    images, labels, split = arrays(chosen.data, "images", "labels", "split")
    pixels = images.astype(np.float32) / images.max()
    x, y = pixels[split == TRAIN], labels[split == TRAIN]
    model = network(chosen.model, images.shape[1:])
    model.compile(
        optimizer="adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # On two cores, XLA takes half as long again.
    )
    seconds, _ = timed(lambda: model.fit(x, y, batch_size=BATCH, epochs=chosen.epochs, verbose=0))
    _, accuracy = model.evaluate(pixels[split == TEST], labels[split == TEST], verbose=0)
    report(seconds, float(accuracy), chosen)


if __name__ == "__main__":
    main()
