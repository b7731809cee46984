"""A headless Chromium, spoken to over the pipe of its DevTools protocol: what a page looks like to a reader."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# The browser reads its orders from descriptor 3 and answers on 4.
LAUNCH = """
import os, sys
orders, answers = map(int, sys.argv[1:3])
os.dup2(orders, 3)
os.dup2(answers, 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--remote-debugging-pipe",
)
PATIENCE = 120.0  # seconds for one answer, on a busy machine
NEWS = ("Network.requestWillBeSent", "Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")


class Browser:
    """One browser with one page.

    Attributes:
        requests: addresses that the page asked for, data URIs left out.
        complaints: what it said to the console, and errors.
    """

    def __init__(self, program: str, profile: Path) -> None:
        orders, self._orders = _pipe()
        self._answers, answers = _pipe()
        command = [sys.executable, "-c", LAUNCH, str(orders), str(answers), program, *FLAGS]
        command += [f"--user-data-dir={profile}", "about:blank"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, pass_fds=(orders, answers), **quiet)
        os.close(orders)
        os.close(answers)
        self._rest, self._numbers, self._session = b"", itertools.count(1), ""
        self.requests: list[str] = []
        self.complaints: list[str] = []
        pages = [one for one in self.ask("Target.getTargets")["targetInfos"] if one["type"] == "page"]
        attached = self.ask("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.ask(f"{domain}.enable")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        os.close(self._orders)
        os.close(self._answers)

    def show(self, page: Path, *, width: int, dark: bool) -> None:
        """Open a page in a window of that width."""
        self.requests.clear()
        self.complaints.clear()
        phone = width < 600
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.navigate", url=page.absolute().as_uri())
        self.value("new Promise(done => document.readyState == 'complete' ? done() : onload = done)")

    def value(self, expression: str) -> Any:
        """What JavaScript makes of an expression in the page."""
        answer = self.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page, as high as it is."""
        answer = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Give an order, and wait for its answer."""
        number = next(self._numbers)
        order: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            order["sessionId"] = self._session
        os.write(self._orders, json.dumps(order).encode() + b"\0")
        until = time.monotonic() + PATIENCE
        while True:
            message = self._message(until)
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self._heard(message)

    def _heard(self, message: dict[str, Any]) -> None:
        kind, said = message.get("method"), message.get("params", {})
        if kind == "Network.requestWillBeSent" and not said["request"]["url"].startswith("data:"):
            self.requests.append(said["request"]["url"])
        elif kind in NEWS[1:]:
            self.complaints.append(json.dumps(said))

    def _message(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._answers], [], [], max(0.0, until - time.monotonic()))[0], "no answer"
            received = os.read(self._answers, 1 << 20)
            assert received, "the browser has gone"
            self._rest += received
        whole, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(whole)
        return message


def _pipe() -> tuple[int, int]:
    """Its two ends, of numbers that are not the browser's own."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]
