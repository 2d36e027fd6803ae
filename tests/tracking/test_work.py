"""The work of a training in the tracking store: whole, the newest, and gone in the end."""

from pathlib import Path
from typing import Any

import pytest

from chapterflow.config.load import load_settings
from chapterflow.environment import Project
from chapterflow.tracking import runs
from chapterflow.tracking.artifacts import WORK, Artifacts
from chapterflow.tracking.session import Session


@pytest.fixture
def artifacts(project: Project) -> Artifacts:
    session = Session(project, load_settings(project.params))
    run_id = runs.open_run(session.client, session.experiment_id, name="dnn", tags={})
    return Artifacts(run_id)


def write(folder: Path, epoch: int) -> Path:
    (folder / "head" / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "head" / "checkpoints" / "epoch-1.npz").write_bytes(bytes([epoch]) * 99)
    (folder / "history.jsonl").write_text("{}\n" * epoch)
    (folder / "staging-best.npz").write_bytes(b"half")
    return folder


@pytest.mark.fault(
    "Upload of a training's work cut off", "The copy before it is restored, byte by byte"
)
def test_the_newest_whole_copy_is_restored(
    artifacts: Artifacts, tmp_path: Path, record_property: Any
) -> None:
    assert not artifacts.restore_work(tmp_path / "none")
    folder = tmp_path / "work"
    for epoch in (1, 2):
        artifacts.keep_work(write(folder, epoch), epoch)
    (kept,) = artifacts._work()
    whole = Path(artifacts.path(kept)).read_bytes()
    (tmp_path / "epoch-000003.zip").write_bytes(whole[:-30])
    artifacts.log_file(tmp_path / "epoch-000003.zip", WORK)

    assert artifacts.restore_work(tmp_path / "elsewhere" / "restored")
    restored = tmp_path / "elsewhere" / "restored"
    files = {path.name: path.read_bytes() for path in restored.rglob("*") if path.is_file()}
    assert files == {"epoch-1.npz": b"\2" * 99, "history.jsonl": b"{}\n" * 2}
    artifacts.delete_work()
    assert [item.path for item in artifacts._client.list_artifacts(artifacts.run_id)] == []
    record_property("saw", "the copy of epoch 2 restored; nothing left")
