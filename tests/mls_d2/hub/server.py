"""A server on this machine with as much of the hub's API as huggingface_hub uses here."""

import base64
import hashlib
import http.server
import json
import re
import threading
from urllib.parse import urlparse

COMMIT = "c" * 40


class Hub:
    """Repositories in memory: ``files[repo][name]``; ``cut``: the bytes after which a GET ends."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.cut: int | None = None
        handler = type("Bound", (_Handler,), {"hub": self})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def answer(self, content: bytes | object, code: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET" and "resolve" in self.path and self.hub.cut is not None:
            body, self.close_connection = body[: self.hub.cut], True
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        return b"".join(iter(self.chunk, b""))

    def chunk(self) -> bytes:
        data = self.rfile.read(int(self.rfile.readline(), 16))
        self.rfile.readline()
        return data

    def do_GET(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        path = urlparse(self.path).path
        if path == "/api/models":
            self.answer([{"id": repo} for repo in self.hub.files])
        elif match := re.fullmatch(r"/api/models/(\w+/[\w-]+)/tree/\w+", path):
            names = self.hub.files[match[1]]
            files = [{"type": "file", "path": name, "size": 1, "oid": "0"} for name in names]
            self.answer(files)
        elif match := re.fullmatch(r"/(\w+/[\w-]+)/resolve/(\w+)/(.+)", path):
            self.resolve(*match.groups())
        else:
            self.answer(b"", 404)

    do_HEAD = do_GET

    def resolve(self, repo: str, revision: str, name: str) -> None:
        missing = {
            "RepoNotFound": repo not in self.hub.files,
            "RevisionNotFound": revision not in ("main", COMMIT),
            "EntryNotFound": name not in self.hub.files.get(repo, {}),
        }
        for code, is_missing in missing.items():
            if is_missing:
                return self.answer(b"", 404, X_Error_Code=code)
        content = self.hub.files[repo][name]
        digest = hashlib.sha256(content).hexdigest()
        return self.answer(content, X_Repo_Commit=COMMIT, ETag=f'"{digest}"')

    def do_POST(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        lines = [json.loads(line) for line in self.body().splitlines()]
        if self.path == "/api/repos/create":
            name = f"{lines[0]['organization']}/{lines[0]['name']}"
            self.hub.files.setdefault(name, {})
            self.answer({"url": f"{self.hub.url}/{name}"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            names = [item["path"] for item in lines[0]["files"]]
            modes = ["lfs" if name.endswith(".safetensors") else "regular" for name in names]
            files = [
                {"path": name, "uploadMode": mode, "shouldIgnore": False}
                for name, mode in zip(names, modes, strict=True)
            ]
            self.answer({"files": files})
        elif self.path.endswith("/info/lfs/objects/batch"):
            for item in lines[0]["objects"]:
                item["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}
            self.answer({"objects": lines[0]["objects"], "transfer": "basic"})
        elif match := re.match(r"/api/models/(\w+/[\w-]+)/commit/", self.path):
            for line in lines:
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.hub.files[match[1]][line["value"]["path"]] = content
                elif line["key"] == "lfsFile":
                    content = self.hub.large[line["value"]["oid"]]
                    self.hub.files[match[1]][line["value"]["path"]] = content
            self.answer({"commitUrl": f"{self.hub.url}/{match[1]}", "commitOid": COMMIT})
        else:
            self.answer(b"", 404)

    def do_PUT(self) -> None:
        content = self.body()
        assert hashlib.sha256(content).hexdigest() == self.path.rpartition("/")[2]
        self.hub.large[hashlib.sha256(content).hexdigest()] = content
        self.answer(b"")
