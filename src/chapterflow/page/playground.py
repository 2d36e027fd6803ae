"""The playground: registered models in one HTML file whose script computes every layer itself."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chapterflow.checks import templates
from chapterflow.config.settings import Settings
from chapterflow.environment import Project
from chapterflow.errors import ConfigError, DataError
from chapterflow.files import staged
from chapterflow.kinds.dataset import Dataset, DatasetCard, open_dataset, shape_text
from chapterflow.language import Language, catalogue, language
from chapterflow.page.network import Network, Unsupported, read_network
from chapterflow.tracking.artifacts import Artifacts
from chapterflow.tracking.records import LeftOut, Played
from chapterflow.tracking.session import Session
from chapterflow.tracking.versions import (
    OnVersion,
    Version,
    card_of,
    challenger_alias,
    find_version,
    holder,
    ignore,
    model_file,
    registered_models,
)
from chapterflow.types import Tell, silent

if TYPE_CHECKING:
    from mlflow import MlflowClient

ASSETS = Path(__file__).parent / "templates" / "playground"
#: Scripts of the page, in the order of their use.
SCRIPTS = ("layers.js", "common.js", "draw.js", "inspect.js", "kernel.js", "graph.js", "start.js")
#: Largest page, in bytes.
PAGE_BYTES = 2_000_000
#: The chapter's first question: these come first, next to each other.
FIRST = ("dnn", "cnn")
#: The model of the tab about graphs.
NODE_MODEL = "gcn-node"
#: Largest graph whose matrices can be read.
MOST_NODES = 64
#: Largest side of a picture to draw.
MOST_PIXELS = 64
#: Test images: of each kind of disagreement, and on which the page counts right answers.
DISAGREEMENTS, COUNTED = 6, 100
#: Training images from which size and place of a drawing are measured.
MEASURED = 500


class NothingToShow(ConfigError):
    """None of the models can be on the page."""


@dataclass(frozen=True)
class Loaded:
    """A version with all that the page needs of it.

    Attributes:
        accuracy: On the test split; None if the run does not have it.
    """

    version: Version
    card: DatasetCard
    network: Network
    accuracy: float | None

    @property
    def name(self) -> str:
        """Name of the registered model."""
        return self.version.name

    @cached_property
    def predictions(self) -> dict[str, NDArray[Any]]:
        """Answers on the test split by array name."""
        return Artifacts(self.version.run_id).predictions()

    def document(self, planes: int) -> dict[str, Any]:
        """Return the model as the page's script reads it."""
        accuracy = None if self.accuracy is None else round(self.accuracy, 4)
        return {
            "name": self.name,
            "version": self.version.number,
            "dataset": self.card.name,
            "classes": self.card.classes,
            "shape": self.card.shape,
            "accuracy": accuracy,
            "parameters": len(self.network.weights),
            **self.network.document(planes),
        }


def write_playground(
    project: Project,
    settings: Settings,
    session: Session,
    path: Path,
    *,
    wanted: Sequence[str] = (),
    on_version: OnVersion = ignore,
    tell: Tell = silent,
) -> Played:
    """Write the playground with registered models.

    Args:
        path: The file.
        wanted: `NAME`, `NAME/VERSION`, `NAME@ALIAS` or the id of a run; by default all models of
            `params.yaml` that are registered.
        on_version: Called with each version on the page.

    Raises:
        ConfigError: If a wanted model does not exist.
        NothingToShow: If the page can show none of the models.
    """
    started = time.monotonic()
    path = path.absolute()
    client, experiment = session.client, session.experiment_id
    tell("look up", "models")
    versions = [find_version(client, name, experiment_id=experiment) for name in wanted]
    if not wanted:
        versions = _registered(client, project, settings)
    models: list[Loaded] = []
    left_out: list[LeftOut] = []
    nodes: Loaded | None = None
    for version in versions:
        tell("read", version.name)
        try:
            loaded = _load(client, version)
            if loaded.card.kind == "citations":
                nodes = nodes or loaded
            else:
                _check_drawable(loaded, models)
                models.append(loaded)
        except Unsupported as reason:
            left_out.append(LeftOut(model=version.uri(), reason=str(reason)))
    if nodes is None:
        nodes = _node_model(client, left_out, {version.name for version in versions})
    if not models:
        reasons = "; ".join(f"{item.model}: {item.reason}" for item in left_out)
        raise NothingToShow(
            "The playground needs a registered model of small images, such as dnn or cnn; "
            f"`chapterflow run dnn cnn` makes them. Received: {reasons or 'no model'}"
        )
    tell("write", "test images")
    dataset = _dataset(project, models[0].card)
    page, models, too_large = fitted(
        models,
        {
            "examples": examples(dataset, models) if dataset is not None else None,
            "pen": pen(dataset),
            "valueMax": models[0].card.value_max,
            "graph": graph(nodes, _dataset(project, nodes.card) if nodes else None),
        },
        left_out,
    )
    left_out += too_large
    for loaded in models:
        on_version(loaded.version)
    path.parent.mkdir(parents=True, exist_ok=True)
    with staged(path) as new:
        new.write_text(page, encoding="utf-8")
    return Played(
        page=path,
        size=path.stat().st_size,
        models=[loaded.version.uri() for loaded in models],
        left_out=left_out,
        seconds=round(time.monotonic() - started, 3),
    )


