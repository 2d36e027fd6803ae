"""The models of a textbook chapter on convolution, each run through one production loop.

    import chapterflow as cf

    cf.run("dnn", "cnn")
    cf.compare()

`docs/api.md` describes the functions. They are loaded when they are first used.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chapterflow.api import compare, dataset, explain, layers, load, run
else:

    def __getattr__(name: str) -> Any:
        if name in __all__:
            return getattr(importlib.import_module("chapterflow.api"), name)
        raise AttributeError(f"module 'chapterflow' has no attribute {name!r}")


__version__ = "0.1.0"
__all__ = ["compare", "dataset", "explain", "layers", "load", "run"]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


class _Explain(ModuleType):
    """The package `chapterflow.explain`, which is the function of that name when it is called."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.__wrapped__(*arguments, **options)

    @property
    def __wrapped__(self) -> Any:
        """The function, for `help` and the hints of editors and notebooks."""
        return importlib.import_module("chapterflow.api").explain


# Importing it anywhere makes it an attribute of this package, ahead of `__getattr__`.
importlib.import_module("chapterflow.explain")
sys.modules["chapterflow.explain"].__class__ = _Explain
