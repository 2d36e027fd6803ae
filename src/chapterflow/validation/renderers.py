"""The pages of Data Docs: columns in the order of the suite; by default they are alphabetical.

They are in a module of their own because it imports Great Expectations, which takes seconds:
whoever only reads a verdict does without it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from great_expectations.core import (
    ExpectationSuite,
    ExpectationSuiteValidationResult,
    RunIdentifier,
)
from great_expectations.core.expectation_validation_result import (
    ExpectationSuiteValidationResultSchema,
)
from great_expectations.render import RenderedDocumentContent
from great_expectations.render.renderer.page_renderer import (
    ExpectationSuitePageRenderer,
    ValidationResultsPageRenderer,
)
from great_expectations.render.view import DefaultJinjaPageView

from chapterflow.validation.validate import POSITION


def results_page(result: ExpectationSuiteValidationResult) -> str:
    """Return the page of results, which needs a network."""
    # Renderers take the types of JSON, not those of NumPy.
    schema = ExpectationSuiteValidationResultSchema()
    plain = schema.loads(schema.dumps(result))
    plain.meta["run_id"] = RunIdentifier(run_name=result.suite_name)
    return _html(ResultsRenderer().render(plain))


def suite_page(suite: ExpectationSuite) -> str:
    """Return the page of expectations, which needs a network."""
    return _html(SuiteRenderer().render(suite))


@functools.cache
def _view() -> DefaultJinjaPageView:
    # Each view compiles its templates, which takes longer than to fill them.
    return DefaultJinjaPageView()


def _html(page: RenderedDocumentContent) -> str:
    return str(_view().render(page, show_how_to_buttons=False))


class ResultsRenderer(ValidationResultsPageRenderer):  # type: ignore[misc]
    """The page of results."""

    def render(self, validation_results: Any, suite_parameters: Any = None) -> Any:
        """Return the page, its columns in the order of the suite."""
        page = super().render(validation_results, suite_parameters)
        return _ordered(page, (result.expectation_config for result in validation_results.results))


class SuiteRenderer(ExpectationSuitePageRenderer):  # type: ignore[misc]
    """The page of expectations."""

    def render(self, expectations: Any) -> Any:
        """Return the page, its columns in the order of the suite."""
        return _ordered(super().render(expectations), expectations.expectation_configurations)


def _ordered(page: RenderedDocumentContent, expectations: Iterable[Any]) -> RenderedDocumentContent:
    columns: dict[str, int] = {}
    for expectation in expectations:
        column, position = expectation.kwargs.get("column"), expectation.meta[POSITION]
        columns[column] = min(position, columns.get(column, position))
    # The other sections, such as the overview, go first.
    page.sections.sort(key=lambda section: columns.get(str(section.section_name), -1))
    return page
