"""A server of objects on loopback that fails on demand: it answers GET and HEAD with ranges and ETags, as S3 does.

Enters: objects by path, and the faults of the next requests. Leaves: answers, and a list of what was asked for. The
path of an object is /BUCKET/KEY, so that it is reached as s3://BUCKET/KEY (AWS_ENDPOINT_URL) and over HTTP.
"""

from __future__ import annotations

import hashlib
import io
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from vpdist.sequences.remote_objects import BUFFER_BYTES, ObjectReader
from vpdist.storage.object_stores import RETRIES, Retries
from vpdist.urls import Url

Fault = Callable[["Answers"], bool]
"""Is given a GET for bytes before it is answered; returns whether it has dealt with it."""
LONGEST_SILENCE_S = 600.0


@dataclass(slots=True)
class Objects:
    """What the server has, and how it will fail."""

    content: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    """Of the next requests for more than one byte, each dealt with once."""
    asked: list[str] = field(default_factory=list)
    """Method and range of each request so far."""
    silent_until: threading.Event = field(default_factory=threading.Event)

    def etag(self, path: str) -> str:
        return f'"{hashlib.md5(self.content[path], usedforsecurity=False).hexdigest()}"'


class Answers(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    objects: Objects

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing."""

    def do_HEAD(self) -> None:
        self.objects.asked.append("HEAD")
        self._answer(body=False)

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.objects.asked.append(f"GET {asked}")
        if asked != "bytes=0-0" and self.objects.faults and self.objects.faults.pop(0)(self):
            return
        self._answer(body=True)

    @property
    def path_of_object(self) -> str:
        return self.path.partition("?")[0]

    def begin(self, status: int, headers: dict[str, str], length: int) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def selected(self) -> tuple[int, int, int]:
        """Status, first and last byte + 1 of what is asked for."""
        size = len(self.objects.content[self.path_of_object])
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if found is None:
            return 200, 0, size
        start, end = int(found[1]), min(int(found[2]) + 1, size)
        return (206, start, end) if start < end else (416, 0, 0)

    def range_headers(self, status: int, start: int, end: int) -> dict[str, str]:
        size = len(self.objects.content[self.path_of_object])
        told = {206: f"bytes {start}-{end - 1}/{size}", 416: f"bytes */{size}"}
        headers = {"ETag": self.objects.etag(self.path_of_object), "Accept-Ranges": "bytes"}
        return headers | ({"Content-Range": told[status]} if status in told else {})

    def _answer(self, *, body: bool) -> None:
        if self.path_of_object not in self.objects.content:
            self.begin(404, {}, 0)
            return
        if self.headers.get("If-Match", self.objects.etag(self.path_of_object)) != self.objects.etag(
            self.path_of_object
        ):
            self.begin(412, {}, 0)
            return
        status, start, end = self.selected()
        self.begin(status, self.range_headers(status, start, end), end - start)
        if body:
            self.wfile.write(self.objects.content[self.path_of_object][start:end])


def refuses(status: int) -> Fault:
    """Answers with a status and nothing else."""

    def fault(answer: Answers) -> bool:
        answer.begin(status, {}, 0)
        return True

    return fault


def cuts(n_bytes: int) -> Fault:
    """Promises the whole range and closes the connection after so many bytes."""

    def fault(answer: Answers) -> bool:
        status, start, end = answer.selected()
        answer.begin(status, answer.range_headers(status, start, end), end - start)
        answer.wfile.write(answer.objects.content[answer.path_of_object][start : min(end, start + n_bytes)])
        answer.wfile.flush()
        answer.close_connection = True
        return True

    return fault


def shortens(n_bytes: int) -> Fault:
    """Sends so many bytes of the range and says that they are all: a length that agrees with what is sent."""

    def fault(answer: Answers) -> bool:
        status, start, end = answer.selected()
        end = min(end, start + n_bytes)
        answer.begin(status, answer.range_headers(status, start, end), end - start)
        answer.wfile.write(answer.objects.content[answer.path_of_object][start:end])
        return True

    return fault


def falls_silent(n_bytes: int) -> Fault:
    """Sends so many bytes of the range, and then nothing until the server is closed."""

    def fault(answer: Answers) -> bool:
        status, start, end = answer.selected()
        answer.begin(status, answer.range_headers(status, start, end), end - start)
        answer.wfile.write(answer.objects.content[answer.path_of_object][start : min(end, start + n_bytes)])
        answer.wfile.flush()
        answer.objects.silent_until.wait(LONGEST_SILENCE_S)
        answer.close_connection = True
        return True

    return fault


def closes() -> Fault:
    """Closes the connection without an answer."""

    def fault(answer: Answers) -> bool:
        answer.close_connection = True
        return True

    return fault


def changes(content: bytes) -> Fault:
    """The object is another one from this request on."""

    def fault(answer: Answers) -> bool:
        answer.objects.content[answer.path_of_object] = content
        return False

    return fault


def answers_whole() -> Fault:
    """Answers with the whole object, whatever range is asked for."""

    def fault(answer: Answers) -> bool:
        del answer.headers["Range"]
        return False

    return fault


def then(first: Fault, second: Fault) -> Fault:
    """Both, one after the other, in one request."""
    return lambda answer: first(answer) | second(answer)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone away is none; others are shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class ObjectServer:
    """The server, while the context lasts; `endpoint` is its address."""

    def __init__(self) -> None:
        self.objects = Objects()
        bound = type("BoundAnswers", (Answers,), {"objects": self.objects})
        self._server = _Server(("127.0.0.1", 0), bound)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> ObjectServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def clear(self) -> None:
        """Forget objects, faults and requests, and end every silence."""
        self.objects.silent_until.set()
        self.objects.silent_until = threading.Event()
        for each in (self.objects.content, self.objects.faults, self.objects.asked):
            each.clear()

    def __exit__(self, *error: object) -> None:
        self.objects.silent_until.set()
        self._server.shutdown()
        self._server.server_close()


def open_object(url: str | Url, retries: Retries = RETRIES) -> io.BufferedReader:
    """An object as a stream of bytes. Asks for its size and version, and raises as `ObjectReader`, here, too."""
    reader = ObjectReader(url, retries)
    _ = reader.state
    return io.BufferedReader(reader, BUFFER_BYTES)
