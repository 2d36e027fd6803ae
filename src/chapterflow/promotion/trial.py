"""What the gates judge: two versions, as they were measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

#: A version with this tag was rolled back; its value says why.
WITHDRAWN = "chapterflow.withdrawn"


@dataclass(frozen=True)
class Measured:
    """What is known of one version; None and empty where it could not be found out.

    Attributes:
        version: `cnn/3`.
        logged: Metrics of its run.
        now: Metrics measured now, on the test split as it is here.
        right: `(n,)` whether each test example is classified rightly; for curves `errors`.
        errors: `(n,)` sum of squared errors on each test example.
        file_bytes: Size of its file in the store.
        test_digest: Hash over the test examples, as its run has it.
        data_digest: Digest of the data that it learnt.
        validated: Digest of the data whose validation its run holds, where it was passed.
        commit: Commit that it was trained at.
        dirty: Whether there were uncommitted changes.
        commit_known: Whether the checkout has the commit.
        data_version: Version of `data/` that it was trained with.
        data_known: Whether a commit records that version.
        withdrawn: Why it was rolled back; empty where it is not, or no longer.
        reloaded: Largest difference between answers logged and answers of a fresh process.
        problems: Why something could not be measured, by gate.
    """

    version: str
    logged: Mapping[str, float] = field(default_factory=dict)
    now: Mapping[str, float] = field(default_factory=dict)
    right: NDArray[Any] | None = None
    errors: NDArray[Any] | None = None
    file_bytes: int | None = None
    test_digest: str | None = None
    data_digest: str | None = None
    validated: str | None = None
    commit: str | None = None
    dirty: bool | None = None
    commit_known: bool | None = None
    data_version: str | None = None
    data_known: bool | None = None
    withdrawn: str | None = None
    reloaded: float | None = None
    problems: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """What the gates judge.

    Attributes:
        champion: None where there is no champion, or it was set aside.
        thresholds: By name in `params.yaml`; None where the role has none.
        classes: Whether the target is a class; curves have errors instead.
        here: Hash over the test examples of the dataset on this machine; None without one.
        without: Why there is no champion to be held against.
        allow_dirty: Whether code and data that no commit has will do.
        reinstate: Whether a version that was rolled back may come back.
    """

    challenger: Measured
    champion: Measured | None
    thresholds: Mapping[str, float | None]
    classes: bool
    here: str | None
    role: str
    resamples: int = 2000
    seed: int = 0
    superiority: bool = False
    without: str = "no version is champion yet"
    allow_dirty: bool = False
    reinstate: bool = False
