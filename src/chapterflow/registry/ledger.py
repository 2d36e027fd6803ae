"""The ledger: one MLflow run for each promotion, refusal and rollback, in a separate experiment.

It is in the same store as the registry, so everyone who uses the registry sees it. It is a
write-ahead log: an entry with verdict and intent is complete before the aliases move, and it is
closed when the outcome is recorded too. `Ledger.settle` finishes or withdraws the entries that a
dead process left open.
"""

from __future__ import annotations

import getpass
import logging
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from chapterflow.config.load import load_settings
from chapterflow.environment import Project
from chapterflow.errors import StoreError
from chapterflow.registry.aliases import is_transactional, put, swap
from chapterflow.registry.decision import FOLDER, PAGE, Decision, render_page
from chapterflow.tracking import runs
from chapterflow.tracking.artifacts import PROMOTION, Artifacts
from chapterflow.tracking.session import Session
from chapterflow.tracking.store import Note, ensure_experiment
from chapterflow.tracking.versions import (
    CHAMPION,
    VERDICT,
    VERDICT_RUN,
    check_registered,
    described,
    registered_model,
    score_of,
)
from chapterflow.types import Strict

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_log = logging.getLogger(__name__)
Action = Literal["promoted", "refused", "rolled back"]
KIND = "ledger"
#: Artifact of an entry: what it is about to change.
INTENT = "intent.json"
#: Reason that is added to a withdrawn entry.
WITHDRAWN_ENTRY = "not carried out: its process ended before the aliases changed"
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
#: Tag of a version: the number of gates that it passed.
PASSED_GATES = "chapterflow.gates"


class Intent(Strict):
    """A change of aliases and tags, with the values before it.

    Attributes:
        alias: Alias that must name `expected` for the change to be made.
        marked: Version whose tag `VERDICT_RUN` names the entry once the change is made.
        aliases: Version number by alias; None removes it.
        tags: Tags by version number; None removes a tag.
    """

    name: str
    alias: str
    expected: str | None
    marked: str
    aliases: dict[str, str | None]
    tags: dict[str, dict[str, str | None]]
    aliases_before: dict[str, str | None]
    tags_before: dict[str, dict[str, str | None]]


