"""A SavedModel becomes a layer: saved with the model, hashed, trainable, from any handle."""

import io
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chapterflow.errors import ConfigError, DataError, FetchError
from chapterflow.models.base import InputSpec
from tests.conftest import FORKS, HUNG, REPOSITORY

pytestmark = pytest.mark.usefixtures("tensorflow")

DATA = InputSpec((8, 8, 1), 3, 16.0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tensorflow: None) -> Path:
    """A small backbone with batch normalisation, exported by the flow's own code."""
    import keras

    from chapterflow.models.layers.backbones import BackboneParams
    from chapterflow.training.weights import export, feature_vector

    keras.utils.set_random_seed(5)
    params = BackboneParams(backbone="small", weights="none")
    folder = tmp_path_factory.mktemp("hub") / "module"
    export(feature_vector(params, InputSpec((8, 8, 1), 0, 1.0)), folder)
    return folder


def layer(handle: Any, **options: Any) -> Any:
    from chapterflow.models.layers.saved_model import HubLayer

    return HubLayer.from_handle(str(handle), **options)


def hub_model(handle: Any, **options: Any) -> Any:
    from chapterflow.models.hub import MODEL

    return MODEL.build(MODEL.params(role="photos", handle=str(handle), **options), DATA)


def images(count: int = 4, top: float = 16.0) -> Any:
    shape = (count, 8, 8, 1)
    return np.random.default_rng(5).uniform(0, top, shape).astype(np.float32)


def test_it_gives_what_the_module_gives(exported: Path) -> None:
    import tensorflow_hub

    actual = layer(exported)
    module = tensorflow_hub.load(str(exported))
    x = images(top=1.0)
    np.testing.assert_allclose(actual(x), module(x, training=False), atol=1e-6)
    assert actual.takes == [None, 8, 8, 1]
    assert actual.gives == [None, 64]
    assert len(actual.trainable_weights) == len(module.trainable_variables) == 12
    assert len(actual.weights) == len(module.variables) == 20
    # Reusable: both modes were traced, and they differ by batch normalisation.
    assert not np.allclose(module(x, training=True), module(x, training=False))
    assert module.regularization_losses == []


FRESH = """
import sys
import numpy as np
from chapterflow.environment import load_tensorflow
load_tensorflow()
import keras
from chapterflow.models import layers
layers.register()
model = keras.saving.load_model(sys.argv[1])
x = np.load(sys.argv[2])
np.save(sys.argv[3], model(x, training=False))
model.save(sys.argv[4])
"""


@pytest.mark.slow
def test_a_saved_model_needs_no_handle(exported: Path, tmp_path: Path) -> None:
    """It loads in another process, without the SavedModel's folder, and can be saved again."""
    import keras

    away = tmp_path / "moved"
    module = tmp_path / "module"
    away.mkdir()
    for path in exported.rglob("*"):
        target = module / path.relative_to(exported)
        if path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    model = hub_model(module)
    weights = model.get_layer("module").weights
    weights[0].assign(weights[0] * 1.5)  # as fine-tuning would
    expected = np.asarray(model(images(), training=False))
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", images())
    module.rename(away / "module")
    paths = [str(tmp_path / name) for name in ("model.keras", "x.npy", "y.npy", "again.keras")]
    subprocess.run(
        [FORKS.python, "-c", FRESH, *paths],
        check=True,
        timeout=HUNG,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
    )
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-5)
    again = keras.saving.load_model(tmp_path / "again.keras")
    np.testing.assert_allclose(again(images(), training=False), expected, atol=1e-5)


def test_changed_files_in_a_saved_model_are_refused(exported: Path, tmp_path: Path) -> None:
    import keras

    hub_model(exported).save(tmp_path / "model.keras")
    with (
        zipfile.ZipFile(tmp_path / "model.keras") as old,
        zipfile.ZipFile(tmp_path / "changed.keras", "w") as new,
    ):
        changed = 0
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("saved_model.pb"):
                content, changed = content + b"\0", changed + 1
            new.writestr(name, content)
    assert changed == 1
    # Keras wraps the error of a layer in its own.
    with pytest.raises(ValueError, match=r"check_hash: the SavedModel of .* must have the SHA-256"):
        keras.saving.load_model(tmp_path / "changed.keras")


