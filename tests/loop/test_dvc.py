"""`dvc repro` in a fresh checkout."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from chapterflow.data.versioning import pull
from chapterflow.environment import Project
from tests.conftest import Run, call
from tests.loop import stores


def executed(text: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", text)


@pytest.fixture
def checkout(fetched: Path) -> Path:
    """A checkout with the embedded data and nothing trained."""
    return fetched


@pytest.mark.slow
def test_repro_runs_what_changed_and_nothing_else(checkout: Path, run: Run, run_flow: Run) -> None:
    assert call(checkout, "git", "diff", "--quiet", "data.dvc").returncode == 0
    stores.keep_models(checkout, "dnn", "cnn")
    for model in ("dnn", "cnn"):
        stores.set_param(checkout, f"models.{model}.epochs", 2)

    first = run("dvc", "repro")
    assert first.returncode == 0, first.stdout + first.stderr
    assert executed(first.stdout)[-3:] == ["run@dnn", "run@cnn", "compare"]
    metrics = json.loads((checkout / "results/models/cnn/metrics.json").read_text())
    assert 0.1 < metrics["test"]["accuracy"] <= 1

    again = run("dvc", "repro")
    assert executed(again.stdout) == []
    assert "up to date" in again.stdout

    # A changed model runs, and so does a new one; the other does not.
    run("git", "commit", "-qam", "two epochs")
    stores.set_param(checkout, "models.cnn.dense", 16)
    dnn = checkout / "src" / "chapterflow" / "models" / "dnn.py"
    wide = dnn.with_name("wide.py")
    wide.write_text(dnn.read_text().replace('"dnn"', '"wide"'))
    stores.set_param(checkout, "models.wide", {"role": "digits", "epochs": 1})
    changed = run("dvc", "repro")
    assert changed.returncode == 0, changed.stderr
    assert executed(changed.stdout) == ["fingerprint", "run@cnn", "run@wide", "compare"]

    shown = run("dvc", "metrics", "show", "--json")
    assert json.loads(shown.stdout)[""]["data"]["results/models/cnn/metrics.json"]["data"]["test"]
    difference = json.loads(run("dvc", "metrics", "diff", "--json").stdout)
    assert {*difference} == {f"results/models/{name}/metrics.json" for name in ("cnn", "wide")}
    assert difference["results/models/cnn/metrics.json"]["cost.parameters"]["diff"] < 0
    plots = run("dvc", "plots", "show")
    assert plots.returncode == 0, plots.stderr
    page = (checkout / "dvc_plots" / "index.html").read_text()
    assert "validation_loss" in page
    assert "vega" in page.lower()

    run("git", "checkout", "params.yaml")
    wide.unlink()
    back = run("dvc", "repro")
    assert back.returncode == 0
    assert "run@dnn" not in executed(back.stdout)
    comparison = json.loads((checkout / "results/comparison.json").read_text())
    metrics = json.loads((checkout / "results/models/cnn/metrics.json").read_text())
    (pair,) = [p for p in comparison if (p["a"], p["b"]) == ("dnn", "cnn")]
    other = json.loads((checkout / "results/models/dnn/metrics.json").read_text())
    assert pair["accuracy_difference"] == pytest.approx(
        metrics["test"]["accuracy"] - other["test"]["accuracy"]
    )

    # The flow reuses what DVC trained.
    result = run_flow(checkout, "run", "dnn", "--json")
    (model,) = json.loads(result.stdout)["models"]
    assert model["status"] == "reused"

    # Repeated, a training gives other times and the same metrics.
    run("git", "add", "-A")
    run("git", "commit", "-qm", "back")
    repeated = run_flow(checkout, "run", "dnn", "--force", "--json")
    assert repeated.returncode == 0, repeated.stderr
    (again,) = json.loads(repeated.stdout)["models"]
    assert again["run_id"] != model["run_id"]
    assert run("dvc", "repro", "--force", "--single-item", "run@dnn").returncode == 0
    assert run("dvc", "metrics", "diff").stdout.strip() == ""
    assert run("git", "diff", "--stat", "--", "results/models").stdout == ""


def test_analytics_are_off_in_the_repository() -> None:
    config = (Path(__file__).parents[2] / ".dvc" / "config").read_text()
    assert "analytics = false" in config


@pytest.mark.slow
def test_without_runs_the_committed_comparison_stays(checkout: Path, run: Run) -> None:
    # A fresh clone: dvc.lock knows the results, but the tracking store is empty.
    before = (checkout / "results/comparison.json").read_bytes()
    stores.set_param(checkout, "comparison.bootstrap_resamples", 2500)
    failed = run("dvc", "repro", "--single-item", "compare")
    assert failed.returncode != 0
    assert "No finished run of dnn, cnn, lenet5, " in failed.stdout + failed.stderr
    assert (checkout / "results/comparison.json").read_bytes() == before


def test_the_fingerprints_depend_on_all_that_decides_a_run() -> None:
    from chapterflow.kinds.dataset import kind_modules
    from chapterflow.models.catalog import model_names
    from chapterflow.tracking.fingerprint import source_hashes

    root = Path(__file__).parents[2]
    stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    stage = stages["fingerprint"]
    sources = [dep for dep in stage["deps"] if dep.startswith("src/")]
    for model in model_names():
        for kind in kind_modules():
            for source in source_hashes(model, kind):
                assert any(source.startswith(f"{folder}/") for folder in sources), source
    # Libraries, digests of data, parameters.
    assert {"requirements.lock", "results/validation"} <= {*stage["deps"]}
    assert {"seed", "evaluation", "roles", "models"} <= {*stage["params"]}
    assert stages["run"]["do"]["deps"] == [
        "results/validation/${item.role}.json",
        "results/fingerprints/${key}.json",
    ]


def test_a_changed_model_changes_its_fingerprint_alone(
    in_project: Project, fetched_once: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chapterflow.config.load import load_settings
    from chapterflow.loop import stages, steps
    from chapterflow.tracking import fingerprint

    shutil.copytree(fetched_once / "data", in_project.data, dirs_exist_ok=True)
    package = in_project.root / "src" / "chapterflow"
    shutil.copytree(fingerprint.PACKAGE, package)
    hashes = fingerprint.source_hashes
    monkeypatch.setattr(
        fingerprint, "source_hashes", lambda model, kind: hashes(model, kind, package)
    )
    settings = load_settings(in_project.params)
    for name in settings.roles:
        steps.prepare(in_project, settings, name)

    def written() -> dict[str, str]:
        stages.fingerprint_stage(in_project, settings)
        folder = in_project.results / "fingerprints"
        return {file.stem: file.read_text() for file in folder.iterdir()}

    def changed_by(name: str) -> set[str]:
        before = written()
        with (package / name).open("a") as file:
            file.write("# changed\n")
        after = written()
        return {model for model in after if after[model] != before[model]}

    assert {*written()} == {*settings.models}
    assert changed_by("models/gcn_node.py") == {"gcn-node"}
    assert changed_by("kinds/curves.py") == {"conv1d"}
    assert changed_by("models/layers/heads.py") == {*settings.models}
    assert changed_by("explain/explain.py") == set()


def test_results_hold_no_time() -> None:
    from chapterflow.loop.stages import is_timing

    times = ("train/seconds", "beside/x/train_seconds", "cost/latency_ms_p95", "seconds")
    times += ("cost/batch_latency_ms_median", "train/images_per_second", "train/epoch_seconds")
    assert all(map(is_timing, times))
    assert not any(map(is_timing, ("test/accuracy", "cost/flops", "train/epochs")))
    results = Path(__file__).parents[2] / "results"
    for file in results.glob("models/*/metrics.json"):
        metrics = json.loads(file.read_text())
        names = [f"{group}/{name}" for group in metrics for name in metrics[group]]
        assert [name for name in names if is_timing(name)] == []
    for file in results.glob("models/*/learning_curve.csv"):
        assert not any(map(is_timing, file.read_text().splitlines()[0].split(",")))
    for pair in json.loads((results / "comparison.json").read_text()):
        assert "training_time_ratio" not in pair
    assert " s |" not in (results / "comparison.md").read_text()


@pytest.mark.slow
@pytest.mark.fault(
    "`dvc exp run --temp`, whose folder DVC deletes", "Run and model are in the project's store"
)
def test_a_temporary_experiment_keeps_its_run(checkout: Path, run: Run) -> None:
    words = ("dvc", "exp", "run", "--temp", "-s", "run@dnn", "-S", "models.dnn.epochs=2")
    done = run(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    trained = stores.run_of(checkout, "dnn")
    assert trained["status"] == "FINISHED"
    assert trained["tags"]["chapterflow.experiment"] in done.stdout
    assert stores.model_file(checkout, "dnn").is_file()
    store = checkout / "mlruns" / "mlflow.db"
    assert stores.query(store, "SELECT alias FROM registered_model_aliases") == []


@pytest.mark.slow
def test_checkouts_of_one_machine_share_what_they_pull(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command of docs/scale.md: the second checkout needs no remote any more."""
    root, remote, cache = (tmp_path / name for name in ("root", "remote", "cache"))
    (root / "data").mkdir(parents=True)
    (root / "data" / "digits.npy").write_bytes(b"digits")
    remote.mkdir()
    settings = {
        **{f"DVC_{kind}_CONFIG_DIR": str(tmp_path / kind) for kind in ("GLOBAL", "SYSTEM")},
        "DVC_SITE_CACHE_DIR": str(tmp_path / "site"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    for folder, words in [
        (root, ["git", "init", "-q"]),
        (root, ["dvc", "init", "-q"]),
        (root, ["dvc", "add", "-q", "data"]),
        (root, ["dvc", "remote", "add", "-q", "-d", "folder", str(remote)]),
        (root, ["dvc", "push", "-q"]),
        (root, ["git", "add", "."]),
        (root, ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "data"]),
        (tmp_path, ["git", "clone", "-q", "root", "first"]),
        (tmp_path, ["git", "clone", "-q", "root", "second"]),
        (tmp_path / "first", ["dvc", "cache", "dir", "--global", str(cache)]),
    ]:
        done = call(folder, *words, **settings)
        assert done.returncode == 0, (words, done.stderr)
    assert pull(Project(tmp_path / "first"))
    shutil.rmtree(remote)
    assert pull(Project(tmp_path / "second"))
    assert (tmp_path / "second" / "data" / "digits.npy").read_bytes() == b"digits"
    assert not (tmp_path / "second" / ".dvc" / "cache").exists()
