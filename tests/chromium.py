"""A page in headless Chromium, driven over a pipe by the Chrome DevTools Protocol."""

from __future__ import annotations

import base64
import functools
import http.server
import itertools
import json
import os
import select
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
TIMEOUT_S = 120
"""For one answer of the browser, which starts in a few seconds on an idle machine."""
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--window-size=1000,1200", "--remote-debugging-pipe",
)  # fmt: skip


def find_chromium() -> str | None:
    """The path of a Chromium on this machine, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """An open page; `requests` are the addresses it asked for."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._numbers, self._buffer = itertools.count(1), b""
        self.requests: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Network", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol on the page; raises AssertionError for its errors."""
        return self._call(method, self._session, **parameters)

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression, awaited if it is a promise."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> Any:
        """Wait until an expression is true, and return its value."""
        return self.evaluate(
            "new Promise((done) => { const check = () => { let value; try { value ="
            f" {condition}; }} catch {{}} value ? done(value) : setTimeout(check, 20); }};"
            " check(); })"
        )

    def text(self, element: str) -> str:
        """The text of the element with this id."""
        return str(self.evaluate(f"document.getElementById({element!r}).textContent"))

    def choose_file(self, element: str, path: Path) -> None:
        """Choose a file in a file input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=f"#{element}")["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def select(self, element: str, value: str) -> None:
        """Choose an option of a select element."""
        self.evaluate(
            f"(() => {{ const e = document.getElementById({element!r}); e.value = {value!r};"
            " e.dispatchEvent(new Event('change')); })()"
        )

    def drag(self, element: str, box: tuple[int, int, int, int]) -> None:
        """Drag the mouse over a box (left, top, right, bottom) in pixels of a canvas."""
        left, top, scale = json.loads(
            self.evaluate(
                f"(() => {{ const e = document.getElementById({element!r}); e.scrollIntoView();"
                " const r = e.getBoundingClientRect();"
                " return JSON.stringify([r.left, r.top, e.clientWidth / e.width]); })()"
            )
        )
        ends = [(left + box[i] * scale, top + box[i + 1] * scale) for i in (0, 2)]
        kinds = ("mousePressed", "mouseMoved", "mouseReleased")
        for kind, (x, y) in zip(kinds, (ends[0], ends[1], ends[1]), strict=True):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path) -> None:
        """Write a PNG of the page."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def _call(
        self, method: str, session: dict[str, str] | None = None, /, **parameters: Any
    ) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters} | (session or {})
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("method") == "Network.requestWillBeSent":
                self.requests.append(answer["params"]["request"]["url"])
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], TIMEOUT_S)
            data = os.read(self._from, 1 << 20) if ready else b""
            assert data, "Chromium does not answer."
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer


@contextmanager
def open_page(chromium: str, profile: Path) -> Iterator[Page]:
    """Start Chromium with an empty profile and open a page; both end with the block."""
    (read_by_it, to_browser), (from_browser, written_by_it) = os.pipe(), os.pipe()

    def number_pipes() -> None:  # the numbers are part of Chromium's option
        os.dup2(read_by_it, 3)
        os.dup2(written_by_it, 4)

    process = subprocess.Popen(
        [chromium, *_OPTIONS, f"--user-data-dir={profile}"],
        pass_fds=(3, 4),
        preexec_fn=number_pipes,
        stderr=subprocess.DEVNULL,
    )
    os.close(read_by_it)
    os.close(written_by_it)
    try:
        page = Page(to_browser, from_browser)
        yield page
        page._call("Browser.close")
    finally:
        os.close(to_browser)
        process.kill()
        process.wait()
        os.close(from_browser)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine, and yield its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
