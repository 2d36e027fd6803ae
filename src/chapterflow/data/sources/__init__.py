"""One file per kind of source: what `params.yaml` describes -> canonical arrays in memory.

The file of the kind `tu-graphs` is `tu_graphs.py`; its `read(params, fetch)` gives the data.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chapterflow.data.source import SourceData
from chapterflow.settings.datasets import DatasetParams
from chapterflow.settings.types import RemoteFile

#: Called with the file's name, bytes received so far, and bytes in all where known.
OnProgress = Callable[[str, int, int | None], None]


def recipe(params: DatasetParams) -> dict[str, Any]:
    """Return what decides a dataset's bytes: where it differs from the card's, build anew.

    Addresses are left out: they say where bytes come from, not which bytes. So are options that
    are not given, so that a new option leaves the recipes of older data as they were. Where
    the content of a path has changed, `chapterflow data fetch --force NAME` builds anew.
    """
    addresses = {"path", "mirror", "upstream", "title", "licence"}
    return params.model_dump(mode="json", exclude=addresses, exclude_none=True)


def read_source(params: DatasetParams, *, cache: Path, on_progress: OnProgress) -> SourceData:
    """Read a dataset from its source, fetching it where it is not on this machine.

    Args:
        params: The dataset's block of `params.yaml`.
        cache: Folder for downloads.
        on_progress: Told of downloaded bytes.

    Raises:
        DataError: If the source is damaged or not what `params.yaml` says.
        FetchError: If it cannot be fetched.
    """

    def local(file: RemoteFile) -> Path:
        from chapterflow.data.download import fetch

        return fetch(
            file,
            mirror_folder=getattr(params, "mirror", None),
            upstream=getattr(params, "upstream", ()),
            cache=cache,
            on_progress=on_progress,
        )

    module = importlib.import_module(f"{__name__}.{params.kind.replace('-', '_')}")
    found: SourceData = module.read(params, local)
    return found
