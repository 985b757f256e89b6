"""A headless Chromium, driven through its debugging pipe (the Chrome DevTools protocol), without any library.

What it may not do is seen: requests to other places than the file, errors on its console.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "headless_shell")
PATIENCE_S = 600.0
FLAGS = (
    *("--headless", "--disable-gpu", "--no-sandbox", "--no-first-run", "--disable-extensions", "--mute-audio"),
    *("--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update"),
    "--host-resolver-rules=MAP * ~NOTFOUND",
)

ON_3_AND_4 = """
import os, sys, fcntl
read, write = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(read, 3)
os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""The browser reads from the descriptor 3 and writes to 4."""


def found() -> str | None:
    """The browser of this machine."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """An open page."""

    def __init__(self, process: subprocess.Popen[bytes], write: int, read: int) -> None:
        self._process, self._write, self._read, self._left = process, write, read, b""
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Network", "Page"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return what it gives."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE_S
        while b"\0" not in self._left:
            assert time.monotonic() < until, "the browser does not answer"
            if select.select([self._read], [], [], 1.0)[0]:
                piece = os.read(self._read, 1 << 20)
                assert piece, "the browser has ended"
                self._left += piece
        message, _, self._left = self._left.partition(b"\0")
        return dict(json.loads(message))

    def open(self, path: Path, width: int = 1280, height: int = 900) -> None:
        """Open a file and wait until its report is drawn."""
        self._navigate(path, width, height)
        until = time.monotonic() + PATIENCE_S
        while self.run("document.body && (document.body.dataset.ready || document.body.dataset.failed) || ''") == "":
            assert time.monotonic() < until, "the report is not drawn"
            time.sleep(0.02)
        self.settle()

    def show(self, path: Path, width: int = 1280, height: int = 900) -> None:
        """Open any file and wait until it is loaded."""
        self._navigate(path, width, height)
        until = time.monotonic() + PATIENCE_S
        while self.run("[location.href, document.readyState].join()") != f"{path.absolute().as_uri()},complete":
            assert time.monotonic() < until, "the file is not shown"
            time.sleep(0.02)
        self.settle()

    def _navigate(self, path: Path, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 700,
        )
        self.events.clear()
        self.call("Page.navigate", url=path.absolute().as_uri())

    def settle(self) -> None:
        """Wait until what was asked for is drawn."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def run(self, program: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=program, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        self.run(f"document.querySelector({json.dumps(selector)}).click()")
        self.settle()

    def set(self, selector: str, value: object, event: str = "input") -> None:
        """Give a control a value as its user would."""
        chosen = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{chosen}.value = {json.dumps(value)}; {chosen}.dispatchEvent(new Event({json.dumps(event)}))")
        self.settle()

    def text(self, selector: str) -> str:
        return str(self.run(f"document.querySelector({json.dumps(selector)}).textContent"))

    def complaints(self) -> list[str]:
        """What the console has said, exceptions included."""
        self.settle()
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        return [json.dumps(event["params"]) for event in self.events if event.get("method") in kinds]

    def requests(self) -> list[str]:
        """The addresses that the page has asked for."""
        self.settle()
        asked = (event for event in self.events if event.get("method") == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in asked]

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        content = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(content))


@contextmanager
def opened(program: str, profile: Path) -> Iterator[Page]:
    """A browser with one page; `profile`: an empty folder."""
    (their_read, write), (read, their_write) = os.pipe(), os.pipe()
    arguments = (*FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank")
    process = subprocess.Popen(
        [sys.executable, "-c", ON_3_AND_4, str(their_read), str(their_write), program, *arguments],
        pass_fds=(their_read, their_write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(their_read)
    os.close(their_write)
    try:
        page = Page(process, write, read)
        yield page
        with suppress(AssertionError, OSError, subprocess.TimeoutExpired):
            page._session = None
            page.call("Browser.close")
            process.wait(PATIENCE_S)
    finally:
        process.kill()
        process.wait()
        os.close(write)
        os.close(read)
