"""Which chapter models exist: every file in `chapterflow/models` is one."""

import importlib
import pkgutil
from typing import Any

import chapterflow.models
from chapterflow.models.parts.base import ChapterModel


def model_names() -> list[str]:
    """Return the names of all chapter models, sorted. A file is a model; `parts` is not."""
    return sorted(
        module.name
        for module in pkgutil.iter_modules(chapterflow.models.__path__)
        if not module.ispkg
    )


def get_model(name: str) -> ChapterModel[Any]:
    """Return the chapter model called `name`.

    Raises:
        KeyError: If no file of that name exists.
        TypeError: If the file does not register a `ChapterModel` of its own name as `MODEL`.
    """
    if name not in model_names():
        raise KeyError(name)
    registered = getattr(importlib.import_module(f"chapterflow.models.{name}"), "MODEL", None)
    if not isinstance(registered, ChapterModel) or registered.name != name:
        raise TypeError(
            f"chapterflow/models/{name}.py must end with MODEL = ChapterModel(name={name!r}, ...). "
            f"Received: {registered!r}"
        )
    return registered
