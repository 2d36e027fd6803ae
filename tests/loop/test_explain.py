"""`chapterflow explain`: what a registered model looks at, for inputs of all sorts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chapterflow.config.load import load_settings
from chapterflow.environment import Project
from chapterflow.errors import ConfigError, DataError
from chapterflow.predict.explain_input import explain_with
from chapterflow.tracking.artifacts import picture as picture_name
from tests.conftest import Finished, Run, invoke
from tests.loop import stores

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(finished: Finished, run_flow: Run) -> tuple[Path, dict[str, Any]]:
    """A checkout with a trained network of 2D convolutions, one of 1D ones, and one of graphs."""
    root, before, _ = finished
    few = {"conv1d": 1, "gcn-node": 30}
    sets = [word for name, n in few.items() for word in ("--set", f"models.{name}.epochs={n}")]
    sets += ["--set", "models.conv1d.filters=4", "--set", "models.conv1d.blocks=1"]
    sets += ["--set", "evaluation.latency_batch=4", "--set", "evaluation.latency_repeats=10"]
    result = run_flow(root, "run", *few, "--json", *sets)
    assert result.returncode == 0, result.stderr
    models = before["models"] + json.loads(result.stdout)["models"]
    return root, {model["model"]: model for model in models}


def test_runs_hold_pictures_and_figures(trained: Any) -> None:
    root, runs = trained
    for name, keys in {
        "cnn": {"walk", "kernels", "feature_maps", "attributions", "reactions"},
        "conv1d": {"walk", "kernels", "feature_maps", "attributions"},
        "gcn-node": {"nodes"},
    }.items():
        (folder,) = (root / "mlruns/artifacts").glob(f"*/{runs[name]['run_id']}/artifacts")
        document = json.loads((folder / "explain/explain.json").read_text())
        assert {picture["key"] for picture in document["pictures"]} == keys
        for picture in document["pictures"]:
            assert len(picture["caption"]) > 20
            # An image of the UI, under its layer's number, in two sizes.
            shown = (folder / "images").glob(f"{picture['key']}+step+{picture['step']}+*")
            assert sorted(path.suffix for path in shown) == [".png", ".webp"]
            file = picture_name(runs[name]["run_id"], picture["key"], picture["step"])
            with Image.open(folder / file) as image:
                assert min(image.size) > 50
        metrics = runs[name]["metrics"]
        actual = {key for key in metrics if key.startswith("explain/")}
        assert actual == {*document["metrics"]}
        assert any(key.endswith("/beats_random") for key in actual)
        assert metrics["explain/seconds"] > 0
    layers = json.loads(
        next((root / "mlruns/artifacts").glob(f"*/{runs['cnn']['run_id']}/artifacts"))
        .joinpath("explain/explain.json")
        .read_text()
    )["details"]["layers"]
    assert [layer["name"] for layer in layers] == ["conv1", "pool1", "conv2", "pool2"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wide colour photo, a grey one, and a transparent PNG, none of the size of the digits."""
    folder = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(0).integers(0, 255, (90, 160, 3), np.uint8)
    Image.fromarray(noise).save(folder / "colour.jpg")
    Image.fromarray(noise[..., 0]).save(folder / "grey.png")
    four = np.dstack([noise, np.full((90, 160), 128, np.uint8)])
    Image.fromarray(four).save(folder / "transparent.png")
    return folder


@pytest.mark.parametrize("name", ["colour.jpg", "grey.png", "transparent.png"])
def test_any_picture_is_brought_to_the_model(trained: Any, pictures: Path, name: str) -> None:
    root, _ = trained
    result = invoke(root, "explain", "cnn/1", str(pictures / name), "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["model"] == "cnn/1"
    assert "resized from 160x90 to 8x8" in document["notes"]
    assert "scaled from 0-255 to 0-16" in document["notes"]
    assert ("made grey" in document["notes"]) == (name != "grey.png")
    (row,) = document["details"]["probes"]
    assert 0 <= row["confidence"] <= 1
    assert {*row["maps"]} == {"grad-cam", "integrated-gradients", "occlusion"}
    folder = root / "explanations" / f"cnn-1-{name}"
    assert json.loads((folder / "explain.json").read_text()) == document
    assert {path.name for path in folder.iterdir()} >= {"attributions.png", "walk.png"}


def test_an_example_of_a_dataset_by_one_method(trained: Any, tmp_path: Path) -> None:
    root, _ = trained
    result = invoke(
        root,
        *("explain", "cnn", "digits:7", "--method", "grad-cam", "--layer", "conv1"),
        *("--target", "3", "--out", str(tmp_path / "out"), "--json"),
    )
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["details"]["explained"] == 3
    assert {*document["details"]["probes"][0]["maps"]} == {"grad-cam"}
    assert (tmp_path / "out" / "attributions.png").is_file()


@pytest.mark.parametrize("words", [("conv1d", "curves:3"), ("gcn-node", "citations")])
def test_curves_and_graphs(trained: Any, words: tuple[str, str]) -> None:
    root, _ = trained
    result = invoke(root, "explain", *words)
    assert result.returncode == 0, result.stderr
    assert "Can the maps be believed?" in result.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["cn", "digits:1"], "Did you mean 'cnn'?"),
        (["cnn@champion", "digits:1"], "aliases: challenger. `chapterflow promote cnn`"),
        (["cnn", "digits:1797"], "from 0 to 1796"),
        (["cnn", "nowhere.png"], "INPUT must be"),
        (["cnn", "params.yaml"], "intact JPEG, PNG"),
        (["cnn", "src"], "the folder src"),
        (["cnn", "curves:1"], "images of 10 classes (digits). Received: curves"),
        (["cnn", "digits:1", "--method", "grad-kam"], "'grad-cam'"),
        (["cnn", "digits:1", "--layer", "conv3"], "conv"),
        (["cnn", "digits:1", "--target", "eleven"], "eleven"),
        (["cnn", "digits", "--method", "grad-cam"], "--method is for one input"),
        (["cnn", "digits", "--layer", "conv1"], "--layer is for one input"),
        (["cnn", "digits", "--target", "3"], "--target is for one input"),
        (["gcn-node", "citations:1"], "chapterflow explain gcn-node citations"),
    ],
)
def test_what_cannot_be_explained_is_reported(
    trained: Any,
    words: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tensorflow: None,
) -> None:
    root, _ = trained
    options = dict(zip(words[2::2], words[3::2], strict=True))
    methods = [options["--method"]] if "--method" in options else None
    settings = load_settings(root / "params.yaml")
    monkeypatch.chdir(root)
    with stores.mlflow_at(root), pytest.raises((ConfigError, DataError)) as caught:
        explain_with(
            Project(root),
            settings,
            *words[:2],
            tmp_path,
            methods=methods,
            layer=options.get("--layer"),
            target=options.get("--target"),
        )
    assert says in str(caught.value)


def test_a_wrong_model_ends_with_its_own_exit_code(trained: Any) -> None:
    root, _ = trained
    result = invoke(root, "explain", "cn", "digits:1")
    assert (result.returncode, "Did you mean 'cnn'?" in result.stderr) == (2, True), result.stderr
    assert "Traceback" not in result.stderr
