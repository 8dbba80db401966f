"""Downloads from a server on this machine: streamed, resumed where they broke, and checked."""

import hashlib
import http.server
import os
import re
import threading

import pytest

from mls_d2.convert import download
from mls_d2.convert.download import fetch, is_url
from mls_d2.core.errors import UserError

DATA = bytes(range(256)) * 4096
DIGEST = hashlib.sha256(DATA).hexdigest()


class Server:
    """Serves DATA with ranges, and breaks off as it is told.

    ``breaks``: after how many bytes the next answers end; ``asked``: the ranges that were asked.
    """

    def __init__(self):
        self.breaks: list[int] = []
        self.asked: list[str | None] = []
        self.tag: str | None = '"1"'
        self.data = DATA
        self.code = 200
        self.length: int | None = None
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/a/resnet50.pth?download=1"

    def answer(self, request):
        asked = request.headers.get("Range")
        self.asked.append(asked)
        if self.code != 200:
            request.send_error(self.code)
            return
        fresh = request.headers.get("If-Range") == self.tag
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and fresh else 0
        if start > len(self.data):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        body = self.data[start:]
        request.send_header("Content-Length", str(self.length or len(body)))
        if self.tag:
            request.send_header("ETag", self.tag)
        request.end_headers()
        request.wfile.write(body[: self.breaks.pop(0)] if self.breaks else body)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.server.shutdown()
    server.server.server_close()


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def test_a_file_is_downloaded_once(server, tmp_path):
    path = fetch(server.url, sha256=DIGEST.upper(), cache_dir=str(tmp_path))
    assert os.path.basename(path) == "resnet50.pth"
    assert read(path) == DATA
    assert fetch(server.url, cache_dir=str(tmp_path)) == path
    assert server.asked == [None]
    assert not [name for name in os.listdir(os.path.dirname(path)) if "part" in name]


def test_it_goes_on_where_it_broke(server, tmp_path):
    server.breaks = [1000, 5000]
    assert read(fetch(server.url, sha256=DIGEST, cache_dir=str(tmp_path))) == DATA
    assert server.asked == [None, "bytes=1000-", "bytes=6000-"]


def test_the_next_call_goes_on_where_the_last_gave_up(server, tmp_path):
    server.breaks = [1000] * 3
    with pytest.raises(UserError, match="could not be downloaded.*run it again to go on"):
        fetch(server.url, cache_dir=str(tmp_path))
    assert read(fetch(server.url, cache_dir=str(tmp_path))) == DATA
    assert server.asked[-1] == "bytes=3000-"


def test_another_file_than_was_begun_starts_again(server, tmp_path):
    server.breaks = [1000] * 3
    with pytest.raises(UserError):
        fetch(server.url, cache_dir=str(tmp_path))
    server.tag, server.data = '"2"', b"new" * 1000
    assert read(fetch(server.url, cache_dir=str(tmp_path))) == server.data


def test_without_a_tag_nothing_is_patched_together(server, tmp_path):
    server.tag, server.breaks = None, [1000]
    assert read(fetch(server.url, cache_dir=str(tmp_path))) == DATA
    assert server.asked == [None, None]


def test_a_part_longer_than_the_file_starts_again(server, tmp_path):
    server.breaks = [100_000] * 3
    with pytest.raises(UserError):
        fetch(server.url, cache_dir=str(tmp_path))
    server.data = DATA[:50]
    assert read(fetch(server.url, cache_dir=str(tmp_path))) == DATA[:50]


def test_another_digest_is_refused_and_not_kept(server, tmp_path):
    with pytest.raises(UserError, match=f"has sha256 {DIGEST}, expected {'0' * 64}: not that file"):
        fetch(server.url, sha256="0" * 64, cache_dir=str(tmp_path))
    assert read(fetch(server.url, sha256=DIGEST, cache_dir=str(tmp_path))) == DATA
    assert len(server.asked) == 2


def test_what_the_server_says_is_passed_on(server, tmp_path):
    server.code = 404
    with pytest.raises(UserError, match=r"127\.0\.0\.1.*the server answers 404"):
        fetch(server.url, cache_dir=str(tmp_path))
    server.code, server.length = 200, download.LARGEST_BYTES + 1
    with pytest.raises(UserError, match="16 GB, more than any ResNet needs"):
        fetch(server.url, cache_dir=str(tmp_path))


def test_a_file_longer_than_it_said_is_cut_off(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "LARGEST_BYTES", 1000)
    server.length, server.breaks = 900, []
    # http.client stops at the length that was said, so that nothing longer arrives.
    path = fetch(server.url, cache_dir=str(tmp_path))
    assert os.path.getsize(path) == 900


def test_nobody_answers(tmp_path):
    with pytest.raises(UserError, match="could not be downloaded"):
        fetch("http://127.0.0.1:9/x.pth", cache_dir=str(tmp_path))


def test_local_files_by_path_and_url(tmp_path):
    path = tmp_path / "with space.pth"
    path.write_bytes(b"abc")
    assert fetch(path.as_uri()) == str(path)
    assert fetch(str(path)) == str(path)
    with pytest.raises(UserError, match="not that file"):
        fetch(path.as_uri(), sha256=DIGEST)
    assert path.exists()
    assert [is_url(text) for text in ("http://a/b", path.as_uri(), str(path))] == [
        True,
        True,
        False,
    ]
