"""The gatekeeper from challenger to champion and back, with real processes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import (
    HUNG,
    Finished,
    Run,
    begin,
    flow_runs,
    in_checkout,
    invoke,
    using_prefect,
)
from tests.loop import stores

pytestmark = pytest.mark.slow

#: Margins that let every later version of dnn pass.
WIDE = [
    *("--set", "promotion.margin=0.5", "--set", "promotion.worst_class_margin=0.5"),
    *("--set", "promotion.calibration_error.digits=0.5"),
]


@pytest.fixture(scope="module")
def root(finished: Finished) -> Path:
    return finished.root


@pytest.fixture
def run(root: Path, run_flow: Run) -> Callable[..., None]:
    """Runs models of the checkout."""

    def succeeds(*words: str) -> None:
        result = run_flow(root, "run", *words, "--json")
        assert result.returncode == 0, result.stderr

    return succeeds


def promote(root: Path, *words: str, code: int = 0) -> dict[str, Any]:
    result = invoke(root, "promote", *words, "--json")
    assert result.returncode == code, result.stdout + result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def aliases(root: Path, model: str) -> dict[str, int]:
    rows = stores.query(
        root / "mlruns/mlflow.db",
        f"SELECT alias, version FROM registered_model_aliases WHERE name = '{model}'",
    )
    return dict(rows)  # type: ignore[arg-type]


def past(root: Path, model: str) -> list[dict[str, Any]]:
    result = invoke(root, "history", model, "--json")
    assert result.returncode == 0, result.stderr
    entries: list[dict[str, Any]] = json.loads(result.stdout)
    return entries


def test_a_run_challenges_and_is_promoted(root: Path, run: Callable[..., None]) -> None:
    assert aliases(root, "dnn") == {"challenger": 1}
    judged = promote(root, "dnn", "--dry-run")
    assert [gate["name"] for gate in judged["gates"] if not gate["passed"]] == []
    assert (judged["verdict"], judged["dry_run"]) == ("promoted", True)
    assert aliases(root, "dnn") == {"challenger": 1}
    assert past(root, "dnn") == []

    done = promote(root, "dnn", "--reason", "the first")
    assert (done["challenger"], done["champion"]) == ("dnn/1", None)
    assert aliases(root, "dnn") == {"champion": 1}
    (entry,) = past(root, "dnn")
    assert entry["who"] == "test <test@example.org>"
    assert (entry["action"], entry["before"], entry["after"]) == ("promoted", None, "dnn/1")
    assert (entry["reason"], entry["done"]) == ("the first", True)
    for run_id in (entry["run_id"], done["challenger_run"]):
        (folder,) = (root / "mlruns/artifacts").glob(f"*/{run_id}/artifacts/promotion")
        kept = json.loads((folder / "verdict.json").read_text())
        assert kept["gates"] == done["gates"]
        assert "dnn/1 is dnn@champion" in (folder / "verdict.html").read_text()

    # Reused, the champion does not challenge itself.
    run("dnn")
    assert aliases(root, "dnn") == {"champion": 1}
    assert promote(root, "dnn")["verdict"] == "nothing to judge"


def test_too_weak_a_challenger_is_refused_and_stays_a_challenger(root: Path) -> None:
    weak = promote(root, "cnn", "--set", "promotion.floor=0.999", code=4)
    assert [gate["name"] for gate in weak["gates"] if not gate["passed"]] == ["floor"]
    assert aliases(root, "cnn") == {"challenger": 1}
    (entry,) = past(root, "cnn")
    assert (entry["action"], entry["gates"]) == ("refused", "13 of 14 gates passed; failed: floor")


def test_of_two_promotions_at_once_one_wins_and_rolling_back_undoes_it(
    root: Path, run: Callable[..., None]
) -> None:
    run("dnn", "--set", "models.dnn.epochs=24")
    assert aliases(root, "dnn") == {"champion": 1, "challenger": 2}
    assert "judges its challenger, dnn/2" in promote(root, "dnn@champion")["reason"]
    # Wide margins: this is about who comes first.
    words = ["chapterflow", "promote", "dnn", "--json", *WIDE]
    both = [begin(root, *words) for _ in range(2)]
    result = [json.loads(process.communicate(timeout=HUNG)[0]) for process in both]
    assert sorted(one["verdict"] for one in result) == ["promoted", "refused"]
    assert sorted(process.returncode for process in both) == [0, 4]
    (late,) = [one for one in result if one["verdict"] == "refused"]
    assert [gate["name"] for gate in late["gates"] if not gate["passed"]] == ["unchanged"]
    assert aliases(root, "dnn") == {"champion": 2, "previous-champion": 1}
    assert {entry["gates"] for entry in past(root, "dnn")} == {
        "14 of 14 gates passed",
        "14 of 15 gates passed; failed: unchanged",
    }

    file = stores.model_file(root, "dnn")
    content = file.read_bytes()
    file.write_bytes(content[:1000])
    damaged = invoke(root, "rollback", "dnn")
    assert (damaged.returncode, "Nothing was changed" in damaged.stderr) == (1, True)
    assert aliases(root, "dnn") == {"champion": 2, "previous-champion": 1}
    file.write_bytes(content)

    back = invoke(root, "rollback", "dnn", "--reason", "slow on the kiosk")
    assert back.returncode == 0, back.stderr
    assert "dnn/1 is dnn@champion again, instead of dnn/2" in back.stdout
    assert aliases(root, "dnn") == {"champion": 1}
    assert past(root, "dnn")[-1] | {"when": "", "who": "", "run_id": ""} == {
        "when": "", "who": "", "run_id": "", "model": "dnn", "alias": "champion",
        "action": "rolled back", "before": "dnn/2", "after": "dnn/1", "gates": "",
        "reason": "slow on the kiosk", "done": True,
    }  # fmt: skip
    assert invoke(root, "rollback", "dnn").returncode == 2


def test_what_was_rolled_back_does_not_come_back_unasked(root: Path) -> None:
    assert aliases(root, "dnn") == {"champion": 1}
    again = promote(root, "dnn/2", *WIDE, code=4)
    shut = [gate for gate in again["gates"] if not gate["passed"]]
    assert [gate["name"] for gate in shut] == ["not-withdrawn"]


def test_the_flow_promotes_models_and_the_best_of_a_role(
    root: Path, prefect_api: dict[str, str]
) -> None:
    from chapterflow.environment import configure, find_project
    from pipelines.prefect_server import prefect_server

    with using_prefect(prefect_api), in_checkout(root, **prefect_api):
        project = find_project()
        configure(project)
        with prefect_server(project.scratch):
            from pipelines.promotion import promotion

            document = json.loads(json.dumps(promotion(models=["cnn", "digits", "dnn"])))
    verdicts = {verdict["model"]: verdict for verdict in document["models"]}
    assert verdicts["cnn"]["verdict"] == "promoted"
    assert verdicts["dnn"]["verdict"] == "nothing to judge"
    assert verdicts["digits"]["verdict"] == "promoted"
    assert aliases(root, "cnn") == {"champion": 1}
    assert aliases(root, "digits") == {"champion": 1}
    (entry,) = past(root, "digits")
    assert entry["after"] == "digits/1"
    assert flow_runs(prefect_api)[-1]["state"]["type"] == "COMPLETED"
    assert promote(root, "digits")["verdict"] == "nothing to judge"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["promote", "cn"], "Did you mean 'cnn'?"),
        (["promote", "cnn/99"], "is not in the registry"),
        (["promote", "cnn", "--to", "challenger"], "set by the pipeline itself"),
        (["promote", "cnn", "--to", "v1"], "--to must be an alias"),
        (["promote", "cnn", "--set", "promotion.margin=wide"], "promotion.margin: input should be"),
        (
            ["promote", "dnn/2", "--profile", "book"],
            "training profile, embedded. Received: --profile",
        ),
        (["rollback", "cnn", "--to", "99"], "is not in the registry"),
        (["rollback", "cnn", "--to", "abc"], "--to must be a version number of cnn"),
        (["rollback", "nobody"], "No registered model is called"),
        (["history", "nobody"], "No registered model is called"),
    ],
)
def test_wrong_arguments_are_refused(root: Path, words: list[str], says: str) -> None:
    result = invoke(root, *words)
    assert (result.returncode, "Traceback" in result.stderr) == (2, False), result.stderr
    assert says in " ".join(result.stderr.split())
