"""The ledger: one MLflow run for each promotion, refusal and rollback, in a separate experiment.

It is in the same store as the registry, so everyone who uses the registry sees it.
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
    "Changes of the registry's aliases: one run for each promotion, refusal and rollback, with the "
    "verdict among its artifacts. `chapterflow history MODEL` lists them."
)


class Entry(Strict):
    """An entry of the ledger.

    Attributes:
        when: ISO 8601, UTC.
        before: Version that held the alias: `cnn/3`.
        after: Version that was to receive it.
        gates: `14 of 15 passed`, with the names of failed gates; empty for a rollback.
        done: Whether the change was completed; False if its process died before.
        run_id: MLflow run with the verdict.
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
    """Return the user according to git, or else the operating system."""
    try:
        # The author that `git commit` would use, from the environment or the configuration.
        process = subprocess.run(
            ["git", "var", "GIT_AUTHOR_IDENT"],
            cwd=project.root,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        ident = ""
    else:
        ident = process.stdout.rpartition(">")[0] if process.returncode == 0 else ""
    if ident:
        return f"{ident}>"
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def now() -> str:
    """Return the current time in the format of the ledger."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Ledger:
    """The ledger of a project.

    Attributes:
        client: MLflow client of an open session.
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
        """Write an entry before a change is made, and return the id of its run."""
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
        """Log a verdict and its page in the run of an entry, and each gate as a metric."""
        self.client.log_text(run_id, decision.to_json(), PROMOTION)
        self.client.log_artifact(run_id, str(page), FOLDER)
        figures = {f"gate/{gate.name}": float(gate.passed) for gate in decision.gates}
        runs.log_metrics(self.client, run_id, figures, 0)

    def close(
        self, run_id: str, *, action: Action | None = None, reason: str = "", gates: str = ""
    ) -> None:
        """Mark an entry as completed, with a different action, reason or gates if given."""
        changed = {DONE: "true"} | ({ACTION: action} if action else {})
        changed |= {key: value for key, value in ((REASON, reason), (GATES, gates)) if value}
        runs.set_tags(self.client, run_id, changed)
        runs.close_run(self.client, run_id, "FINISHED")

    def entries(self, model: str) -> list[Entry]:
        """Return the entries about a registered model, oldest first.

        Entries of dead processes are closed: completed if the alias names the intended version.
        """
        import mlflow

        matches: list[Run] = mlflow.search_runs(
            [self._experiment],
            f"tags.`{runs.RUN_TYPE}` = '{KIND}' and tags.`{REGISTERED}` = '{model}'",
            order_by=["attributes.start_time ASC"],
            output_format="list",
        )
        return [self._entry(run) for run in matches]

    def _entry(self, run: Run) -> Entry:
        tags, run_id = run.data.tags, str(run.info.run_id)
        completed = tags.get(DONE) == "true"
        dead = process_is_gone(tags.get(runs.PROCESS, ""))
        if run.info.status == "RUNNING" and dead and tags[ACTION] != "refused":
            current = holder(self.client, tags[REGISTERED], tags[ALIAS])
            completed = current is not None and current.uri() == tags[AFTER]
            if completed:
                runs.set_tags(self.client, run_id, {DONE: "true"})
            runs.close_run(self.client, run_id, "FINISHED" if completed else "KILLED")
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
            done=completed,
            run_id=run_id,
        )


@contextmanager
def open_ledger(project: Project) -> Iterator[tuple[MlflowClient, Ledger]]:
    """Open a project's tracking store and ledger."""
    settings = load_settings(project.params, models=False)
    with Session(project, settings) as session:
        yield session.client, Ledger(project, session.client, settings.tracking.experiment)


def history(project: Project, model: str) -> list[Entry]:
    """Return the changes of a registered model's aliases, oldest first.

    Raises:
        ConfigError: If there is no such model.
    """
    with open_ledger(project) as (client, ledger):
        entries = ledger.entries(model)
        if not entries:
            check_registered(client, model)
        return entries
