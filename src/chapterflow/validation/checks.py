"""The form that all expectations have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from great_expectations.expectations.expectation import Expectation


def check(kind: str, name: str, expected: str, reason: str, **kwargs: Any) -> Expectation:
    """Return one expectation of a suite for rows.

    Args:
        kind: Class in `great_expectations.expectations`.
        name: Its name, unique in the suite, which verdicts use.
        expected: The requirement in a few words.
        reason: The mistake that it guards against.
        **kwargs: Arguments of the class.
    """
    import great_expectations.expectations as gxe

    # Data Docs show the description in place of a sentence made from the arguments.
    expectation: Expectation = getattr(gxe, kind)(
        description=f"{name}: {expected}. {reason}",
        meta={"name": name, "expected": expected, "reason": reason},
        **kwargs,
    )
    return expectation
