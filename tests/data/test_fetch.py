"""Fetching over the loopback: whole, cut, resumed, wrong, hostile, absent."""

import errno
import hashlib
import http.server
import io
import os
import re
import socket
import stat
import threading
import zipfile
from pathlib import Path

import pytest

from adapters_jax.data import fetch, glue
from adapters_jax.data.fetch import Download
from adapters_jax.errors import DataError

TRAIN = b"index\tsentence1\tsentence2\tlabel\n" + b"".join(
    b"%d\tA %s.\tB.\tentailment\n" % (i, hashlib.sha256(b"%d" % i).hexdigest().encode()) for i in range(800)
)
DEV = b"index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tnot_entailment\n"
TEST = b"index\tsentence1\tsentence2\n0\tA.\tB.\n"
MEMBERS = {"RTE/train.tsv": TRAIN, "RTE/dev.tsv": DEV, "RTE/test.tsv": TEST}


def archive(members, link=None):
    """A zip archive; the member named `link` is a symbolic link."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = ((stat.S_IFLNK | 0o777) if name == link else 0o644 | stat.S_IFREG) << 16
            file.writestr(info, content)
    return buffer.getvalue()


class Server:
    """Serves files, and cuts its first answers as told.

    Attributes:
      files: address -> content.
      cuts: for each of the next answers after how many bytes the connection breaks.
      ranges: whether it answers requests for a part.
      requests: (address, Range header) of each request so far.
    """

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.ranges = True
        self.shift = 0  # the first answer to a request for a part starts so many bytes too late
        self.status = 200
        self.requests: list[tuple[str, str | None]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def answer(self, handler):
        span = handler.headers.get("Range")
        self.requests.append((handler.path, span))
        content = self.files.get(handler.path)
        status = self.status if content is not None else 404
        if status != 200:
            handler.send_error(status)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", span)[1]) if span and self.ranges else 0
        if start:
            start, self.shift = start + self.shift, 0
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            handler.send_response(200)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        handler.wfile.write(content[start : start + self.cuts.pop(0)] if self.cuts else content[start:])

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    server = Server()
    yield server
    server.close()


def offer(server, content, name="/RTE.zip"):
    server.files[name] = content
    return {"rte": (Download(server.base + name, len(content), hashlib.sha256(content).hexdigest()),)}


def fetched(tmp_path, downloads, task="rte", **options):
    return fetch.fetch_glue(task, tmp_path / "glue", downloads=downloads, pause=0.0, **options)


def left(folder: Path) -> list[str]:
    """What lies in the cache, but for the lock."""
    return sorted(p.name for p in folder.rglob("*") if not p.name.endswith(".lock"))


def test_the_addresses_and_hashes_are_those_that_tfds_registers():
    import tensorflow_datasets as tfds

    table = Path(tfds.__file__).parent / "url_checksums" / "glue.txt"
    registered = {line.split("\t")[0]: line.split("\t")[1:3] for line in table.read_text().splitlines()}
    assert set(fetch.DOWNLOADS) == set(glue.TASKS)
    for downloads in fetch.DOWNLOADS.values():
        for download in downloads:
            assert registered[download.url] == [str(download.size), download.sha256]
    import tensorflow_datasets.text.glue as code

    for config in code.Glue.BUILDER_CONFIGS:
        if config.name in glue.TASKS and config.data_url:
            assert [download.url for download in fetch.DOWNLOADS[config.name]] == [config.data_url]
    assert [d.url for d in fetch.DOWNLOADS["mrpc"]] == [code._MRPC_TRAIN, code._MRPC_TEST, code._MRPC_DEV_IDS]


def test_an_archive_is_fetched_once(server, tmp_path):
    downloads = offer(server, archive(MEMBERS | {"RTE/notes.txt": b"not a task file", "__MACOSX/RTE/._x": b""}))
    messages = []
    folder = fetched(tmp_path, downloads, report=messages.append)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "train.tsv": TRAIN,
        "dev.tsv": DEV,
        "test.tsv": TEST,
    }
    assert left(tmp_path / "glue") == ["RTE", "dev.tsv", "test.tsv", "train.tsv"]
    assert messages[0].startswith(f"fetching {server.base}/RTE.zip")
    assert fetched(tmp_path, downloads) == folder
    assert server.requests == [("/RTE.zip", None)]


def test_find_data_fetches_what_is_nowhere(server, tmp_path):
    downloads = offer(server, archive(MEMBERS))
    splits = glue.find_data("rte", tfds_dir=tmp_path / "none", cache_dir=tmp_path / "cache", downloads=downloads)
    assert (len(splits.train), len(splits.evals[""]), len(splits.tests[""])) == (800, 1, 1)
    assert (tmp_path / "cache" / "glue" / "RTE" / "train.tsv").is_file()


def test_a_cut_connection_goes_on_where_it_stopped(server, tmp_path):
    content = archive(MEMBERS)
    downloads = offer(server, content)
    server.cuts = [1000, 500, 0, 700]
    assert (fetched(tmp_path, downloads) / "train.tsv").read_bytes() == TRAIN
    spans = [span for _, span in server.requests]
    assert spans == [None, "bytes=1000-", "bytes=1500-", "bytes=1500-", "bytes=2200-"]


def test_a_later_start_goes_on_too(server, tmp_path):
    downloads = offer(server, archive(MEMBERS))
    server.cuts = [1000, 0, 0, 0]
    with pytest.raises(
        DataError, match=r"RTE\.zip: expected \d+ bytes, got the connection was cut; start again, or give"
    ):
        fetched(tmp_path, downloads)
    assert [path.stat().st_size for path in (tmp_path / "glue").glob(".*.part")] == [1000]
    server.cuts, server.requests = [], []
    assert (fetched(tmp_path, downloads) / "train.tsv").read_bytes() == TRAIN
    assert server.requests == [("/RTE.zip", "bytes=1000-")]


def test_a_server_that_sends_only_whole_files(server, tmp_path):
    downloads = offer(server, archive(MEMBERS))
    server.ranges, server.cuts = False, [1000, 400]
    assert (fetched(tmp_path, downloads) / "train.tsv").read_bytes() == TRAIN
    server.cuts = [1000] * 9
    with pytest.raises(DataError, match="the connection was cut"):
        fetched(tmp_path / "other", downloads)


def test_a_server_that_sends_another_part(server, tmp_path):
    downloads = offer(server, archive(MEMBERS))
    server.cuts, server.shift = [1000], 5
    assert (fetched(tmp_path, downloads) / "train.tsv").read_bytes() == TRAIN


def test_a_wrong_hash_shows_both_and_keeps_nothing(server, tmp_path):
    content = archive(MEMBERS)
    [right] = offer(server, content)["rte"]
    server.files["/RTE.zip"] = content[:-1] + b"x"
    found = hashlib.sha256(server.files["/RTE.zip"]).hexdigest()
    with pytest.raises(DataError, match=f"expected sha256 {right.sha256}, got {found}; start again") as caught:
        fetched(tmp_path, {"rte": (right,)})
    assert "\n" not in str(caught.value)
    assert left(tmp_path / "glue") == []
    server.files["/RTE.zip"] = content
    assert fetched(tmp_path, {"rte": (right,)}).is_dir()


def test_a_damaged_part_of_full_size_is_not_used(server, tmp_path):
    downloads = offer(server, archive(MEMBERS))
    [download] = downloads["rte"]
    (tmp_path / "glue").mkdir()
    part = tmp_path / "glue" / f".RTE-{download.sha256[:16]}.part"
    part.write_bytes(b"x" * download.size)
    with pytest.raises(DataError, match="expected sha256"):
        fetched(tmp_path, downloads)
    part.write_bytes(b"x" * (download.size + 1))
    assert fetched(tmp_path, downloads).is_dir()


@pytest.mark.parametrize("change", [b"", b"and more"])
def test_another_size_is_refused_before_the_transfer(server, tmp_path, change):
    content = archive(MEMBERS)
    [right] = offer(server, content)["rte"]
    server.files["/RTE.zip"] = content + change if change else content[:50]
    with pytest.raises(
        DataError, match=rf"expected {len(content)} bytes, got {len(server.files['/RTE.zip'])}; it is not"
    ):
        fetched(tmp_path, {"rte": (right,)})
    assert left(tmp_path / "glue") == []


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (503, 3)])
def test_http_errors(server, tmp_path, status, requests):
    downloads = offer(server, archive(MEMBERS))
    server.status = status
    with pytest.raises(
        DataError, match=rf"RTE\.zip: expected \d+ bytes, got HTTP {status} .*--data-dir=FOLDER"
    ) as caught:
        fetched(tmp_path, downloads)
    assert "\n" not in str(caught.value)
    assert len(server.requests) == requests


def test_without_a_server_it_says_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/RTE.zip"
    downloads = {"rte": (Download(url, 10, "0" * 64),)}
    with pytest.raises(DataError) as caught:
        glue.find_data("rte", tfds_dir=tmp_path / "none", cache_dir=tmp_path, downloads=downloads)
    assert "Connection refused" in str(caught.value)
    assert "give --data-dir=FOLDER that holds RTE/ with train.tsv, dev.tsv" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["../evil.tsv", "RTE/../../evil.tsv", "/tmp/evil.tsv", "..\\evil.tsv", "C:\\evil.tsv", "\\evil.tsv"],
)
def test_paths_that_lead_elsewhere(server, tmp_path, name):
    downloads = offer(server, archive(MEMBERS | {name: b"evil"}))
    with pytest.raises(DataError, match="expected paths within RTE/, got"):
        fetched(tmp_path / "a", downloads)
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name or path.suffix == ".tsv"]
    assert not Path("/tmp/evil.tsv").exists()


def test_links_are_not_followed(server, tmp_path):
    target = tmp_path / "target.tsv"
    target.write_bytes(b"kept")
    downloads = offer(server, archive(MEMBERS | {"RTE/train.tsv": str(target).encode()}, link="RTE/train.tsv"))
    with pytest.raises(DataError, match=r"expected RTE/train\.tsv to be a plain file"):
        fetched(tmp_path, downloads)
    assert target.read_bytes() == b"kept"
    assert not [path for path in (tmp_path / "glue").rglob("*") if path.is_symlink()]


def test_a_bomb_by_its_declared_size(server, tmp_path):
    downloads = offer(server, archive(MEMBERS | {"RTE/dev.tsv": bytes(10_000_000)}))
    with pytest.raises(DataError, match=r"expected RTE/dev\.tsv of at most 1000000 bytes, got 10000000"):
        fetched(tmp_path, downloads, max_bytes=1_000_000)
    assert sum(path.stat().st_size for path in (tmp_path / "glue").rglob("*")) < 1_000_000


def test_a_bomb_that_declares_less(server, tmp_path):
    content = archive(MEMBERS | {"RTE/dev.tsv": bytes(10_000_000)})
    size = (10_000_000).to_bytes(4, "little")
    assert content.count(size) == 2  # in the member's header and in the directory
    downloads = offer(server, content.replace(size, (1000).to_bytes(4, "little")))
    with pytest.raises(DataError, match="expected a zip archive, got Bad CRC-32"):
        fetched(tmp_path, downloads, max_bytes=1_000_000)
    assert "RTE" not in left(tmp_path / "glue")
    assert sum(path.stat().st_size for path in (tmp_path / "glue").rglob("*")) < 1_000_000


def test_archives_that_are_none_or_lack_a_file(server, tmp_path):
    with pytest.raises(DataError, match="expected a zip archive, got File is not a zip file"):
        fetched(tmp_path, offer(server, b"<html>" * 100))
    lacking = {name: content for name, content in MEMBERS.items() if "dev" not in name}
    with pytest.raises(DataError, match=r"expected RTE/dev\.tsv in it, got RTE/train\.tsv, RTE/test\.tsv"):
        fetched(tmp_path, offer(server, archive(lacking)))


def test_a_full_disk(server, tmp_path, monkeypatch):
    downloads = offer(server, archive(MEMBERS))

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fetch, "_extract", full)
    with pytest.raises(
        DataError, match=r"glue: expected to write RTE, got No space left on device; free some and start"
    ):
        fetched(tmp_path, downloads)
    assert not (tmp_path / "glue" / "RTE").exists()


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "glue").write_text("")
    with pytest.raises(DataError, match="expected to write RTE, got File exists; choose another cache folder"):
        fetched(tmp_path, {})
    (tmp_path / "a" / "glue" / "RTE").mkdir(parents=True)
    with pytest.raises(DataError, match=r"glue/RTE: expected train\.tsv in it, got none; remove the folder"):
        fetched(tmp_path / "a", {})


def test_of_several_at_once_one_fetches(server, tmp_path):
    downloads = offer(server, archive(MEMBERS))
    threads = [threading.Thread(target=fetched, args=(tmp_path, downloads)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.requests == [("/RTE.zip", None)]
    assert (tmp_path / "glue" / "RTE" / "train.tsv").read_bytes() == TRAIN


def test_mrpc_is_built_from_its_sources_like_the_official_split(server, tmp_path, shared_data):
    official = shared_data / "glue" / "MRPC"
    downloads = []
    for name in ("msr_paraphrase_train.txt", "msr_paraphrase_test.txt", "dev_ids.tsv"):
        downloads += offer(server, (official / name).read_bytes(), f"/{name}")["rte"]
    folder = fetched(tmp_path, {"mrpc": downloads}, task="mrpc")
    for split in ("train", "dev", "test"):
        ours, theirs = (list(glue.open_glue("mrpc", split, path).rows) for path in (folder, official))
        assert len(ours) == {"train": 3668, "dev": 408, "test": 1725}[split]
        by_text = [sorted(rows, key=lambda row: (row["text"], row["text_pair"])) for rows in (ours, theirs)]
        assert [dict(row, id="") for row in by_text[0]] == [dict(row, id="") for row in by_text[1]]
    assert ours == theirs  # the test rows in order, too: their index is what the leaderboard takes
