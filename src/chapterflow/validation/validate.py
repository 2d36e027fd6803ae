"""Validate a dataset: rows -> Great Expectations suite -> verdict and its pages."""

from __future__ import annotations

import math
import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chapterflow.checks import Check
from chapterflow.files import publish
from chapterflow.kinds.dataset import Dataset, DatasetCard
from chapterflow.types import Bound, Strict
from chapterflow.validation.docs import PAGE, render_page, write_offline_docs
from chapterflow.validation.verdict import ACCEPTED, VERDICT, Verdict

if TYPE_CHECKING:
    import great_expectations as gx
    import pandas as pd
    from great_expectations.core import ExpectationSuiteValidationResult

#: Ids of offending examples that a result names.
NAMED = 5
UNITS = {
    "expect_table_row_count_to_equal": " examples",
    "expect_column_unique_value_count_to_be_between": " examples",
}


def describe(outcome: Any, rows: pd.DataFrame, card: DatasetCard, bounds: Strict) -> Check:
    """Return the check of one `ExpectationValidationResult`.

    Args:
        outcome: A result whose expectation comes from `kinds.rows.check`, computed with the column
            `id` as its index.
        rows: The rows that it was computed from.
        card: Card of the dataset.
        bounds: Tolerances of the kind of data, without those that the dataset accepts.
    """
    config, result = outcome.expectation_config, outcome.result or {}
    column, setting = config.kwargs.get("column"), config.meta["setting"]
    offending = [str(row["id"]) for row in result.get("partial_unexpected_index_list") or []]
    expected = config.meta["expected"]
    accepted: Bound | None = card.accepted.get(setting)
    if accepted is not None:
        expected += f" ({ACCEPTED} {card.name}: {setting} {accepted}, not {_of(bounds, setting)})"
    decides: dict[str, str | None] = {}
    reason = ""
    if setting and not outcome.success:
        bound = _of(bounds, setting) if accepted is None else accepted
        needed = _needed(config, result, rows, bound)
        decides = {"setting": setting, "bound": f"{bound}", "needed": needed}
        way_on = f"; {needed} accepts it" if needed else ""
        reason = f"The setting {setting} decides, {bound} for {card.name}{way_on}."
    return Check(
        name=config.meta["name"],
        state="passed" if outcome.success else "failed",
        title=config.meta["reason"],
        reason=reason,
        expected=expected,
        observed=_observed(config, result, outcome.exception_info or {}, card.classes),
        details={
            "type": config.type,
            # That ids are unique is how rows of a split are counted; no reader looks for it there.
            "column": None if column == "id" else column,
            **decides,
        },
        examples=offending[:NAMED],
        examples_count=result.get("unexpected_count"),
    )


def _of(bounds: Strict, setting: str) -> Any:
    return getattr(bounds, setting)


def _needed(config: Any, result: dict[str, Any], rows: pd.DataFrame, bound: Any) -> str | None:
    """Return the tightest bound that the rows meet, as users write it; None if there is none.

    Args:
        config: Configuration of the failed expectation.
        result: Its result.
        rows: All rows.
        bound: The bound in force, which decides the form of the new one.
    """
    kwargs, unit = config.kwargs, config.meta["unit"]
    if unit is None:
        return None
    lowest, mostly = "min_value" in kwargs, kwargs.get("mostly", 1.0)
    if "unexpected_percent" not in result:
        value = result.get("observed_value")
        lowest = lowest and value is not None and value < kwargs["min_value"]
    elif config.type == "expect_column_values_to_be_between":
        sign = -1 if lowest else 1
        values = sign * rows[kwargs["column"]].dropna().to_numpy(float)
        value = sign * np.quantile(values, mostly, method="inverted_cdf") if len(values) else None
    else:
        value = result["unexpected_percent"] / 100
    if value is None or not math.isfinite(value):
        return None
    value = _outward(float(value) / unit, whole=isinstance(bound, int), down=lowest)
    if isinstance(bound, list):
        return f"{value:g},{bound[1]:g}" if lowest else f"{bound[0]:g},{value:g}"
    return f"{value:g}"


def _outward(value: float, *, whole: bool, down: bool) -> float:
    """Round to two significant digits, or to a whole number, so that the value is within."""
    digits = 0 if whole or not value else 1 - math.floor(math.log10(abs(value)))
    rounded = (math.floor if down else math.ceil)(value * 10**digits) / 10**digits
    return float(rounded)


