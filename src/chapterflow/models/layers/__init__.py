"""Layers and blocks that chapter models share."""

import importlib
import pkgutil

import chapterflow.models.layers


def register() -> None:
    """Import every module that may define a layer; call it before a saved model is loaded."""
    for module in pkgutil.iter_modules(chapterflow.models.layers.__path__):
        importlib.import_module(f"chapterflow.models.layers.{module.name}")
