"""What runs and versions keep in the artifact store, read for a look back."""

from __future__ import annotations

from typing import Any

from chapterflow.errors import StoreError


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
