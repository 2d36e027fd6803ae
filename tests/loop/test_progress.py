"""Progress: one line for each model on a terminal, a few plain lines elsewhere."""

import contextvars
import io
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from chapterflow.loop import progress
from chapterflow.loop.progress import Lively, Plain, Silent, shown, tell_about


class Clock:
    """A clock that a test turns on."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


@pytest.fixture
def piped() -> Console:
    return Console(record=True, file=io.StringIO(), width=100)


@pytest.fixture
def terminal() -> Console:
    return Console(
        record=True, file=io.StringIO(), width=100, force_terminal=True, _environ={"TERM": "xterm"}
    )


def lines(console: Console) -> list[str]:
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_plain_lines_are_rare_within_a_step(clock: Clock, piped: Console) -> None:
    plain = Plain(piped)
    for second, epoch in ((0, 1), (1, 2), (4.9, 3), (5.1, 4), (6, 5), (10.0, 6), (10.2, 7)):
        clock.now = 100 + second
        plain.update("cnn", "train", f"epoch {epoch}")
    assert lines(piped) == ["cnn: train: epoch 1", "cnn: train: epoch 4", "cnn: train: epoch 7"]


def test_a_new_step_or_another_subject_is_reported_at_once(clock: Clock, piped: Console) -> None:
    plain = Plain(piped)
    plain.update("cnn", "train", "epoch 1")
    plain.update("dnn", "train", "epoch 1")
    plain.update("cnn", "train", "epoch 2")
    plain.update("cnn", "evaluate", "scoring")
    plain.update("cnn", "trained", "accuracy 0.99")
    assert lines(piped) == [
        "cnn: train: epoch 1",
        "dnn: train: epoch 1",
        "cnn: evaluate: scoring",
        "cnn: trained: accuracy 0.99",
    ]


def test_plain_lines_are_text_and_stay_lines(piped: Console) -> None:
    Plain(piped).update("cnn", "failed", "[bold]no[/nothing] " + "x" * 200)
    assert lines(piped) == ["cnn: failed: [bold]no[/nothing] " + "x" * 200]


def test_a_line_for_each_subject(clock: Clock, piped: Console) -> None:
    lively = Lively(["dnn", "cnn", "lenet5"])
    lively.update("cnn", "train", "epoch 1")
    clock.now += 2.5
    lively.update("cnn", "train", "epoch 2 [x]")
    lively.update("dnn", "failed", "no luck")
    piped.print(lively)
    result = [" ".join(line.split()) for line in lines(piped)]
    assert result == [
        "dnn failed 0.0 s no luck",
        "cnn train 2.5 s epoch 2 [x]",
        "lenet5 waiting",
    ]


@pytest.mark.parametrize("status", ["trained", "reused", "failed"])
def test_the_time_of_what_is_done_stands_still(clock: Clock, piped: Console, status: str) -> None:
    lively = Lively(["cnn", "dnn"])
    lively.update("cnn", "train", "")
    lively.update("dnn", "train", "")
    clock.now += 3
    lively.update("cnn", status, "")
    clock.now += 60
    piped.print(lively)
    result = [" ".join(line.split()) for line in lines(piped)]
    assert result == [f"cnn {status} 3.0 s", "dnn train 63.0 s"]


def test_the_start_of_prefect_does_not_count_as_time_of_a_dataset(
    clock: Clock, piped: Console
) -> None:
    lively = Lively(["digits"])
    lively.update("digits", "starting", "Prefect")
    clock.now += 30
    lively.update("digits", "validate", "")
    clock.now += 2
    lively.update("digits", "checked", "")
    piped.print(lively)
    assert [" ".join(line.split()) for line in lines(piped)] == ["digits checked 2.0 s"]


def test_a_subject_that_nobody_announced_gets_a_line(clock: Clock, piped: Console) -> None:
    lively = Lively(["cnn"])
    lively.update("mnist", "fetch", "3 MB")
    piped.print(lively)
    assert [" ".join(line.split()) for line in lines(piped)] == [
        "cnn waiting",
        "mnist fetch 0.0 s 3 MB",
    ]


def test_a_long_detail_is_cut_and_not_wrapped(clock: Clock) -> None:
    narrow = Console(record=True, file=io.StringIO(), width=40)
    lively = Lively(["cnn"])
    lively.update("cnn", "train", "words " * 30)
    narrow.print(lively)
    (line,) = lines(narrow)
    assert line.endswith("…")


def test_subjects_that_come_while_it_is_drawn() -> None:
    # Another thread redraws eight times a second.
    lively = Lively([f"model-{number}" for number in range(200)])
    failures: list[Exception] = []
    stop = threading.Event()

    def draw() -> None:
        while not stop.is_set():
            try:
                lively.__rich__()
            except RuntimeError as error:
                failures.append(error)
                return

    drawing, interval = threading.Thread(target=draw), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        drawing.start()
        for number in range(100):
            lively.update(f"data-{number}", "fetch", "")
            time.sleep(0.001)
    finally:
        stop.set()
        drawing.join()
        sys.setswitchinterval(interval)
    assert failures == []


def test_elsewhere_than_on_a_terminal_lines_are_plain(piped: Console) -> None:
    with shown(piped, ["cnn"]) as heard:
        assert isinstance(heard, Plain)
        tell_about("cnn")("train", "epoch 1")
    assert lines(piped) == ["cnn: train: epoch 1"]


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines() -> None:
    dumb = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    with shown(dumb, ["cnn"]) as heard:
        assert isinstance(heard, Plain)


def test_a_terminal_is_redrawn(terminal: Console) -> None:
    with shown(terminal, ["cnn", "dnn"]) as heard:
        assert isinstance(heard, Lively)
        tell_about("cnn")("trained", "accuracy 0.99")
    text = terminal.export_text()
    assert "accuracy 0.99" in text
    assert "waiting" in text


def test_progress_ends_with_its_block(piped: Console) -> None:
    def fail() -> None:
        with shown(piped, ["cnn"]):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    tell_about("cnn")("train", "unheard")
    assert lines(piped) == []


def test_blocks_may_lie_in_one_another(piped: Console) -> None:
    inner = Console(record=True, file=io.StringIO(), width=100)
    with shown(piped, []):
        with shown(inner, []):
            tell_about("a")("train", "inner")
        tell_about("b")("train", "outer")
    assert lines(inner) == ["a: train: inner"]
    assert lines(piped) == ["b: train: outer"]


def test_other_threads_hear_through_their_context(piped: Console) -> None:
    with shown(piped, []):
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=lambda: context.run(lambda: tell_about("cnn")("train", "in a thread"))
        )
        thread.start()
        thread.join()
    assert lines(piped) == ["cnn: train: in a thread"]


def test_silence() -> None:
    Silent().update("cnn", "train", "")
    tell_about("cnn")("train", "")


def test_what_is_piped_is_wide_enough_for_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    assert progress.console().width == 124
    assert progress.console(stderr=True).stderr
    monkeypatch.setenv("COLUMNS", "200")
    assert progress.console().width == 200


def test_a_notebook_redraws_one_output(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    handle = SimpleNamespace(update=drawn.append)

    def display(page: str, *, display_id: bool) -> SimpleNamespace:
        drawn.append(page)
        return handle

    screen = SimpleNamespace(HTML=str, display=display)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=screen))
    monkeypatch.setitem(sys.modules, "IPython.display", screen)
    with shown(Console(file=io.StringIO(), force_jupyter=True), ["cnn", "dnn"]) as notebook:
        assert len(drawn) == 1
        for second, epoch in ((0, 1), (0.1, 2), (0.4, 3), (0.5, 4)):
            clock.now = 100 + second
            tell_about("cnn")("train", f"epoch {epoch}")
        # A new step at once, the same one when a quarter of a second has passed.
        assert ["epoch 1" in page for page in drawn] == [False, True, False]
        assert "epoch 3" in drawn[-1]
        notebook.update("dnn", "failed", "a <reason>")
        assert '<span class="red">failed</span>' in drawn[-1]
        assert "a &lt;reason&gt;" in drawn[-1]
        clock.now += 0.1
        notebook.update("cnn", "train", "epoch 5")
    assert "epoch 5" in drawn[-1]
