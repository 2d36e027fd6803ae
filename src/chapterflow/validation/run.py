"""Validate a dataset: arrays in, a folder with verdict, page and Data Docs out."""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chapterflow.data.card import Dataset
from chapterflow.models.parts.base import Strict
from chapterflow.validation.docs import write_offline_docs
from chapterflow.validation.page import PAGE, render_page
from chapterflow.validation.results import NAMED, describe
from chapterflow.validation.verdict import VERDICT, ExpectationResult, Verdict, read_verdict

if TYPE_CHECKING:
    import great_expectations as gx
    import pandas as pd

__all__ = ["ExpectationResult", "Verdict", "read_verdict", "validate_dataset"]

DATA_DOCS = "data_docs"
SITE = "offline"
#: Great Expectations keeps the current context in a global, so one validation runs at a time.
_one_at_a_time = threading.Lock()


def validate_dataset(dataset: Dataset, bounds: Strict, out: Path) -> Verdict:
    """Hold the arrays that training reads against the suite for their kind.

    Writes `out`, replacing an older one as a whole: `verdict.json` (equal data give equal bytes),
    `index.html` (the verdict on one page) and `data_docs/` (Great Expectations' own pages, made
    to work without a network). They are written for a failure just as for a success.

    Args:
        dataset: The dataset; nothing of it is changed.
        bounds: Tolerances from `params.yaml`.
        out: Folder for the results.

    Returns:
        The verdict. It does not raise for broken expectations: call `raise_for_failure` once the
        results are stored.

    Raises:
        DataError: If the arrays cannot be told in rows (not one label for each image, say).
    """
    # Read when the library is imported; the command line has set it, a script may not have.
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx

    kind = importlib.import_module(f"chapterflow.validation.kinds.{dataset.card.kind}")
    rows = kind.rows(dataset)
    suite = gx.ExpectationSuite(
        name=dataset.card.kind, expectations=kind.expectations(dataset.card, bounds)
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        _one_at_a_time,
        tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch,
    ):
        new, site = Path(scratch, "new"), Path(scratch, "site")
        new.mkdir()
        outcomes = _run_suite(suite, rows, site)
        results = [describe(outcome) for outcome in outcomes]
        verdict = Verdict(
            dataset=dataset.card.name,
            dataset_digest=dataset.card.digest,
            success=all(result.success for result in results),
            examples=len(rows),
            results=results,
        )
        (new / VERDICT).write_text(verdict.to_json(), encoding="utf-8")
        (new / PAGE).write_text(
            render_page(verdict, dataset.card, docs=f"{DATA_DOCS}/index.html"), encoding="utf-8"
        )
        write_offline_docs(site, new / DATA_DOCS)
        _replace(new, out, Path(scratch))
    return verdict


def _run_suite(suite: gx.ExpectationSuite, rows: pd.DataFrame, site: Path) -> list[Any]:
    """Run a suite on rows, build its Data Docs in `site`, return the results in suite order."""
    import great_expectations as gx

    # An ephemeral context lives in memory: nothing is written to the user's folder.
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    docs: Any = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {
            "class_name": "TupleFilesystemStoreBackend",
            "base_directory": str(site),
        },
    }
    context.add_data_docs_site(SITE, docs)
    source = context.data_sources.add_pandas("arrays")
    batch = source.add_dataframe_asset("rows").add_batch_definition_whole_dataframe("all")
    order = [expectation.meta["name"] for expectation in suite.expectations if expectation.meta]
    definition = gx.ValidationDefinition(
        name=suite.name, data=batch, suite=context.suites.add(suite)
    )
    checkpoint = gx.Checkpoint(
        name=suite.name,
        validation_definitions=[context.validation_definitions.add(definition)],
        result_format={
            "result_format": "SUMMARY",
            "unexpected_index_column_names": ["id"],
            "partial_unexpected_count": NAMED,
            "return_unexpected_index_query": False,
        },
    )
    result = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": rows})
    context.build_data_docs(site_names=[SITE])
    (outcomes,) = (validation.results for validation in result.run_results.values())
    # Great Expectations puts those that could not be computed first.
    return sorted(
        outcomes, key=lambda outcome: order.index(outcome.expectation_config.meta["name"])
    )


def _replace(new: Path, out: Path, scratch: Path) -> None:
    """Put the folder `new` in the place of `out`; other processes may be doing the same."""
    for attempt in range(10):
        if os.path.lexists(out):
            with contextlib.suppress(FileNotFoundError):
                out.rename(scratch / f"old-{attempt}")
        try:
            new.rename(out)
            return
        except OSError:
            # Somebody else put theirs here in between. A folder cannot be renamed over another.
            if not out.is_dir() or attempt == 9:
                raise
