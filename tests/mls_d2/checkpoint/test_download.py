"""Downloads from a server on this machine: whole, kept, and checked."""

import hashlib
import http.server
import os
import threading
from pathlib import Path

import pytest

from mls_d2.checkpoint.download import expected_digest, fetch, is_url

DATA = bytes(range(256)) * 4096
DIGEST = hashlib.sha256(DATA).hexdigest()


class Server:
    """Serves ``data``; the next answers break off after the numbers of bytes in ``breaks``."""

    def __init__(self):
        self.breaks: list[int] = []
        self.num_asked, self.data, self.code = 0, DATA, 200
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.num_asked += 1
                self.send_response(outer.code)
                self.send_header("Content-Length", str(len(outer.data)))
                self.end_headers()
                self.wfile.write(outer.data[: outer.breaks.pop(0)] if outer.breaks else outer.data)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/a/resnet50.pth?download=1"


@pytest.fixture
def server():
    server = Server()
    yield server
    server.server.shutdown()
    server.server.server_close()


def test_a_file_is_downloaded_once_and_kept_under_its_name(server, tmp_path):
    path = fetch(server.url, sha256=DIGEST.upper(), cache_dir=str(tmp_path))
    assert os.path.basename(path) == "resnet50.pth"
    assert Path(path).read_bytes() == DATA
    assert fetch(server.url, cache_dir=str(tmp_path)) == path
    assert server.num_asked == 1
    # The same name from another place is another file.
    assert fetch(server.url.replace("/a/", "/b/"), cache_dir=str(tmp_path)) != path


def test_a_download_that_is_cut_off_starts_again_and_is_never_kept(server, tmp_path, refuses):
    server.breaks = [1000, 5000]
    assert Path(fetch(server.url, cache_dir=str(tmp_path))).read_bytes() == DATA
    assert server.num_asked == 3
    server.breaks = [1000] * 3
    other = server.url.replace("/a/", "/b/")
    with refuses("download-failed"):
        fetch(other, cache_dir=str(tmp_path))
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
    assert Path(fetch(other, cache_dir=str(tmp_path))).read_bytes() == DATA


def test_another_file_than_expected_is_refused_and_not_kept(server, tmp_path, refuses):
    with refuses("wrong-digest", DIGEST):
        fetch(server.url, sha256="0" * 64, cache_dir=str(tmp_path))
    server.data = b"<!DOCTYPE html><title>Google Drive - Virus scan warning</title>"
    with refuses("not-a-checkpoint", "web page"):
        fetch(server.url, cache_dir=str(tmp_path))
    server.data = DATA
    assert Path(fetch(server.url, sha256=DIGEST, cache_dir=str(tmp_path))).read_bytes() == DATA


def test_errors_are_one_line(server, tmp_path, refuses):
    server.code = 404
    with refuses("download-failed") as caught:
        fetch(server.url, cache_dir=str(tmp_path))
    assert "404" in str(caught.value)
    assert "\n" not in str(caught.value)
    with refuses("download-failed"):
        fetch("http://127.0.0.1:9/x.pth", cache_dir=str(tmp_path))
    (tmp_path / "file").write_bytes(b"")
    with refuses("no-space"):
        fetch(server.url, cache_dir=str(tmp_path / "file"))


def test_local_files_by_path_and_url(tmp_path, refuses):
    path = tmp_path / "with space.pth"
    path.write_bytes(b"abc")
    assert fetch(path.as_uri()) == fetch(str(path)) == str(path)
    with refuses("wrong-digest"):
        fetch(path.as_uri(), sha256=DIGEST)
    assert path.exists()
    with refuses("bad-value"):
        fetch("detectron2://ImageNetPretrained/MSRA/R-50.pkl")
    urls = ("http://a/b", "https://a/b", path.as_uri(), str(path))
    assert [is_url(text) for text in urls] == [True, True, True, False]


def test_digests_of_many_files_come_from_a_list(tmp_path, refuses):
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(f"{DIGEST}  a.pth\n{'0' * 64} *in/b.pth\n")
    assert expected_digest("x/a.pth", str(sums)) == DIGEST
    assert expected_digest("https://host/b.pth?download=1", str(sums)) == "0" * 64
    assert expected_digest("c.pth", DIGEST) == DIGEST
    assert expected_digest("c.pth", None) is None
    for given in (str(sums), "00"):
        with refuses("bad-value"):
            expected_digest("c.pth", given)
