"""Tell somebody what a check of the data has come to: a command, a webhook, or both.

It stands apart from the flow `data-check`, its only user so far: pipelines are wiring, and this
neither knows nor needs Prefect.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
from collections.abc import Mapping
from typing import Any

from chapterflow.config.settings import NotifyParams, Settings
from chapterflow.environment import Project
from chapterflow.errors import ChapterflowError, redacted
from chapterflow.loop.incoming import Memory
from chapterflow.tracking.session import Session

#: Prefix of a tag of the experiment: a hash of what the last notification of a profile was about.
LAST = "chapterflow.notified."
#: Characters of a program's complaint in a message.
LENGTH = 300


def place(project: Project, profile: str, flow_run: str) -> dict[str, str]:
    """Return where a flow ran, for a notification."""
    return {
        "project": project.root.name,
        "machine": socket.gethostname(),
        "profile": profile,
        "flow_run": flow_run,
    }


class LastNotification:
    """What the last notification was about, as all machines that share a tracking store know it.

    A worker's clone is new for each run. While the store does not answer, this clone's memory does.
    """

    def __init__(self, project: Project, settings: Settings) -> None:
        self._project, self._settings = project, settings
        self._key = LAST + settings.profile

    def is_about(self, events: Any) -> bool:
        """Tell whether it was about these events (any JSON value)."""
        from mlflow.exceptions import MlflowException

        try:
            with Session(self._project, self._settings) as session:
                tags = session.client.get_experiment(session.experiment_id).tags
            last = tags.get(self._key)
        except (ChapterflowError, MlflowException):
            last = Memory(self._project).get(self._key)
        return bool(last == _hash(events))

    def set(self, events: Any) -> None:
        """Remember the events; None if there are none to speak of."""
        from mlflow.exceptions import MlflowException

        Memory(self._project).set(self._key, _hash(events))
        with (
            contextlib.suppress(ChapterflowError, MlflowException),
            Session(self._project, self._settings) as session,
        ):
            session.client.set_experiment_tag(session.experiment_id, self._key, _hash(events))


def _hash(events: Any) -> str:
    return hashlib.sha256(json.dumps(events).encode()).hexdigest()


def notify(params: NotifyParams, document: Mapping[str, Any]) -> list[str]:
    """Send a JSON document, without secrets, to the command and the webhook of `notify:`.

    Returns:
        A line for each of them that failed; a failure changes nothing else.
    """
    text = redacted(json.dumps(document))
    failures = []
    if params.command:
        failures += _run(params.command, text, params.timeout)
    if params.webhook:
        failures += _post(os.path.expandvars(params.webhook), text, params.timeout)
    return failures


def _run(command: list[str], text: str, seconds: float) -> list[str]:
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        reason = f"no end within {seconds:g} s"
    except OSError as error:
        reason = error.strerror or str(error)
    else:
        if done.returncode == 0:
            return []
        said = (done.stderr or done.stdout).strip().splitlines()
        reason = f"exit {done.returncode}{f': {said[-1][:LENGTH]}' if said else ''}"
    return [redacted(f"notify.command failed. Received: {command[0]}: {reason}")]


def _post(address: str, text: str, seconds: float) -> list[str]:
    import requests

    try:
        answer = requests.post(
            address,
            data=text.encode(),
            headers={"Content-Type": "application/json"},
            timeout=seconds,
            # A redirect would repeat the document as a GET, or send it to another host.
            allow_redirects=False,
        )
    except requests.RequestException as error:
        # Its text has the address, whose path may be the secret.
        reason = type(error).__name__
    else:
        if 200 <= answer.status_code < 300:
            return []
        reason = f"status {answer.status_code}"
    return [f"notify.webhook failed. Received: {reason}"]
