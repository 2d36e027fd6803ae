"""Live progress: one line for each model, redrawn on a terminal or in a notebook, or appended."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from chapterflow.types import Tell

#: Seconds between two plain lines about the same step of the same subject.
PLAIN_EVERY = 5.0
#: Seconds between two drawings of the same step in a notebook.
DRAWN_EVERY = 0.25
#: Steps before the work on a subject begins.
WAITING = ("waiting", "starting")
#: Steps after which nothing more happens to a subject.
DONE = ("trained", "reused", "failed", "checked", "built", "here", "done")


class Progress(Protocol):
    """A display of progress."""

    def update(self, subject: str, step: str, detail: str) -> None:
        """Record that `subject` (a model or dataset) is at `step`."""


class Silent:
    """A display that shows nothing."""

    def update(self, subject: str, step: str, detail: str) -> None:
        """Do nothing."""


class Plain:
    """Prints a line for each new step, and now and then within a step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: dict[str, tuple[str, float]] = {}

    def update(self, subject: str, step: str, detail: str) -> None:
        """Print the step unless a line about it was printed moments ago."""
        now = time.monotonic()
        last_step, last_time = self._last.get(subject, ("", 0.0))
        if step == last_step and now - last_time < PLAIN_EVERY:
            return
        self._last[subject] = (step, now)
        line = ": ".join(part for part in (subject, step, detail) if part)
        self._console.print(Text(line), soft_wrap=True)


class Lively:
    """One line for each subject, redrawn in place."""

    def __init__(self, subjects: Sequence[str]) -> None:
        self._lines: dict[str, tuple[str, str]] = dict.fromkeys(subjects, ("waiting", ""))
        self._started: dict[str, float] = {}
        self._seconds: dict[str, float] = {}

    def update(self, subject: str, step: str, detail: str) -> None:
        """Store the step; the next redraw shows it."""
        # What a subject waits for is not its own time.
        if self._lines.get(subject, ("waiting", ""))[0] in WAITING:
            self._started[subject] = time.monotonic()
        self._lines[subject] = (step, detail)
        started = self._started.setdefault(subject, time.monotonic())
        if step in DONE:
            self._seconds[subject] = time.monotonic() - started

    def __rich__(self) -> Table:
        table = Table.grid(padding=(0, 2))
        # A copy: another thread redraws while the work continues.
        for subject, (step, detail) in list(self._lines.items()):
            style = {"failed": "red", "trained": "green", "reused": "cyan"}.get(step, "")
            started = self._started.get(subject)
            seconds = self._seconds.get(subject)
            if seconds is None and started is not None:
                seconds = time.monotonic() - started
            table.add_row(
                Text(subject, style="bold"),
                Text(step, style=style or ("dim" if step == "waiting" else "yellow")),
                Text("" if seconds is None else f"{seconds:5.1f} s", style="dim"),
                Text(detail, overflow="ellipsis", no_wrap=True),
            )
        return table


class Notebook(Lively):
    """The same lines in the output of a notebook's cell."""

    def __init__(self, subjects: Sequence[str]) -> None:
        super().__init__(subjects)
        self._drawn = time.monotonic()
        self._handle: Any = None
        self.draw()

    def update(self, subject: str, step: str, detail: str) -> None:
        """Store the step, and draw it unless the last drawing of this step is moments old."""
        new = self._lines.get(subject, ("", ""))[0] != step
        super().update(subject, step, detail)
        if new or time.monotonic() - self._drawn >= DRAWN_EVERY:
            self.draw()

    def draw(self) -> None:
        """Replace the output of the cell with the present lines."""
        from IPython.display import HTML, display

        from chapterflow.display import Html

        self._drawn = time.monotonic()
        page = Html()
        page.print(self.__rich__())
        if self._handle is None:
            self._handle = display(HTML(page.text()), display_id=True)
        else:
            self._handle.update(HTML(page.text()))


_current: ContextVar[Progress] = ContextVar("progress", default=Silent())  # noqa: B039


def tell_about(subject: str) -> Tell:
    """Return a function that reports the progress of a subject."""
    progress = _current.get()
    return lambda step, detail: progress.update(subject, step, detail)


def console(*, stderr: bool = False) -> Console:
    """Return a console; piped output gets lines wide enough for the tables."""
    made = Console(stderr=stderr)
    return made if made.is_terminal else Console(stderr=stderr, width=max(made.width, 124))


@contextmanager
def shown(console: Console, subjects: Sequence[str]) -> Iterator[Progress]:
    """Show the progress of the block on `console`."""
    progress: Progress
    if console.is_jupyter:
        progress = Notebook(subjects)
    elif console.is_terminal and not console.is_dumb_terminal:
        progress = Lively(subjects)
    else:
        progress = Plain(console)
    token = _current.set(progress)
    try:
        if isinstance(progress, Notebook):
            try:
                yield progress
            finally:
                progress.draw()
        elif isinstance(progress, Lively):
            with Live(progress, console=console, refresh_per_second=8):
                yield progress
        else:
            yield progress
    finally:
        _current.reset(token)
