"""`python -m scripts.faults.remote_objects`: what becomes of an input at an address when its store fails.

A server on loopback fails in each of these ways, over HTTP and as S3; nothing is waited for. Prints the table of
docs/remote-input.md: what was read, how many requests it took, or the error. Ends with 1 where an object was read as
anything else than what it was when it was opened.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
from dataclasses import dataclass, replace

from scripts.faults import object_server as server
from scripts.faults.object_server import Fault, ObjectServer, open_object
from vpdist.errors import InputError
from vpdist.storage.object_stores import Retries

CONTENT = random.Random(1).randbytes(3_000_000)
PATH = "/bucket/reads.fa.zst"
ETAG = f'"{hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()}"'
RETRIES = Retries(tries=6, silence_s=60.0, sleep=lambda pause_s: None)
HASTY = replace(RETRIES, silence_s=1.0)
"""For the host that is silent; no other is taken for silent where this machine is slow."""


def passes(answer: server.Answers) -> bool:
    """The first request, for the beginning of the object, is answered."""
    return False


CASES: dict[str, list[Fault]] = {
    "none": [],
    "503, then 500, then 429": [passes, server.refuses(503), server.refuses(500), server.refuses(429)],
    "503 for ever": [passes, *[server.refuses(503)] * RETRIES.tries],
    "connection closed without an answer": [passes, server.closes()],
    "body cut after 2 MB": [passes, server.cuts(2_000_000)],
    "body cut five times": [passes, *[server.cuts(500_000)] * 5],
    "body shorter than asked for, its length told as if whole": [passes, server.shortens(1_000_000)],
    "silent in the middle of a body": [passes, server.falls_silent(1_000_000)],
    "another object between two reads": [passes, server.changes(CONTENT[::-1])],
    "another object after a body was cut": [passes, server.then(server.cuts(10_000), server.changes(CONTENT[::-1]))],
    "another range than asked for": [passes, server.answers_whole()],
    "403 in the middle": [passes, server.refuses(403)],
    "404 in the middle": [passes, server.refuses(404)],
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of one fault."""

    text: str
    right: bool
    """Whether the object was read whole, or refused."""


def seen(store: ObjectServer, url: str, faults: list[Fault], retries: Retries = RETRIES) -> Seen:
    """Read an object while its store fails."""
    store.clear()
    store.objects.content[PATH] = CONTENT
    store.objects.faults = list(faults)
    try:
        with open_object(url, retries) as file:
            read = file.read()
    except InputError as error:
        reason = error.reason.replace(store.objects.etag(PATH), "NEW").replace(ETAG, "OLD")
        return Seen(f"refused, exit {error.exit_code}: {reason}", True)
    requests = sum(asked.startswith("GET") and asked != "GET bytes=0-0" for asked in store.objects.asked)
    return Seen(f"whole, {requests} requests", True) if read == CONTENT else Seen("WRONG BYTES", False)


def rows() -> list[tuple[str, Seen, Seen]]:
    """Each fault with what came of it over HTTP and as S3."""
    with ObjectServer() as store:
        os.environ["AWS_ENDPOINT_URL"] = store.endpoint
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            os.environ.setdefault(name, "test")
        os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
        urls = (f"{store.endpoint}{PATH}", f"s3:/{PATH}")
        made = []
        for name, faults in CASES.items():
            http, s3 = (seen(store, url, faults, HASTY if name.startswith("silent") else RETRIES) for url in urls)
            made.append((name, http, s3))
        return made


def main() -> int:
    found = rows()
    print("| fault | over HTTP | S3 |\n| --- | --- | --- |")
    for name, *both in found:
        print(f"| {name} | {' | '.join(each.text for each in both)} |")
    return 0 if all(each.right for _, *both in found for each in both) else 1


if __name__ == "__main__":
    sys.exit(main())
