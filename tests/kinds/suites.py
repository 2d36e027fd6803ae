"""Runs a suite for the names of its broken checks alone."""

from __future__ import annotations

from functools import cache
from typing import Any

from chapterflow.kinds.dataset import Dataset


@cache
def _definition() -> Any:
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("arrays").add_dataframe_asset("rows")
    return asset.add_batch_definition_whole_dataframe("all")


def broken_checks(dataset: Dataset, bounds: Any) -> set[str]:
    """Return the names of the checks that a dataset breaks.

    It is `validate_dataset` without its pages and without what is wrong with which example, which
    takes longer than the checks.
    """
    import great_expectations as gx

    kind = dataset.kind
    expectations = kind.expectations(dataset.card, bounds)
    suite = gx.ExpectationSuite(name="all", expectations=expectations)
    batch = _definition().get_batch({"dataframe": kind.rows(dataset)})
    outcomes = batch.validate(suite, result_format="BOOLEAN_ONLY").results
    assert len(outcomes) == len(suite.expectations)
    return {o.expectation_config.meta["name"] for o in outcomes if not o.success}
