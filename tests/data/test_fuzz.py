"""Damaged inputs: whatever the bytes, each parser of ours ends with a documented error.

`make fuzz` runs 100,000 mutated inputs for each parser; `CHAPTERFLOW_FUZZ=N` sets another number.
Every input depends on its number alone: `CHAPTERFLOW_FUZZ_FIRST=N CHAPTERFLOW_FUZZ=1` repeats one.
"""

from __future__ import annotations

import copy
import gzip
import io
import itertools
import os
import pickle
import random
import re
import resource
import shutil
import signal
import time
import unicodedata
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from pydantic import ValidationError
from scipy import sparse

from chapterflow.config import load
from chapterflow.data.archive import extract_zip
from chapterflow.data.source import UserData, own_sources
from chapterflow.errors import ChapterflowError
from tests.data.test_graph_sources import old_pickle

REPOSITORY = Path(__file__).resolve().parents[2]
COUNT = int(os.environ.get("CHAPTERFLOW_FUZZ", "400"))
FIRST = int(os.environ.get("CHAPTERFLOW_FUZZ_FIRST", "0"))
#: Bounds of one input: seconds, and bytes of memory beyond those that the process has.
SECONDS, MEMORY = 20, 3 << 30

#: Files of a valid input, by name.
Files = dict[str, bytes]

ODD = [
    *(b"", b"0", b"-1", b"1e999", b"nan", b"inf", b"-inf", b"1" * 30, b"1" * 5000, b"0x10", b"1_0"),
    *(b"1.5", b"2001-99-99", b"9999-12-31", b"0001-01-01T00:00+14:00", b"\xff\xfe", b"\x00", b"\r"),
    *(
        b"\n",
        b",",
        b'"',
        b"'",
        b";",
        b"#",
        b"\xef\xbb\xbf",
        "가".encode(),
        "가".encode("cp949"),
        b"../",
    ),
    *(b"\xff\xff\xff\xff", b"\xff" * 8, b"\x00\x00\x00\x80", b"\x7f\xff\xff\xff", b"None", b"True"),
]


