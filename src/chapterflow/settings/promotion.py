"""What a challenger must show before it becomes champion."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from chapterflow.models.parts.base import Strict
from chapterflow.settings.types import Share

Number = Annotated[float, Field(ge=0)]


def _by_role(given: Any, depth: int = 2) -> Any:
    """Say what is wrong once; a union would say it for each of its members."""
    if isinstance(given, dict) and depth:
        for inner in given.values():
            _by_role(inner, depth - 1)
    elif isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < math.inf:
        raise ValueError("must be a number from 0, or one for each role, or profile of a role")
    return given


#: One number for all roles, one for each role, or one for each profile of a role.
ByRole = Annotated[
    float | dict[str, float | dict[str, float]],
    BeforeValidator(_by_role),
]


class PromotionParams(Strict):
    """Thresholds of the gates between challenger and champion (`docs/promotion.md`).

    One that is missing for a role fails its gate: it never passes unseen.

    Attributes:
        floor: Least accuracy on the test split.
        ceiling: Largest RMSE on the test split, over that of the best classical filter; for curves,
            which have no accuracy.
        margin: What a challenger may be worse than the champion: the 95 % paired bootstrap
            interval of the difference in accuracy must lie above minus this margin (for curves:
            that of the ratio of RMSEs below 1 plus this margin).
        superiority: Whether the challenger must be shown to be better.
        worst_class_margin: What the recall of the worst class may be worse than the champion's.
        calibration_error: Largest expected calibration error.
        latency_ms_p95: Largest 95th percentile of the time for one example, ms, measured anew.
        file_megabytes: Largest file of the model, MB.
        explanations: Least share of attribution methods whose maps depend on the weights
            (randomisation test, Adebayo et al. 2018).
        rescored_difference: Largest difference between the score that was logged and the score now.
        reload_difference: Largest difference between an answer that was logged with the model and
            the answer of the model loaded in a fresh process.
    """

    floor: ByRole
    ceiling: ByRole
    margin: ByRole
    superiority: bool
    worst_class_margin: ByRole
    calibration_error: ByRole
    latency_ms_p95: ByRole
    file_megabytes: ByRole
    explanations: Share
    rescored_difference: Number
    reload_difference: Number

    def threshold(self, name: str, role: str, profile: str) -> float | None:
        """Return a threshold for a role in a profile; None where `params.yaml` has none."""
        found = getattr(self, name)
        for key in (role, profile):
            if isinstance(found, dict):
                found = found.get(key)
        return None if found is None or isinstance(found, dict) else float(found)
