"""Downloads: resumed, checked, published whole, and never spliced from two versions."""

import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from chapterflow.config.load import load_settings
from chapterflow.data.fetch import MIRROR, Policy, fetch, open_decompressed
from chapterflow.data.sources.idx import Idx, read_pair
from chapterflow.errors import ChapterflowError, ConfigError, DataError, FetchError
from chapterflow.types import RemoteFile
from tests.data import servers
from tests.data.servers import Site, serve

ROOT = Path(__file__).parents[2]
REAL_MIRROR = os.environ.get(MIRROR)
CONTENT = random.Random(5).randbytes(400_000)
BODY = gzip.compress(CONTENT, 1, mtime=0)
FILE = RemoteFile(name="data.gz", sha256=hashlib.sha256(CONTENT).hexdigest(), bytes=len(CONTENT))
UNPINNED = RemoteFile(name="data.gz")
# A busy machine must not look like a silent server, except where silence is what is tested.
QUICK = Policy(attempts=3, backoff=0.001, timeout=(5.0, 10.0))
IMPATIENT = Policy(attempts=3, backoff=0.001, timeout=(5.0, 2.0))
#: For a server that never answers: a slow machine makes no difference.
HASTY = replace(IMPATIENT, timeout=(5.0, 0.2))


@pytest.fixture(autouse=True)
def _no_mirror_and_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MIRROR, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def get(
    cache: Path, *upstream: str, file: RemoteFile = FILE, policy: Policy = QUICK, **kwargs: object
) -> Path:
    return fetch(
        file,
        mirror_folder="mnist",
        upstream=upstream,
        cache=cache,
        policy=policy,
        **kwargs,  # type: ignore[arg-type]
    )


def left(cache: Path) -> set[str]:
    """Return what lies in the cache, locks aside."""
    return {path.name for path in cache.iterdir()} - {f"{FILE.name}.lock"}


def range_start(site: Site, number: int) -> int | None:
    wanted = site.requests[number].get("Range")
    return None if wanted is None else int(wanted.removeprefix("bytes=").removesuffix("-"))


# --- What works -----------------------------------------------------------------------------------


def test_a_file_is_kept_as_it_came_and_asked_for_once(cache: Path) -> None:
    site = Site(BODY)
    with serve(site) as address:
        path = get(cache, f"{address}/some/folder/")
        assert get(cache, f"{address}/some/folder/") == path
    assert path == cache / "data.gz"
    assert path.read_bytes() == BODY
    assert site.paths == ["/some/folder/data.gz"]
    assert left(cache) == {"data.gz"}


