"""The pickles of Planetoid files, read by an unpickler that knows six names and no others."""

from __future__ import annotations

import collections
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.data.compressed import open_decompressed
from chapterflow.errors import DataError

#: The largest file of Planetoid, decompressed, is smaller by far.
MAX_BYTES = 1 << 30


class _Matrix:
    """The attributes of a pickled sparse matrix, and no behaviour."""


class _Unpickler(pickle.Unpickler):
    """Finds the six names that Planetoid files use; any other is refused before it is imported.

    Pickles can set attributes of whatever they may name, so the name of the sparse matrix gives
    a class that is made anew for each file; the other five cannot be changed.
    """

    def __init__(self, file: Any) -> None:
        # The files were written by Python 2.
        super().__init__(file, encoding="latin1")
        self._known: dict[tuple[str, str], Any] = {
            ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("scipy.sparse.csr", "csr_matrix"): type("Matrix", (_Matrix,), {}),
            ("collections", "defaultdict"): collections.defaultdict,
            ("__builtin__", "list"): list,
        }

    def find_class(self, module: str, name: str) -> Any:
        """Return what a known name stands for."""
        try:
            return self._known[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"the name {module}.{name}, which could run code"
            ) from None


def read_pickle(path: Path) -> Any:
    """Return what a Planetoid file holds.

    Raises:
        DataError: If it is damaged or names anything but what such files need; nothing has run.
    """
    with open_decompressed(path) as file:
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise DataError(f"{path.name} must have at most {MAX_BYTES:,} bytes. Received: more")
    try:
        return _Unpickler(io.BytesIO(text)).load()
    # A damaged pickle raises nearly anything.
    except Exception as error:
        raise DataError(
            f"{path.name} must be a pickle of arrays, as Planetoid files are. "
            f"Received: {error or type(error).__name__}"
        ) from None


def read_matrix(path: Path) -> NDArray[np.float32]:
    """Return a sparse matrix `(n, f)`, dense.

    Raises:
        DataError: If the file does not hold one.
    """
    from scipy.sparse import csr_matrix

    held = read_pickle(path)
    if not isinstance(held, _Matrix):
        raise DataError(f"{path.name} must hold a sparse matrix. Received: {type(held).__name__}")
    parts = vars(held)
    try:
        arrays = [np.asarray(parts[key]) for key in ("data", "indices", "indptr")]
        if any(array.dtype.kind not in "iuf" for array in arrays):
            raise ValueError("its parts are not numbers")
        rows, columns = (int(side) for side in parts.get("_shape") or parts["shape"])
        if rows * columns > 1 << 31:
            raise ValueError(f"{rows} x {columns} entries")
        matrix = csr_matrix(tuple(arrays), shape=(rows, columns))
        matrix.check_format()
        return np.asarray(matrix.toarray(), np.float32)
    except (KeyError, TypeError, ValueError, MemoryError) as error:
        raise DataError(f"{path.name} must hold a sparse matrix. Received: {error}") from None


def read_one_hot(path: Path) -> NDArray[np.intp]:
    """Return the classes `(n,)` and their number, from one-hot rows.

    Raises:
        DataError: If the file holds something else.
    """
    held = read_pickle(path)
    if not isinstance(held, np.ndarray) or held.ndim != 2 or held.dtype.kind not in "iufb":
        raise DataError(f"{path.name} must hold one-hot rows. Received: {type(held).__name__}")
    return held


def read_neighbours(path: Path) -> NDArray[np.int64]:
    """Return edges `(m, 2)` from a mapping of nodes to their neighbours.

    Raises:
        DataError: If the file holds something else.
    """
    held = read_pickle(path)
    try:
        pairs = [(int(node), int(other)) for node, others in held.items() for other in list(others)]
    except (AttributeError, TypeError, ValueError):
        raise DataError(
            f"{path.name} must map nodes to lists of nodes. Received: {type(held).__name__}"
        ) from None
    return np.array(pairs, np.int64).reshape(-1, 2)
