"""The ledger: one MLflow run for each promotion, refusal and rollback, in an experiment of its own.

It lives where the registry lives, so that everyone who shares the registry shares it.
"""

from __future__ import annotations

import getpass
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from chapterflow.config.load import load_settings
from chapterflow.environment import Project, process_is_gone
from chapterflow.registry.decision import FOLDER, Decision
from chapterflow.tracking import runs
from chapterflow.tracking.artifacts import PROMOTION
from chapterflow.tracking.session import Session
from chapterflow.tracking.store import ensure_experiment
from chapterflow.tracking.versions import check_registered, holder
from chapterflow.types import Strict

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

Action = Literal["promoted", "refused", "rolled back"]
KIND = "ledger"
#: Tags of an entry.
REGISTERED, ALIAS, ACTION = (
    "chapterflow.registered", "chapterflow.alias", "chapterflow.action"
)  # fmt: skip
BEFORE, AFTER, WHO, REASON, GATES, DONE = (
    "chapterflow.from", "chapterflow.to", "chapterflow.who", "chapterflow.reason",
    "chapterflow.gates", "chapterflow.done",
)  # fmt: skip
NOTE = (
    "What happened to the registry's aliases: one run for each promotion, refusal and rollback, "
    "with the verdict among its artifacts. `chapterflow history MODEL` reads it."
)


class Entry(Strict):
    """One line of the ledger.

    Attributes:
        when: ISO 8601, UTC.
        before: Version that held the alias: `cnn/3`.
        after: Version that was to hold it.
        gates: `14 of 15 passed`, with the names of those that failed; empty for a rollback.
        done: Whether it was carried out; an entry whose process died was not.
        run_id: MLflow run that holds the verdict.
    """

    when: str
    who: str
    model: str
    alias: str
    action: Action
    before: str | None
    after: str
    gates: str
    reason: str
    done: bool
    run_id: str


def who(project: Project) -> str:
    """Return the user of git, or of the system."""
    try:
        # As `git commit` would sign: the environment counts as well as the configuration.
        done = subprocess.run(
            ["git", "var", "GIT_AUTHOR_IDENT"],
            cwd=project.root,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        ident = ""
    else:
        ident = done.stdout.rpartition(">")[0] if done.returncode == 0 else ""
    if ident:
        return f"{ident}>"
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def now() -> str:
    """Return the time as the ledger writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Ledger:
    """The entries about registered models.

    Attributes:
        client: MLflow client of an opened store.
    """

    def __init__(self, project: Project, client: MlflowClient, experiment: str) -> None:
        self.client = client
        self._project = project
        self._experiment = ensure_experiment(project, f"{experiment}-registry", NOTE)

    def open(
        self,
        action: Action,
        *,
        model: str,
        alias: str,
        before: str | None,
        after: str,
        by: str,
        reason: str,
        gates: str = "",
        more: Mapping[str, str] | None = None,
    ) -> str:
        """Write an entry of something that is about to happen, and return its run's id."""
        return runs.open_run(
            self.client,
            self._experiment,
            name=f"{model}@{alias}: {before or 'none'} -> {after}",
            tags={
                runs.RUN_TYPE: KIND,
                REGISTERED: model,
                ALIAS: alias,
                ACTION: action,
                BEFORE: before or "",
                AFTER: after,
                WHO: by,
                REASON: reason,
                GATES: gates,
                **runs.git_tags(self._project),
                **(more or {}),
            },
        )

    def attach(self, run_id: str, decision: Decision, page: Path) -> None:
        """Log a verdict and its page with an entry, and each gate as a figure."""
        self.client.log_text(run_id, decision.to_json(), PROMOTION)
        self.client.log_artifact(run_id, str(page), FOLDER)
        figures = {f"gate/{gate.name}": float(gate.passed) for gate in decision.gates}
        runs.log_metrics(self.client, run_id, figures, 0)

    def close(
        self, run_id: str, *, action: Action | None = None, reason: str = "", gates: str = ""
    ) -> None:
        """Mark an entry as carried out, or change what it says."""
        changed = {DONE: "true"} | ({ACTION: action} if action else {})
        changed |= {key: value for key, value in ((REASON, reason), (GATES, gates)) if value}
        runs.set_tags(self.client, run_id, changed)
        runs.close_run(self.client, run_id, "FINISHED")

    def entries(self, model: str) -> list[Entry]:
        """Return what happened to a registered model, oldest first.

        An entry whose process died is settled: it is done if the alias names what it was to name.
        """
        import mlflow

        judged: list[Run] = mlflow.search_runs(
            [self._experiment],
            f"tags.`{runs.RUN_TYPE}` = '{KIND}' and tags.`{REGISTERED}` = '{model}'",
            order_by=["attributes.start_time ASC"],
            output_format="list",
        )
        return [self._entry(run) for run in judged]

    def _entry(self, run: Run) -> Entry:
        tags, run_id = run.data.tags, str(run.info.run_id)
        done = tags.get(DONE) == "true"
        gone = process_is_gone(tags.get(runs.PROCESS, ""))
        if run.info.status == "RUNNING" and gone and tags[ACTION] != "refused":
            now_there = holder(self.client, tags[REGISTERED], tags[ALIAS])
            done = now_there is not None and now_there.uri() == tags[AFTER]
            if done:
                runs.set_tags(self.client, run_id, {DONE: "true"})
            runs.close_run(self.client, run_id, "FINISHED" if done else "KILLED")
        action = tags[ACTION]
        if action not in get_args(Action):
            raise ValueError(f"not an entry of the ledger: {run_id}")
        return Entry(
            when=datetime.fromtimestamp(run.info.start_time / 1000, UTC).isoformat(
                timespec="seconds"
            ),
            who=tags[WHO],
            model=tags[REGISTERED],
            alias=tags[ALIAS],
            action=action,
            before=tags[BEFORE] or None,
            after=tags[AFTER],
            gates=tags[GATES],
            reason=tags[REASON],
            done=done,
            run_id=run_id,
        )


@contextmanager
def opened(project: Project) -> Iterator[tuple[MlflowClient, Ledger]]:
    """Open a project's store, with its ledger."""
    settings = load_settings(project.params, models=False)
    with Session(project, settings) as session:
        yield session.client, Ledger(project, session.client, settings.tracking.experiment)


def history(project: Project, model: str) -> list[Entry]:
    """Return what happened to a registered model's aliases, oldest first.

    Raises:
        ConfigError: If there is no such model.
    """
    with opened(project) as (client, ledger):
        past = ledger.entries(model)
        if not past:
            check_registered(client, model)
        return past
