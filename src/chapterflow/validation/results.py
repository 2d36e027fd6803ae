"""Great Expectations' results -> records in plain words."""

from __future__ import annotations

from typing import Any

from chapterflow.validation.verdict import ExpectationResult

#: Ids of offending examples that a result names.
NAMED = 5
#: Columns whose unexpected values say more than that they are unexpected.
TELLING = {
    "split",
    "label",
    "shape",
    "dtype",
    "min",
    "max",
    "format",
    "folder",
    "min_side",
    "aspect_ratio",
    "near_distance",
}
UNITS = {
    "expect_table_row_count_to_equal": " examples",
    "expect_column_unique_value_count_to_be_between": " examples",
    "expect_column_kl_divergence_to_be_less_than": " nats",
}


def describe(outcome: Any) -> ExpectationResult:
    """Return the record of one `ExpectationValidationResult`.

    Args:
        outcome: A result whose expectation comes from `check`, computed with the column
            `id` as its index.
    """
    config, result = outcome.expectation_config, outcome.result or {}
    column = config.kwargs.get("column")
    offending = [str(row["id"]) for row in result.get("partial_unexpected_index_list") or []]
    return ExpectationResult(
        expectation=config.meta["name"],
        type=config.type,
        # That ids are unique is how rows of a split are counted; no reader looks for it there.
        column=None if column == "id" else column,
        description=config.meta["reason"],
        success=bool(outcome.success),
        expected=config.meta["expected"],
        observed=_observed(config.type, column, result, outcome.exception_info or {}),
        offending=offending[:NAMED],
        offending_count=result.get("unexpected_count"),
    )


def _observed(kind: str, column: str, result: dict[str, Any], trouble: dict[str, Any]) -> str:
    if "unexpected_count" in result:
        return _examples(column, result)
    if "partial_missing_list" in result:
        missing = ", ".join(map(_number, result["partial_missing_list"]))
        return f"none of {missing}" if missing else "some of each"
    value = result.get("observed_value")
    if value is None:
        return _reason(result, trouble)
    text = f"{_number(value)}{UNITS.get(kind, '')}"
    shares = result.get("details", {}).get("observed_partition")
    if shares:
        by_share = sorted(zip(shares["weights"], shares["values"], strict=True))
        ends = (
            f"class {_number(name)}: {share:.1%}" for share, name in (by_share[0], by_share[-1])
        )
        text += f" ({' to '.join(ends)})"
    return text


def _examples(column: str, result: dict[str, Any]) -> str:
    seen = result["element_count"] - result.get("missing_count", 0)
    wrong = result["unexpected_count"]
    if not wrong:
        return f"all {seen:,} examples as expected"
    text = f"unexpected in {wrong:,} of {seen:,} examples ({100 * wrong / seen:.3g}%)"
    if column not in TELLING:
        return text
    values = list(dict.fromkeys(_number(value) for value in result["partial_unexpected_list"]))
    return f"{text}{', such as' if wrong > NAMED else ':'} {', '.join(values)}"


def _reason(result: dict[str, Any], trouble: dict[str, Any]) -> str:
    """Say why there is no value; `trouble` is keyed by metric where computing one failed."""
    for entry in [trouble, *trouble.values()]:
        message = entry.get("exception_message") if isinstance(entry, dict) else None
        if message:
            return "nothing: " + " ".join(str(message).split())[:160]
    return "nothing to compute it from"


def _number(value: Any) -> str:
    """Format a number so that the last bits of a sum, which may differ, do not show."""
    if isinstance(value, bool | str) or value is None:
        return str(value)
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"