def fitted(
    models: Sequence[Loaded],
    more: Mapping[str, Any],
    left_out: Sequence[LeftOut] = (),
    limit: int = PAGE_BYTES,
) -> tuple[str, list[Loaded], list[LeftOut]]:
    """Return the page with as many models as fit, in order; these models; and the others.

    Weights keep all 32 bits if all models fit so, or else 24 bits, which changes no layer's output
    by more than 1e-4.
    """
    chosen, too_large = list(models), []
    for planes in (4, 3):
        documents = {id(model): model.document(planes) for model in models}
        page = assemble({**more, "models": [*documents.values()]}, left_out)
        if len(page.encode()) <= limit:
            return page, chosen, []
    size = len(assemble({**more, "models": []}, left_out).encode())
    chosen = []
    for model in models:
        own = len(json.dumps(documents[id(model)])) + 200
        if size + own <= limit:
            size += own
            chosen.append(model)
        else:
            reason = (
                f"its weights take {own / 1e6:.2f} MB, and the page of at most "
                f"{limit / 1e6:g} MB is full: give it a page of its own, `chapterflow play "
                f"{model.version.uri()}`"
            )
            too_large.append(LeftOut(model=model.version.uri(), reason=reason))
            size += len(reason) + 100
    if not chosen:
        raise ConfigError(
            f"No model fits a page of {limit / 1e6:g} MB. Received: "
            + ", ".join(f"{m.name} with {len(m.network.weights):,} parameters" for m in models)
        )
    kept = [documents[id(model)] for model in chosen]
    return assemble({**more, "models": kept}, [*left_out, *too_large]), chosen, too_large


def assemble(data: Mapping[str, Any], left_out: Sequence[LeftOut]) -> str:
    """Return the page as one HTML document that loads nothing else."""
    words = {
        key: {"en": text, **{name: catalogue(name)[text] for name in Language if name != "en"}}
        for key, text in json.loads((ASSETS / "words.json").read_text(encoding="utf-8")).items()
    }
    document = {
        **data,
        "leftOut": [item.model_dump() for item in left_out],
        "words": words,
        "language": language(),
    }
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    page = templates(ASSETS).get_template("playground.html.jinja")
    return page.render(
        language=language(),
        style=(ASSETS / "playground.css").read_text(encoding="utf-8"),
        # Within a script element, "<" could end it.
        data=text.replace("<", "\\u003c"),
        script="\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS),
    )


def _registered(client: MlflowClient, project: Project, settings: Settings) -> list[Version]:
    """Return versions of the registered models of `params.yaml`: `FIRST`, then in its order.

    If the version that a name means learnt other data than the profile's, the challenger on the
    profile's data is preferred.
    """
    registered = registered_models()
    names = [*FIRST, *(name for name in settings.models if name not in FIRST)]
    versions = []
    for name in names:
        if name not in registered or name not in settings.models:
            continue
        version, dataset = find_version(client, name), settings.dataset_of(name)
        if card_of(client, version).name != dataset:
            alias = challenger_alias(project, settings.params(name).role, dataset)
            version = holder(client, name, alias) or version
        versions.append(version)
    return versions


