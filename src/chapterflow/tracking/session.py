"""One opened tracking store, and what the steps do with it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlencode

from chapterflow.config.settings import Settings
from chapterflow.environment import Project, experiment
from chapterflow.errors import DiskFull, StoreError, StoreUnavailable
from chapterflow.tracking import runs
from chapterflow.tracking.artifacts import RESULTS, RESULTS_TABLE, Artifacts
from chapterflow.tracking.provenance import has_sources
from chapterflow.tracking.records import Outcome
from chapterflow.tracking.store import (
    EXPERIMENT_ID,
    check_reachable,
    ensure_experiment,
    open_client,
    open_store,
)
from chapterflow.tracking.versions import (
    CHAMPION,
    challenger_alias,
    check_registered,
    is_challenger,
)

if TYPE_CHECKING:
    from mlflow.entities import Run


#: Groups of columns in MLflow's tables and charts.
COLUMNS = {
    "test/": "measured once on the held-out split: `accuracy` with its 95 % interval (`_low`, "
    "`_high`), `errors` (wrong answers), `log_loss`, `ece` (calibration); `rmse` for curves",
    "train/, validation/": "`loss` and `accuracy` of each epoch",
    "cost/": "what a prediction costs: `parameters`, `flops`, milliseconds, bytes",
    "baseline/, beside/": "scores without learning, and of variants with other parameters",
    "explain/": "whether to believe the explanations",
}


def charts_of(page: str, role: str) -> str:
    """Return the address of the charts of one role's models, on an experiment's page of runs.

    MLflow draws none for nested runs unless they are sorted.
    """
    query = {
        "searchFilter": f"tags.`{runs.ROLE}`='{role}'",
        "orderByKey": "tags.`mlflow.runName`",
        "orderByAsc": "true",
        "compareRunsMode": "CHART",
    }
    return f"{page}?{urlencode(query, quote_via=quote)}"


def experiment_note(roles: Iterable[str]) -> str:
    """Return the description of the experiment, in Markdown: where to look, what columns mean.

    MLflow shows its first line, and the rest after a click.
    """
    page = f"#/experiments/{EXPERIMENT_ID}/runs"
    links = " · ".join(f"[{role}]({charts_of(page, role)})" for role in roles)
    rows = "\n".join(f"| `{group}` | {text} |" for group, text in COLUMNS.items())
    parts = (
        f"**Charts of the models of a role:** {links}",
        "They are empty until a model of the role has run. A run of the list is one pass over "
        "several models, of the type `flow`; its + opens the runs of the models that it trained. "
        "[Registered models](#/models) begin their description with their champion and its score.",
        f"| columns | what they are |\n| --- | --- |\n{rows}",
        "`chapterflow report` writes one page with all results, `chapterflow compare` says which "
        "differences are significant, `chapterflow explain MODEL INPUT` shows what a model looks "
        "at, and `chapterflow promote MODEL` judges a challenger.",
    )
    return "\n\n".join(parts)


class Session:
    """The project's tracking store, opened.

    Args:
        project: The project.
        settings: Its settings.
        reading: Whether the caller mostly reads (`open_store`).

    Attributes:
        client: MLflow client.
        experiment_id: The project's experiment.
    """

    def __init__(self, project: Project, settings: Settings, *, reading: bool = False) -> None:
        self._project = project
        self._settings = settings
        # First: it fails within seconds if the store does not answer, before MLflow is imported.
        uri = open_store(project, reading=reading)
        self.client = open_client(uri)
        self.experiment_id = ensure_experiment(
            project, settings.tracking.experiment, experiment_note(settings.roles)
        )
        # MLflow warns about its own plans.
        warnings.filterwarnings("ignore", category=FutureWarning)
        runs.deliver_kept(self.client, project)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing to close: MLflow keeps its connections."""

    @contextmanager
    def ending_on_error(self, run_id: str) -> Iterator[None]:
        """Mark the run FAILED or KILLED when the block does not succeed."""
        try:
            yield
        except KeyboardInterrupt:
            with suppress(StoreUnavailable, DiskFull):
                runs.close_run(self.client, run_id, "KILLED")
            raise
        except StoreUnavailable:
            # It cannot be marked now: `end_dead_runs` does it once this process has ended.
            raise
        except Exception as error:
            with suppress(StoreUnavailable, DiskFull):
                runs.close_run(self.client, run_id, "FAILED", f"{type(error).__name__}: {error}")
            raise

    def check_reachable(self) -> None:
        """Raise a `StoreUnavailable` if a remote store does not answer within seconds."""
        check_reachable(self._project)

    def start_flow_run(self, name: str, tags: dict[str, str]) -> str:
        """Start the run that a flow's model runs are nested in, and return its id."""
        return runs.open_run(
            self.client,
            self.experiment_id,
            name=name,
            tags={
                runs.RUN_TYPE: "flow",
                runs.PROFILE: self._settings.profile,
                "mlflow.note.content": "One pass over several models; `results.md` has the table.",
                **runs.git_tags(self._project),
                **tags,
            },
        )

    def challenge(self, tags: Mapping[str, str], *, is_new: bool = False) -> None:
        """Make the version of a finished run its model's challenger on its data.

        Nothing changes if it is the champion already, or in an experiment of DVC.

        Args:
            tags: Tags of the run: model, version, role and dataset.
            is_new: Whether the version has just been registered: it has no alias to look up.
        """
        model, version = tags[runs.MODEL], tags[runs.MODEL_VERSION]
        if experiment():
            return
        aliases = {} if is_new else check_registered(self.client, model)
        if aliases.get(CHAMPION) == version:
            return
        mine = challenger_alias(self._project, tags.get(runs.ROLE, ""), tags[runs.DATASET])
        if aliases.get(mine) != version:
            self.client.set_registered_model_alias(model, mine, version)
        # The project's own data may have been others before.
        for alias, number in aliases.items():
            if is_challenger(alias) and number == version and alias != mine:
                self.client.delete_registered_model_alias(model, alias)

    def confirm(self, run_id: str) -> Run:
        """Take note that today's checkout does the work of a finished run, and return the run.

        Its fingerprint is that of today's sources, parameters and data. Where they are committed
        now, a run that was made with uncommitted changes is known by this commit.
        """
        run = self.client.get_run(run_id)
        tags = run.data.tags
        if tags.get(runs.DIRTY) != "false":
            now = runs.git_tags(self._project)
            if now.get(runs.DIRTY) == "false":
                runs.set_tags(self.client, run_id, now)
            elif now and has_sources(self._project, now[runs.COMMIT], _sources(run_id)):
                runs.set_tags(self.client, run_id, {runs.COMMIT: now[runs.COMMIT]})
        if runs.MODEL_VERSION in tags:
            self.challenge(tags)
        return run

    def close_flow_run(self, run_id: str, results: dict[str, Any], table: str) -> None:
        """Log the flow's table and end its run; FAILED where a model failed."""
        # Within seconds: MLflow would try for longer.
        self.check_reachable()
        models = results["models"]
        self.client.log_text(run_id, table, RESULTS_TABLE)
        self.client.log_text(run_id, json.dumps(results, indent=2), RESULTS)
        # What became of each model is a tag, not a metric: charts of models stay free of flows.
        runs.set_tags(
            self.client, run_id, {f"chapterflow.status.{m['model']}": m["status"] for m in models}
        )
        failed = any(model["status"] == "failed" for model in models) or any(
            model["errors"] for model in results.get("seeds", ())
        )
        runs.close_run(self.client, run_id, "FAILED" if failed else "FINISHED")


def _sources(run_id: str) -> dict[str, str]:
    """Return path and hash of the sources of a run; empty if they are not on record."""
    try:
        return dict(Artifacts(run_id).fingerprint().get("sources", {}))
    except StoreError:
        return {}


def outcome_of(run: Run) -> Outcome:
    """Return a finished model run as an outcome."""
    tags = run.data.tags
    return Outcome(
        model=tags[runs.MODEL],
        dataset=tags[runs.DATASET],
        status="reused",
        run_id=run.info.run_id,
        model_version=tags.get(runs.MODEL_VERSION),
        metrics=dict(run.data.metrics),
    )
