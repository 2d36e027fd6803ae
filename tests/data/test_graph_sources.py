"""Graphs are read as they are written; what is damaged or hostile is refused."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import struct
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import sparse

from chapterflow.data import pickles
from chapterflow.data.source import SourceData
from chapterflow.data.sources import karate, planetoid, random_graphs, tu
from chapterflow.data.sources.karate import Karate
from chapterflow.data.sources.planetoid import Planetoid
from chapterflow.data.sources.random_graphs import RandomGraphs
from chapterflow.data.sources.tu import Tu
from chapterflow.data.splits import grouped_split
from chapterflow.errors import DataError
from chapterflow.kinds.edges import content_hash
from chapterflow.models.base import InputSpec
from chapterflow.models.catalog import get_model


def write_tu(folder: Path, **changes: str | None) -> Path:
    """Write twenty paths of 2 to 4 nodes, no two equal; `changes` replace files."""
    folder.mkdir(parents=True)
    indicator, edges, labels, first = [], [], [], 1
    for graph in range(20):
        nodes = 2 + graph % 3
        indicator += [graph + 1] * nodes
        labels += [graph % 3] * (nodes - 1) + [7 + graph]
        for node in range(first, first + nodes - 1):
            edges += [f"{node}, {node + 1}", f"{node + 1}, {node}"]
        first += nodes
    files: dict[str, str | None] = {
        "graph_indicator": "\n".join(map(str, indicator)),
        "graph_labels": "\n".join(["1", "-1"] * 10),
        "A": "\n".join(edges),
        "node_labels": "\n".join(map(str, labels)),
    }
    for name, text in (files | changes).items():
        if text is not None:
            (folder / f"SET_{name}.txt").write_text(text + "\n")
    return folder


def read_tu(path: Path, **options: Any) -> SourceData:
    params = Tu(kind="tu", seed=5, path=str(path), validation=0.2, test=0.2, **options)
    return tu.read(params, lambda file: pytest.fail("fetched"))


def test_a_tu_folder_and_its_zip_give_the_same_data(tmp_path: Path) -> None:
    folder = write_tu(tmp_path / "SET")
    shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path, "SET")
    data, zipped = read_tu(folder), read_tu(tmp_path / "set.zip")
    for name, array in data.arrays.items():
        np.testing.assert_array_equal(zipped.arrays[name], array)
    arrays = data.arrays
    assert data.classes == ["-1", "1"]
    assert arrays["labels"].tolist() == [1, 0] * 10
    assert np.diff(arrays["node_offsets"]).tolist() == [2 + g % 3 for g in range(20)]
    assert np.diff(arrays["edge_offsets"]).tolist() == [2 * (1 + g % 3) for g in range(20)]
    begin, end = arrays["edge_offsets"][2:4]
    assert arrays["edges"][begin:end].tolist() == [[0, 1], [1, 0], [1, 2], [2, 1], [2, 3], [3, 2]]
    # Labels 0, 1, 2 and 7 to 26, one-hot.
    np.testing.assert_array_equal(arrays["features"][:4], np.eye(23)[[0, 3, 1, 1]])
    assert data.shape == (None, 23)
    assert data.facts["nodes"] == 59
    assert data.facts["edges"] == 78


def test_attributes_follow_the_labels(tmp_path: Path) -> None:
    attributes = "\n".join(f"{n / 2}, -{n}" for n in range(59))
    data = read_tu(write_tu(tmp_path / "SET", node_attributes=attributes))
    np.testing.assert_allclose(data.arrays["features"][:, 23], np.arange(59) / 2)
    assert data.value_max == 58


def test_attributes_in_small_units_reach_the_model(tmp_path: Path, tensorflow: None) -> None:
    # The first attribute is as large as thousands, the second as small as thousandths.
    attributes = "\n".join(f"{5000 + 100 * n}, {n / 1000}" for n in range(59))
    data = read_tu(write_tu(tmp_path / "SET", node_attributes=attributes))
    plain = data.shape[1] - 2
    assert data.facts["centre"][:plain] == [0] * plain
    assert data.facts["spread"][:plain] == [1] * plain
    spec = InputSpec(
        data.shape,
        len(data.classes),
        data.value_max,
        "graphs",
        centre=tuple(data.facts["centre"]),
        spread=tuple(data.facts["spread"]),
    )
    entry = get_model("gcn")
    model = entry.build(entry.params(role="graphs"), spec)
    reaching = np.asarray(model.get_layer("rescale")(data.arrays["features"][np.newaxis]))[0]
    assert (reaching[:, -2:].std(axis=0) > 0.5).all()
    assert (np.abs(reaching[:, -2:]) < 6).all()
    np.testing.assert_array_equal(reaching[:, :plain], data.arrays["features"][:, :plain])


def test_without_labels_and_attributes_each_node_has_a_one(tmp_path: Path) -> None:
    folder = write_tu(tmp_path / "SET", node_labels=None)
    features, _, facts = tu._features(folder / "SET", 59)
    assert features.tolist() == [[1.0]] * 59
    assert facts["features"].startswith("none")


def test_equal_graphs_are_in_one_split() -> None:
    contents = ["a", "b", "c", "d", "e", "f", "g", "h", "a", "b", "c", "d"]
    labels = np.array([0, 1] * 6, np.uint8)
    split = grouped_split(labels, contents, validation=0.25, test=0.25, seed=5)
    assert (split[8:] == split[:4]).all()
    assert set(split) == {0, 1, 2}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"A": "1, 2\n2, 60"}, r"SET_A.txt must name nodes 1 to 59.*\[2, 60\] in line 2"),
        ({"A": "0, 1"}, r"must name nodes 1 to 59"),
        ({"A": "1, 2\n2, 3"}, r"must not leave their graph.*\[2, 3\] in line 2"),
        ({"A": "1, x"}, r"SET_A.txt must hold numbers"),
        ({"A": "1.5, 2"}, r"whole numbers.*line 1"),
        ({"A": "1, 2\n\n\n2, x"}, r"SET_A.txt must hold numbers.*'x' in line 4"),
        ({"graph_labels": "1\nTrue"}, r"must hold numbers.*'True' in line 2"),
        ({"graph_labels": f"1\n{'9' * 30}"}, r"whole numbers. Received: .* in line 2"),
        ({"A": f"1, 2\n2, {'9' * 400}"}, r"numbers of 64 bits.*column 2"),
        ({"node_attributes": "1\n" * 58 + "9" * 60}, r"below 3.4e38. Received: 1e\+60 in line 59"),
        ({"A": "1\n2"}, r"two columns"),
        ({"A": None}, r"must have SET_A.txt"),
        ({"node_labels": "1\n2"}, r"SET_node_labels.txt must have 59 lines.*Received: 2"),
        ({"graph_labels": "1\n-1"}, r"must name graphs 1 to 2. Received: 1 to 20"),
        ({"graph_labels": "\n".join(["1"] * 20)}, r"2 to 256 classes. Received: 1"),
        ({"graph_indicator": "2\n1"}, r"ascending order"),
        ({"graph_indicator": None}, r"one NAME_graph_indicator.txt. Received: none"),
    ],
)
def test_a_damaged_tu_dataset_is_reported(
    changes: dict[str, str | None], words: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=words):
        read_tu(write_tu(tmp_path / "SET", **changes))


def test_a_tu_archive_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("../SET_A.txt", "1, 2")
    with pytest.raises(DataError, match="must have relative paths"):
        read_tu(tmp_path / "set.zip")


def test_one_place_must_be_given() -> None:
    with pytest.raises(ValidationError, match="one of path and file"):
        Tu(kind="tu", seed=5)


def test_random_graphs_differ_in_structure_alone() -> None:
    params = RandomGraphs(
        kind="random-graphs", seed=5, per_family=10, nodes=[30, 40], validation=0.2, test=0.2
    )
    data = random_graphs.read(params, lambda file: pytest.fail("fetched"))
    sizes, edges = (np.diff(data.arrays[f"{name}_offsets"]) for name in ("node", "edge"))
    by_family = [sizes[data.arrays["labels"] == family] for family in range(4)]
    assert all((actual == by_family[0]).all() for actual in by_family)
    np.testing.assert_array_equal(edges, 2 * 3 * (sizes - 3))
    begin, end = data.arrays["edge_offsets"][5:7]
    first, last = data.arrays["node_offsets"][5:7]
    degrees = np.bincount(data.arrays["edges"][begin:end, 0], minlength=last - first)
    np.testing.assert_array_equal(
        data.arrays["features"][first:last].argmax(axis=1), np.minimum(degrees, 15)
    )
    again = random_graphs.read(params, lambda file: pytest.fail("fetched"))
    np.testing.assert_array_equal(again.arrays["edges"], data.arrays["edges"])


@pytest.mark.parametrize("nodes", [[40, 30], [10, 40]])
def test_impossible_random_graphs_are_refused(nodes: list[int]) -> None:
    with pytest.raises(ValidationError):
        RandomGraphs(kind="random-graphs", seed=5, nodes=nodes, validation=0.1, test=0.1)


def test_the_karate_club_has_four_members_to_learn_from() -> None:
    data = karate.read(Karate(kind="karate", seed=5), lambda file: pytest.fail("fetched"))
    labels, split = data.arrays["labels"], data.arrays["split"]
    assert np.bincount(labels).tolist() == [17, 17]
    assert np.bincount(labels[split == 0]).tolist() == [2, 2]
    assert np.bincount(split).tolist() == [4, 8, 22]
    assert len(data.arrays["edges"]) == 2 * 78


class _OldPickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes bytes as Python 2 did; today's need a name that Planetoid files have not."""

    dispatch = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_bytes(self, value: bytes) -> None:
        self.write(b"T" + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes


def old_pickle(value: Any) -> bytes:
    """Return a pickle with the names that Python 2 wrote, as Planetoid files have."""
    out = io.BytesIO()
    _OldPickler(out, protocol=2, fix_imports=True).dump(value)
    text = out.getvalue()
    for now, then in (
        (b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"),
        (b"cscipy.sparse._csr\n", b"cscipy.sparse.csr\n"),
    ):
        text = text.replace(now, then)
    return text


def write_planetoid(folder: Path) -> Path:
    """Write a dataset of 12 nodes; 9 comes before 11 in test.index, and 10 is left out."""
    folder.mkdir()
    x = sparse.csr_matrix(np.eye(9, 4, dtype=np.float32) + 1)
    tx = sparse.csr_matrix(np.array([[0, 0, 0, 11], [0, 0, 9, 0]], np.float32))
    y = np.eye(2, dtype=np.int32)[np.arange(9) % 2]
    graph = defaultdict(list, {n: [(n + 1) % 12, n] for n in range(12)})
    held = {
        "x": x[:2], "allx": x, "tx": tx, "y": y[:2], "ally": y,
        "ty": np.eye(2, dtype=np.int32)[[1, 0]], "graph": graph,
    }  # fmt: skip
    for end, value in held.items():
        (folder / f"ind.set.{end}").write_bytes(old_pickle(value))
    (folder / "ind.set.test.index").write_text("11\n9\n")
    return folder


def read_planetoid(folder: Path, **options: Any) -> SourceData:
    params = Planetoid(
        kind="planetoid", name="set", path=str(folder), validation_nodes=3, **options
    )
    return planetoid.read(params, lambda file: pytest.fail("fetched"))


def test_test_nodes_go_to_the_places_that_their_index_names(tmp_path: Path) -> None:
    data = read_planetoid(write_planetoid(tmp_path / "set"))
    features = data.arrays["features"]
    assert features.dtype == np.float32
    assert features[11].tolist() == [0, 0, 0, 11]
    assert features[9].tolist() == [0, 0, 9, 0]
    assert features[10].tolist() == [0, 0, 0, 0]
    assert data.arrays["labels"][[9, 11]].tolist() == [0, 1]
    assert data.arrays["split"].tolist() == [0, 0, 1, 1, 1, 3, 3, 3, 3, 2, 3, 2]
    # A ring, both ways, without the self-loops of the file.
    assert len(data.arrays["edges"]) == 24
    assert data.facts["nodes"] == 12


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("end", ["allx", "graph", "y"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_hostile_pickle_is_refused_and_nothing_runs(
    end: str, nested: bool, tmp_path: Path
) -> None:
    folder, trace = write_planetoid(tmp_path / "set"), tmp_path / "trace"
    payload = Payload(trace)
    text = pickle.dumps([{"a": payload}] if nested else payload, protocol=2)
    (folder / f"ind.set.{end}").write_bytes(text)
    with pytest.raises(DataError, match=rf"ind.set.{end} must be a pickle.*system"):
        read_planetoid(folder)
    assert not trace.exists()
    pickle.loads(text)
    assert trace.exists(), "the payload would not have run anyway"


@pytest.mark.parametrize(
    "text",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"c__builtin__\neval\n(S'1'\ntR.",
        b"cnumpy\nfromfile\n(S'/etc/passwd'\ntR.",
        b"cnumpy\nndarray.tofile\n.",
        b"cscipy.sparse.csr\n_csr\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x04load\x93.",
        b"\x80\x02P1\n.",
        b"",
        b"\x80\x02",
        b"garbage",
    ],
)
def test_other_names_and_damaged_pickles_are_refused(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(text)
    with pytest.raises(DataError, match="file must be a pickle of arrays"):
        planetoid.read_pickle(tmp_path / "file")


def dtype_state(text: bytes, *, fields: bytes = b"", flags: bytes = b"K\0") -> bytes:
    """Return the opcodes of a dtype with a state."""
    return (
        b"cnumpy\ndtype\n" + text + b"K\0K\1\x87R"
        b"(K\3U\x01<N"
        + (fields + b"K\x08K\x01" if fields else b"NN" + b"J\xff\xff\xff\xff" * 2)
        + flags
        + b"tb"
    )


def array_of(dtype: bytes, shape: bytes, data: bytes) -> bytes:
    """Return the pickle of an array as numpy writes it."""
    begin = b"\x80\x02cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R"
    return begin + b"(K\1" + shape + dtype + b"\x89" + data + b"tb."


ADDRESS = b"U\x08" + b"A" * 8


@pytest.mark.fault(
    "Pickle that makes numpy read pointers from the file", "Refused; nothing is built"
)
@pytest.mark.parametrize(
    ("text", "says"),
    [
        # Eight bytes of the file as a pointer.
        (array_of(dtype_state(b"U\x02O8", flags=b"K?"), b"K\1\x85", ADDRESS), "an array of 'O8'"),
        # A field of objects in a dtype whose flags deny it: a SIGSEGV with `pickle`.
        (
            array_of(
                dtype_state(
                    b"U\x02V8", fields=b"U\x01a\x85}U\x01acnumpy\ndtype\nU\x01OK\0K\1\x87RK\0\x86s"
                ),
                b"K\1\x85",
                ADDRESS,
            ),
            "an array of 'V8'",
        ),
        # The same fields in the state of plain numbers.
        (
            array_of(dtype_state(b"U\x02i8", fields=b"U\x01a\x85}"), b"K\1\x85", ADDRESS),
            "elements are no plain numbers",
        ),
        (array_of(dtype_state(b"U\x02i8", flags=b"K?"), b"K\1\x85", ADDRESS), "no plain numbers"),
        # Two gigabytes in eight bytes.
        (array_of(dtype_state(b"U\x02i8"), b"J\0\0\0\x10\x85", ADDRESS), "an impossible shape"),
        (array_of(dtype_state(b"U\x02i8"), b"K\x10\x85", ADDRESS), "16 elements of 8 bytes"),
        (b"\x80\x02cnumpy\nndarray\nJ\0\0\0\x10\x85R.", "a call of ndarray"),
        # BUILD sets attributes on what was named: here on the class itself.
        (b"cscipy.sparse.csr\ncsr_matrix\n(N}S'toarray'\nI1\nstb.", "a state of something"),
        # Text that is repeated a thousand times as bytes.
        (
            b"\x80\x02X\xff\0\0\0"
            + b"a" * 255
            + b"q\0"
            + b"c_codecs\nencode\nh\0U\x06latin1\x86R" * 9,
            "more bytes than the file has",
        ),
    ],
)
def test_a_pickle_makes_nothing_but_plain_arrays(
    text: bytes, says: str, tmp_path: Path, record_property: Any
) -> None:
    (tmp_path / "file").write_bytes(text)
    with pytest.raises(DataError, match=f"file must be a pickle of arrays.*Received: .*{says}"):
        planetoid.read_pickle(tmp_path / "file")
    assert callable(sparse.csr_matrix.toarray)
    record_property("saw", "DataError")


def test_endless_pickles_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_OPCODES", 1000)
    with pytest.raises(pickles.PickleError, match="more than 1,000 values"):
        pickles.read(b"]" * 2000)
    monkeypatch.undo()
    # Nested deeper than Python calls itself.
    assert type(pickles.read(b"]" * 50_000 + b"a" * 49_999 + b".")) is list


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_todays_numpy_and_scipy_write_is_read(protocol: int) -> None:
    for value in (
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        np.eye(2, dtype=">f4"),
        np.eye(2, dtype=bool),
        np.zeros((0, 3), np.int32),
    ):
        array = pickles.read(pickle.dumps(value, protocol))
        np.testing.assert_array_equal(array, value)
        assert array.dtype == value.dtype
    for form in (sparse.csr_matrix, sparse.csr_array):
        matrix = pickles.read(pickle.dumps(form(np.diag([1.0, 2.0])), protocol))
        assert matrix.parts["_shape"] == (2, 2)
        assert matrix.parts["data"].tolist() == [1, 2]
    graph = defaultdict(list, {0: [1, 2], 1: []} | {np.int64(2): [np.int64(0)]})
    assert pickles.read(pickle.dumps(graph, protocol)) == {0: [1, 2], 1: [], 2: [0]}


@pytest.mark.fault("Sparse matrix that is huge when dense", "Refused before memory is taken")
def test_a_dense_matrix_is_bounded_by_its_file(tmp_path: Path, record_property: Any) -> None:
    matrix = sparse.csr_matrix((2, 2), dtype=np.float32)
    matrix._shape = (2, 2_000_000_000)
    (tmp_path / "file").write_bytes(pickle.dumps(matrix))
    with pytest.raises(
        DataError, match=r"2 x 2,000,000,000 entries, 0 of them not zero; at most 16"
    ):
        planetoid.read_matrix(tmp_path / "file")
    record_property("saw", "DataError, 14.9 GiB not asked for")


@pytest.mark.parametrize("value", [float("inf"), 10**30, -1, 1.5, None, "a", [1]])
def test_neighbours_are_numbers_of_nodes(value: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(pickle.dumps({0: [1, value]}))
    with pytest.raises(DataError, match="file must map nodes to lists of nodes, by numbers from 0"):
        planetoid.read_neighbours(tmp_path / "file")


def test_neighbours_may_be_arrays_and_sets(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(pickle.dumps({0: np.array([1, 2]), 1: {0}}))
    assert planetoid.read_neighbours(tmp_path / "file").tolist() == [[0, 1], [0, 2], [1, 0]]


def test_a_matrix_whose_parts_do_not_fit_is_refused(tmp_path: Path) -> None:
    matrix = sparse.csr_matrix(np.eye(3, dtype=np.float32))
    matrix.indices[1] = 700
    (tmp_path / "file").write_bytes(old_pickle(matrix))
    with pytest.raises(DataError, match="must hold a sparse matrix"):
        planetoid.read_matrix(tmp_path / "file")


@pytest.mark.fault("Sparse matrix whose rows lie outside its data", "Refused; nothing is read")
def test_rows_of_a_matrix_lie_in_its_data(tmp_path: Path, record_property: Any) -> None:
    matrix = sparse.csr_matrix((3, 3), dtype=np.float32)
    matrix.indptr[:] = [0, 1 << 30, 1 << 29, 0]  # scipy checks nothing where the last is 0: SIGSEGV
    (tmp_path / "file").write_bytes(pickle.dumps(matrix))
    with pytest.raises(DataError, match="parts that do not fit one another"):
        planetoid.read_matrix(tmp_path / "file")
    record_property("saw", "refused")


def test_a_matrix_is_what_scipy_makes_of_it(tmp_path: Path) -> None:
    random = sparse.random_array((7, 5), density=0.4, rng=np.random.default_rng(5), format="csr")
    twice = sparse.csr_matrix(([1.0, 2.0, 4.0], [1, 1, 0], [0, 3, 3]), shape=(2, 3))
    for matrix in (random, twice):
        (tmp_path / "file").write_bytes(pickle.dumps(matrix))
        expected = matrix.toarray().astype(np.float32)
        np.testing.assert_allclose(planetoid.read_matrix(tmp_path / "file"), expected)


@pytest.mark.parametrize(
    ("end", "value", "words"),
    [
        ("ty", np.eye(2, dtype=np.int32), None),
        ("ty", np.eye(3, dtype=np.int32), "must fit one another"),
        ("graph", {0: [1, 40]}, "must name nodes 0 to 11"),
        ("graph", [1, 2], "must map nodes to lists"),
        ("y", "text", "must hold one-hot rows"),
        ("tx", np.eye(2), "must hold a sparse matrix"),
    ],
)
def test_files_that_do_not_fit_are_reported(
    end: str, value: Any, words: str | None, tmp_path: Path
) -> None:
    folder = write_planetoid(tmp_path / "set")
    (folder / f"ind.set.{end}").write_bytes(old_pickle(value))
    if words is None:
        read_planetoid(folder)
    else:
        with pytest.raises(DataError, match=words):
            read_planetoid(folder)


def test_cora_is_what_kipf_and_welling_used(mirror: Path) -> None:
    params = Planetoid(kind="planetoid", name="cora", path=str(mirror / "planetoid"))
    data = planetoid.read(params, lambda file: pytest.fail("fetched"))
    assert data.arrays["features"].shape == (2708, 1433)
    assert len(data.arrays["edges"]) == 2 * 5278
    assert np.bincount(data.arrays["split"]).tolist() == [140, 500, 1000, 1068]
    assert np.bincount(data.arrays["labels"]).tolist() == [351, 217, 418, 818, 426, 298, 180]
    # Papers cite papers of their own field: after a wrong order of the test nodes, few would.
    edges, labels = data.arrays["edges"], data.arrays["labels"]
    test = (data.arrays["split"] == 2)[edges].any(axis=1)
    assert (labels[edges[test, 0]] == labels[edges[test, 1]]).mean() > 0.75


@pytest.mark.parametrize(
    ("name", "graphs", "nodes", "edges", "width"),
    [("MUTAG", 188, 3371, 7442, 7), ("ENZYMES", 600, 19580, 74564, 21)],
)
def test_tu_archives_of_the_mirror(
    name: str, graphs: int, nodes: int, edges: int, width: int, mirror: Path
) -> None:
    data = read_tu(mirror / "tudataset" / f"{name}.zip")
    assert len(data.arrays["labels"]) == graphs
    assert data.arrays["features"].shape == (nodes, width)
    assert len(data.arrays["edges"]) == edges
    hashes = [
        content_hash(
            data.arrays["features"][slice(*data.arrays["node_offsets"][g : g + 2])],
            data.arrays["edges"][slice(*data.arrays["edge_offsets"][g : g + 2])],
        )
        for g in range(graphs)
    ]
    by_split = {
        code: {h for h, s in zip(hashes, data.arrays["split"], strict=True) if s == code}
        for code in range(3)
    }
    assert not by_split[0] & by_split[1]
    assert not by_split[0] & by_split[2]
    assert not by_split[1] & by_split[2]