def _load(client: MlflowClient, version: Version) -> Loaded:
    """Read a version.

    Raises:
        Unsupported: If the page cannot compute it.
    """
    card = card_of(client, version)
    if card.kind not in ("images", "citations"):
        raise Unsupported(f"it learnt {card.kind}, which the page cannot draw")
    network = read_network(model_file(client, version))
    accuracy = client.get_run(version.run_id).data.metrics.get("test/accuracy")
    return Loaded(version, card, network, accuracy)


def _check_drawable(loaded: Loaded, models: Sequence[Loaded]) -> None:
    """Check that a model reads a drawing, of the size that the other models read.

    Raises:
        Unsupported: If it does not.
    """
    height, width, channels = loaded.card.shape
    if channels != 1 or height is None or width is None or max(height, width) > MOST_PIXELS:
        raise Unsupported(
            f"it learnt images of {shape_text(loaded.card.shape)}; the page draws in grey, up to "
            f"{MOST_PIXELS}x{MOST_PIXELS}"
        )
    if models and (models[0].card.shape, models[0].card.value_max) != (
        loaded.card.shape,
        loaded.card.value_max,
    ):
        raise Unsupported(
            f"it learnt images of {shape_text(loaded.card.shape)}, the page draws "
            f"{shape_text(models[0].card.shape)}: give it a page of its own, `chapterflow play "
            f"{loaded.version.uri()}`"
        )


def _node_model(
    client: MlflowClient, left_out: list[LeftOut], tried: Iterable[str]
) -> Loaded | None:
    """Return the registered model of nodes, or None; the tab about graphs needs none."""
    if NODE_MODEL in tried:
        return None
    try:
        return _load(client, find_version(client, NODE_MODEL))
    except ConfigError:
        return None
    except Unsupported as reason:
        left_out.append(LeftOut(model=NODE_MODEL, reason=str(reason)))
        return None


def _dataset(project: Project, card: DatasetCard) -> Dataset | None:
    """Return the dataset of a card if it is on this machine, byte for byte."""
    try:
        dataset = open_dataset(project.data / card.name)
    except DataError:
        return None
    return dataset if dataset.card.digest == card.digest else None


def examples(dataset: Dataset, models: Sequence[Loaded]) -> dict[str, Any]:
    """Return test images: on which models disagree, some of each class, and a sample to count on.

    Returns:
        `images`, base64 of uint8 `(n, height, width)`; `labels`, the name of each image's class;
        `index`, each image's place in the dataset; `chosen`, a list of pairs of reason and place
        in `images`; `counted`, the places of the sample.
    """
    test = dataset.indices("test")
    labels = np.asarray(dataset.labels)
    rows: list[int] = []

    def place(position: int) -> int:
        if position not in rows:
            rows.append(position)
        return rows.index(position)

    chosen: list[tuple[str, int]] = []
    for kind, position in _disagreements(dataset, models):
        chosen.append((kind, place(position)))
    for label in np.unique(labels[test]):
        chosen.append(("class", place(int(test[labels[test] == label][0]))))
    sample = np.random.default_rng(0).permutation(test)[:COUNTED]
    counted = [place(int(position)) for position in sample]
    images = np.asarray(dataset.stored(np.array(rows)), np.uint8)
    return {
        "images": base64.b64encode(images.tobytes()).decode(),
        "labels": [dataset.card.classes[labels[row]] for row in rows],
        "index": rows,
        "chosen": chosen,
        "counted": counted,
    }


def _disagreements(dataset: Dataset, models: Sequence[Loaded]) -> list[tuple[str, int]]:
    """Return test images that only one of the first two models gets right, with its name."""
    pair = [model for model in models if model.card.test_digest == dataset.card.test_digest][:2]
    if len(pair) < 2:
        return []
    answers = [model.predictions for model in pair]
    index, label = answers[0]["index"], answers[0]["label"]
    right = [answer["probability"].argmax(axis=1) == label for answer in answers]
    chosen = []
    # The later model of the chapter first: what it adds is the question.
    for model, own, other in zip(pair[::-1], right[::-1], right, strict=True):
        for row in np.flatnonzero(own & ~other)[:DISAGREEMENTS]:
            chosen.append((model.name, int(index[row])))
    return chosen


