"""The project's own Keras layers, made known to `keras.saving.load_model`."""

import importlib
import pkgutil

import chapterflow.models.parts


def register() -> None:
    """Import every module that may define a layer; call it before a saved model is loaded."""
    for module in pkgutil.iter_modules(chapterflow.models.parts.__path__):
        importlib.import_module(f"chapterflow.models.parts.{module.name}")