def mutated(content: bytes, rng: random.Random, more: list[bytes] = []) -> bytes:  # noqa: B006
    """Return bytes with a few random changes."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        place = rng.randrange(len(data) + 1)
        end = min(len(data), place + rng.choice((1, 1, 2, 4, 8, 30, 200)))
        match rng.randrange(8):
            case 0:
                if place < len(data):
                    data[place] ^= 1 << rng.randrange(8)
            case 1:
                data[place:end] = rng.randbytes(end - place)
            case 2:
                del data[place:end]
            case 3:
                data[place:place] = data[place:end] * rng.choice((1, 2, 50))
            case 4:
                del data[place:]
            case 5:
                data[place:place] = rng.choice(ODD + more)
            case 6:
                data[place:end] = rng.choice(ODD + more)
            case 7:  # A word or number of text.
                words = list(re.finditer(rb"[-+.\w]+", data))
                if words:
                    word = rng.choice(words)
                    data[word.start() : word.end()] = rng.choice(ODD + more)
    return bytes(data)


def one_mutated(files: Files, rng: random.Random, more: list[bytes] = []) -> Files:  # noqa: B006
    """Return files of which one is changed, or missing."""
    name = rng.choice(sorted(files))
    changed = dict(files)
    if rng.random() < 0.02:
        del changed[name]
    else:
        changed[name] = mutated(files[name], rng, more)
    return changed


def write(folder: Path, files: Files) -> None:
    """Write files that differ from those that an earlier call has left, and remove others."""
    left = LEFT.setdefault(folder, {})
    folder.mkdir(exist_ok=True)
    for name in left.keys() - files.keys():
        (folder / name).unlink()
    for name, content in files.items():
        if left.get(name) != content:
            (folder / name).write_bytes(content)
    LEFT[folder] = files


LEFT: dict[Path, Files] = {}
SOURCES = own_sources()


def add(kind: str, path: Path) -> None:
    """Read data as `data add` does: a block for them, and then their arrays."""
    shares = (0.2, 0.2) if kind in ("csv", "tu") else ()
    own = SOURCES[kind].own
    assert own is not None
    try:
        params: Any = SOURCES[kind].params.model_validate(own(UserData(path, 5, *shares)))
    except ValidationError:  # `load_settings` makes a ConfigError of it.
        return
    SOURCES[kind].read(params, lambda file: Path(params.upstream[0]) / file.name)


def idx_files(_: random.Random) -> Files:
    def idx(array: np.ndarray) -> bytes:
        sides = np.array(array.shape, ">u4").tobytes()
        return bytes((0, 0, 8, array.ndim)) + sides + array.astype(np.uint8).tobytes()

    labels = np.arange(20) % 2
    return {
        "train-images": idx(np.ones((20, 3, 2))),
        "train-labels": gzip.compress(idx(labels), 1, mtime=0),
        "test-images": idx(np.ones((4, 3, 2))),
        "test-labels": idx(labels[:4]),
    }


def tu_files(_: random.Random) -> Files:
    nodes, edges = [graph for graph in range(1, 13) for _ in range(3)], []
    for first in range(1, 37, 3):
        edges += [f"{first}, {first + 1}", f"{first + 1}, {first}"]
    return {
        "S_A.txt": "\n".join(edges).encode(),
        "S_graph_indicator.txt": "\n".join(map(str, nodes)).encode(),
        "S_graph_labels.txt": b"1\n-1\n" * 6,
        "S_node_labels.txt": "\n".join(str(n % 4) for n in range(36)).encode(),
        "S_node_attributes.txt": "\n".join(f"{n}, {n * n / 7:.2f}" for n in range(36)).encode(),
    }


def planetoid_files(rng: random.Random) -> Files:
    x = sparse.csr_matrix(np.eye(9, 4, dtype=np.float32) + 1)
    y = np.eye(2, dtype=np.int32)[np.arange(9) % 2]
    graph = {n: [(n + 1) % 12, n] for n in range(12)}
    values = {
        "x": x[:2], "allx": x, "tx": x[:2], "y": y[:2], "ally": y, "ty": y[:2], "graph": graph,
    }  # fmt: skip
    form = rng.choice(("Python 2", 2, 4, 5))
    files = {
        f"ind.s.{end}": old_pickle(value) if form == "Python 2" else pickle.dumps(value, int(form))
        for end, value in values.items()
    }
    return files | {"ind.s.test.index": b"11\n9\n"}


OPCODES = [
    *(
        b"(",
        b"t",
        b"l",
        b"d",
        b"]",
        b"}",
        b")",
        b"R",
        b"b",
        b"\x81",
        b"N",
        b"q\x00",
        b"h\x00",
        b"h\x05",
    ),
    *(
        b"0",
        b"2",
        b"a",
        b"s",
        b"e",
        b"u",
        b"K\x08",
        b"J\xff\xff\xff\x7f",
        b"\x85",
        b"\x86",
        b"\x87",
    ),
    *(
        b"cnumpy\ndtype\n",
        b"cnumpy\nndarray\n",
        b"Cos\nsystem\n",
        b"U\x02O8",
        b"X\x02\0\0\0V8",
        b".",
    ),
    *(b"I" + b"9" * 30 + b"\n", b"Finf\n", b"]" * 3000, b"cscipy.sparse._csr\ncsr_matrix\n)\x81}b"),
]


def csv_file(_: random.Random) -> Files:
    rows = [f"20{20 + n // 12}-{n % 12 + 1:02}-01,{n % 7}.5,{n},x" for n in range(120)]
    return {"a.csv": "\n".join(["time,a,b,word", *rows]).encode()}


def npz_members(_: random.Random) -> Files:
    members = {}
    for part, count in (("train", 6), ("val", 2), ("test", 4)):
        for what, array in (
            ("images", np.zeros((count, 2, 2, 2), np.uint8)),
            ("labels", np.arange(count, dtype=np.int64) % 2),
        ):
            out = io.BytesIO()
            np.save(out, array)
            members[f"{part}_{what}.npy"] = out.getvalue()
    return members


HEADERS = [
    b"(1099511627776,)",
    b"(-1,)",
    b"'|O'",
    b"'<U99999999'",
    b"'<f8'",
    b"[" * 3000,
    b"9" * 5000,
]


def zipped(members: Files, rng: random.Random, *, flag: bool = True) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as archive:
        warnings.simplefilter("ignore")
        for name, content in members.items():
            member = zipfile.ZipInfo(name)
            member.compress_type = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
            archive.writestr(member, content)
    return out.getvalue()


def fuzz_folder(kind: str, files: Callable[[random.Random], Files], more: list[bytes]) -> Any:
    def run(folder: Path, rng: random.Random) -> None:
        write(folder, one_mutated(files(rng), rng, more))
        add(kind, folder)

    return run


def fuzz_csv(folder: Path, rng: random.Random) -> None:
    write(folder, {"a.csv": mutated(csv_file(rng)["a.csv"], rng)})
    add("csv", folder / "a.csv")


def fuzz_npz(folder: Path, rng: random.Random) -> None:
    members = npz_members(rng)
    if rng.random() < 0.7:  # Otherwise the checksum of a member mostly gives the damage away.
        members = one_mutated(members, rng, HEADERS)
    content = zipped(members, rng)
    write(folder, {"a.npz": mutated(content, rng) if rng.random() < 0.4 else content})
    add("voxels", folder / "a.npz")


NAMES = [
    *(
        "a/b.png",
        "a/c.png",
        "강아지/1.png",
        "../x",
        "/x",
        "a//b",
        "C:/x",
        "x\\y",
        "a",
        "a/",
        "A/b.png",
    ),
    *(
        "__MACOSX/a",
        "x" * 300,
        "x/" * 200 + "x",
        "a\n",
        "\x7f",
        "é.png",
        "/",
        ".",
        "…",
        "a/b.png/c",
    ),
]


def fuzz_archive(folder: Path, rng: random.Random) -> None:
    names = [rng.choice(NAMES) for _ in range(rng.randrange(1, 6))]
    if rng.random() < 0.3:
        names = [unicodedata.normalize("NFD", name) for name in names]
    content = zipped({name: rng.randbytes(20) * 3 for name in names}, rng)
    if rng.random() < 0.3:  # Names in another encoding, or in none.
        content = content.replace(
            "강".encode(), rng.choice(("강".encode("cp949") + b"x", b"\xff\xfe\xfd"))
        )
    if rng.random() < 0.3:
        places = [m.start() for m in re.finditer(b"PK\x01\x02", content)]
        data = bytearray(content)
        place = rng.choice(places) + rng.choice((6, 8, 10, 20, 24, 28, 30, 32, 38, 40, 42))
        data[place : place + 2] = rng.choice(
            (b"\x01\x00", b"\x00\x08", b"\xff\xff", b"\x63\x00", b"\x00\xa0")
        )
        content = bytes(data)
    write(folder, {"a.zip": mutated(content, rng) if rng.random() < 0.6 else content})
    shutil.rmtree(folder / "out", ignore_errors=True)
    extract_zip(folder / "a.zip", folder / "out", max_bytes=1 << 20, max_members=50)


VALUES = [
    *("2001-99-99", "!!int x", "!!float x", "!!timestamp x", "!!bool x", "!!binary x", "!!null x"),
    *(
        "!!set {a}",
        "!!omap [a]",
        "!!pairs [a]",
        "!!python/object:os.system x",
        "!x y",
        "&a [*a]",
        "*b",
    ),
    *(
        "{<<: 1}",
        "{<<: [1]}",
        "{? [1, 2] : 3}",
        "{a: 1, a: 2}",
        "[1, 2",
        "{",
        "'",
        '"\\ud800"',
        '"\\x"',
    ),
    *(
        "1:60:60",
        "0x",
        "0o9",
        "0b",
        "1_000",
        "1" * 5000,
        "1e999",
        ".nan",
        "-.inf",
        "~",
        "yes",
        "[]",
        "{}",
    ),
    *(
        "[" * 500,
        "[" * 400 + "]" * 400,
        "{a: " * 400 + "1" + "}" * 400,
        "- " * 400,
        "? " * 400,
        "%YAML 9.9",
    ),
    *(
        "2026-01-01",
        "2026-01-01T00:00:00+99:99",
        "\u0000",
        "\ufeff",
        "\u2028",
        "|",
        ">-",
        "---",
        "...",
        "@",
        "`",
    ),
    "[&a [1,1,1,1,1,1,1,1,1], &b [*a,*a,*a,*a,*a,*a,*a,*a], &c [*b,*b,*b,*b,*b,*b,*b,*b],"
    " &d [*c,*c,*c,*c,*c,*c,*c,*c], &e [*d,*d,*d,*d,*d,*d,*d,*d], &f [*e,*e,*e,*e,*e,*e,*e],"
    " &g [*f,*f,*f,*f,*f,*f,*f,*f], [*g,*g,*g,*g,*g,*g,*g,*g]]",
]
#: Share of YAML inputs that are checked as settings too, which takes ten times as long.
SETTINGS = 0.2
PATHS = [
    *(
        "seed",
        "profile",
        "roles",
        "roles.digits",
        "roles.digits.embedded",
        "datasets",
        "datasets.mine",
    ),
    *("datasets.digits.seed", "datasets.digits.kind", "datasets.mnist.files.test_images.bytes"),
    *(
        "models",
        "models.cnn",
        "models.cnn.epochs",
        "models.cnn.beside",
        "models.cnn.book",
        "models.gcn.folds",
    ),
    *(
        "validation",
        "validation.images.mean_value",
        "promotion.floor",
        "promotion.floor.digits.book",
    ),
    *(
        "tracking.experiment",
        "questions",
        "questions.x.baselines",
        "questions.x.variants",
        "evaluation.latency_repeats",
        "",
        ".",
        "a..b",
    ),
]
BLOCK = """\
datasets:
  mine: {kind: image-folder, seed: 5, path: /tmp/x, validation: 0.1, test: 0.2, names: cp949}
  other:
    kind: csv-series
    seed: 5
    upstream: [/tmp]
    file: {name: a.csv}
    time: t
    values: [a, b]
    validation: 0.1
    test: 0.2
