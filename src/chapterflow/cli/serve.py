"""`chapterflow serve`: a registered model on MLflow's scoring server."""

from __future__ import annotations

import contextlib
import os
from typing import Annotated

import typer

from chapterflow.cli.common import ModelArgument, say, say_version, start


def serve(
    model: ModelArgument,
    port: Annotated[
        int, typer.Option(help="Port on 127.0.0.1; 0 for any free port.", min=0, max=65535)
    ] = 5001,
    max_mb: Annotated[
        int, typer.Option("--max-mb", help="Largest request, in megabytes.", min=1, max=1000)
    ] = 64,  # Cora as one dense graph has 56
) -> None:
    """Serve a registered model on 127.0.0.1.

    Takes raw values; returns class, label and probabilities. Ctrl-C ends it.
    """
    project, settings = start(models=False)
    from chapterflow.predict import server

    listener = server.bind(port)
    say(f"Loading {model}")
    with contextlib.suppress(KeyboardInterrupt):  # even while it loads: there is nothing to lose
        served = server.load(project, settings, model, on_version=say_version)
        if not server.serve(served, listener, max_mb * 1_000_000, say):
            # Python would wait for a computation whose client has given up.
            os._exit(0)
