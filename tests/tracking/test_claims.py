"""Claims in the tracking store: one process at a time, whatever machines they are on."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from chapterflow.config.load import load_settings
from chapterflow.environment import Project, process_identity
from chapterflow.errors import ChapterflowError
from chapterflow.tracking import claims, runs
from chapterflow.tracking.claims import ALIVE, CLAIM, TAKEN, Claim
from chapterflow.tracking.session import Session
from tests.conftest import HUNG

#: A process of another machine with the same host name and number as a dead one of this machine.
OTHER = f"{process_identity().rpartition(':')[0].rpartition(':')[0]}:999999999:1.00"


@pytest.fixture
def session(project: Project, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setattr(claims, "POLL_SECONDS", 0.01)
    return Session(project, load_settings(project.params))


def tags_of(session: Session) -> dict[str, str]:
    tags: dict[str, str] = session.client.get_experiment(session.experiment_id).tags
    return {key: tags[key] for key in tags if key.startswith((ALIVE, CLAIM))}


def claim_of(session: Session, on_wait: Any = lambda: None) -> Claim:
    return Claim(session.client, session.experiment_id, "run-1", on_wait)


def put(session: Session, key: str, value: str) -> None:
    session.client.set_experiment_tag(session.experiment_id, key, value)


def sign(session: Session, place: str = "another place", seconds: float = 0.0) -> None:
    put(session, ALIVE + OTHER, f"{time.time() - seconds:.3f} {place}")


@contextmanager
def signing(session: Session) -> Iterator[threading.Event]:
    """Sign for the other process until the event is set."""
    silent = threading.Event()

    def beat() -> None:
        while not silent.wait(0.01):
            sign(session)

    sign(session)
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield silent
    finally:
        silent.set()
        thread.join()


def test_a_claim_leaves_nothing_behind(session: Session) -> None:
    with claim_of(session).held():
        signed, claimed = sorted(tags_of(session))
        assert signed == ALIVE + process_identity()
        assert claimed == f"{CLAIM}run-1/{process_identity()}"
    assert tags_of(session) == {}


def test_no_sign_is_left_by_a_heartbeat_on_its_way(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way, arrived = threading.Event(), threading.Event()
    usual = claims.Heart._sign
    beats: list[threading.Thread] = []

    def slow(self: claims.Heart) -> None:
        if threading.current_thread() is not threading.main_thread():
            beats.append(threading.current_thread())
            under_way.set()
            arrived.wait(HUNG)
        usual(self)

    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(claims, "CLOSING_SECONDS", HUNG)
    monkeypatch.setattr(claims.Heart, "_sign", slow)
    with claim_of(session).held():
        assert under_way.wait(HUNG)
        threading.Timer(0.1, arrived.set).start()
    for beat in beats:
        beat.join()
    assert tags_of(session) == {}


def test_only_one_of_many_has_a_claim(session: Session) -> None:
    owners, most = [], []

    def work(number: int) -> None:
        claim = claim_of(session)
        claim._key += str(number)
        with claim.held():
            owners.append(number)
            most.append(len(owners))
            time.sleep(0.01)
            claim.check()
            owners.remove(number)

    for number in range(5):
        put(session, f"{ALIVE}{process_identity()}{number}", f"{time.time()} another place")
    with ThreadPoolExecutor(5) as threads:
        for done in [threads.submit(work, number) for number in range(5)]:
            done.result()
    assert most == [1] * 5


@pytest.mark.fault(
    "Process of another machine dies with a claim", "Taken over when its signs stop; not before"
)
def test_a_claim_expires_when_its_process_falls_silent(
    session: Session, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    monkeypatch.setattr(claims, "EXPIRY_SECONDS", 0.5)
    theirs = f"{CLAIM}run-1/{OTHER}"
    events: list[str] = []

    def fall_silent() -> None:
        # It is waited for longer than it takes to expire.
        time.sleep(1)
        events.append("silent")
        silent.set()

    with signing(session) as silent:
        put(session, theirs, TAKEN)
        claim = claim_of(session, lambda: threading.Thread(target=fall_silent).start())
        with claim.held():
            events.append("taken")
            assert theirs not in tags_of(session)
    assert events == ["silent", "taken"]
    record_property("saw", "waited while it signed, taken over after its last sign")


def test_a_process_that_lost_its_claim_notices(session: Session) -> None:
    claim = claim_of(session)
    with claim.held():
        claim.check()
        session.client.delete_experiment_tag(session.experiment_id, claim._key)
        with pytest.raises(ChapterflowError, match="taken over by another process"):
            claim.check()


@pytest.mark.parametrize(
    ("place", "seconds", "ended"),
    [("another place", 0.0, False), ("another place", 3600.0, True), (None, 0.0, True)],
)
def test_a_run_is_alive_while_its_process_signs(
    session: Session, place: str | None, seconds: float, ended: bool
) -> None:
    """Containers share host names and numbers: a number that is free here says nothing there."""
    sign(session, place or claims.place(), seconds)
    run = session.client.create_run(session.experiment_id, tags={runs.PROCESS: OTHER})
    runs.end_dead_runs(session.client, [session.experiment_id])
    claims.forget_dead(session.client, session.experiment_id)
    assert (session.client.get_run(run.info.run_id).info.status == "KILLED") == ended
    assert ((ALIVE + OTHER) in tags_of(session)) != ended