def _observed(
    config: Any, result: dict[str, Any], trouble: dict[str, Any], classes: Sequence[str]
) -> str:
    if "unexpected_count" in result:
        return _examples(result, named=config.meta["values_named"])
    if "partial_missing_list" in result:
        missing = ", ".join(map(_number, result["partial_missing_list"]))
        return f"none of {missing}" if missing else "some of each"
    value = result.get("observed_value")
    if value is None:
        return _reason(result, trouble)
    text = f"{_number(value)}{UNITS.get(config.type, '')}"
    shares = result.get("details", {}).get("observed_partition")
    if shares:
        by_share = sorted(zip(shares["weights"], shares["values"], strict=True))
        ends = (
            f"class {classes[int(label)]}: {share:.1%}"
            for share, label in (by_share[0], by_share[-1])
        )
        text += f" ({' to '.join(ends)})"
    return text


def _examples(result: dict[str, Any], *, named: bool) -> str:
    seen = result["element_count"] - result.get("missing_count", 0)
    wrong = result["unexpected_count"]
    if not wrong:
        return f"all {seen:,} examples as expected"
    text = f"unexpected in {wrong:,} of {seen:,} examples ({100 * wrong / seen:.3g}%)"
    if not named:
        return text
    values = list(dict.fromkeys(_number(value) for value in result["partial_unexpected_list"]))
    return f"{text}{', such as' if wrong > NAMED else ':'} {', '.join(values)}"


def _reason(result: dict[str, Any], trouble: dict[str, Any]) -> str:
    """Say why there is no value; `trouble` is keyed by metric if computing one failed."""
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


DATA_DOCS = "data_docs"
#: Key of an expectation's place in its suite among its `meta`.
POSITION = "position"
#: Great Expectations keeps the current context in a global, so one validation runs at a time.
_one_at_a_time = threading.Lock()


def validate_dataset(dataset: Dataset, bounds: Strict, out: Path) -> Verdict:
    """Check the arrays that training reads against the suite of their kind.

    Writes `out`, replacing an older one as a whole: `verdict.json` (equal data give equal bytes),
    `index.html` (the verdict on one page) and `data_docs/` (Great Expectations' own pages, made
    to work without a network). They are written for a failure just as for a success.

    Args:
        dataset: The dataset; nothing of it is changed.
        bounds: Tolerances of its kind from `params.yaml`; those that the card accepts win.
        out: Folder for the results.

    Returns:
        The verdict. It does not raise for broken expectations: call `raise_for_failure` once the
        results are stored.

    Raises:
        DataError: If the arrays cannot be put into rows (a label is missing, say).
    """
    # Read when the library is imported; the command line has set it, a script may not have.
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx

    kind = dataset.kind
    rows = kind.rows(dataset)
    own_bounds = type(bounds).model_validate(bounds.model_dump() | dataset.card.accepted)
    suite = gx.ExpectationSuite(
        name=kind.name, expectations=kind.expectations(dataset.card, own_bounds)
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        _one_at_a_time,
        tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch,
    ):
        new = Path(scratch, "new")
        new.mkdir()
        result = _run_suite(suite, rows)
        results = [describe(outcome, rows, dataset.card, bounds) for outcome in result.results]
        verdict = Verdict(
            dataset=dataset.card.name,
            dataset_digest=dataset.card.digest,
            success=all(check.passed for check in results),
            examples=len(rows),
            results=results,
        )
        (new / VERDICT).write_text(verdict.to_json(), encoding="utf-8")
        (new / PAGE).write_text(
            render_page(verdict, dataset.card, docs=f"{DATA_DOCS}/index.html"), encoding="utf-8"
        )
        write_offline_docs(suite, result, new / DATA_DOCS)
        publish(new, out)
    return verdict


def _run_suite(suite: gx.ExpectationSuite, rows: pd.DataFrame) -> ExpectationSuiteValidationResult:
    """Run a suite on rows; the results are in the order of the suite."""
    import great_expectations as gx

    for position, expectation in enumerate(suite.expectations):
        expectation.meta = {**(expectation.meta or {}), POSITION: position}
    # An ephemeral context lives in memory: nothing is written to the user's folder.
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("arrays").add_dataframe_asset("rows")
    definition = asset.add_batch_definition_whole_dataframe("all")
    # No checkpoint: it would copy the suite and the results between stores, which takes as long
    # as half of the checks.
    result = definition.get_batch({"dataframe": rows}).validate(
        suite,
        result_format={
            "result_format": "SUMMARY",
            "unexpected_index_column_names": ["id"],
            "partial_unexpected_count": NAMED,
            "return_unexpected_index_query": False,
        },
    )
    # Great Expectations puts those that could not be computed first.
    result.results.sort(key=lambda outcome: outcome.expectation_config.meta[POSITION])
    return result


def load_great_expectations() -> None:
    """Import Great Expectations, which takes seconds, before it is needed."""
    import great_expectations  # noqa: F401
