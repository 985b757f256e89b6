"""A server on loopback that answers as huggingface.co and raw.githubusercontent.com do, or as they should not.

The hub: a listing of a commit with digests, small files directly, large ones through a redirect, ranges. GitHub: a file
of a commit. `faults` says, by the end of a file's path, what the next answers to requests for it are instead.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

LARGE = 1000
"""Bytes from which a file is one of LFS."""
TRUNCATED, WRONG, LONGER, SILENT, WITHOUT_RANGES = "truncated", "wrong", "longer", "silent", "without ranges"
"""Faults, beside statuses of HTTP."""


def git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class FakeHub:
    """What is on the server, and what it was asked for."""

    endpoint: str = ""
    repositories: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    """Files by path, of each `owner/name` and commit."""
    branches: dict[tuple[str, str], str] = field(default_factory=dict)
    faults: dict[str, list[str | int]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    """Method, path and range of every request, in order."""
    tokens: list[str] = field(default_factory=list)
    """The token of every request that had one."""
    large_files_at: str = ""
    """Another server, to which requests for large files are redirected."""
    released: threading.Event = field(default_factory=threading.Event)
    """What silent answers wait for."""

    def add(self, name: str, commit: str, folder: Path) -> None:
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.repositories[name, commit] = files

    def fault(self, path: str) -> str | int | None:
        for end, faults in self.faults.items():
            if faults and path.endswith(end):
                return faults.pop(0)
        return None

    def listing(self, name: str, commit: str) -> list[dict[str, object]] | None:
        files = self.repositories.get((name, commit))
        if files is None:
            return None
        entries: list[dict[str, object]] = []
        for path, content in files.items():
            entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": git_blob(content)}
            if len(content) >= LARGE:
                pointer = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
                entry |= {"oid": "0" * 40, "lfs": pointer}
            entries.append(entry)
        return entries


def handler_of(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            hub.asked.append(f"GET {path} {self.headers.get('Range', '')}".strip())
            if token := self.headers.get("Authorization"):
                hub.tokens.append(token)
            fault = hub.fault(path)
            if isinstance(fault, int):
                return self.answer(fault, b"no", {})
            parts = path.strip("/").split("/")
            if len(parts) < 4:
                return self.answer(404, b"not found", {})
            if parts[:2] == ["api", "models"] and parts[4] == "tree":
                return self.answer_json(hub.listing("/".join(parts[2:4]), parts[5]))
            if parts[:2] == ["api", "models"] and parts[4] == "revision":
                commit = hub.branches.get(("/".join(parts[2:4]), parts[5]))
                return self.answer_json(None if commit is None else {"id": "/".join(parts[2:4]), "sha": commit})
            redirected = parts[0] == "cdn"
            if redirected:
                parts = parts[1:]
            name = "/".join(parts[:2])
            resolves = len(parts) > 2 and parts[2] == "resolve"
            commit, file = (parts[3], parts[4:]) if resolves else (parts[2], parts[3:])
            content = hub.repositories.get((name, commit), {}).get("/".join(file))
            if content is None:
                return self.answer(404, b"not found", {})
            if resolves and len(content) >= LARGE and not redirected and fault is None:
                return self.answer(302, b"", {"Location": f"{hub.large_files_at or hub.endpoint}/cdn{path}"})
            return self.answer_file(content, fault)

        def answer_json(self, content: object) -> None:
            if content is None:
                self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            else:
                self.answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

        def answer_file(self, content: bytes, fault: str | None) -> None:
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            if fault == WITHOUT_RANGES:
                start = 0
            if start >= len(content) > 0:
                return self.answer(416, b"", {})
            rest, headers = content[start:], {}
            if start:
                headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            if fault == WRONG:
                rest = rest[:-1] + bytes([rest[-1] ^ 1])
            elif fault == LONGER:
                rest += b"more"
            cut = len(rest) // 2 if fault in (TRUNCATED, SILENT) else len(rest)
            self.answer(206 if start else 200, rest[:cut], headers, length=len(rest))
            if fault == SILENT:
                hub.released.wait(600)
            if cut < len(rest):
                self.close_connection = True
            return None

        def answer(self, status: int, body: bytes, headers: dict[str, str], length: int | None = None) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

    return Handler


@contextmanager
def serving() -> Iterator[FakeHub]:
    """A server on loopback while the block runs."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(hub))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