def test_only_a_configuration_is_not_enough(exported: Path) -> None:
    from chapterflow.models.layers.saved_model import HubLayer

    bare = HubLayer.from_config(layer(exported).get_config())
    with pytest.raises(ConfigError, match="needs its SavedModel"):
        bare(images())


@pytest.mark.parametrize("trainable", [True, False])
def test_it_learns_where_it_is_trainable(exported: Path, trainable: bool) -> None:
    import keras

    model = hub_model(exported, trainable=trainable)
    hub = model.get_layer("module")
    before = [np.array(weight) for weight in hub.weights]
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    model.fit(images(32), np.arange(32) % 3, epochs=2, verbose=0)
    moved = [not np.array_equal(old, new) for old, new in zip(before, hub.weights, strict=True)]
    learn = {id(weight) for weight in hub.trainable_weights}
    assert moved == [id(weight) in learn for weight in hub.weights]
    assert len(learn) == (12 if trainable else 0)
    # The module itself has learned: its variables are the layer's.
    np.testing.assert_array_equal(hub._module.variables[0], hub._in_order()[0])


def test_handles(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from chapterflow.models.layers.saved_model import tree_hash

    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
    archive = tmp_path / "module.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(exported, arcname=".")
    expected = np.asarray(layer(exported)(images()))
    for handle in (exported, exported.as_uri(), archive, archive.as_uri(), archive):
        actual = layer(handle, sha256=tree_hash(exported))
        np.testing.assert_allclose(actual(images()), expected, atol=1e-6)
    assert len([p for p in (tmp_path / "cache").iterdir() if p.is_dir()]) == 1
    with pytest.raises(DataError, match="check_hash"):
        layer(exported, sha256="0" * 64)


def test_an_http_handle(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "www").mkdir()
    with tarfile.open(tmp_path / "www/module.tar.gz", "w:gz") as tar:
        tar.add(exported, arcname=".")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *words: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        actual = layer(f"{url}/module.tar.gz")
        with pytest.raises(FetchError, match=r"Cannot download .* not in TFHUB_CACHE_DIR"):
            layer(f"{url}/missing.tar.gz")
        server.shutdown()
    assert actual.handle.startswith("http://")
    np.testing.assert_allclose(actual(images()), layer(exported)(images()), atol=1e-6)
    layer(f"{url}/module.tar.gz")  # from the cache: the server is gone


def test_handles_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from chapterflow.models.layers import saved_model

    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match=r"Received: .*nowhere"):
        layer(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="must be a path, or a file://"):
        layer("ftp://host/module")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"a folder with a saved_model\.pb"):
        layer(tmp_path / "empty")
    (tmp_path / "text.tar.gz").write_text("no archive")
    with pytest.raises(DataError, match=r"must lead to a \.tar\.gz archive"):
        layer(tmp_path / "text.tar.gz")
    with tarfile.open(tmp_path / "large.tar.gz", "w:gz") as tar:
        for name in ("a", "b"):
            member = tarfile.TarInfo(name)
            member.size = 1000
            tar.addfile(member, io.BytesIO(bytes(1000)))
    for bound, value in (("MAX_BYTES", 1999), ("MAX_MEMBERS", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(saved_model, bound, value)
            with pytest.raises(DataError, match=r"large\.tar\.gz, which unpacks to more"):
                layer(tmp_path / "large.tar.gz")
    with tarfile.open(tmp_path / "hostile.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("../escaped")
        tar.addfile(member)
    with pytest.raises(DataError, match="members stay within its folder"):
        layer(tmp_path / "hostile.tar.gz")
    assert not list(tmp_path.rglob("escaped"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/saved_model.pb").write_bytes(b"\xff\xff")
    with pytest.raises(DataError, match="must be a TF2 SavedModel"):
        layer(tmp_path / "broken")
