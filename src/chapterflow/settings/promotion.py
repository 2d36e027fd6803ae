"""What a challenger must show before it becomes champion."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import Discriminator, Field, Tag

from chapterflow.models.parts.base import Strict
from chapterflow.settings.types import Share

Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]

#: Tags of a union, which pydantic puts into the place of a fault; users do not write them.
ONE, EACH = "one number", "one for each"


def _form(given: Any) -> str:
    """Return which of the two a value is meant to be: faults are told of that one alone."""
    return EACH if isinstance(given, dict) else ONE


Leaf = TypeVar("Leaf")
_ByProfile = Annotated[
    Annotated[Leaf, Tag(ONE)] | Annotated[dict[str, Leaf], Tag(EACH)], Discriminator(_form)
]
#: One number for all roles, one for each role, or one for each profile of a role.
ByRole = Annotated[
    Annotated[Leaf, Tag(ONE)] | Annotated[dict[str, _ByProfile[Leaf]], Tag(EACH)],
    Discriminator(_form),
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

    floor: ByRole[Share]
    ceiling: ByRole[Number]
    margin: ByRole[Share]
    superiority: bool
    worst_class_margin: ByRole[Share]
    calibration_error: ByRole[Share]
    latency_ms_p95: ByRole[Number]
    file_megabytes: ByRole[Number]
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
