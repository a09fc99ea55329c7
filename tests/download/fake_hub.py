"""A small Hugging Face hub on loopback that speaks the real client's protocol, with faults to order.

Data set repositories with branches and commits; the API's info and (paged) tree; `resolve` with HEAD, ranges, ETag,
X-Repo-Commit, and for large files the redirect to another origin (a second port, as the hub's CDN is) with X-Linked-Etag
and X-Linked-Size; gated repositories; errors with X-Error-Code.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".tar", ".parquet", ".zip")
PAGE = 3


@dataclass
class Repo:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    licence: str | None = None
    card: dict[str, str] | None = None
    """What its page says, whole, in place of the licence alone."""


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose path matches."""

    pattern: str
    kind: str  # status | cut | stall | corrupt | no-range
    times: int = 1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    after: int = 0


@dataclass
class Request:
    method: str
    path: str
    status: int
    sent: int
    headers: dict[str, str]


class FakeHub:
    """The hub and its CDN; use as a context manager."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.tokens: set[str] = set()
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, cdn)) for cdn in (False, True)]
        ports = [server.server_port for server in self._servers]
        self.endpoint, self.cdn = f"http://127.0.0.1:{ports[0]}", f"http://localhost:{ports[1]}"  # another host by name

    def __enter__(self) -> FakeHub:
        for server in self._servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def push(self, name: str, files: dict[str, bytes], branch: str = "main", gated: bool = False) -> str:
        """A commit with these files; gives its id."""
        repo = self.repos.setdefault(name, Repo())
        commit = hashlib.sha1(repr((name, len(repo.commits), sorted(files.items()))).encode()).hexdigest()
        repo.commits[commit], repo.branches[branch], repo.gated = files, commit, gated
        return commit

    def fault(self, pattern: str, kind: str, **options) -> None:
        self.faults.append(Fault(pattern, kind, **options))

    def take_fault(self, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times and re.search(fault.pattern, path):
                    fault.times -= 1
                    return fault
        return None

    def note(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)

    def large(self, digest: str) -> bytes:
        """A large file's content by its sha256."""
        contents = (c for repo in self.repos.values() for files in repo.commits.values() for c in files.values())
        return next(content for content in contents if hashlib.sha256(content).hexdigest() == digest)

    @property
    def body_bytes(self) -> int:
        """Bytes of files that were sent; the API's answers aside."""
        return sum(request.sent for request in self.requests if "/api/" not in request.path)


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _handler(hub: FakeHub, is_cdn: bool):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            self._answer(body=True)

        def do_HEAD(self):
            self._answer(body=False)

        def _answer(self, body: bool) -> None:
            fault = hub.take_fault(self._decoded())
            if fault is not None and fault.kind == "status":
                self._send(fault.status, b"ordered", fault.headers, body)
            elif is_cdn:
                self._file(hub.large(urlsplit(self.path).path.split("/")[-1]), {}, body, fault)
            elif self.path.startswith(("/api/datasets/", "/api/models/")):
                self._api(body)
            else:
                self._resolve(body, fault)

        def _decoded(self) -> str:
            if not is_cdn:
                return unquote(self.path)
            return f"{unquote(self.path)} {parse_qs(urlsplit(self.path).query).get('name', [''])[0]}"

        def _repo(self, name: str, revision: str) -> tuple[Repo, str] | None:
            repo = hub.repos.get(name)
            if repo is None:
                self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, True)
                return None
            matches = [c for c in repo.commits if c == revision]
            commit = repo.branches.get(revision) or (matches[0] if matches else None)
            if commit is None:
                self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, True)
                return None
            return repo, commit

        def _api(self, body: bool) -> None:
            parts = urlsplit(self.path)
            match = re.fullmatch(r"/api/(?:datasets|models)/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", parts.path)
            assert match, self.path
            name, what, revision = match[1], match[2], unquote(match[3] or "main")
            found = self._repo(name, revision)
            if found is None:
                return
            repo, commit = found
            if what != "tree":
                answer = {
                    "id": name,
                    "sha": commit,
                    "gated": "auto" if repo.gated else False,
                    "cardData": repo.card or ({"license": repo.licence} if repo.licence else None),
                    "siblings": [],
                    "usedStorage": sum(len(content) for content in repo.commits[commit].values()),
                    "tags": [],
                }
                self._send(200, json.dumps(answer).encode(), {}, body)
                return
            entries = []
            for path, content in sorted(repo.commits[commit].items()):
                entry = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
                if path.endswith(LARGE):
                    sha = hashlib.sha256(content).hexdigest()
                    entry |= {
                        "oid": blob_id(sha.encode()),
                        "lfs": {"oid": sha, "size": len(content), "pointerSize": 130},
                    }
                    entry |= {"xetHash": "0" * 64}
                entries.append(entry)
            for folder in sorted({p.rsplit("/", 1)[0] for p in repo.commits[commit] if "/" in p}):
                entries.append({"type": "directory", "path": folder, "size": 0, "oid": "0" * 40})
            start = int(parse_qs(parts.query).get("cursor", ["0"])[0])
            headers = {}
            if start + PAGE < len(entries):
                link = f"{hub.endpoint}{parts.path}?recursive=true&expand=false&cursor={start + PAGE}"
                headers["Link"] = f'<{link}>; rel="next"'
            self._send(200, json.dumps(entries[start : start + PAGE]).encode(), headers, body)

        def _resolve(self, body: bool, fault: Fault | None) -> None:
            match = re.fullmatch(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", urlsplit(self.path).path)
            assert match, self.path
            found = self._repo(match[1], unquote(match[2]))
            if found is None:
                return
            repo, commit = found
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            if repo.gated and token not in hub.tokens:
                self._send(403 if token else 401, b"gated", {"X-Error-Code": "GatedRepo"}, body)
                return
            path = unquote(match[3])
            content = repo.commits[commit].get(path)
            if content is None:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, body)
                return
            headers = {"X-Repo-Commit": commit}
            if path.endswith(LARGE):
                sha = hashlib.sha256(content).hexdigest()
                headers |= {"X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(len(content))}
                headers["Location"] = f"{hub.cdn}/blobs/{sha}?name={path}"
                self._send(302, b"", headers, body)
                return
            self._file(content, headers | {"ETag": f'"{blob_id(content)}"'}, body, fault)

        def _file(self, content: bytes, headers: dict[str, str], body: bool, fault: Fault | None) -> None:
            status, start = 200, 0
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            end = len(content)
            if asked and (fault is None or fault.kind != "no-range"):
                status, start, end = 206, int(asked[1]), min(end, int(asked[2] or end) + 1)
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
            part = content[start:end]
            if fault is not None and fault.kind == "corrupt":
                part = bytes(255 - b for b in part)
            headers["Accept-Ranges"] = "bytes"
            broken = fault if fault is not None and fault.kind in ("cut", "stall") else None
            self._send(status, part, headers, body, broken)

        def _send(
            self, status: int, content: bytes, headers: dict[str, str], body: bool, broken: Fault | None = None
        ) -> None:
            sent = content if broken is None else content[: broken.after]
            hub.note(Request(self.command, self._decoded(), status, len(sent) if body else 0, dict(self.headers)))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if body and self.command != "HEAD":
                self.wfile.write(sent)
                self.wfile.flush()
            if broken is not None:
                if broken.kind == "stall":
                    hub.closing.wait(60)
                self.close_connection = True

    return Handler
