"""What runs and versions keep in the artifact store, read for a look back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chapterflow.errors import StoreError
from chapterflow.tracking.registry import Version


def read_json(run_id: str, path: str) -> dict[str, Any]:
    """Return a JSON document among a run's artifacts.

    Raises:
        StoreError: If it is not there, or no JSON object.
    """
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    try:
        found = mlflow.artifacts.load_dict(f"runs:/{run_id}/{path}")
    except (MlflowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StoreError(f"{path} of run {run_id} must be there. Received: {reason}") from None
    if not isinstance(found, dict):
        raise StoreError(
            f"{path} of run {run_id} must be a JSON object. Received: {type(found).__name__}"
        )
    return found


def model_file(version: Version) -> Path:
    """Return the `.keras` file of a version, on this machine.

    Raises:
        StoreError: If it is not in the store.
    """
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    try:
        folder = Path(mlflow.artifacts.download_artifacts(version.source))
        (file,) = folder.rglob("*.keras")
    except (MlflowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StoreError(
            f"The files of {version.uri()} must be in the tracking store. Received: {reason}"
        ) from None
    return file