class Entry(Strict):
    """An entry of the ledger.

    Attributes:
        when: ISO 8601, UTC.
        before: Version that held the alias: `cnn/3`.
        after: Version that was to receive it.
        gates: `14 of 15 passed`, with the names of failed gates; empty for a rollback.
        done: Whether the entry is complete; False if it was withdrawn, because its process ended
            before the aliases changed.
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

    def __init__(
        self,
        project: Project,
        client: MlflowClient,
        experiment: str,
        on_note: Note = _log.warning,
    ) -> None:
        self.client = client
        self._project = project
        self._name = f"{experiment}-registry"
        self._on_note = on_note

    @cached_property
    def experiment_id(self) -> str:
        """Id of the ledger's experiment."""
        return ensure_experiment(self._project, self._name, NOTE)

    @contextmanager
    def entry(
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
    ) -> Iterator[str]:
        """Open an entry before a change is made, and close it afterwards; yields its run's id.

        After an error, the entry is settled: finished if the aliases have moved, or withdrawn.
        """
        run_id = runs.open_run(
            self.client,
            self.experiment_id,
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
        try:
            yield run_id
            self._finish(self.client.get_run(run_id))
        except BaseException:
            try:
                self._settle(self.client.get_run(run_id))
            except Exception:  # The store failed: the next command settles the entry.
                _log.debug("The entry %s stays open.", run_id, exc_info=True)
            raise

    def attach(self, run_id: str, decision: Decision) -> None:
        """Log a verdict and its page in the run of an entry, and each gate as a metric."""
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / PAGE
            page.write_text(render_page(decision), encoding="utf-8")
            self.client.log_artifact(run_id, str(page), FOLDER)
        figures = {f"gate/{gate.name}": float(gate.passed) for gate in decision.gates}
        runs.log_metrics(self.client, run_id, figures, 0)
        # Last: an entry with this artifact has a complete verdict.
        self.client.log_text(run_id, decision.to_json(), PROMOTION)

    def move(
        self,
        run_id: str,
        name: str,
        alias: str,
        expected: str | None,
        aliases: Mapping[str, str | None],
        tags: Mapping[str, Mapping[str, str | None]],
        *,
        marked: str,
    ) -> None:
        """Record in an entry what is about to change, then change it (`aliases.swap`).

        Raises:
            Changed: If another process has moved the alias; nothing was changed.
        """
        changed = {number: dict(values) for number, values in tags.items()}
        changed.setdefault(marked, {})[VERDICT_RUN] = run_id
        known = check_registered(self.client, name)
        present = {number: self.client.get_model_version(name, number).tags for number in changed}
        intent = Intent(
            name=name,
            alias=alias,
            expected=expected,
            marked=marked,
            aliases=dict(aliases),
            tags=changed,
            aliases_before={key: known.get(key) for key in aliases},
            tags_before={
                number: {key: present[number].get(key) for key in values}
                for number, values in changed.items()
            },
        )
        self.client.log_text(run_id, intent.model_dump_json(indent=2), INTENT)
        swap(self.client, name, alias, expected, intent.aliases, intent.tags)

    def refuse(self, run_id: str, *, reason: str, gates: str = "") -> None:
        """Turn an entry into a refusal, because another process has moved the alias."""
        changed = {ACTION: "refused", REASON: reason} | ({GATES: gates} if gates else {})
        runs.set_tags(self.client, run_id, changed)

    def _finish(self, run: Run) -> None:
        """Record the outcome of an entry and close it. Repeating it changes nothing."""
        run_id, tags = str(run.info.run_id), run.data.tags
        if tags[ACTION] != "rolled back":
            self._record_verdict(run_id, tags)
        if tags[ALIAS] == CHAMPION:
            self._describe(run)
        runs.set_tags(self.client, run_id, {DONE: "true"})
        runs.close_run(self.client, run_id, "FINISHED")

    def _describe(self, entry: Run) -> None:
        """Begin the description of the registered model with its champion and the last verdict."""
        tags, day = entry.data.tags, datetime.fromtimestamp(entry.info.start_time / 1000, UTC)
        name, when = tags[REGISTERED], f"on {day:%Y-%m-%d}"
        about = registered_model(self.client, name)
        if about is None:
            return  # A role whose first candidate was refused.
        state = "**No champion yet.**"
        if number := about.aliases.get(CHAMPION):
            score = score_of(self.client.get_model_version(name, number).tags)
            state = f"**Champion: version {number}**{f', {score}' if score else ''}."
        last = {
            "promoted": f"Promoted {when}: {tags[GATES]}.",
            "refused": f"{tags[AFTER]} was refused {when}: {tags[GATES]}.",
            "rolled back": f"Rolled back from {tags[BEFORE]} {when}: {tags[REASON]}.",
        }[tags[ACTION]]
        description = described(f"{state} {last}", about.description or "")
        if description != about.description:
            self.client.update_registered_model(name, description)

    def _record_verdict(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Copy the verdict of an entry to the run of the judged version, and tag the version."""
        artifacts = Artifacts(run_id)
        if not _has(self.client, run_id, PROMOTION):
            return  # A rollback that was refused.
        judged = str(artifacts.document(PROMOTION)["challenger_run"])
        for name in (f"{FOLDER}/{PAGE}", PROMOTION):
            self.client.log_artifact(judged, str(artifacts.path(name)), FOLDER)
        name, _, number = tags[AFTER].partition("/")
        # A model refused for a role has no version under the role. The verdict by which a version
        # has an alias stays its verdict.
        if tags[ACTION] == "refused" and name == tags[REGISTERED]:
            aliases = check_registered(self.client, name)
            if number not in {aliases.get(CHAMPION), aliases.get(tags[ALIAS])}:
                verdict = {VERDICT: "refused", VERDICT_RUN: run_id, PASSED_GATES: tags[GATES]}
                for key, value in verdict.items():
                    self.client.set_model_version_tag(name, number, key, value)

    def settle(self, model: str) -> None:
        """Finish or withdraw the entries about a model that dead processes left open, and say so.

        If the aliases have moved, the outcome is recorded; otherwise the entry is withdrawn.
        """
        experiment = self.client.get_experiment_by_name(self._name)
        if experiment is None:
            return
        for run in self._runs(experiment.experiment_id, model, "attributes.status = 'RUNNING' and"):
            if runs.is_abandoned(self.client, run):
                self._on_note(self._settle(run))

    def _settle(self, run: Run) -> str:
        """Finish or withdraw an open entry, and return what was done."""
        run_id, tags = str(run.info.run_id), run.data.tags
        what = f"{tags[ACTION]} ({tags[BEFORE] or 'none'} -> {tags[AFTER]})"
        subject = f"{tags[REGISTERED]}@{tags[ALIAS]}: {what}"
        if self._is_decided(run_id, tags[ACTION]):
            self._finish(run)
            return f"Finished what an interrupted process left open: {subject}, run {run_id}."
        reason = "; ".join(filter(None, [tags[REASON], WITHDRAWN_ENTRY]))
        runs.set_tags(self.client, run_id, {REASON: reason})
        runs.close_run(self.client, run_id, "KILLED")
        return (
            f"Withdrew what an interrupted process left open: {subject}, run {run_id}. The aliases "
            "had not changed."
        )

    def _is_decided(self, run_id: str, action: str) -> bool:
        """Tell whether an entry's change was made; complete or undo a change that was half made."""
        if action == "refused":
            return _has(self.client, run_id, PROMOTION)
        try:
            intent = Intent.model_validate(Artifacts(run_id).document(INTENT))
        except StoreError:
            return False  # Nothing has changed before the intent is written.
        tags = self.client.get_model_version(intent.name, intent.marked).tags
        made = bool(tags.get(VERDICT_RUN) == run_id)
        if is_transactional(self.client):
            return made
        aliases = check_registered(self.client, intent.name)
        if made and aliases.get(intent.alias) == intent.aliases[intent.alias]:
            put(self.client, intent.name, intent.aliases, intent.tags)
            return True
        if made:
            ours = {
                alias: number
                for alias, number in intent.aliases_before.items()
                if aliases.get(alias) == intent.aliases[alias]
            }
            put(self.client, intent.name, ours, intent.tags_before)
        return False

    def entries(self, model: str) -> list[Entry]:
        """Return the entries about a registered model, oldest first."""
        return [_entry(run) for run in self._runs(self.experiment_id, model)]

    def _runs(self, experiment: str, model: str, condition: str = "") -> list[Run]:
        return runs.search_all(
            self.client,
            [experiment],
            f"{condition} tags.`{runs.RUN_TYPE}` = '{KIND}' and tags.`{REGISTERED}` = '{model}'",
            order="ASC",
        )


def _has(client: MlflowClient, run_id: str, artifact: str) -> bool:
    folder = artifact.rpartition("/")[0] or None
    return artifact in {item.path for item in client.list_artifacts(run_id, folder)}


def _entry(run: Run) -> Entry:
    tags, run_id = run.data.tags, str(run.info.run_id)
    action: Any = tags[ACTION]
    if action not in get_args(Action):
        raise ValueError(f"not an entry of the ledger: {run_id}")
    when = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
    return Entry(
        when=when.isoformat(timespec="seconds"),
        who=tags[WHO],
        model=tags[REGISTERED],
        alias=tags[ALIAS],
        action=action,
        before=tags[BEFORE] or None,
        after=tags[AFTER],
        gates=tags[GATES],
        reason=tags[REASON],
        done=tags.get(DONE) == "true",
        run_id=run_id,
    )


@contextmanager
def open_ledger(
    project: Project, on_note: Note = _log.warning
) -> Iterator[tuple[MlflowClient, Ledger]]:
    """Open a project's tracking store and ledger."""
    settings = load_settings(project.params, models=False)
    with Session(project, settings, reading=True) as session:
        experiment = settings.tracking.experiment
        yield session.client, Ledger(project, session.client, experiment, on_note)


def settle(project: Project, reference: str, on_note: Note = _log.warning) -> None:
    """Finish or withdraw the open entries about the registered model that a reference names."""
    with open_ledger(project, on_note) as (_, ledger):
        ledger.settle(re.split("[/@]", reference, maxsplit=1)[0])


def history(project: Project, model: str, on_note: Note = _log.warning) -> list[Entry]:
    """Return the changes of a registered model's aliases, oldest first.

    Args:
        on_note: Receives a sentence for each open entry that was finished or withdrawn.

    Raises:
        ConfigError: If there is no such model.
    """
    with open_ledger(project, on_note) as (client, ledger):
        ledger.settle(model)
        entries = ledger.entries(model)
        if not entries:
            check_registered(client, model)
        return entries
