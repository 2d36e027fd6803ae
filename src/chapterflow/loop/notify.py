"""Tell somebody what a check of the data has come to: a command, a webhook, or both.

It stands apart from the flow `data-check`, its only user so far: pipelines are wiring, and this
neither knows nor needs Prefect.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Mapping
from typing import Any

from chapterflow.config.settings import NotifyParams
from chapterflow.environment import Project
from chapterflow.errors import redacted

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
