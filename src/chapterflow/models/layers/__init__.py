"""Layers and blocks that chapter models share."""

import importlib
import pkgutil

import chapterflow.models.layers


def register() -> None:
    """Register all custom layers with Keras; call this before loading a saved model."""
    for module in pkgutil.iter_modules(chapterflow.models.layers.__path__):
        importlib.import_module(f"chapterflow.models.layers.{module.name}")
