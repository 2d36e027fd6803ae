"""The gates about where a version comes from: data, validation, code, its own past."""

from __future__ import annotations

from chapterflow.promotion.trial import Trial
from chapterflow.promotion.verdict import Gate


def test_data(trial: Trial) -> Gate:
    """Return whether both were scored on the test examples that are here."""
    challenger, champion = trial.challenger, trial.champion
    same = trial.here is not None and challenger.test_digest == trial.here
    note = "" if same else challenger.problems.get("test-data", "")
    if not same and not note:
        note = "the challenger was scored on other test data than those here"
    if champion and champion.test_digest != trial.here:
        same = False
        note = (
            "the champion was scored on other test data: train it on these to compare, or set it "
            "aside with --without-champion"
        )
    return Gate(
        name="test-data",
        title="Both are scored on the test examples that are here now (hash)",
        passed=same,
        threshold=_short(trial.here),
        champion=_short(champion.test_digest) if champion else None,
        challenger=_short(challenger.test_digest),
        note=note or ("" if champion else trial.without),
    )


def validation(trial: Trial) -> Gate:
    """Return whether validation was passed for the data that it learnt."""
    one = trial.challenger
    note = ""
    if one.validated is None:
        note = one.problems.get("validation", "its run holds no validation that was passed")
    elif one.validated != one.data_digest:
        note = "the validation is about other data than those that it learnt"
    return Gate(
        name="validation",
        title="Validation was passed for the data that it learnt (hash)",
        passed=one.validated is not None and one.validated == one.data_digest,
        threshold=_short(one.data_digest),
        champion=_short(trial.champion.validated) if trial.champion else None,
        challenger=_short(one.validated),
        note=note,
    )


def code(trial: Trial) -> Gate:
    """Return whether it was trained at a commit that is here."""
    one = trial.challenger
    if one.commit is None or one.dirty is None:
        note = "its run names no commit"
    elif one.dirty:
        note = "trained with uncommitted changes: commit them, then `chapterflow run` once more"
    elif not one.commit_known:
        note = "this checkout does not have the commit"
    else:
        note = ""
    return _allowed(
        trial, "code", "Trained at a commit, without uncommitted changes", one.commit, note
    )


def data_version(trial: Trial) -> Gate:
    """Return whether a commit records the data that it was trained with."""
    one = trial.challenger
    if one.data_version is None:
        note = "its run names no version of data/"
    elif not one.data_known:
        note = "no commit has a data.dvc with this version: commit data.dvc"
    else:
        note = ""
    title = "Version of data/ that a commit records"
    return _allowed(trial, "data-version", title, one.data_version, note)


def _allowed(trial: Trial, name: str, title: str, value: str | None, fault: str) -> Gate:
    """Return a gate that `--allow-dirty` opens."""
    return Gate(
        name=name,
        title=title,
        passed=not fault or trial.allow_dirty,
        threshold="--allow-dirty" if trial.allow_dirty else "known",
        challenger=_short(value),
        note=f"{fault}; allowed by --allow-dirty" if fault and trial.allow_dirty else fault,
    )


def not_withdrawn(trial: Trial) -> Gate:
    """Return whether it is not rolled back: a version that was reinstated no longer is."""
    why = trial.challenger.withdrawn
    note = ""
    if why is None:
        note = "not known"
    elif why:
        note = f"rolled back: {why}; --reinstate lets it come back"
    return Gate(
        name="not-withdrawn",
        title="Is not rolled back",
        passed=why == "" or (bool(why) and trial.reinstate),
        threshold="--reinstate" if trial.reinstate else "not",
        challenger=None if why is None else ("rolled back" if why else "not"),
        note=note,
    )


def _short(digest: str | None) -> str | None:
    return digest[:12] if digest else None