def test_a_cached_file_needs_neither_network_nor_mirror(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir()
    (cache / "data.gz").write_bytes(BODY)
    monkeypatch.setenv(MIRROR, "/does/not/exist")
    assert get(cache, "http://127.0.0.1:1").read_bytes() == BODY


@pytest.mark.parametrize("damage", [BODY[:-1], BODY + b"x", b"", CONTENT[:-1]])
def test_a_damaged_file_in_the_cache_is_fetched_again(cache: Path, damage: bytes) -> None:
    cache.mkdir()
    (cache / "data.gz").write_bytes(damage)
    with serve(Site(BODY)) as address:
        assert get(cache, address).read_bytes() == BODY


def test_uncompressed_and_recompressed_copies_are_accepted(cache: Path, tmp_path: Path) -> None:
    for number, body in enumerate((CONTENT, gzip.compress(CONTENT, 9))):
        with (
            serve(Site(body)) as address,
            open_decompressed(get(cache / str(number), address)) as f,
        ):
            assert f.read() == CONTENT


@pytest.mark.parametrize("answer", [servers.chunked(None), servers.chunked(17), servers.encoded])
def test_bytes_are_those_of_the_wire(cache: Path, answer: Callable[..., None]) -> None:
    site = Site(BODY, [answer])
    with serve(site) as address:
        assert get(cache, address).read_bytes() == BODY
    assert [request["Accept-Encoding"] for request in site.requests] == ["identity"]


def test_a_name_may_lead_through_folders_and_need_quoting(cache: Path) -> None:
    file = RemoteFile(name="a folder/data#1.gz")
    site = Site(BODY)
    with serve(site) as address:
        assert get(cache, address, file=file) == cache / "a folder" / "data#1.gz"
    assert site.paths == ["/a%20folder/data%231.gz"]


def test_progress_counts_to_the_end(cache: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    with serve(Site(BODY)) as address:
        get(cache, address, on_progress=lambda *call: seen.append(call))
    assert seen[0] == ("data.gz", 0, len(BODY))
    assert seen[-1] == ("data.gz", len(BODY), len(BODY))
    assert [call[1] for call in seen] == sorted(call[1] for call in seen)


# --- Resuming -------------------------------------------------------------------------------------


@pytest.mark.fault("Download cut off", "Resumed where it broke")
def test_a_broken_download_is_resumed_where_it_broke(cache: Path) -> None:
    site = Site(BODY, [servers.drop_after(150_000), servers.drop_after(100_000)])
    with serve(site) as address:
        assert get(cache, address).read_bytes() == BODY
    assert [range_start(site, number) for number in range(3)] == [None, 150_000, 250_000]
    assert site.sent == [150_000, 100_000, len(BODY) - 250_000]
    assert site.requests[1]["If-Range"] == '"v1"'


def test_a_later_call_resumes(cache: Path) -> None:
    site = Site(BODY, [servers.drop_after(150_000)])
    seen: list[int] = []
    with serve(site) as address:
        with pytest.raises(FetchError, match=r"data.gz could not be fetched.*resume"):
            get(cache, address, policy=Policy(attempts=1))
        assert left(cache) == {"data.gz.part", "data.gz.part.json"}
        get(cache, address, on_progress=lambda name, received, total: seen.append(received))
    assert site.sent[1] == len(BODY) - 150_000
    assert seen[0] == 150_000
    assert left(cache) == {"data.gz"}


def test_a_date_serves_where_there_is_no_etag(cache: Path) -> None:
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    for etag in (None, 'W/"weak"'):
        folder = cache / str(etag is None)
        site = Site(BODY, [servers.drop_after(9_000)], etag=etag, last_modified=date)
        with serve(site) as address:
            assert get(folder, address).read_bytes() == BODY
        assert site.requests[1]["If-Range"] == date
        assert site.sent[1] == len(BODY) - 9_000


@pytest.mark.parametrize(
    "site",
    [
        Site(BODY, [servers.drop_after(150_000)], ranges=False),
        Site(BODY, [servers.drop_after(150_000)], etag=None),
        Site(BODY, [servers.drop_after(150_000)], etag='W/"weak"'),
        Site(BODY, [servers.drop_after(150_000), servers.wrong_range]),
        Site(BODY, [servers.drop_after(150_000), servers.status(416)]),
    ],
    ids=["range ignored", "no validator", "weak validator", "other range", "416"],
)
def test_what_cannot_be_resumed_starts_over(cache: Path, site: Site) -> None:
    with serve(site) as address:
        assert get(cache, address).read_bytes() == BODY
    assert range_start(site, -1) is None or not site.ranges
    assert site.sent[-1] == len(BODY)


@pytest.mark.fault("File changed upstream between two attempts", "Fetched whole; never mixed")
@pytest.mark.parametrize("if_range", [True, False], ids=["If-Range honoured", "If-Range ignored"])
def test_a_file_changed_upstream_is_never_spliced(cache: Path, if_range: bool) -> None:
    old = bytes(len(BODY))
    site = Site(old, [servers.drop_after(150_000)], etag='"old"', if_range=if_range)
    with serve(site) as address:
        with pytest.raises(FetchError):
            get(cache, address, file=UNPINNED, policy=Policy(attempts=1))
        site.body, site.etag = BODY, '"new"'
        assert get(cache, address, file=UNPINNED).read_bytes() == BODY
    assert site.requests[1]["If-Range"] == '"old"'


def test_a_file_of_another_length_is_never_spliced(cache: Path) -> None:
    site = Site(BODY, [servers.drop_after(150_000)])
    with serve(site) as address:
        with pytest.raises(FetchError):
            get(cache, address, file=UNPINNED, policy=Policy(attempts=1))
        site.body = bytes(len(BODY) + 7)  # The same ETag: the server is wrong.
        assert get(cache, address, file=UNPINNED).read_bytes() == site.body
    assert site.sent[1:] == [len(site.body) - 150_000, len(site.body)]


def test_a_part_longer_than_the_file_starts_over(cache: Path) -> None:
    site = Site(BODY, [servers.drop_after(150_000)])
    with serve(site) as address:
        with pytest.raises(FetchError):
            get(cache, address, policy=Policy(attempts=1))
        (cache / "data.gz.part").write_bytes(BODY + b"x")
        assert get(cache, address).read_bytes() == BODY


def test_a_server_may_give_less_than_the_rest(cache: Path) -> None:
    site = Site(BODY, [servers.drop_after(150_000), servers.short_range(50_000)])
    with serve(site) as address:
        assert get(cache, address).read_bytes() == BODY
    assert [range_start(site, number) for number in range(3)] == [None, 150_000, 200_000]


def test_another_address_does_not_continue_the_first_one_s_file(cache: Path) -> None:
    broken = Site(bytes(len(BODY)), [servers.drop_after(1000)] * 9)
    whole = Site(BODY)
    with serve(broken) as first, serve(whole) as second:
        assert get(cache, first, second, file=UNPINNED).read_bytes() == BODY
    assert range_start(whole, 0) is None


def test_a_local_copy_leaves_no_note_for_a_later_download(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A note of server bytes beside bytes of a folder would splice the two."""
    site = Site(BODY, [servers.drop_after(150_000)])
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "data.gz").write_bytes(bytes(len(BODY)))

    def interrupt(name: str, received: int, total: int | None) -> None:
        if received > 100_000:
            raise KeyboardInterrupt

    with serve(site) as address:
        with pytest.raises(FetchError):
            get(cache, address, policy=Policy(attempts=1))
        with monkeypatch.context() as patch:
            patch.setenv(MIRROR, str(tmp_path))
            with pytest.raises(KeyboardInterrupt):
                get(cache, on_progress=interrupt)
        assert left(cache) == {"data.gz.part"}
        assert get(cache, address).read_bytes() == BODY
    assert range_start(site, 1) is None


@pytest.mark.parametrize("note", ["", "[]", "{}", '{"address": 1, "validator": 2, "total": 3}'])
def test_a_broken_note_starts_over(cache: Path, note: str) -> None:
    site = Site(BODY, [servers.drop_after(150_000)])
    with serve(site) as address:
        with pytest.raises(FetchError):
            get(cache, address, policy=Policy(attempts=1))
        (cache / "data.gz.part.json").write_text(note)
        assert get(cache, address).read_bytes() == BODY
    assert range_start(site, 1) is None


def test_a_part_that_lacks_nothing_needs_no_request(cache: Path) -> None:
    """Killed between the last byte and the rename."""
    site = Site(BODY, [servers.drop_after(len(BODY) - 1)])
    with serve(site) as address:
        with pytest.raises(FetchError):
            get(cache, address, policy=Policy(attempts=1))
        (cache / "data.gz.part").write_bytes(BODY)
        assert get(cache, address).read_bytes() == BODY
    assert len(site.requests) == 1


FETCH_SCRIPT = """
import json, sys
from pathlib import Path
from chapterflow.types import RemoteFile
from chapterflow.data.fetch import Policy, fetch
from chapterflow.errors import ChapterflowError
arguments = json.loads(sys.argv[1])
if limit := arguments.get("limit"):
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    fetch(
        RemoteFile(**arguments["file"]), mirror_folder="mnist", upstream=[arguments["address"]],
        cache=Path(arguments["cache"]), policy=Policy(attempts=2, backoff=0.001),
    )
except ChapterflowError as error:
    print(type(error).__name__, error)
"""


def start_fetch(cache: Path, address: str, **kwargs: object) -> subprocess.Popen[str]:
    arguments = {"file": FILE.model_dump(), "address": address, "cache": str(cache), **kwargs}
    return subprocess.Popen(
        [sys.executable, "-c", FETCH_SCRIPT, json.dumps(arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.fault("`data fetch` killed", "Resumed where it broke")
def test_a_killed_download_is_resumed(cache: Path) -> None:
    site = Site(BODY, [servers.slow(16_384, 0.05)])
    part = cache / "data.gz.part"
    with serve(site) as address:
        process = start_fetch(cache, address)
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size > 60_000):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        have = part.stat().st_size
        assert have < len(BODY)
        assert not (cache / "data.gz").exists()
        assert get(cache, address).read_bytes() == BODY
    assert range_start(site, 1) == have
    assert site.sent[1] == len(BODY) - have


def test_two_processes_fetch_one_file_once(cache: Path) -> None:
    site = Site(BODY, [servers.slow(65_536, 0.1)])
    with serve(site) as address:
        both = [start_fetch(cache, address) for _ in range(2)]
        answers = [process.communicate()[0] for process in both]
    assert answers == ["", ""]
    assert [process.returncode for process in both] == [0, 0]
    assert (cache / "data.gz").read_bytes() == BODY
    assert len(site.requests) == 1


def test_threads_of_one_process_fetch_one_file_once(cache: Path) -> None:
    site = Site(BODY, [servers.slow(65_536, 0.02)])
    with serve(site) as address:
        threads = [threading.Thread(target=get, args=(cache, address)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (cache / "data.gz").read_bytes() == BODY
    assert len(site.requests) == 1


@pytest.mark.fault("Disk full during a download", "One line; the download resumes")
def test_a_full_disk_is_reported_and_the_download_resumes(cache: Path) -> None:
    pytest.importorskip("resource")
    site = Site(BODY)
    with serve(site) as address:
        answer = start_fetch(cache, address, limit=200_000).communicate()[0]
        assert answer.startswith(f"FetchError data.gz must be written to {cache}. Received: File")
        assert answer.count("\n") == 1
        assert left(cache) == {"data.gz.part", "data.gz.part.json"}
        assert (cache / "data.gz.part").read_bytes() == BODY[:200_000]
        assert get(cache, address).read_bytes() == BODY
    assert range_start(site, 1) == 200_000


# --- What fails -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [servers.status(500), servers.status(503), servers.status(429), servers.reset, servers.stall],
)
def test_passing_failures_are_retried(cache: Path, answer: Callable[..., None]) -> None:
    site = Site(BODY, [answer] * 2)
    with serve(site) as address:
        assert get(cache, address, policy=IMPATIENT).read_bytes() == BODY
    assert len(site.requests) == 3


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (servers.status(500), "answered 500 Internal Server Error"),
        (servers.reset, "the connection broke off"),
        (servers.stall, "timed out"),
        (servers.drop_after(0), "the connection broke off"),
    ],
)
def test_retries_end(cache: Path, answer: Callable[..., None], message: str) -> None:
    site = Site(BODY, [answer] * 9)
    policy = HASTY if answer is servers.stall else IMPATIENT
    with (
        serve(site) as address,
        pytest.raises(FetchError, match=rf"{message}.*\(attempts: 3\)\. Run the command again"),
    ):
        get(cache, address, policy=policy)
    assert len(site.requests) == policy.attempts


def test_pauses_between_attempts_double(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("chapterflow.data.fetch.time.sleep", pauses.append)
    with serve(Site(BODY, [servers.status(500)] * 3)) as address:
        get(cache, address, policy=Policy(attempts=4, backoff=0.5))
    assert [pause for pause in pauses if pause >= 0.5] == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("code", [404, 403, 204, 206])
def test_lasting_failures_are_not_retried(cache: Path, code: int) -> None:
    site = Site(BODY, [servers.status(code)] * 9)
    with serve(site) as address, pytest.raises(FetchError, match=f"answered {code}"):
        get(cache, address)
    assert len(site.requests) == 1


def test_a_failed_handshake_is_not_retried(cache: Path) -> None:
    with (
        serve(Site(BODY)) as address,
        pytest.raises(FetchError, match="SSL") as caught,
    ):
        get(cache, address.replace("http://", "https://"))
    assert "attempts" not in str(caught.value)


def test_the_next_address_is_tried_and_a_final_error_names_all(cache: Path) -> None:
    wrong = Site(b"<html>log in here</html>")
    with (
        serve(Site(BODY, [servers.status(404)] * 9)) as first,
        serve(wrong) as second,
        pytest.raises(FetchError) as caught,
    ):
        get(cache, first, second, "http://127.0.0.1:1/x", f"{cache}/nowhere")
    text = str(caught.value)
    assert f"{first}/data.gz: answered 404 Not Found; " in text
    assert f"{second}/data.gz: decompressed, data.gz must have 400,000 bytes" in text
    assert "http://127.0.0.1:1/x/data.gz: Connection refused (attempts: 3); " in text
    assert f"{cache}/nowhere/data.gz: there is no such file. Run" in text
    assert "\n" not in text
    assert left(cache) == set()


def test_a_wrong_file_makes_way_for_the_next_address(cache: Path) -> None:
    with serve(Site(b"<html>log in here</html>")) as first, serve(Site(BODY)) as second:
        assert get(cache, first, second).read_bytes() == BODY


@pytest.mark.fault("Download with a wrong hash", "Refused; nothing is kept")
def test_a_wrong_hash_is_reported_and_nothing_kept(cache: Path) -> None:
    other = bytes(len(CONTENT))
    received = hashlib.sha256(other).hexdigest()
    site = Site(gzip.compress(other))
    with serve(site) as address:
        with pytest.raises(DataError, match=f"sha256 {FILE.sha256}. Received: {received}"):
            get(cache, address)
        assert left(cache) == set()
        site.body = BODY
        assert get(cache, address).read_bytes() == BODY


@pytest.mark.parametrize("file", [FILE, UNPINNED])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (BODY[:-1], "must be whole gzip data. Received: a truncated file"),
        (BODY[: len(BODY) // 2], "must be whole gzip data. Received: a truncated file"),
        (BODY + b"garbage", "must be intact gzip data. Received: Not a gzipped file"),
        (BODY[:-8] + b"\0\0\0\0" + BODY[-4:], "must be intact gzip data. Received: CRC check"),
        (BODY[:10] + b"\xff" * 20 + BODY[30:], "must be intact gzip data. Received: Error -3"),
    ],
    ids=["last byte", "half", "trailing garbage", "crc", "deflate"],
)
def test_damaged_gzip_is_reported_and_removed(
    cache: Path, file: RemoteFile, body: bytes, message: str
) -> None:
    with serve(Site(body)) as address, pytest.raises(DataError, match=f"data.gz {message}"):
        get(cache, address, file=file)
    assert left(cache) == set()


def test_a_content_length_that_is_too_small_is_noticed(cache: Path) -> None:
    with (
        serve(Site(BODY, [servers.claim(1000)])) as address,
        pytest.raises(DataError, match="truncated"),
    ):
        get(cache, address)


def test_a_content_length_that_is_too_large_is_a_broken_download(cache: Path) -> None:
    with (
        serve(Site(BODY, [servers.claim(len(BODY) + 5)] * 9)) as address,
        pytest.raises(FetchError, match="connection broke off"),
    ):
        get(cache, address)
    assert not (cache / "data.gz").exists()


@pytest.mark.fault("Gzip that unpacks beyond its size", "Refused early")
def test_a_decompression_bomb_is_refused_early(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inflated: list[int] = []
    read = gzip.GzipFile.read

    def counted(self: gzip.GzipFile, size: int | None = -1) -> bytes:
        data = read(self, size)
        inflated.append(len(data))
        return data

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    squeeze = zlib.compressobj(9, wbits=31)
    zeros = bytes(1 << 20)
    bomb = b"".join(squeeze.compress(zeros) for _ in range(200)) + squeeze.flush()
    assert len(bomb) < len(CONTENT)
    with (
        serve(Site(bomb)) as address,
        pytest.raises(DataError, match=r"400,000 bytes. Received: more than 400,000"),
    ):
        get(cache, address)
    assert 0 < sum(inflated) < 4 << 20
    assert left(cache) == set()


@pytest.mark.parametrize(
    ("answer", "received"),
    [(servers.plain, f"{20 << 20:,}"), (servers.chunked(None), "more")],
    ids=["length told", "length untold"],
)
def test_a_body_beyond_all_measure_is_refused(
    cache: Path, answer: Callable[..., None], received: str
) -> None:
    site = Site(bytes(20 << 20), [answer])
    with (
        serve(site) as address,
        pytest.raises(DataError, match=rf"at most 469,536 bytes\. Received: {received}\."),
    ):
        get(cache, address)
    assert left(cache) == set()
    assert site.sent[0] < 20 << 20


def test_an_unlimited_folder_file_is_capped_too(cache: Path, tmp_path: Path) -> None:
    with (tmp_path / "data.gz").open("wb") as file:
        file.truncate(20 << 20)
    with pytest.raises(DataError, match="at most 469,536 bytes"):
        get(cache, str(tmp_path))


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FetchError, match=r"must be written to .*Received: Not a directory"):
        get(tmp_path / "file" / "cache", str(tmp_path))


# --- Addresses ------------------------------------------------------------------------------------


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    folder = tmp_path / "a mirror"
    (folder / "mnist").mkdir(parents=True)
    (folder / "mnist" / "data.gz").write_bytes(BODY)
    (folder / "mnist" / "data.gz").chmod(0o444)
    return folder


@pytest.mark.parametrize("form", ["path", "relative path", "file", "http", "http with slash"])
def test_a_mirror_replaces_every_upstream(
    cache: Path, mirror: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mirror.parent)
    upstream = Site(BODY)
    with serve(upstream) as address, servers.serve_folder(mirror) as served:
        values = {
            "path": str(mirror),
            "relative path": mirror.name,
            "file": mirror.as_uri(),
            "http": served,
            "http with slash": f"{served}/",
        }
        monkeypatch.setenv(MIRROR, values[form])
        path = get(cache, address)
    assert path.read_bytes() == BODY
    assert upstream.requests == []
    assert (mirror / "mnist" / "data.gz").read_bytes() == BODY
    assert left(cache) == {"data.gz"}


def test_an_upstream_may_be_a_folder(cache: Path, mirror: Path) -> None:
    assert get(cache, (mirror / "mnist").as_uri()).read_bytes() == BODY
    assert not (cache / "data.gz").samefile(mirror / "mnist" / "data.gz")


def test_a_mirror_that_does_not_exist_is_reported(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MIRROR, str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=f"{MIRROR} must name an existing folder.*/nowhere"):
        get(cache, "http://127.0.0.1:1")


def test_a_mirror_without_the_file_is_reported(
    cache: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MIRROR, str(mirror))
    with pytest.raises(FetchError, match="mnist/other: there is no such file"):
        get(cache, "http://127.0.0.1:1", file=RemoteFile(name="other"))


@pytest.mark.parametrize(
    "base", ["ftp://host/x", "javascript://x", "http://", "file://host/x", "http://[::1"]
)
def test_other_addresses_are_refused(
    cache: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="base address of `upstream` must be a path, file://"):
        get(cache, base)
    monkeypatch.setenv(MIRROR, base)
    with pytest.raises(ConfigError, match=f"{MIRROR} must be a path, file://"):
        get(cache)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../x", "a//b", "", ".", "a\\b", "\0"]
)
def test_names_that_lead_elsewhere_are_refused(cache: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="The name of a file must be a relative path"):
        get(cache, "http://127.0.0.1:1", file=RemoteFile(name=name))
    assert not cache.exists()


SECRETS = ("alice", "s3cret", "t0ken")


@pytest.mark.parametrize("answer", [servers.status(404), servers.reset, servers.plain])
def test_credentials_reach_the_server_and_no_message(
    cache: Path, answer: Callable[..., None]
) -> None:
    site = Site(bytes(100), [answer] * 9)
    with serve(site) as address:
        host = address.removeprefix("http://")
        with pytest.raises(ChapterflowError) as caught:
            get(cache, f"http://alice:s3cret@{host}/x?key=t0ken")
    assert f"http://{host}/x/data.gz: " in str(caught.value)
    assert not any(secret in str(caught.value) for secret in SECRETS)
    assert site.requests[0]["Authorization"].startswith("Basic ")
    assert site.paths[0] == "/x/data.gz?key=t0ken"


@pytest.mark.parametrize(
    "base",
    ["http://alice:s3cret@127.0.0.1:1/x?key=t0ken", "http://alice:s3cret@127.0.0.1:no/?key=t0ken",
     "http://alice:s3cret@no.such.host.invalid/?key=t0ken", "ftp://alice:s3cret@host?key=t0ken",
     "http://alice:s3cret@[::1?key=t0ken", "http://alice:s3cret@a..b/#t0ken"],
)  # fmt: skip
def test_credentials_of_useless_addresses_are_not_shown(cache: Path, base: str) -> None:
    with pytest.raises(ChapterflowError) as caught:
        get(cache, base)
    assert not any(secret in str(caught.value) for secret in SECRETS)


def test_credentials_do_not_lie_in_the_cache(cache: Path) -> None:
    with serve(Site(BODY, [servers.drop_after(1000)] * 9)) as address:
        host = address.removeprefix("http://")
        with pytest.raises(FetchError):
            get(cache, f"http://alice:s3cret@{host}/x?key=t0ken", policy=Policy(attempts=1))
    note = (cache / "data.gz.part.json").read_text()
    assert not any(secret in note for secret in SECRETS)


# --- The real files -------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL_MIRROR, reason=f"{MIRROR} is not set")
@pytest.mark.parametrize("over_http", [False, True], ids=["as set", "over HTTP"])
def test_mnist_of_the_mirror_is_the_pinned_one(
    cache: Path, over_http: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert REAL_MIRROR
    mnist = load_settings(ROOT / "params.yaml").datasets["mnist"]
    assert isinstance(mnist, Idx)
    assert all(file.sha256 for file in (mnist.files.train_images, mnist.files.test_labels))
    if over_http and not Path(REAL_MIRROR).is_dir():
        pytest.skip(f"{MIRROR} is not a folder")
    with servers.serve_folder(Path(REAL_MIRROR)) as served:
        monkeypatch.setenv(MIRROR, served if over_http else REAL_MIRROR)

        def local(file: RemoteFile) -> Path:
            return fetch(file, mirror_folder=mnist.mirror, upstream=mnist.upstream, cache=cache)

        files = mnist.files
        train, train_labels = read_pair(
            local(files.train_images), local(files.train_labels), known=mnist.known
        )
        test, test_labels = read_pair(
            local(files.test_images), local(files.test_labels), known=mnist.known
        )
    assert train.shape == (60_000, 28, 28)
    assert test.shape == (10_000, 28, 28)
    assert train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert test_labels[:5].tolist() == [7, 2, 1, 0, 4]