roles:
  photos: {book: mine}
"""


def fuzz_set(folder: Path, rng: random.Random) -> None:
    """`--set`, on the real params.yaml."""
    value = rng.choice(VALUES)
    if rng.random() < 0.5:
        value = mutated(value.encode("utf-8", "surrogatepass"), rng).decode("utf-8", "replace")
    override = f"{rng.choice(PATHS)}={value}"
    if rng.random() < 0.2:
        override = mutated(override.encode("utf-8", "surrogatepass"), rng).decode(
            "utf-8", "replace"
        )
    load.apply_overrides(load.read_params(Path("params.yaml")), [override])
    if rng.random() < SETTINGS:
        own: dict[str, dict[str, Any]] = {"datasets": {}, "roles": {}}
        load.load_settings(Path("params.yaml"), overrides=[override], own=own)


def fuzz_yaml(folder: Path, rng: random.Random) -> None:
    """`datasets.yaml`, as the user edits it."""
    values = [value.encode("utf-8", "surrogatepass") for value in VALUES]
    write(folder, {"datasets.yaml": mutated(BLOCK.encode(), rng, values)})
    load.read_own(folder / "datasets.yaml")
    if rng.random() < SETTINGS:
        load.load_settings(folder / "params.yaml")


PARSERS: dict[str, Callable[[Path, random.Random], None]] = {
    "idx": fuzz_folder("idx", idx_files, []),
    "tu": fuzz_folder("tu", tu_files, []),
    "planetoid": fuzz_folder("planetoid", planetoid_files, OPCODES),
    "csv": fuzz_csv,
    "npz": fuzz_npz,
    "archive": fuzz_archive,
    "set": fuzz_set,
    "yaml": fuzz_yaml,
}


@contextmanager
def bounded() -> Iterator[None]:
    """Let an input that takes too much memory or time end in an error."""

    def ring(*_: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + MEMORY, hard))
    before = signal.signal(signal.SIGALRM, ring)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.fault(
    "Mutated bytes for each parser", "A documented error, in bounded time and memory"
)
@pytest.mark.parametrize("parser", PARSERS)
def test_mutated_input_ends_in_a_documented_error(
    parser: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    # Reading params.yaml takes longer than all else.
    document = load.read_params(REPOSITORY / "params.yaml")
    read = load.read_params
    monkeypatch.setattr(
        load,
        "read_params",
        lambda path: copy.deepcopy(document) if path.name == "params.yaml" else read(path),
    )
    folder = tmp_path / "input"
    wrong: Counter[str] = Counter()
    refused, slowest = 0, 0.0
    with bounded(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in itertools.islice(itertools.count(FIRST), COUNT):
            rng = random.Random(f"{parser} {number}")
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            start = time.monotonic()
            try:
                PARSERS[parser](folder, rng)
            except ChapterflowError as error:
                refused += 1
                if len(str(error)) > 20_000:
                    wrong[
                        f"a message of {len(str(error))} characters, first by number {number}"
                    ] += 1
            except (Exception, RecursionError) as error:
                wrong[f"{type(error).__name__}: {str(error)[:100]} (number {number})"] += 1
            slowest = max(slowest, time.monotonic() - start)
    record_property(
        "saw", f"{parser}: {COUNT:,} inputs, {refused:,} refused, {sum(wrong.values())} other"
    )
    assert not wrong, f"{sum(wrong.values())} undocumented: {wrong.most_common(10)}"
    assert slowest < SECONDS
    # Most inputs are damaged, and some are not.
    assert COUNT < 1000 or 0.02 * COUNT < refused < COUNT