def pen(dataset: Dataset | None) -> dict[str, Any]:
    """Return how to scale a drawing, so that a model sees it as it saw its training images.

    Returns:
        All lengths as shares of the image's side: `extent`, the longer side of the ink; `centre`,
        `[x, y]` of the ink's mass; `width` of the pen; and `dark`, whether paper is black (0).
    """
    if dataset is None:
        return {"extent": 0.8, "centre": [0.5, 0.5], "width": 0.1, "dark": True}
    train = dataset.indices("train")[:MEASURED]
    images = np.asarray(dataset.stored(train), np.float32)[..., 0] / dataset.card.value_max
    border = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], 1)
    dark = bool(np.median(border) < 0.5)
    ink = images if dark else 1 - images
    height, width = ink.shape[1:]
    extents, centres = [], []
    for image in ink:
        rows, columns = (np.flatnonzero((image > 0.2).any(axis=axis)) for axis in (1, 0))
        if len(rows):
            tall = (np.ptp(rows) + 1) / height
            extents.append(max(tall, (np.ptp(columns) + 1) / width))
            mass = image.sum()
            x = (image.sum(axis=0) * (np.arange(width) + 0.5)).sum() / mass / width
            y = (image.sum(axis=1) * (np.arange(height) + 0.5)).sum() / mass / height
            centres.append((x, y))
    if not extents:
        return {"extent": 0.8, "centre": [0.5, 0.5], "width": 0.1, "dark": dark}
    extent = float(np.median(extents))
    # A digit's strokes are about 2.2 times as long as the digit is tall.
    pen_width = float(np.clip(ink.mean() / (2.2 * extent), 0.03, 0.2))
    centre = [round(float(value), 3) for value in np.mean(centres, axis=0)]
    return {
        "extent": round(extent, 3),
        "centre": centre,
        "width": round(pen_width, 3),
        "dark": dark,
    }


def _places(graph: Any) -> NDArray[np.float64]:
    """Return where to draw each node of a graph, `(nodes, 2)`, in 0 to 1."""
    import networkx as nx

    # Kamada and Kawai's layout imports SciPy's optimizers: 1.1 s instead of 0.05 s.
    places = nx.spring_layout(graph, iterations=200, seed=5)
    points = np.array([places[node] for node in sorted(places)])
    placed: NDArray[np.float64] = (points - points.min(axis=0)) / np.maximum(
        np.ptp(points, axis=0), 1e-9
    )
    return placed


def graph(nodes: Loaded | None, dataset: Dataset | None) -> dict[str, Any]:
    """Return the graph of the third tab: the karate club, or another small graph of the model.

    Args:
        nodes: A model of nodes, if there is one.
        dataset: The graph that it learnt, if it is on this machine.

    Returns:
        `edges`, pairs of nodes, each once; `labels`; `classes`; `places`, `[x, y]` in 0 to 1;
        `trained`, nodes whose class training knew; and `model`, None if the page has none, with
        `modelMissing`, the reason.
    """
    import networkx as nx

    reason = "none" if nodes is None else "data" if dataset is None else ""
    if dataset is not None:
        features = dataset.arrays["features"]
        if len(features) > MOST_NODES or not np.array_equal(features, np.eye(len(features))):
            reason = "other"
    if dataset is None or reason:
        club = nx.karate_club_graph()
        classes = ["Mr. Hi", "Officer"]
        labels = [classes.index(club.nodes[node]["club"]) for node in club]
        trained: list[int] = []
        title = "Zachary's karate club"
    else:
        club = nx.Graph()
        club.add_nodes_from(range(len(dataset.labels)))
        club.add_edges_from(np.asarray(dataset.arrays["edges"]).tolist())
        classes = dataset.card.classes
        labels = np.asarray(dataset.labels).tolist()
        trained = dataset.indices("train").tolist()
        title = dataset.card.title
    points = _places(club)
    model = None
    if not reason and nodes is not None:
        model = nodes.document(4)
    return {
        "title": title,
        "edges": sorted([min(edge), max(edge)] for edge in club.edges if edge[0] != edge[1]),
        "labels": labels,
        "classes": classes,
        "places": np.round(points, 4).tolist(),
        "trained": trained,
        "model": model,
        "modelMissing": reason,
    }
